/** What comes bit by bit, and is fetched whole where bits were missed. */

export class Anew<T> {
  private passed: (() => void)[] | undefined; // what came while all of it is being fetched
  private isOld = false;

  constructor(
    private fetch: () => Promise<T>,
    private draw: (whole: T) => void,
  ) {}

  /** A whole is under way, or will be asked for on "back". */
  get isAwaited(): boolean {
    return this.isOld || this.passed !== undefined;
  }

  /** A bit: at once, and again on a whole that is still to come, since that may be older. */
  now(happen: () => void): void {
    this.passed?.push(happen);
    happen();
  }

  /** One fetch at a time; where more was missed while it is under way, another follows. */
  async again(): Promise<void> {
    this.isOld = true;
    if (this.passed) return;
    try {
      while (this.isOld) await this.turn();
    } catch {
      this.isOld = true; // the answer was lost
    } finally {
      this.passed = undefined;
    }
  }

  private async turn(): Promise<void> {
    this.isOld = false;
    this.passed = [];
    const whole = await this.fetch();
    this.draw(whole);
    for (const happen of this.passed) happen();
  }
}

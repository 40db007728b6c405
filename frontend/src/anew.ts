/** What comes bit by bit, and is fetched whole where bits were missed. */

const PAUSES_MS = [2000, 4000, 8000]; // before a lost answer is asked for again; then only when more was missed, or on "back"

export class Anew<T> {
  private passed: (() => void)[] | undefined; // what came while all of it is being fetched
  private isOld = false;
  private lost = 0; // answers, one after the other
  private timer = 0; // until a lost one is asked for again

  constructor(
    private fetch: () => Promise<T>,
    private draw: (whole: T) => void,
  ) {}

  /** A whole is under way, or will be asked for. */
  get isAwaited(): boolean {
    return this.timer > 0 || this.passed !== undefined;
  }

  /** A bit: at once, and again on a whole that is still to come, since that may be older. */
  now(happen: () => void): void {
    this.passed?.push(happen);
    happen();
  }

  /** One fetch at a time; where more was missed while it is under way, another follows. Raises what `draw` raises. */
  async again(): Promise<void> {
    this.isOld = true;
    if (this.passed) return;
    clearTimeout(this.timer);
    this.timer = 0;
    try {
      while (this.isOld) await this.turn();
    } finally {
      this.passed = undefined;
      this.isOld = false;
    }
  }

  private async turn(): Promise<void> {
    this.isOld = false;
    this.passed = [];
    const whole = await this.fetch().catch((error: unknown) => this.lose(error));
    if (whole === undefined) return;
    this.lost = 0;
    this.draw(whole);
    for (const happen of this.passed) happen();
  }

  /** Where the studio was away, "back" may come first; when a refusal is over, nobody tells. */
  private lose(error: unknown): undefined {
    this.isOld = false;
    const pause = PAUSES_MS[this.lost++];
    if (pause) this.timer = setTimeout(() => void this.again(), pause);
    else {
      this.lost = 0;
      console.error(error);
    }
  }
}

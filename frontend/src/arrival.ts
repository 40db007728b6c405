/** One file and its line on the page: looked at, named, sent, read; each state with what can be done then. */
import { composes, find, getJson, moveRuler, setText, settle } from "./dom";
import { type Looks, look, Mapping, type Named } from "./mapping";
import { callOff, follow } from "./reading";
import { markOf, Refused, Transfer, Unreadable } from "./upload";
import { announce, count, duration, placeWord, size, word } from "./words";

type State =
  | "looking"
  | "ready"
  | "waiting"
  | "sending"
  | "lost"
  | "paused"
  | "reading"
  | "refused"
  | "cancelled"
  | "done";

/** What a line asks of the zone that it came by. */
export type Home = {
  /** The data set that gets a version, where the zone belongs to one; its number of versions. */
  dataset: string;
  versions: number;
  named(kind: Named, name: string): string;
  /** Waits for its turn; `done` gives the turn to the next. */
  turn(signal: AbortSignal): Promise<() => void>;
  changed(arrival: Arrival): void;
  arrived(arrival: Arrival, address: string): void;
};

type Made = { version: { rows: number; number: number; source_sha256: string } };

const SHOWN: Record<string, State[]> = {
  "[data-flow]": ["sending", "lost", "paused", "reading"],
  "[data-quiet]": ["looking", "ready", "waiting", "refused", "cancelled", "done"],
  "[data-asking]": ["ready"],
  "[data-refusal]": ["refused"],
  "[data-pause]": ["sending", "lost", "paused"],
  "[data-again]": ["cancelled"],
  "[data-open]": ["done"],
  "[data-cancel]": ["looking", "ready", "waiting", "sending", "lost", "paused", "reading", "refused"],
};
const PACE_MS = 8000;

export class Arrival {
  state: State = "looking";
  private transfer: Transfer | undefined;
  private running = new AbortController();
  private looking = new AbortController();
  private pace: [number, number][] = [];
  private reading = ""; // the operation that reads it
  private versions: number | undefined = 0; // of the data set that has the name; nothing where that could not be had
  private naming = new AbortController();
  private skips = false;
  private mapping: Mapping;
  private ask = settle(() => void this.askForName(), 250, 1000);

  constructor(
    readonly file: File,
    readonly line: HTMLElement,
    private home: Home,
    name: string,
  ) {
    this.mapping = new Mapping(
      line,
      (kind, key) => home.named(kind, key),
      () => void this.look(),
    );
    this.versions = home.versions;
    line.setAttribute("aria-label", file.name);
    setText("[data-file]", home.dataset || name, line);
    setText("[data-about]", `${file.name} · ${size(file.size)}`, line);
    if (this.nameField) this.nameField.value = name;
    this.listen();
    this.enter("looking");
  }

  get dataset(): string {
    return this.home.dataset || (this.nameField?.value.trim() ?? "");
  }

  /** Bytes flow, so leaving the page would break them off. */
  get isFlowing(): boolean {
    return this.state === "sending" || this.state === "lost";
  }

  get address(): string {
    return this.transfer?.address ?? "";
  }

  private get nameField(): HTMLInputElement | null {
    return find<HTMLInputElement>("[data-as]", this.line);
  }

  private listen(): void {
    const on = (selector: string, work: () => void) => find(selector, this.line)?.addEventListener("click", work);
    on("[data-send]", () => void this.send());
    on("[data-pause]", () => (this.state === "paused" ? void this.send() : this.pause()));
    on("[data-cancel]", () => this.cancel());
    on("[data-again]", () => void this.send());
    on("[data-retry]", () => void this.send());
    on("[data-change]", () => this.mapping.toggle());
    on("[data-remap]", () => this.choose());
    on("[data-skip]", () => this.leaveOut());
    on("[data-apart]", () => void this.keepApart());
    this.nameField?.addEventListener("input", () => this.ask());
    this.nameField?.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !composes(event)) void this.send();
    });
    const skips = find<HTMLInputElement>("[data-skips]", this.line);
    skips?.addEventListener("change", () => {
      this.skips = skips.checked;
    });
  }

  private enter(state: State): void {
    this.state = state;
    this.line.dataset.state = state;
    for (const [selector, states] of Object.entries(SHOWN)) {
      const part = find(selector, this.line);
      if (part) part.hidden = !states.includes(state);
    }
    if (state === "ready") find("[data-quiet]", this.line)!.hidden = true;
    setText("[data-pause-word]", state === "paused" ? word("go_on") : word("pause"), this.line);
    this.home.changed(this);
  }

  private say(text: string, aloud = true): void {
    setText("[data-said]", text, this.line);
    if (aloud && text) announce(`${this.dataset}: ${text}`);
  }

  // ---- before it is sent

  /** Look at the beginning, again after each choice; an older look is dropped. */
  async look(): Promise<void> {
    this.looking.abort();
    this.looking = new AbortController();
    const { signal } = this.looking;
    try {
      const [looks] = await Promise.all([look(this.file, this.mapping.choice, signal), this.askForName()]);
      if (!signal.aborted) this.showLooks(looks);
    } catch (error) {
      if (signal.aborted) return;
      if (isFinal(error)) this.refuse(error);
      else this.enter("ready"); // the server is away or busy: what it is will be seen once it is there
    }
  }

  private showLooks(looks: Looks): void {
    this.mapping.show(looks);
    find<HTMLButtonElement>("[data-send]", this.line)!.disabled = !looks.format && looks.columns.length > 0;
    if (this.state === "looking" || this.state === "ready") this.enter("ready");
  }

  /** What the name stands for, the one that was typed last. */
  private async askForName(): Promise<void> {
    this.naming.abort();
    this.naming = new AbortController();
    const { signal } = this.naming;
    const versions = this.home.dataset ? this.versions : await versionsOf(this.dataset, signal);
    if (signal.aborted) return;
    this.versions = versions;
    if (versions === undefined) document.addEventListener("back", this.ask, { once: true });
    this.showName(versions, (versions ?? 0) + 1);
  }

  private showName(versions: number | undefined, next: number): void {
    const known = versions ? word("add_version", { n: next }) : word("upload");
    find("[data-send]", this.line)!.textContent = versions === undefined ? word("send") : known;
    setText("[data-becomes]", versions ? word("becomes_version", { name: this.dataset, n: next }) : "", this.line);
    const apart = find("[data-apart]", this.line);
    if (apart) apart.hidden = !versions;
    setText("[data-file]", this.dataset || this.file.name, this.line);
  }

  /** A name that is free, so that it becomes a data set of its own. */
  private async keepApart(): Promise<void> {
    const stem = this.dataset;
    for (let n = 2; this.versions && n < 100; n += 1) {
      this.nameField!.value = `${stem.slice(0, 76)} ${n}`;
      await this.askForName();
    }
    this.nameField!.focus();
  }

  // ---- on its way

  /** Go on with a session that was begun before. */
  resume(address: string, mark: string): void {
    this.transfer = new Transfer(this.file, this.plan(), mark, address);
    void this.send();
  }

  private plan() {
    return { dataset: this.dataset, skips: this.skips, ...this.mapping.choice };
  }

  async send(): Promise<void> {
    if (!this.dataset || this.state === "waiting" || this.isFlowing) return;
    this.looking.abort();
    this.running = new AbortController();
    const { signal } = this.running;
    this.pace = [];
    this.enter("waiting");
    this.say(word("waiting_upload"), false);
    let over = () => {};
    try {
      over = await this.home.turn(signal);
      this.transfer ??= new Transfer(this.file, this.plan(), await markOf(this.file));
      this.enter("sending");
      const made = await this.transfer.run(signal, {
        moved: (sent, rows) => this.moved(sent, rows),
        lost: (sent) => this.lose(sent),
      });
      over();
      this.transfer = undefined;
      if (made.includes("/operations/")) await this.read(made, signal);
      await this.end();
    } catch (error) {
      if (!signal.aborted) this.refuse(error);
    } finally {
      over();
    }
  }

  private moved(sent: number, rows: number | undefined): void {
    if (this.state === "lost") this.enter("sending");
    const now = performance.now();
    this.pace = [...this.pace.filter(([at]) => now - at < PACE_MS), [now, sent]];
    this.draw(sent, this.file.size);
    setText(
      "[data-pace]",
      [rows === undefined ? "" : word("rows_so_far", { rows: count(rows) }), ...this.speed(sent)]
        .filter(Boolean)
        .join(" · "),
      this.line,
    );
  }

  private speed(sent: number): string[] {
    const [first] = this.pace;
    if (!first || this.pace.length < 2) return [];
    const rate = (sent - first[1]) / ((performance.now() - first[0]) / 1000);
    if (rate <= 0) return [];
    const left = word("left_upload", { time: duration((this.file.size - sent) / rate) });
    return [word("a_second", { rate: size(rate) }), sent < this.file.size ? left : ""];
  }

  private lose(sent: number): void {
    this.pace = [];
    if (this.state !== "lost") {
      this.enter("lost");
      announce(word("lost_upload", { sent: size(sent) }));
    }
    this.draw(sent, this.file.size);
    setText("[data-pace]", word("lost_upload", { sent: size(sent) }), this.line);
  }

  private draw(done: number, total: number): void {
    drawRuler(this.line, total ? done / total : 1);
    setText("[data-sent]", word("sent_of", { sent: size(done), total: size(total) }), this.line);
  }

  private async read(operation: string, signal: AbortSignal): Promise<void> {
    this.reading = operation;
    this.enter("reading");
    announce(word("reading"));
    drawRuler(this.line, 0);
    setText("[data-sent]", word("reading"), this.line);
    setText("[data-pace]", word("goes_on_alone"), this.line);
    await follow(operation, signal, (share, said) => {
      drawRuler(this.line, share);
      if (said) setText("[data-pace]", said, this.line);
    });
    this.reading = "";
  }

  /** It is there, whether or not the studio can be asked for its facts just now. */
  private async end(): Promise<void> {
    const address = `/datasets/${encodeURIComponent(this.dataset)}`;
    find<HTMLAnchorElement>("[data-open]", this.line)!.href = address;
    const made = await getJson<Made>(`/api/v1${address}`).catch(() => undefined);
    this.enter("done");
    if (!made) return this.say(word("read_whole"));
    const { rows, number, source_sha256 } = made.version;
    this.say(word("arrived", { rows: count(rows), n: number, hash: source_sha256.slice(0, 12) }));
    this.home.arrived(this, address);
  }

  private pause(): void {
    this.running.abort();
    this.enter("paused");
    setText("[data-pace]", word("paused_upload", { sent: size(this.transfer?.sent ?? 0) }), this.line);
  }

  // ---- ends

  private cancel(): void {
    const hadBegun = this.transfer !== undefined;
    this.looking.abort();
    this.running.abort();
    if (this.reading) void callOff(this.reading);
    this.reading = "";
    if (hadBegun || this.state === "reading") this.offerBack();
    else this.remove();
  }

  private offerBack(): void {
    this.enter("cancelled");
    this.say(word("cancelled_upload"));
    find("[data-again]", this.line)!.focus();
  }

  private remove(): void {
    this.state = "cancelled";
    this.line.remove();
    this.home.changed(this);
  }

  /** The page is left: what was cancelled cannot be taken back any more. */
  leave(): void {
    if (this.state === "cancelled") this.transfer?.discard();
  }

  private leaveOut(): void {
    this.skips = true;
    this.transfer = undefined;
    void this.send();
  }

  private choose(): void {
    this.transfer = undefined;
    this.mapping.open();
    this.enter("ready");
    void this.look();
    find("select", this.line)?.focus();
  }

  /** Every problem at once, with its row; capped by the server, which says how many there are. */
  private refuse(error: unknown): void {
    const known = error instanceof Refused ? error : undefined;
    const message = error instanceof Unreadable ? word("unreadable") : (known?.message ?? word("try_again"));
    const problems = known?.problems ?? [];
    const skippable = known?.code === "rows" && problems.length > 0;
    this.transfer = undefined;
    this.reading = "";
    this.say("", false);
    setText("[data-message]", message, this.line);
    const alone = known && !problems.length && /^(row|line) /.test(known.where) ? known : undefined;
    const told = alone ? [{ where: alone.where, message: alone.hint }] : problems;
    setText("[data-hint]", skippable ? word("mend_or_leave") : alone ? "" : (known?.hint ?? ""), this.line);
    setText("[data-capped]", word("first_problems", { n: problems.length }), this.line);
    find("[data-capped]", this.line)!.hidden = problems.length < 100;
    find("[data-problems]", this.line)!.replaceChildren(...told.map(problemLine));
    find("[data-skip]", this.line)!.hidden = !skippable;
    find("[data-remap]", this.line)!.hidden = !known?.code.startsWith("rows");
    find("[data-retry]", this.line)!.hidden = known !== undefined && known.status < 500;
    this.enter("refused");
  }
}

/** Whether sending the file would end no better than looking at it did. */
const isFinal = (error: unknown) =>
  error instanceof Unreadable || (error instanceof Refused && error.status < 500 && !error.code.startsWith("limited."));

function problemLine({ where, message, hint }: { where?: string; message: string; hint?: string }): HTMLElement {
  const line = document.createElement("li");
  const place = document.createElement("b");
  place.textContent = placeWord(where ?? "");
  line.append(place, ` ${message} ${hint ?? ""}`);
  return line;
}

/** Fill the ruler of a line. */
export function drawRuler(line: HTMLElement, share: number): void {
  moveRuler(line, share);
  line.querySelector("[role=progressbar]")?.setAttribute("aria-valuenow", String(Math.round(100 * share)));
}

async function versionsOf(name: string, signal: AbortSignal): Promise<number | undefined> {
  if (!name) return 0;
  try {
    const found = await getJson<{ versions: number }[]>(`/api/v1/datasets?name=${encodeURIComponent(name)}`, signal);
    return found[0]?.versions ?? 0;
  } catch {
    return undefined;
  }
}

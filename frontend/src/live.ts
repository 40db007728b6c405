/** News of runs, live. HTTP/1.1 has six connections to a host, so a seventh tab with a stream of its own would hang: all tabs
 *  of a browser share one stream of each kind. The holder of a Web Lock reads for all and broadcasts; when it goes, even by
 *  a crash, another tab goes on behind the last event that it saw. */

/** The newest sequence number that is known of each run. */
export type Cursors = Record<string, number>;
export type State = "live" | "reconnecting" | "signed_out" | "gone";
/** `gap`: events passed before this tab listened, so what is shown may be old and should be fetched again. */
type Listener<T> = { item(item: T): void; gap(run: string): void; state(state: State): void };
/** One event of a run's log, as the API tells it. */
export type RunEvent = {
  run: string;
  seq: number;
  at: string;
  kind: string;
  step: number;
  attempt: number;
  data: Record<string, unknown>;
};
/** A run as a list shows it. */
export type RunState = {
  id: string;
  seq: number;
  state: string;
  step: number;
  total_steps: number | null;
  latest: Record<string, number | string>;
};
type Message<T> = {
  want?: Cursors;
  beyond?: string;
  ask?: true;
  at?: Cursors;
  item?: T;
  prev?: number;
  state?: State;
  gone?: string;
  away?: string;
};

const MOST_RUNS = 150; // the newest of them; the server takes 200
const SILENCE_MS = 40_000; // the server beats every 10 s
const SETTLE_MS = 50; // time for other tabs to say what they want before the stream is opened

/** Every event of the runs behind the given numbers. */
export function follow(cursors: Cursors, listener: Listener<RunEvent>): () => void {
  return new Shared<RunEvent>("/api/v1/events", (event) => event.run, cursors, listener).start();
}

/** Only the newest state of each run, whenever it changes; and of every run made after the run `beyond`. */
export function watch(cursors: Cursors, listener: Listener<RunState>, beyond: string): () => void {
  return new Shared<RunState>("/api/v1/events?latest=1", (run) => run.id, cursors, listener, beyond).start();
}

class Shared<T extends { seq: number }> {
  private over = new AbortController();
  private round = new AbortController();
  private channel!: BroadcastChannel;
  private leader: Leader<T> | undefined;
  private isGone = false; // then news of other tabs' runs says nothing of this page's

  constructor(
    private url: string,
    private runOf: (item: T) => string,
    private cursors: Cursors,
    private listener: Listener<T>,
    private beyond = "",
  ) {}

  /** Returns what stops it. A page in the back/forward cache must hold neither lock nor stream. */
  start(): () => void {
    addEventListener("pagehide", () => this.leave(), this.over);
    addEventListener("pageshow", (event) => event.persisted && this.join(), this.over);
    this.join();
    return () => {
      this.over.abort();
      this.leave();
    };
  }

  private join(): void {
    this.round = new AbortController();
    this.channel = new BroadcastChannel(`studio:${this.url}`);
    this.channel.onmessage = ({ data }: MessageEvent<Message<T>>) => this.hear(data);
    this.post({ want: this.cursors, beyond: this.beyond });
    const { signal } = this.round;
    const lead = () => new Promise<void>((done) => this.lead(signal, done));
    navigator.locks.request(`studio:${this.url}`, { signal }, lead).catch(() => {}); // aborted while it waited
  }

  private lead(signal: AbortSignal, done: () => void): void {
    this.leader = new Leader<T>(this.url, this.runOf, { ...this.cursors }, this.beyond, (message) => {
      this.post(message);
      this.hear(message);
    });
    signal.addEventListener("abort", () => {
      this.leader?.close();
      this.leader = undefined;
      done();
    });
    this.post({ ask: true });
  }

  private leave(): void {
    this.round.abort();
    this.channel.close();
  }

  private post(message: Message<T>): void {
    this.channel.postMessage(message);
  }

  private hear(message: Message<T>): void {
    if (message.want) this.leader?.add(message.want, message.beyond ?? "");
    if (message.ask) this.post({ want: this.cursors, beyond: this.beyond });
    if (message.state) this.tell(message.state);
    if (message.gone) this.lose(message.gone);
    if (message.away) document.dispatchEvent(new Event("away"));
    if (message.item) this.take(message.item, message.prev ?? 0);
    for (const [run, seq] of Object.entries(message.at ?? {})) this.catchUp(run, seq);
  }

  private tell(state: State): void {
    if (!this.isGone) this.listener.state(state);
    document.dispatchEvent(new CustomEvent("connection", { detail: state }));
  }

  private lose(run: string): void {
    if (this.cursors[run] === undefined) return;
    delete this.cursors[run];
    this.isGone = !this.beyond && Object.keys(this.cursors).length === 0;
    if (this.isGone) this.listener.state("gone");
  }

  private take(item: T, prev: number): void {
    const run = this.runOf(item);
    const last = this.cursors[run] ?? (this.isNew(run) ? -1 : undefined);
    if (last === undefined || item.seq <= last) return;
    this.catchUp(run, prev);
    this.cursors[run] = item.seq;
    this.listener.item(item);
  }

  /** Ids sort by the time at which they were made. */
  private isNew(run: string): boolean {
    return this.beyond !== "" && run > this.beyond;
  }

  private catchUp(run: string, seq: number): void {
    const last = this.cursors[run] ?? (this.isNew(run) ? -1 : undefined);
    if (last === undefined || seq <= last) return;
    this.cursors[run] = seq;
    this.listener.gap(run);
  }
}

/** Reads the stream for all tabs. EventSource retries after a lost connection, but gives up for good on any status but 200
 *  and cannot see a silent connection: `open` starts afresh then. */
class Leader<T extends { seq: number }> {
  private source: EventSource | undefined;
  private timer = 0;

  constructor(
    private url: string,
    private runOf: (item: T) => string,
    private cursors: Cursors,
    private beyond: string,
    private say: (message: Message<T>) => void,
  ) {
    this.openIn(SETTLE_MS);
  }

  /** Another tab's wishes: a new run is read from now on, and of a known one the tab learns how far the stream is. */
  add(wanted: Cursors, beyond: string): void {
    const at: Cursors = {};
    if (beyond && (!this.beyond || beyond < this.beyond)) {
      this.beyond = beyond;
      this.openIn(SETTLE_MS);
    }
    for (const [run, seq] of Object.entries(this.cursors))
      if (beyond && run > beyond && !(run in wanted)) at[run] = seq;
    for (const [run, seq] of Object.entries(wanted)) {
      const known = this.cursors[run];
      if (known === undefined) {
        this.cursors[run] = seq;
        this.openIn(SETTLE_MS);
      } else if (known > seq) at[run] = known;
    }
    if (Object.keys(at).length > 0) this.say({ at });
    if (this.source?.readyState === EventSource.CLOSED) this.openIn(SETTLE_MS); // whoever comes may have signed in meanwhile
  }

  close(): void {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = undefined;
  }

  private openIn(delay: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), delay);
  }

  private open(): void {
    this.close();
    if (Object.keys(this.cursors).length === 0 && !this.beyond) return;
    const source = new EventSource(this.address());
    this.source = source;
    source.onopen = () => this.say({ state: "live" });
    source.onmessage = ({ data }: MessageEvent<string>) => this.pass(JSON.parse(data) as T);
    source.addEventListener("beat", () => this.openIn(SILENCE_MS));
    source.addEventListener("away", ({ data }) => this.say({ away: data as string }));
    source.onerror = () => {
      this.say({ state: "reconnecting" });
      if (source.readyState === EventSource.CLOSED) void this.refused(source);
    };
    this.openIn(SILENCE_MS);
  }

  /** The server answered, with a refusal that EventSource does not show: a run that is gone would end the stream of all. */
  private async refused(source: EventSource): Promise<void> {
    clearTimeout(this.timer);
    const runs = Object.keys(this.cursors);
    const statuses = await Promise.all(runs.map(statusOf));
    if (this.source !== source) return; // this tab was left meanwhile
    if (statuses.includes(401)) return this.say({ state: "signed_out" });
    for (const gone of runs.filter((_, at) => statuses[at] === 404)) {
      delete this.cursors[gone];
      this.say({ gone });
    }
    this.openIn(2000 + 3000 * Math.random());
  }

  private address(): string {
    const pairs = Object.entries(this.cursors).sort().slice(-MOST_RUNS);
    const query = new URLSearchParams(pairs.map(([run]) => ["run", run]));
    query.set("after", pairs.map((pair) => pair.join(":")).join(","));
    if (this.beyond) query.set("beyond", this.beyond);
    return `${this.url}${this.url.includes("?") ? "&" : "?"}${query}`;
  }

  private pass(item: T): void {
    const run = this.runOf(item);
    const prev = this.cursors[run] ?? 0;
    this.openIn(SILENCE_MS);
    if (item.seq <= prev) return;
    this.cursors[run] = item.seq;
    this.say({ item, prev });
  }
}

/** 0 where the server cannot be reached. */
async function statusOf(run: string): Promise<number> {
  try {
    return (await fetch(`/api/v1/runs/${run}`)).status;
  } catch {
    return 0;
  }
}

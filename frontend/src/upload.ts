/** Sending a file: resumable (tus 1.0) in pieces that take about a second each, so that progress shows, rows are counted on
 *  the way, and a broken line costs little. Small files go in one request. */
import { guarded } from "./dom";

const MIB = 1024 * 1024;
const AT_ONCE = MIB; // below this one request is quicker than a session
const NO_PART_OF_AN_ADDRESS = /^\.{1,2}$|\//; // names that would lead elsewhere: a session is told what is wrong with them
const FIRST_PIECE = MIB / 4; // what shows within seconds on a slow line that it moves
const SMALLEST_PIECE = MIB / 16;
const LARGEST_PIECE = 256 * MIB; // half a second of the quickest line; what came before a break is kept
const PATIENCE = 8; // failures of the server in a row; a lost line is waited for
const BUSY = 423; // still written by a dead connection, or read, however long that takes
const WORTH_REPEATING = [409, BUSY, 429]; // moved on, busy, too many
const TUS = { "Tus-Resumable": "1.0.0" };

export type Problem = { where?: string; message: string; hint?: string };
export type Choice = { format?: string; columns?: Record<string, string> };

/** What a data set is to be called, and how its file is to be read. */
type Plan = { dataset: string; skips: boolean } & Choice;

type Watcher = {
  /** So many bytes have come, and so many rows in them, where they can be counted. */
  moved(sent: number, rows: number | undefined): void;
  /** The line is lost; it is tried again until it holds. */
  lost(sent: number): void;
};

/** The server's refusal, in the words of its answer. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly hint: string,
    readonly problems: Problem[],
    message: string,
    readonly code = "",
    /** The row or the line, where a single one ended the reading. */
    readonly where = "",
  ) {
    super(message);
  }
}

/** The file cannot be read any more: changed, moved, or a folder. */
export class Unreadable extends Error {}

/** One file on its way. Abort to pause; `run` again goes on from where the server stands. */
export class Transfer {
  sent = 0;
  private piece = FIRST_PIECE;

  constructor(
    private file: File,
    private plan: Plan,
    private mark: string,
    /** Where its session is, once there is one. */
    public address = "",
  ) {}

  /** The address of what the file became: the data set, or the operation that reads it. */
  async run(signal: AbortSignal, watcher: Watcher): Promise<string> {
    for (let failures = 0, waits = 0; ; ) {
      try {
        return await this.send(signal, (sent, rows) => {
          if (sent > this.sent) failures = waits = 0; // what only repeats itself comes to an end
          this.sent = sent;
          watcher.moved(sent, rows);
        });
      } catch (error) {
        if (signal.aborted || error instanceof Unreadable) throw error;
        if (error instanceof Refused && !this.isWorthRepeating(error)) throw error;
        if (error instanceof Refused && error.status === BUSY) waits += 1;
        else failures += 1;
        if (error instanceof Refused && failures > PATIENCE) throw error;
        if (!(error instanceof Refused)) watcher.lost(this.sent);
        await pause(Math.min(500 * 2 ** (failures + waits), 10_000), signal);
      }
    }
  }

  private isWorthRepeating({ status }: Refused): boolean {
    if (status === 404 && this.address)
      this.address = ""; // it was swept away: start anew
    else if (status < 500 && !WORTH_REPEATING.includes(status)) return false;
    return true;
  }

  /** Drop what has come. Survives the page, which may be just going. */
  discard(): void {
    if (this.address) void fetch(this.address, { method: "DELETE", headers: guarded(), keepalive: true });
  }

  private async send(signal: AbortSignal, moved: Watcher["moved"]): Promise<string> {
    const isPlain = !NO_PART_OF_AN_ADDRESS.test(this.plan.dataset);
    if (this.file.size <= AT_ONCE && !this.address && isPlain) return this.put(signal, moved);
    this.address ||= await this.create(signal);
    let answer = await request(this.address, "HEAD", {}, signal);
    for (;;) {
      const offset = Number(answer.headers.get("Upload-Offset"));
      const rows = answer.headers.get("Upload-Rows");
      moved(offset, rows === null ? undefined : Number(rows));
      const made = answer.headers.get("Location");
      if (made) return made;
      const headers = { "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
      const began = performance.now();
      answer = await this.patch(offset, headers, signal);
      this.fit(performance.now() - began);
    }
  }

  /** The piece that begins at `offset`: the browser reads it from the disk as it goes. */
  private async patch(offset: number, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const piece = this.file.slice(offset, offset + this.piece);
    try {
      return await request(this.address, "PATCH", headers, signal, piece);
    } catch (error) {
      if (!(error instanceof Refused)) await bytes(piece, 0, 1); // a file that is gone looks like a lost line
      throw error;
    }
  }

  /** Pieces grow on a quick line and shrink on a slow one. */
  private fit(milliseconds: number): void {
    const factor = milliseconds < 500 ? 2 : milliseconds > 2000 ? 0.5 : 1;
    this.piece = Math.min(LARGEST_PIECE, Math.max(SMALLEST_PIECE, this.piece * factor));
  }

  private async put(signal: AbortSignal, moved: Watcher["moved"]): Promise<string> {
    moved(0, undefined);
    const query = new URLSearchParams({ filename: this.file.name, ...chosen(this.plan) });
    const address = `/api/v1/datasets/${encodeURIComponent(this.plan.dataset)}`;
    const body = await bytes(this.file, 0, AT_ONCE);
    const answer = await request(`${address}?${query}`, "PUT", {}, signal, body);
    moved(this.file.size, undefined);
    return answer.headers.get("Location") ?? address;
  }

  private async create(signal: AbortSignal): Promise<string> {
    const { name, lastModified, size } = this.file;
    const about = { dataset: this.plan.dataset, filename: name, modified: String(lastModified), head: this.mark };
    const pairs = Object.entries({ ...about, ...chosen(this.plan) }).map(([key, text]) => `${key} ${base64(text)}`);
    const headers = { "Upload-Length": String(size), "Upload-Metadata": pairs.join(",") };
    const made = await request("/api/v1/uploads", "POST", headers, signal);
    return made.headers.get("Location") ?? "";
  }
}

/** How the file is to be read, as the server takes it; what was not chosen is guessed there. */
export function chosen({ format, columns, skips }: Choice & { skips?: boolean }): Record<string, string> {
  return {
    ...(format ? { format } : {}),
    ...(format && columns && Object.keys(columns).length > 0 ? { columns: JSON.stringify(columns) } : {}),
    ...(skips ? { skip_bad_rows: "true" } : {}),
  };
}

/** Some bytes of a file. */
export async function bytes(file: Blob, from: number, count: number): Promise<ArrayBuffer> {
  try {
    return await file.slice(from, from + count).arrayBuffer();
  } catch {
    throw new Unreadable();
  }
}

/** A mark of a file's beginning: tells apart what has the same name and size. FNV-1a, since hashing proper needs HTTPS. */
export async function markOf(file: File): Promise<string> {
  let mark = 0x811c9dc5;
  for (const byte of new Uint8Array(await bytes(file, 0, 65_536))) mark = Math.imul(mark ^ byte, 0x01000193);
  return (mark >>> 0).toString(16);
}

export async function request(
  url: string,
  method: string,
  headers: Record<string, string>,
  signal: AbortSignal | null,
  body?: ArrayBuffer | Blob,
): Promise<Response> {
  const answer = await fetch(url, {
    method,
    headers: { ...TUS, ...guarded(), ...headers },
    body: body ?? null,
    signal,
  });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** What the API said when it refused: `{"error": {message, hint, problems}}`. */
async function refusal(answer: Response): Promise<Refused> {
  type Said = { error?: { code?: string; message?: string; where?: string; hint?: string; problems?: Problem[] } };
  const said = ((await readBody(answer)) as Said | undefined)?.error;
  const message = said?.message ?? `HTTP ${answer.status}`;
  return new Refused(answer.status, said?.hint ?? "", said?.problems ?? [], message, said?.code, said?.where);
}

async function readBody(answer: Response): Promise<unknown> {
  try {
    return await answer.json();
  } catch {
    return undefined;
  }
}

const base64 = (text: string) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

/** Waits, but not longer than until the line is back. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((done, fail) => {
    const over = new AbortController();
    const end = (then: () => void) => () => {
      over.abort();
      clearTimeout(timer);
      then();
    };
    const timer = setTimeout(end(done), milliseconds);
    addEventListener("online", end(done), over);
    signal.addEventListener(
      "abort",
      end(() => fail(signal.reason)),
      over,
    );
  });
}

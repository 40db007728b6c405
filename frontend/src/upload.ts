/** Resumable upload (tus 1.0) in pieces, so that progress shows and a broken line costs little. */
import { guarded } from "./dom";

const PIECE = 16 * 1024 * 1024;
const TUS = { "Tus-Resumable": "1.0.0" };
const PATIENCE = 8; // failures in a row
const WORTH_REPEATING = [409, 423, 429]; // moved on, still written by a dead connection, too many

/** What a data set is to be called, and how its file is to be read. */
export type Metadata = { dataset: string; skip_bad_rows?: string };

/** The server's refusal, in the words of its answer. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly hint: string,
    readonly problems: { where?: string; message: string; hint?: string }[],
    message: string,
  ) {
    super(message);
  }
}

/** Where the upload went: the address of the data set, or of the operation that reads it. Abort to pause, call again to go on. */
export async function upload(
  file: File,
  metadata: Metadata,
  signal: AbortSignal,
  progress: (sent: number) => void,
): Promise<string> {
  const key = `upload:${metadata.dataset}:${file.name}:${file.size}:${file.lastModified}`;
  for (let failures = 0; ; ) {
    try {
      const answer = await send(file, metadata, key, signal, (sent) => {
        failures = 0;
        progress(sent);
      });
      localStorage.removeItem(key);
      return answer;
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (error instanceof Refused && error.status === 404)
        localStorage.removeItem(key); // expired: it starts anew
      else if (error instanceof Refused && error.status < 500 && !WORTH_REPEATING.includes(error.status)) throw error;
      failures += 1;
      if (failures > PATIENCE) throw error;
      await pause(Math.min(500 * 2 ** failures, 15_000), signal);
    }
  }
}

/** From where the server stands to the end; what it has is asked once, then it says so itself. */
async function send(
  file: File,
  metadata: Metadata,
  key: string,
  signal: AbortSignal,
  progress: (sent: number) => void,
): Promise<string> {
  const known = localStorage.getItem(key);
  const address = known ?? (await create(file, metadata, signal));
  localStorage.setItem(key, address);
  let answer = await request(address, "HEAD", {}, signal);
  for (;;) {
    const offset = Number(answer.headers.get("Upload-Offset"));
    progress(offset);
    const made = answer.headers.get("Location");
    if (made) return made;
    const headers = { "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
    answer = await request(address, "PATCH", headers, signal, file.slice(offset, offset + PIECE));
  }
}

async function create(file: File, metadata: Metadata, signal: AbortSignal): Promise<string> {
  const pairs = Object.entries({ ...metadata, filename: file.name }).map(([name, text]) => `${name} ${base64(text)}`);
  const headers = { "Upload-Length": String(file.size), "Upload-Metadata": pairs.join(",") };
  const made = await request("/api/v1/uploads", "POST", headers, signal);
  return made.headers.get("Location") ?? "";
}

async function request(
  url: string,
  method: string,
  headers: Record<string, string>,
  signal: AbortSignal,
  body?: Blob,
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
export async function refusal(answer: Response): Promise<Refused> {
  type Said = { error?: { message?: string; hint?: string; problems?: Refused["problems"] } };
  const said = ((await readBody(answer)) as Said | undefined)?.error;
  return new Refused(answer.status, said?.hint ?? "", said?.problems ?? [], said?.message ?? `HTTP ${answer.status}`);
}

async function readBody(answer: Response): Promise<unknown> {
  try {
    return await answer.json();
  } catch {
    return undefined;
  }
}

const base64 = (text: string) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((done, fail) => {
    const timer = setTimeout(done, milliseconds);
    const stop = () => {
      clearTimeout(timer);
      fail(signal.reason);
    };
    signal.addEventListener("abort", stop, { once: true });
  });
}

/** The drop zone: the whole page takes files, several at once; what broke off is recognised and goes on. */
import { Arrival, drawRuler, type Home } from "./arrival";
import { find, setText } from "./dom";
import type { Named } from "./mapping";
import { callOff, follow } from "./reading";
import { redraw } from "./redraw";
import { markOf, Refused, request } from "./upload";
import { word } from "./words";

const AT_ONCE = 2;
const UPLOADS = "/api/v1/uploads";
const MARKS: Record<Named, string> = {
  shape: "data-shape-name",
  role: "data-role-name",
  speaker: "data-speaker-name",
};

type Unfinished = {
  id: string;
  dataset: string;
  filename: string;
  length: number;
  offset: number;
  modified: string | null;
  head: string | null;
};

export function openDropZones(): void {
  for (const line of document.querySelectorAll<HTMLElement>("[data-operation]")) void followLine(line);
  const zone = find("[data-upload]");
  if (zone) new DropZone(zone);
}

class DropZone implements Home {
  readonly dataset: string;
  readonly versions: number;
  private arrivals: Arrival[] = [];
  private waiting: (() => void)[] = [];
  private taken = 0;
  private over: HTMLElement;

  constructor(private zone: HTMLElement) {
    this.dataset = zone.dataset.name ?? "";
    this.versions = Number(zone.dataset.version ?? 0);
    this.over = find("[data-drop-over]", zone)!;
    const input = find<HTMLInputElement>("[data-files]", zone)!;
    input.addEventListener("change", () => {
      this.take([...(input.files ?? [])]);
      input.value = "";
    });
    this.listenForDrops();
    find("[data-send-all]", zone)!.addEventListener("click", () => this.sendAll());
    find<HTMLFormElement>("[data-paste]", zone)!.addEventListener("submit", (event) => this.paste(event));
    for (const line of document.querySelectorAll<HTMLElement>("[data-unfinished]")) this.listenTo(line);
    addEventListener("beforeunload", (event) => this.arrivals.some((each) => each.isFlowing) && event.preventDefault());
    addEventListener("pagehide", () => this.leave());
  }

  private leave(): void {
    for (const each of this.arrivals) each.leave();
  }

  // ---- files come

  /** Files may be dropped anywhere on the page; text and links are none of ours. */
  private listenForDrops(): void {
    let depth = 0;
    const show = (event: DragEvent, by: number) => {
      if (!event.dataTransfer?.types.includes("Files") || find("dialog[open]")) return;
      event.preventDefault();
      depth = by === 0 ? 0 : depth + by;
      this.over.hidden = depth <= 0;
    };
    document.addEventListener("dragenter", (event) => show(event, 1));
    document.addEventListener("dragleave", (event) => show(event, -1));
    document.addEventListener(
      "dragover",
      (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault(),
    );
    document.addEventListener("drop", (event) => {
      show(event, 0);
      this.take([...(event.dataTransfer?.files ?? [])]);
    });
  }

  private paste(event: SubmitEvent): void {
    event.preventDefault();
    const text = find<HTMLTextAreaElement>("#pasted", this.zone)!;
    if (text.value.trim()) this.take([new File([text.value], word("pasted"))]);
    text.value = "";
    text.closest("dialog")?.close();
  }

  private take(files: File[]): void {
    const taken = this.dataset ? files.slice(0, 1) : files;
    for (const file of taken) void this.receive(file);
    find("[data-arrivals]", this.zone)!.scrollIntoView({ block: "nearest" });
  }

  private async receive(file: File): Promise<void> {
    const arrival = this.add(file, this.freeName(nameFrom(file.name)));
    const known = await this.broken(file);
    if (known) this.goOn(arrival, known);
    else await arrival.look();
  }

  private add(file: File, name: string): Arrival {
    const list = find("[data-arrivals]", this.zone)!;
    const line = find<HTMLTemplateElement>("[data-line]", this.zone)!.content.cloneNode(true) as DocumentFragment;
    const item = find("[data-arrival]", line)!;
    list.append(item);
    list.hidden = false;
    const arrival = new Arrival(file, item, this, name);
    this.arrivals.push(arrival);
    return arrival;
  }

  /** Two files of one drop do not become versions of each other unasked. */
  private freeName(name: string): string {
    const taken = new Set(this.arrivals.map((each) => each.dataset));
    let free = name;
    for (let n = 2; taken.has(free); n += 1) free = `${name.slice(0, 76)} ${n}`;
    return free;
  }

  // ---- what broke off

  /** The unfinished upload of this very file, which is told by name, size, time and beginning. */
  private async broken(file: File): Promise<(Unfinished & { mark: string }) | undefined> {
    try {
      const answer = await fetch(UPLOADS);
      if (!answer.ok) return undefined;
      const uploads = ((await answer.json()) as Unfinished[]).filter((each) => isOf(each, file, this.dataset));
      if (uploads.length === 0) return undefined;
      const mark = await markOf(file);
      const found = uploads.find((each) => each.head === null || each.head === mark);
      const isHere = this.arrivals.some((each) => found && each.address.endsWith(found.id));
      return found && !isHere ? { ...found, mark } : undefined;
    } catch {
      return undefined; // it is looked at like any other, and says so where it cannot be read
    }
  }

  private goOn(arrival: Arrival, known: Unfinished & { mark: string }): void {
    const field = find<HTMLInputElement>("[data-as]", arrival.line);
    if (field) field.value = known.dataset;
    setText("[data-file]", known.dataset, arrival.line);
    forget(known.id);
    arrival.resume(`${UPLOADS}/${known.id}`, known.mark);
  }

  private listenTo(line: HTMLElement): void {
    const id = line.dataset.unfinished!;
    const button = find<HTMLButtonElement>("[data-read-now]", line);
    button?.addEventListener("click", () => void readNow(line, button));
    const input = find<HTMLInputElement>("[data-resumes]", line);
    input?.addEventListener("change", async () => {
      const [file] = input.files ?? [];
      input.value = "";
      if (!file) return;
      const known = await this.broken(file);
      if (known?.id === id) this.goOn(this.add(file, known.dataset), known);
      else complain(line, word("other_file"));
    });
    find("[data-discard]", line)!.addEventListener("click", async () => {
      try {
        await request(`${UPLOADS}/${id}`, "DELETE", {}, null);
        forget(id);
      } catch (error) {
        if (error instanceof Refused && error.status === 404) forget(id);
        else complain(line, saidBy(error));
      }
    });
  }

  // ---- what lines ask of their zone

  named(kind: Named, name: string): string {
    return find(`[${MARKS[kind]}="${CSS.escape(name)}"]`, this.zone)?.textContent ?? name;
  }

  /** A few are sent at once; the others wait. */
  async turn(signal: AbortSignal): Promise<() => void> {
    if (this.taken >= AT_ONCE) await new Promise<void>((done) => this.waiting.push(done));
    this.taken += 1;
    let isOver = false;
    const over = () => {
      if (isOver) return;
      isOver = true;
      this.taken -= 1;
      this.waiting.shift()?.();
    };
    if (signal.aborted) over();
    signal.throwIfAborted();
    return over;
  }

  changed(arrival: Arrival): void {
    this.arrivals = this.arrivals.filter((each) => each.line.isConnected);
    const list = find("[data-arrivals]", this.zone)!;
    list.hidden = list.childElementCount === 0;
    const ready = this.arrivals.filter((each) => each.state === "ready");
    find("[data-together]", this.zone)!.hidden = ready.length < 2;
    if (!arrival.line.isConnected) find("[data-files]", this.zone)!.focus();
  }

  private sendAll(): void {
    for (const each of this.arrivals) if (each.state === "ready") void each.send();
  }

  /** One alone leads to its page; of several the list is drawn anew, and each says that it is there. */
  arrived(_arrival: Arrival, address: string): void {
    if (this.arrivals.length === 1) location.assign(address);
    else refreshList();
  }
}

const isOf = (upload: Unfinished, file: File, dataset: string) =>
  upload.filename === file.name &&
  upload.length === file.size &&
  (upload.modified === null || upload.modified === String(file.lastModified)) &&
  (dataset === "" || upload.dataset === dataset);

function complain(line: HTMLElement, words: string): void {
  const said = find(".flow p", line)!;
  said.className = "error-line";
  said.textContent = words;
}

const saidBy = (error: unknown) => (error instanceof Refused ? `${error.message} ${error.hint}` : word("try_again"));

/** What came whole while it could not be read needs no file: an empty piece asks for it. */
async function readNow(line: HTMLElement, button: HTMLButtonElement): Promise<void> {
  const said = find(".flow p", line)!;
  button.disabled = true;
  said.className = "";
  said.textContent = word("reading");
  const headers = { "Upload-Offset": button.dataset.readNow!, "Content-Type": "application/offset+octet-stream" };
  try {
    await request(`${UPLOADS}/${line.dataset.unfinished}`, "PATCH", headers, null, new ArrayBuffer(0));
    location.reload();
  } catch (error) {
    complain(line, saidBy(error));
    button.disabled = false;
  }
}

/** Take an unfinished upload off the page. */
function forget(id: string): void {
  const line = find(`[data-unfinished="${id}"]`);
  const list = line?.closest("[data-unfinished-list]");
  line?.remove();
  if (list && !find("[data-unfinished]", list)) list.remove();
}

/** A reading that went on meanwhile, whoever began it. */
async function followLine(line: HTMLElement): Promise<void> {
  if (line.dataset.state !== "running") return;
  const over = new AbortController();
  const address = `/api/v1/operations/${line.dataset.operation}`;
  find("[data-cancel]", line)?.addEventListener("click", () => void callOff(address));
  try {
    await follow(address, over.signal, (share, said) => {
      drawRuler(line, share);
      if (said) setText("[data-pace]", said, line);
    });
    setText("[data-sent]", word("read_whole"), line);
    setText("[data-pace]", "", line);
    drawRuler(line, 1);
    find("[data-open]", line)!.hidden = false;
    refreshList();
  } catch (error) {
    setText("[data-sent]", error instanceof Refused ? error.message : word("try_again"), line);
    setText("[data-pace]", error instanceof Refused ? error.hint : "", line);
  }
  find("[data-cancel]", line)?.remove();
}

function refreshList(): void {
  redraw("#sets", location.pathname + location.search, refreshList, "#sets");
}

/** `My data (v2).jsonl.gz` → `My data v2`: what a data set may be called. */
function nameFrom(filename: string): string {
  const stem = filename.replace(/(\.(jsonl?|ndjson|csv|tsv|tab|parquet|txt|text|md|gz))+$/i, "");
  return stem
    .replace(/[^\p{L}\p{N}_ .+-]+/gu, " ")
    .replace(/\s+/g, " ")
    .replace(/^[^\p{L}\p{N}]+/u, "")
    .trim()
    .slice(0, 80);
}

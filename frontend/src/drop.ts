/** The drop zone of the data-set pages: choose, name, send, follow the reading, and show every refused row. */
import { find, guarded, setText } from "./dom";
import { Refused, refusal, upload } from "./upload";
import { size, word } from "./words";

const AT_ONCE = 8 * 1024 * 1024; // below this one request is quicker than a session
type Operation = {
  state: "running" | "succeeded" | "failed" | "cancelled";
  done: number;
  total: number | null;
  error?: { message: string; hint?: string; problems?: Refused["problems"] };
};

export function openDropZones(): void {
  for (const zone of document.querySelectorAll<HTMLElement>("[data-upload]")) new DropZone(zone);
}

class DropZone {
  private file: File | undefined;
  private running: AbortController | undefined;
  private skips = false; // rows with problems, once a person said so
  private input: HTMLInputElement;
  private bar: HTMLProgressElement;

  constructor(private zone: HTMLElement) {
    this.input = find<HTMLInputElement>("input[type=file]", zone)!;
    this.bar = find<HTMLProgressElement>("progress", zone)!;
    this.input.addEventListener("change", () => this.choose(this.input.files?.[0]));
    const drop = find(".drop", zone)!;
    for (const kind of ["dragenter", "dragover"] as const)
      drop.addEventListener(kind, (event) => this.hover(event, true));
    for (const kind of ["dragleave", "drop"] as const) drop.addEventListener(kind, (event) => this.hover(event, false));
    drop.addEventListener("drop", (event) => this.choose(event.dataTransfer?.files[0]));
    find("[data-send]", zone)?.addEventListener("click", () => void this.send());
    find("[data-as]", zone)?.addEventListener("keydown", (event) => event.key === "Enter" && void this.send());
    find("[data-skip]", zone)!.addEventListener("click", () => this.sendWithoutBadRows());
    find("[data-cancel]", zone)!.addEventListener("click", () => this.cancel());
    find("[data-pause]", zone)!.addEventListener("click", () => this.pauseOrGoOn());
  }

  private hover(event: DragEvent, over: boolean): void {
    event.preventDefault();
    find(".drop", this.zone)!.classList.toggle("over", over);
  }

  private choose(file: File | undefined): void {
    if (!file || this.running) return;
    this.file = file;
    this.skips = false;
    find("[data-refusal]", this.zone)!.hidden = true;
    find("[data-arriving]", this.zone)!.hidden = false;
    setText("[data-file]", `${file.name}, ${size(file.size)}`, this.zone);
    setText("[data-progress-text]", "", this.zone);
    const name = find<HTMLInputElement>("[data-as]", this.zone);
    if (!name) return void this.send();
    name.value = nameFrom(file.name);
    name.select();
  }

  private get dataset(): string {
    return this.zone.dataset.name || find<HTMLInputElement>("[data-as]", this.zone)?.value.trim() || "";
  }

  private async send(): Promise<void> {
    const file = this.file;
    if (!file || !this.dataset || this.running) return;
    this.running = new AbortController();
    this.bar.hidden = false;
    this.pauseButton.hidden = file.size <= AT_ONCE;
    try {
      const made = await this.transfer(file, this.running.signal);
      this.pauseButton.hidden = true;
      if (made.includes("/operations/")) await this.followReading(made);
      location.assign(`/datasets/${encodeURIComponent(this.dataset)}`);
    } catch (error) {
      if (!this.running?.signal.aborted) this.refuse(error);
    } finally {
      this.running = undefined;
    }
  }

  /** The address of what the file became: the data set, or the operation that reads it. */
  private async transfer(file: File, signal: AbortSignal): Promise<string> {
    const skip: { skip_bad_rows?: string } = this.skips ? { skip_bad_rows: "true" } : {};
    const metadata = { dataset: this.dataset, ...skip };
    if (file.size > AT_ONCE) return upload(file, metadata, signal, (sent) => this.show(sent, file.size));
    this.show(0, file.size);
    const query = new URLSearchParams({ filename: file.name, ...skip });
    const address = `/api/v1/datasets/${encodeURIComponent(this.dataset)}?${query}`;
    const answer = await fetch(address, { method: "PUT", headers: guarded(), body: file, signal });
    if (!answer.ok) throw await refusal(answer);
    this.show(file.size, file.size);
    return answer.headers.get("Location") ?? address;
  }

  private async followReading(address: string): Promise<void> {
    setText("[data-progress-text]", word("reading"), this.zone);
    for (;;) {
      const answer = await fetch(address);
      const now = (answer.ok ? await answer.json() : { state: "running" }) as Operation;
      if (now.state === "succeeded") return;
      if (now.state !== "running")
        throw new Refused(422, now.error?.hint ?? "", now.error?.problems ?? [], now.error?.message ?? now.state);
      if (now.total) [this.bar.max, this.bar.value] = [now.total, now.done];
      await new Promise((done) => setTimeout(done, 1000));
    }
  }

  private show(sent: number, total: number): void {
    [this.bar.max, this.bar.value] = [total, sent];
    setText("[data-progress-text]", word("uploading", { sent: size(sent), total: size(total) }), this.zone);
  }

  private get pauseButton(): HTMLElement {
    return find("[data-pause]", this.zone)!;
  }

  private pauseOrGoOn(): void {
    if (this.running) {
      this.running.abort();
      this.pauseButton.textContent = word("go_on");
      setText("[data-progress-text]", word("paused_upload", { sent: size(this.bar.value) }), this.zone);
    } else {
      this.pauseButton.textContent = word("pause");
      void this.send();
    }
  }

  private sendWithoutBadRows(): void {
    this.skips = true;
    find("[data-refusal]", this.zone)!.hidden = true;
    void this.send();
  }

  private cancel(): void {
    this.running?.abort();
    this.file = undefined;
    this.input.value = "";
    this.bar.hidden = true;
    find("[data-arriving]", this.zone)!.hidden = true;
  }

  /** Every problem at once, with its row. */
  private refuse(error: unknown): void {
    const known = error instanceof Refused ? error : new Refused(0, "", [], word("try_again"));
    const place = find("[data-refusal]", this.zone)!;
    place.hidden = false;
    this.bar.hidden = true;
    setText("[data-message]", known.message, place);
    setText("[data-hint]", known.hint, place);
    setText("[data-progress-text]", "", this.zone);
    const lines = known.problems.map((problem) => {
      const line = document.createElement("li");
      line.textContent = [problem.where, problem.message, problem.hint].filter(Boolean).join(" ");
      return line;
    });
    find("[data-problems]", place)!.replaceChildren(...lines);
    find("[data-skip]", place)!.hidden = !known.problems.some((problem) => problem.where?.startsWith("row "));
  }
}

/** `My data (v2).jsonl.gz` → `My data v2`: what a data set may be called. */
export function nameFrom(filename: string): string {
  const stem = filename.replace(/(\.(jsonl?|csv|tsv|parquet|txt|gz))+$/i, "");
  return stem
    .replace(/[^\p{L}\p{N}_ .+-]+/gu, " ")
    .replace(/\s+/g, " ")
    .replace(/^[^\p{L}\p{N}]+/u, "")
    .trim()
    .slice(0, 80);
}

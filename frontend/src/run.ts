/** The page of one run: everything on it moves without a reload. Curves, samples and log come from the events themselves;
 *  what the server draws in words (the head, the artifacts, what happened beside the training) is fetched again when it changes. */
import { Anew } from "./anew";
import { isAway } from "./away";
import type { Series } from "./chart";
import type { Pair } from "./curves";
import { clock, composes, find, getJson, moveRuler, setText, settle } from "./dom";
import { draftArrived } from "./draft";
import { follow, type RunEvent, type State } from "./live";
import { Bell, showInTitle } from "./notify";
import { Plots, type Values } from "./plots";
import { redraw } from "./redraw";
import { type Sample, Samples } from "./samples";
import { announce, count, doing, duration, metric, roughly, word } from "./words";

const ENDED = ["succeeded", "failed", "stopped"];
const LOOK_MS = 5000; // what is said of the newest figures, and a host that falls silent, is told by no event
const QUIET = ["metrics", "sample", "progress", "facts"]; // no line of the log
const HISTORY = ["state", "checkpoint", "amendment", "amended", "rewound"];

export function showRun(body: HTMLElement): void {
  draftArrived();
  new RunPage(body.dataset.run ?? "", body.dataset.name ?? "", Number(body.dataset.seq));
}

class RunPage {
  private plots: Plots;
  private samples = new Samples();
  private answers = new Anew(
    () => this.samples.again(),
    (all) => this.samples.putAll(all),
  );
  private bell: Bell;
  private pace: { step: number; at: number }[] = [];
  private step = 0;
  private path: string;
  private refreshStatus = this.part("status");
  private refreshArtifacts = this.part("artifacts");
  private refreshHistory = this.part("history");
  private refreshNote = this.part("note");
  private refreshMemory = this.part("memory");
  private refreshLog = settle(() => find("[data-log-search]")?.dispatchEvent(new Event("change")), 300, 1000);

  constructor(
    private run: string,
    name: string,
    seq: number,
  ) {
    this.path = `/runs/${encodeURIComponent(name)}`;
    const series = JSON.parse(document.body.dataset.curves ?? "{}") as Series;
    this.plots = new Plots(run, series, Number(this.status.aPass));
    this.bell = new Bell(run, name);
    this.afterSwap();
    document.addEventListener("htmx:after:swap", () => this.afterSwap());
    document.addEventListener("click", onClick);
    document.addEventListener("keydown", onKey);
    document.addEventListener("back", () => this.catchUp());
    openNote(() => void this.bringNote());
    setInterval(() => this.hasEnded || document.hidden || isAway() || this.refreshStatus(), LOOK_MS);
    follow(
      { [run]: seq },
      {
        item: (event) => this.apply(event),
        gap: () => this.catchUp(),
        state: (state) => this.showConnection(state),
      },
    );
  }

  private apply(event: RunEvent): void {
    const { kind, step, data } = event;
    if (kind === "metrics") this.applyMetrics(event);
    else if (kind === "sample") this.answers.now(() => this.samples.put(step, data as unknown as Sample));
    else if (kind === "rewound") this.rewind(Number(data.step));
    else if (kind === "progress") showDoing(data);
    else if (kind === "note") void this.bringNote();
    else this.refreshStatus();
    if (kind === "phase") endDoing();
    if (kind === "artifact") this.refreshArtifacts();
    if (kind === "state") this.hear(String(data.state));
    if (HISTORY.includes(kind)) this.refreshHistory();
    if (!QUIET.includes(kind)) this.refreshLog();
  }

  private applyMetrics({ step, at, data }: RunEvent): void {
    const values = data.values as Values;
    const when = Number(data.t ?? Date.parse(at) / 1000);
    this.plots.put(step, values, when, Number(data.epoch ?? 0));
    endDoing();
    for (const [name, value] of Object.entries(values)) setText(`[data-latest="${name}"]`, metric(value));
    if ("loss" in values) announce(word("summary", { step: count(step), loss: metric(values.loss) }));
    if ("eval_loss" in values) this.refreshStatus(); // the best, and what is said of it
    this.showProgress(step, when);
  }

  private rewind(step: number): void {
    this.plots.cutAfter(step);
    this.answers.now(() => this.samples.cutAfter(step));
    this.pace = [];
    this.step = step;
    this.refreshStatus();
  }

  private hear(state: string): void {
    if (state === "training") this.refreshMemory();
    else this.refreshArtifacts(); // what is being made, and that nothing is any more
  }

  private showProgress(step: number, when: number): void {
    if (step <= this.step) return;
    this.step = step;
    const total = Number(this.status.total);
    if (!total) {
      setText("[data-steps]", word("step", { step }));
      return;
    }
    moveRuler(document, step / total);
    find("[data-progress]")?.setAttribute("aria-valuenow", String(step));
    setText("[data-steps]", word("step_of", { step: count(step), total: count(total) }));
    const aPass = Number(this.status.aPass);
    const all = Number((total / aPass).toFixed(2));
    if (aPass) setText("[data-pass]", word("pass_of", { n: (step / aPass).toFixed(2), all }));
    showInTitle(this.status.state ?? "", step, total);
    this.showTimeLeft(step, total, when);
  }

  /** By when the steps were made: after a lost connection many of them arrive at once. */
  private showTimeLeft(step: number, total: number, when: number): void {
    this.pace = [...this.pace.slice(-49), { step, at: when }];
    const [first, last] = [this.pace[0]!, this.pace.at(-1)!];
    const seen = last.step > first.step ? (last.at - first.at) / (last.step - first.step) : 0;
    const perStep = this.pace.length > 20 ? seen : Number(this.status.pace) || seen;
    if (!perStep || this.status.intent !== "run") return;
    const left = perStep * (total - step);
    const at = clock(new Date(Date.now() + 1000 * left).toISOString(), "short");
    setText("[data-left]", step < total ? ` · ${word("left", { time: duration(roughly(left)), at })}` : "");
  }

  /** Events passed while this tab did not listen, or what they changed could not be had: it is read again. */
  private catchUp(): void {
    this.pace = [];
    this.refreshStatus();
    this.refreshArtifacts();
    this.refreshHistory();
    this.refreshMemory();
    void this.bringNote();
    this.refreshLog();
    this.plots.reload();
    void this.answers.again();
  }

  /** The note as it is now; one that was written here and is not saved goes there first, but not over somebody else's newer one. */
  private async bringNote(): Promise<void> {
    const field = find<HTMLTextAreaElement>("#note");
    if (!field || !isNoteLost()) return this.refreshNote();
    const found = await getJson<{ note: string }>(`/api/v1/runs/${this.run}`).catch(() => undefined); // lost again
    if (found?.note === field.value.trim()) this.refreshNote();
    else if (found?.note === field.dataset.saved) field.form?.dispatchEvent(new Event("change"));
  }

  /** What has a part of the page drawn again. */
  private part(name: string): () => void {
    const refresh = settle(() => redraw(`#run-${name}`, `${this.path}/${name}`, refresh), 150, 1000);
    return refresh;
  }

  /** What the server draws in its own time and words is put into the reader's, and told to charts and samples. */
  private afterSwap(): void {
    for (const time of document.querySelectorAll<HTMLTimeElement>("time[data-clock]"))
      time.textContent = clock(time.dateTime, time.dataset.clock);
    const items = [...document.querySelectorAll<HTMLElement>("#run-history [data-mark][data-step]")];
    this.plots.mark(items.map((item) => ({ step: Number(item.dataset.step), text: item.dataset.mark ?? "" })));
    this.plots.foretell(JSON.parse(find("#run-history")?.dataset.ahead ?? "[]") as Pair[]);
    const { state = "", total, best, now } = this.status;
    this.samples.markBest(Number(best || -1));
    this.step = Math.max(this.step, Number(now));
    if (this.hasEnded) this.bell.ring(state);
    this.bell.show();
    showInTitle(state, this.step, Number(total));
    for (const button of document.querySelectorAll<HTMLElement>("[data-no-script]")) button.hidden = true;
  }

  /** What the head says for scripts. */
  private get status(): DOMStringMap {
    return find("#run-status")?.dataset ?? {};
  }

  private get hasEnded(): boolean {
    return ENDED.includes(this.status.state ?? "");
  }

  private showConnection(state: State): void {
    const badge = find("[data-connection]");
    if (!badge) return;
    badge.hidden = state === "live" || (state === "reconnecting" && this.hasEnded);
    badge.textContent = word(state);
  }
}

/** The next step was made, or another phase begun: whatever was told in between is over. */
function endDoing(): void {
  const at = find("[data-at]");
  if (at) at.hidden = true;
}

/** What the trainer is at beside its steps, with how far that is: it counts rows, files or bytes. */
function showDoing(data: Record<string, unknown>): void {
  const [what, done, total] = [doing(String(data.what ?? "")), Number(data.done), Number(data.total)];
  const isGoing = total > 0 && done < total;
  const at = find("[data-at]");
  if (at) at.hidden = data.what === "training";
  setText("[data-doing]", isGoing ? `${what} ${Math.floor((100 * done) / total)} %` : what);
  for (const bar of document.querySelectorAll<HTMLProgressElement>("[data-doing-bar], [data-making-bar]")) {
    bar.hidden = !isGoing && "doingBar" in bar.dataset;
    bar.max = total || 1;
    bar.value = done;
  }
  if (total) setText("[data-making-share]", `${Math.round((100 * done) / total)} %`);
}

function onClick({ target }: Event): void {
  const at = target instanceof Element ? target : null;
  for (const menu of document.querySelectorAll<HTMLDetailsElement>(".drop-down[open]"))
    if (!at || !menu.contains(at) || at.closest("[data-opens]")) menu.open = false;
  const expand = at?.closest<HTMLElement>("[data-expand]");
  const isWide = expand?.closest(".chart")?.classList.toggle("wide");
  expand?.setAttribute("aria-pressed", String(isWide));
}

function onKey(event: KeyboardEvent): void {
  const menu = find<HTMLDetailsElement>(".drop-down[open]");
  if (event.key !== "Escape" || !menu) return;
  menu.open = false;
  find("summary", menu)?.focus();
}

/** A note is sent when its field is left; Enter with Ctrl or Command leaves it, Escape takes back what was written. */
function openNote(bring: () => void): void {
  for (const failed of ["htmx:response:error", "htmx:error"]) document.addEventListener(failed, tellLostNote);
  document.addEventListener("keydown", (event) => {
    const field = event.target;
    if (!(field instanceof HTMLTextAreaElement) || field.id !== "note" || composes(event)) return;
    if (event.key === "Escape") field.value = field.dataset.saved ?? "";
    if (event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) field.blur();
    if (event.key !== "Escape" || !isNoteLost()) return;
    find("[data-lost]")!.hidden = true;
    bring();
  });
}

const isNoteLost = () => find("[data-lost]")?.hidden === false;

/** It goes with the form that the server draws once the note is saved. */
function tellLostNote({ target }: Event): void {
  const said = target instanceof Element && target.matches(".note-form") ? find("[data-lost]", target) : null;
  if (said) said.hidden = false;
}

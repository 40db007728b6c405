/** The page of one run: everything on it moves without a reload. Curves, samples and log come from the events themselves;
 *  the status and the artifacts are drawn by the server and fetched again when they change. */
import htmx from "htmx.org/dist/htmx.esm.js";
import { Chart, type Line, type Series, type Span } from "./chart";
import type { Pair, Value } from "./curves";
import { find, setText, settle } from "./dom";
import { follow, type RunEvent, type State } from "./live";
import { announce, count, doing, duration, fill, metric, stateWord, word } from "./words";

const KEPT_POINTS = 6000; // above this the curves are fetched again, thinned so that no extreme is lost
const LOG_LINES = 500;
const ENDED = ["succeeded", "failed", "stopped"];
const LOOK_MS = 15_000; // a host that falls silent tells nobody, so the status is looked at now and then

type Values = Record<string, Value>;
type Sample = { index: number; prompt: string; text: string; tokens: number; finish: string };

export function showRun(body: HTMLElement): void {
  new RunPage(body.dataset.run ?? "", encodeURIComponent(body.dataset.name ?? ""), Number(body.dataset.seq));
}

class RunPage {
  private charts: Chart[];
  private pace: { step: number; at: number }[] = [];
  private latest: Values = {};
  private refreshStatus = this.part("status");
  private refreshArtifacts = this.part("artifacts");
  private refreshHistory = this.part("history");

  constructor(
    private run: string,
    private name: string,
    seq: number,
  ) {
    const series = JSON.parse(document.body.dataset.curves ?? "{}") as Record<string, Pair[]>;
    const figures = [...document.querySelectorAll<HTMLElement>("[data-chart]")];
    this.charts = figures.map(
      (figure) => new Chart(figure, linesOf(figure), series, (...asked) => this.finer(...asked)),
    );
    this.markChanges();
    document.addEventListener("htmx:after:swap", () => this.markChanges());
    setInterval(() => this.hasEnded || document.hidden || this.refreshStatus(), LOOK_MS);
    for (const time of document.querySelectorAll<HTMLTimeElement>("[data-log] time"))
      time.textContent = clock(time.dateTime);
    follow(
      { [run]: seq },
      {
        item: (event) => this.apply(event),
        gap: () => void this.catchUp(),
        state: (state) => this.showConnection(state),
      },
    );
  }

  private apply(event: RunEvent): void {
    const { kind, step, data } = event;
    if (kind === "metrics") this.applyMetrics(step, data.values as Values);
    else if (kind === "sample") showSample(step, data as unknown as Sample);
    else if (kind === "rewound") this.rewind(Number(data.step));
    else if (kind === "progress") setText("[data-doing]", progressText(data));
    else this.refreshStatus();
    if (kind === "artifact") this.refreshArtifacts();
    if (["state", "checkpoint", "amendment", "amended", "rewound"].includes(kind)) this.refreshHistory();
    logLine(event);
  }

  private applyMetrics(step: number, values: Values): void {
    for (const [name, value] of Object.entries(values)) {
      for (const chart of this.charts) chart.put(name, step, value);
      setText(`[data-latest="${name}"]`, metric(value));
    }
    this.latest = { ...this.latest, ...values };
    if ("loss" in values) announce(word("summary", { step: count(step), loss: metric(values.loss) }));
    this.showProgress(step);
    if (this.charts.some((chart) => chart.size > KEPT_POINTS)) void this.catchUp();
  }

  private rewind(step: number): void {
    for (const chart of this.charts) chart.cutAfter(step);
    for (const item of document.querySelectorAll<HTMLElement>("[data-samples] li")) {
      if (Number(item.dataset.step) > step) item.remove();
    }
    this.pace = [];
    this.refreshStatus();
  }

  private showProgress(step: number): void {
    const bar = find<HTMLProgressElement>("[data-progress]");
    if (!bar || step <= bar.value) return;
    bar.value = step;
    const total = bar.max > 1 ? bar.max : undefined;
    setText(
      "[data-steps]",
      total ? word("step_of", { step: count(step), total: count(total) }) : word("step", { step }),
    );
    this.pace = [...this.pace.slice(-49), { step, at: performance.now() }];
    const [first, last] = [this.pace[0]!, this.pace.at(-1)!];
    if (!total || last.step <= first.step) return;
    const perStep = (last.at - first.at) / (last.step - first.step) / 1000;
    setText("[data-left]", step < total ? word("left", { time: duration(perStep * (total - step)) }) : "");
  }

  /** Events passed while this tab did not listen: what they changed is read again. */
  private async catchUp(): Promise<void> {
    this.refreshStatus();
    this.refreshArtifacts();
    this.refreshHistory();
    const names = this.charts.flatMap((chart) => chart.keys);
    const [series, samples] = await Promise.all([
      this.curves(names),
      fetchJson<(Sample & { step: number })[]>(`/api/v1/runs/${this.run}/samples`),
    ]);
    for (const chart of this.charts) chart.replace(series);
    for (const sample of samples) showSample(sample.step, sample);
  }

  private async finer(spans: Span[], points: number, signal: AbortSignal): Promise<Series> {
    const names = spans.map(({ key }) => key);
    const [from, to] = [Math.min(...spans.map((span) => span.from)), Math.max(...spans.map((span) => span.to))];
    return this.curves(names, from, to, points, signal);
  }

  private async curves(
    names: string[],
    from = 0,
    to?: number,
    points = 2000,
    signal?: AbortSignal,
  ): Promise<Record<string, Pair[]>> {
    const query = new URLSearchParams({ names: names.join(","), from: String(from), points: String(points) });
    if (to !== undefined) query.set("to", String(to));
    type Answer = { curves: Record<string, Pair[]> };
    return (await fetchJson<Answer>(`/api/v1/runs/${this.run}/metrics?${query}`, signal)).curves;
  }

  /** What fetches a part of the page again. While somebody decides, nothing moves under their hands. */
  private part(name: string): () => void {
    const target = `#run-${name}`;
    const fetchPart = () => {
      const open = find<HTMLDialogElement>("dialog[open]");
      if (open) open.addEventListener("close", refresh, { once: true });
      else void htmx.ajax("GET", `/runs/${this.name}/${name}`, { source: target, target, swap: "outerMorph" });
    };
    const refresh = settle(fetchPart, 150, 1000);
    return refresh;
  }

  /** The changes in mid-run that hold, as the server lists them, stand in every chart. */
  private markChanges(): void {
    const items = [...document.querySelectorAll<HTMLElement>("#run-history [data-mark][data-step]")];
    const marks = items.map((item) => ({ step: Number(item.dataset.step), text: item.dataset.mark ?? "" }));
    for (const chart of this.charts) chart.mark(marks);
  }

  private get hasEnded(): boolean {
    return ENDED.includes(find("#run-status")?.dataset.state ?? "");
  }

  private showConnection(state: State): void {
    const badge = find("[data-connection]");
    if (!badge) return;
    badge.hidden = state === "live" || (state === "reconnecting" && this.hasEnded);
    badge.textContent = word(state);
  }
}

/** The lines that a figure says it shows. */
function linesOf(figure: HTMLElement): Line[] {
  const keys = (figure.dataset.chart ?? "").split(" ");
  return keys.map((key, at) => ({
    key,
    label: key,
    colour: at + 1,
    smooth: key === "loss",
    dots: key === "eval_loss",
    best: key === "eval_loss",
  }));
}

function progressText(data: Record<string, unknown>): string {
  const [what, done, total] = [doing(String(data.what ?? "")), Number(data.done), Number(data.total)];
  if (!total) return what;
  return done < total ? `${what} ${count(done)} / ${count(total)}` : "";
}

/** Adds an answer at its place, or replaces the one of the same step. */
function showSample(step: number, sample: Sample): void {
  const home = find("[data-samples]");
  if (!home) return;
  find("[data-empty]", home)?.remove();
  const timeline = find("ol", promptPanel(home, sample))!;
  const made = fromTemplate("sample-item");
  made.dataset.step = String(step);
  const [title, badge, tokens] = made.querySelectorAll<HTMLElement>("header > span");
  title!.textContent = fill(title!.textContent, { step: count(step) });
  badge!.hidden = step > 0;
  tokens!.textContent = fill(tokens!.textContent, { n: sample.tokens });
  find("p", made)!.textContent = sample.text;
  find("footer", made)!.hidden = sample.finish !== "length";
  const others = [...timeline.querySelectorAll<HTMLElement>("li")];
  others.find((item) => Number(item.dataset.step) === step)?.remove();
  const after = others.find((item) => Number(item.dataset.step) > step);
  timeline.insertBefore(made, after ?? null);
  if (!after) timeline.scrollLeft = timeline.scrollWidth;
}

function promptPanel(home: HTMLElement, sample: Sample): HTMLElement {
  const known = find(`[data-prompt="${sample.index}"]`, home);
  if (known) return known;
  const made = fromTemplate("sample-panel");
  made.dataset.prompt = String(sample.index);
  const number = find(".note", made)!;
  number.textContent = fill(number.textContent, { n: sample.index + 1 });
  setText(".asked", sample.prompt, made);
  home.append(made);
  return made;
}

function fromTemplate(id: string): HTMLElement {
  const template = document.getElementById(id) as HTMLTemplateElement;
  return template.content.firstElementChild!.cloneNode(true) as HTMLElement;
}

/** The newest line stands first, as the server drew those that were there. */
function logLine(event: RunEvent): void {
  const log = find("[data-log]");
  const text = logText(event);
  if (!log || !text) return;
  const line = document.createElement("div");
  line.dataset.seq = String(event.seq);
  const [when, what] = [document.createElement("time"), document.createElement("span")];
  when.dateTime = event.at;
  when.textContent = clock(event.at);
  what.textContent = text;
  if (event.data.level === "warning" || event.data.level === "error") what.className = "warn";
  line.append(when, what);
  log.prepend(line);
  while (log.children.length > LOG_LINES) log.lastElementChild?.remove();
}

/** The time of day where the reader is. */
const clock = (at: string) => new Date(at).toLocaleTimeString(document.documentElement.lang, { hour12: false });

function logText({ kind, step, data }: RunEvent): string {
  if (kind === "log") return String(data.text ?? "");
  if (kind === "phase") return String(data.text || doing(String(data.phase)));
  if (kind === "checkpoint") return word("checkpoint_saved", { step: count(step) });
  if (kind === "rewound") return word("rewound", { step: count(Number(data.step)) });
  if (kind === "amendment") return word("asked_for", { field: String(data.field), value: amended(data.value) });
  if (kind === "amended") return word("holds_from", { n: Number(data.sequence), step: count(step) });
  if (kind === "artifact") return word("made", { what: String(data.kind) });
  if (kind !== "state") return "";
  const cause = data.cause as { message: string } | null;
  return stateWord(String(data.state)) + (cause ? `: ${cause.message}` : "");
}

/** The new value of a setting; prompts are lists. */
const amended = (value: unknown) => (Array.isArray(value) ? value.join(" · ") : metric(value as number));

async function fetchJson<T>(address: string, signal?: AbortSignal): Promise<T> {
  const answer = await fetch(address, { signal: signal ?? null, headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return (await answer.json()) as T;
}

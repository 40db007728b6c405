/** Runs beside each other: their curves in the same charts, live, and what in their answers differs from the first one's. */
import { type AxisKind, passes, type Scale, Times } from "./axes";
import { Chart, type Line, type Series, type Span } from "./chart";
import type { Pair } from "./curves";
import { differences } from "./diff";
import { copyText, getJson, settle } from "./dom";
import { type Cursors, follow, type RunEvent } from "./live";
import { openTools, type Values } from "./plots";
import { redraw } from "./redraw";

const NAMES = ["eval_loss", "loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_gib"];
const POINTS = 1200;
const KEPT_POINTS = 6000;

type Answer = { curves: Record<string, Pair[]>; times: [number, number][]; steps_a_pass: number | null; seq: number };

/** Where the steps of one run lie on each axis. */
class Track {
  times = new Times();
  tokens = new Times(); // what is learned by a step grows with it, as time does
  stepsAPass = 0;

  read(answer: Answer): void {
    this.times = new Times();
    this.times.add(answer.times);
    this.stepsAPass = answer.steps_a_pass ?? 0;
    this.tokens = new Times();
    this.tokens.add([[0, 0], ...((answer.curves.trained_tokens ?? []) as [number, number][])]);
  }

  put(step: number, values: Values, at: number, epoch: number): void {
    this.times.put(step, at);
    if (epoch > 0) this.stepsAPass = step / epoch;
    if (typeof values.trained_tokens === "number") this.tokens.put(step, values.trained_tokens);
  }

  scale(axis: AxisKind): Scale | undefined {
    if (axis === "time") return this.times;
    if (axis === "tokens") return this.tokens;
    return axis === "pass" && this.stepsAPass > 0 ? passes(this.stepsAPass) : undefined;
  }
}

export function showComparison(): void {
  markDifferences();
  document.addEventListener("htmx:after:swap", markDifferences);
  document.addEventListener("click", ({ target }) => {
    const button = target instanceof Element ? target.closest<HTMLElement>("[data-copy-address]") : null;
    if (button) void copyText(new URL(button.dataset.copyAddress!, location.href).href, button);
  });
  const runs = [...document.querySelectorAll<HTMLElement>("[data-compared]")].map((item) => item.dataset.compared!);
  void new Comparison(runs).open();
}

class Comparison {
  private tracks: Map<string, Track>;
  private charts: Chart[] = [];
  private refresh = settle(() => this.redrawWords(), 400, 3000);

  constructor(runs: readonly string[]) {
    this.tracks = new Map(runs.map((run) => [run, new Track()]));
  }

  async open(): Promise<void> {
    const [series, cursors] = await this.read();
    const figures = [...document.querySelectorAll<HTMLElement>("[data-chart]")];
    const finer = (spans: Span[], points: number, signal: AbortSignal) => this.finer(spans, points, signal);
    const hasPasses = () => [...this.tracks.values()].every(({ stepsAPass }) => stepsAPass > 0);
    openTools(async (axis) => axis !== "pass" || hasPasses()); // first, so that each chart is built once
    this.charts = figures.map((figure) => new Chart(figure, this.linesOf(figure), series, finer));
    follow(cursors, {
      item: (event) => this.apply(event),
      gap: () => void this.reload(),
      state: () => {}, // the banner of the page says when the studio is away
    });
  }

  private linesOf(figure: HTMLElement): Line[] {
    const lines = JSON.parse(figure.dataset.lines ?? "[]") as Line[];
    return lines.map((line) => ({ ...line, scale: (axis) => this.tracks.get(parted(line.key).run)?.scale(axis) }));
  }

  private apply({ run, kind, step, data, at }: RunEvent): void {
    if (kind === "rewound") void this.reload();
    if (kind === "metrics") {
      const values = data.values as Values;
      this.tracks.get(run)?.put(step, values, Date.parse(at) / 1000, Number(data.epoch ?? 0));
      for (const [name, value] of Object.entries(values))
        for (const chart of this.charts) chart.put(`${name}@${run}`, step, value);
      if (this.charts.some((chart) => chart.size > KEPT_POINTS)) void this.reload();
    }
    if (["state", "artifact", "sample", "metrics", "rewound"].includes(kind)) this.refresh();
  }

  /** What the server draws of them in words. */
  private redrawWords(): void {
    for (const part of ["#compare-head", "#compare-body"])
      redraw(part, location.pathname + location.search, this.refresh, part);
  }

  private async reload(): Promise<void> {
    const [series] = await this.read();
    for (const chart of this.charts) chart.replace(series);
  }

  /** The curves of all runs, and behind which event of each to go on. */
  private async read(): Promise<[Series, Cursors]> {
    const runs = [...this.tracks];
    const names = [...NAMES, "trained_tokens"];
    const answers = await Promise.all(runs.map(([run]) => ask(run, { names, points: POINTS, times: true })));
    const series: Record<string, Pair[]> = {};
    const cursors: Cursors = {};
    for (const [at, [run, track]] of runs.entries()) {
      const answer = answers[at]!;
      track.read(answer);
      cursors[run] = answer.seq;
      for (const name of NAMES) series[`${name}@${run}`] = answer.curves[name] ?? [];
    }
    return [series, cursors];
  }

  private async finer(spans: Span[], points: number, signal: AbortSignal): Promise<Series> {
    const found = await Promise.all(
      spans.map(async ({ key, from, to }) => {
        const { name, run } = parted(key);
        const answer = await ask(run, { names: [name], from, to, points: Math.max(10, points) }, signal);
        return [key, answer.curves[name] ?? []] as const;
      }),
    );
    return Object.fromEntries(found);
  }
}

/** A line is called `metric@run`. */
function parted(key: string): { name: string; run: string } {
  const at = key.indexOf("@");
  return { name: key.slice(0, at), run: key.slice(at + 1) };
}

function ask(run: string, asked: Record<string, unknown>, signal?: AbortSignal): Promise<Answer> {
  const query = new URLSearchParams(Object.entries(asked).map(([name, value]) => [name, String(value)]));
  return getJson<Answer>(`/api/v1/runs/${run}/metrics?${query}`, signal);
}

/** Inks what the answers have otherwise than the first one. */
function markDifferences(): void {
  for (const list of document.querySelectorAll("[data-side-by-side]")) {
    const [first, ...others] = [...list.querySelectorAll<HTMLElement>("li")].map((item) =>
      item.querySelector<HTMLElement>("[data-text]"),
    );
    if (first) for (const other of others) if (other) ink(first.dataset.text!, other);
  }
}

function ink(before: string, shown: HTMLElement): void {
  const parts = differences(before, shown.dataset.text!).filter(({ kind }) => kind !== "gone");
  const nodes = parts.map(({ kind, text }) => {
    if (kind === "same") return document.createTextNode(text);
    const inked = document.createElement("ins");
    inked.textContent = text;
    return inked;
  });
  shown.replaceChildren(...nodes);
}

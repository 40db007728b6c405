/** Runs beside each other: their curves in the same charts, live, and what in their answers differs from the first one's. */
import { Anew } from "./anew";
import { type AxisKind, passes, type Scale, stepsOfAPass, Times } from "./axes";
import { Chart, type Line, type Series, type Span } from "./chart";
import type { Pair } from "./curves";
import { differences } from "./diff";
import { copyText, getJson, settle } from "./dom";
import { follow, type RunEvent } from "./live";
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
    if (epoch > 0) this.stepsAPass = stepsOfAPass(step, epoch);
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
  new Comparison(runs).open();
}

class Comparison {
  private tracks: Map<string, Track>;
  private charts: Chart[] = [];
  private isShown = false;
  private curves = new Anew(
    () => this.ask(),
    (answers) => this.draw(answers),
  );
  private refresh = settle(() => this.redrawWords(), 400, 3000);

  constructor(runs: readonly string[]) {
    this.tracks = new Map(runs.map((run) => [run, new Track()]));
  }

  open(): void {
    document.addEventListener("back", () => this.catchUp());
    void this.curves.again();
  }

  /** What goes on behind the first answers is followed from there on. */
  private show(answers: Answer[], series: Series): void {
    this.isShown = true;
    const figures = [...document.querySelectorAll<HTMLElement>("[data-chart]")];
    const finer = (spans: Span[], points: number, signal: AbortSignal) => this.finer(spans, points, signal);
    const hasPasses = () => [...this.tracks.values()].every(({ stepsAPass }) => stepsAPass > 0);
    openTools(async (axis) => axis !== "pass" || hasPasses()); // first, so that each chart is built once
    this.charts = figures.map((figure) => new Chart(figure, this.linesOf(figure), series, finer));
    follow(Object.fromEntries([...this.tracks.keys()].map((run, at) => [run, answers[at]!.seq])), {
      item: (event) => this.apply(event),
      gap: () => this.catchUp(),
      state: () => {}, // the banner of the page says when the studio is away
    });
  }

  private linesOf(figure: HTMLElement): Line[] {
    const lines = JSON.parse(figure.dataset.lines ?? "[]") as Line[];
    return lines.map((line) => ({ ...line, scale: (axis) => this.tracks.get(parted(line.key).run)?.scale(axis) }));
  }

  private apply({ run, kind, step, data, at }: RunEvent): void {
    if (kind === "rewound") void this.curves.again();
    if (kind === "metrics") {
      this.curves.now(() => this.put(run, step, data, Date.parse(at) / 1000));
      const isLong = this.charts.some((chart) => chart.size > KEPT_POINTS);
      if (isLong && !this.curves.isAwaited) void this.curves.again();
    }
    if (["state", "artifact", "sample", "metrics", "rewound"].includes(kind)) this.refresh();
  }

  private put(run: string, step: number, { values, epoch }: RunEvent["data"], at: number): void {
    this.tracks.get(run)?.put(step, values as Values, at, Number(epoch ?? 0));
    for (const [name, value] of Object.entries(values as Values))
      for (const chart of this.charts) chart.put(`${name}@${run}`, step, value);
  }

  private catchUp(): void {
    void this.curves.again();
    this.refresh();
  }

  /** What the server draws of them in words. */
  private redrawWords(): void {
    for (const part of ["#compare-head", "#compare-body"])
      redraw(part, location.pathname + location.search, this.refresh, part);
  }

  private ask(): Promise<Answer[]> {
    const asked = { names: [...NAMES, "trained_tokens"], points: POINTS, times: true };
    return Promise.all([...this.tracks.keys()].map((run) => ask(run, asked)));
  }

  /** The curves of all runs, in the order in which they were asked for. */
  private read(answers: Answer[]): Series {
    const series: Record<string, Pair[]> = {};
    for (const [at, [run, track]] of [...this.tracks].entries()) {
      const answer = answers[at]!;
      track.read(answer);
      for (const name of NAMES) series[`${name}@${run}`] = answer.curves[name] ?? [];
    }
    return series;
  }

  private draw(answers: Answer[]): void {
    const series = this.read(answers);
    if (!this.isShown) this.show(answers, series);
    else for (const chart of this.charts) chart.replace(series);
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

/** A live chart of some metrics of one run, with its readout and its table for who does not see the canvas. */
import uPlot from "uplot";
import { type Aligned, align, Curve, type Pair, type Value } from "./curves";
import { count, metric, word } from "./words";

type Series = Record<string, Pair[]>;
/** Fetches what lies between two steps, at most so many points a curve. */
export type Finer = (names: string[], from: number, to: number, points: number, signal: AbortSignal) => Promise<Series>;

/** Something that happened at a step. */
export type Mark = { step: number; text: string };

const TWIN_ROWS = 500;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const style = getComputedStyle(document.documentElement); // live: it follows the theme
const colour = (name: string) => () => style.getPropertyValue(name).trim();
const charts = new Set<Chart>(); // uPlot's sync carries cursor and drag, not the double-click

export class Chart {
  readonly names: string[];
  private curves: Map<string, Curve>;
  private plot: uPlot;
  private zoomed: Aligned | undefined;
  private pending = 0;
  private drawn = 0;
  private asked = new AbortController();
  private twin: HTMLDetailsElement | null;
  private marks: Mark[] = [];

  constructor(
    private figure: HTMLElement,
    series: Series,
    private finer: Finer,
  ) {
    this.names = (figure.dataset.chart ?? "").split(" ");
    this.curves = new Map(this.names.map((name) => [name, new Curve(series[name])]));
    this.twin = figure.querySelector<HTMLDetailsElement>(".twin");
    this.twin?.addEventListener("toggle", () => this.tabulate());
    const at = figure.querySelector<HTMLElement>(".canvas")!;
    this.plot = new uPlot(this.options(at), this.data() as uPlot.AlignedData, at);
    this.plot.over.addEventListener("dblclick", () => {
      for (const chart of charts) chart.reset();
    });
    this.watchPage(at);
    charts.add(this);
    this.tell();
  }

  /** The points of its longest curve. */
  get size(): number {
    return Math.max(0, ...[...this.curves.values()].map((curve) => curve.steps.length));
  }

  /** A new value, or a better one for a step that is known. */
  put(name: string, step: number, value: Value): void {
    const curve = this.curves.get(name);
    if (!curve) return;
    curve.put(step, value);
    this.touch();
  }

  cutAfter(step: number): void {
    for (const curve of this.curves.values()) curve.cutAfter(step);
    this.touch();
  }

  replace(series: Series): void {
    for (const name of this.names) this.curves.set(name, new Curve(series[name]));
    this.touch();
  }

  /** Marks stand in the canvas and in the table. */
  mark(marks: Mark[]): void {
    const steps = marks.map(({ step }) => step).join(" ");
    if (steps === (this.figure.dataset.marks ?? "")) return;
    this.marks = marks;
    this.figure.dataset.marks = steps;
    this.touch();
  }

  /** Draws ten times a second at most, once for who asked for less motion. */
  private touch(): void {
    if (this.pending) return;
    const wait = Math.max(0, this.drawn + (calm.matches ? 1000 : 100) - performance.now());
    this.pending = setTimeout(() => requestAnimationFrame(() => this.draw()), wait);
  }

  private draw(): void {
    this.pending = 0;
    this.drawn = performance.now();
    if (this.zoomed) this.plot.redraw(false, false);
    else this.plot.setData(this.data() as uPlot.AlignedData);
    this.tell();
    this.tabulate();
  }

  private data(): Aligned {
    return this.zoomed ?? align([...this.curves.values()]);
  }

  private async zoom(from: number, to: number): Promise<void> {
    if (to - from < 1) return;
    this.zoomed = align([...this.curves.values()]);
    this.plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.plot.setScale("x", { min: from, max: to }); // at once with what is here, finer when it comes
    this.asked.abort();
    this.asked = new AbortController();
    try {
      const points = 2 * this.plot.over.clientWidth;
      const series = await this.finer(this.names, Math.floor(from), Math.ceil(to), points, this.asked.signal);
      this.zoomed = align(this.names.map((name) => new Curve(series[name])));
      this.plot.batch(() => {
        this.plot.setData(this.data() as uPlot.AlignedData, false);
        this.plot.setScale("x", { min: from, max: to });
      });
      this.tabulate();
    } catch (error) {
      if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
    }
  }

  private reset(): void {
    this.asked.abort();
    this.zoomed = undefined;
    this.plot.setData(this.data() as uPlot.AlignedData);
    this.tabulate();
  }

  private options(at: HTMLElement): uPlot.Options {
    const font = `11px ${style.getPropertyValue("--font")}`;
    const axis: uPlot.Axis = {
      stroke: colour("--text-3"),
      font,
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
    };
    const values = (_: uPlot, ticks: number[]) => ticks.map((tick) => metric(tick));
    return {
      width: at.clientWidth || 600,
      height: at.clientHeight || 220,
      legend: { show: false }, // its colours are set once and would not follow the theme
      scales: { x: { time: false, range: stepRange } },
      axes: [
        { ...axis, size: 28, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? count(tick) : "")) },
        { ...axis, size: 56, values },
      ],
      series: [{}, ...this.names.map((name, at) => line(name, at))],
      cursor: { sync: { key: "run" }, drag: { x: true, y: false, setScale: false } },
      hooks: {
        setSelect: [(plot) => void this.zoom(...selected(plot))],
        setCursor: [(plot) => this.read(plot.cursor.idx ?? undefined)],
        draw: [(plot) => this.markOdd(plot), (plot) => this.drawMarks(plot)],
      },
    };
  }

  private watchPage(at: HTMLElement): void {
    new ResizeObserver(() => this.plot.setSize({ width: at.clientWidth, height: at.clientHeight })).observe(at);
    const recolour = () => this.plot.redraw(false, false);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    new MutationObserver(recolour).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  /** A small cross at the foot of the chart where a value was not finite. */
  private markOdd(plot: uPlot): void {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colour("--bad")();
    ctx.lineWidth = 2 * devicePixelRatio;
    const arm = 4 * devicePixelRatio;
    const y = bbox.top + bbox.height - 2 * arm;
    for (const curve of this.curves.values()) {
      curve.values.forEach((value, at) => {
        if (!Number.isNaN(value)) return;
        const x = plot.valToPos(curve.steps[at]!, "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) return;
        ctx.beginPath();
        ctx.moveTo(x - arm, y - arm);
        ctx.lineTo(x + arm, y + arm);
        ctx.moveTo(x - arm, y + arm);
        ctx.lineTo(x + arm, y - arm);
        ctx.stroke();
      });
    }
    ctx.restore();
  }

  /** A dashed line where a change begins to hold, with its words at the top, each a line lower than the one before. */
  private drawMarks({ ctx, bbox, valToPos }: uPlot): void {
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.strokeStyle = colour("--text-3")();
    ctx.fillStyle = colour("--text")();
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.font = `${11 * devicePixelRatio}px ${style.getPropertyValue("--font")}`;
    ctx.textBaseline = "top";
    this.marks.forEach(({ step, text }, at) => {
      const x = valToPos(step, "x", true);
      const before = x > bbox.left + bbox.width / 2; // where there is more room
      ctx.textAlign = before ? "right" : "left";
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.fillText(text, x + (before ? -5 : 5) * devicePixelRatio, bbox.top + 14 * (at % 5) * devicePixelRatio);
    });
    ctx.restore();
  }

  /** The readout under the title: the values at the cursor, or the newest. */
  private read(at: number | undefined): void {
    const [, ...columns] = this.plot.data;
    this.names.forEach((name, index) => {
      const curve = this.curves.get(name)!;
      const here = at === undefined ? undefined : columns[index]?.[at];
      const newest = curve.values.at(-1);
      const shown = at === undefined ? (Number.isNaN(newest) ? "NaN" : newest) : here;
      const target = this.figure.querySelector(`[data-read="${name}"]`);
      if (target) target.textContent = metric(shown);
    });
  }

  private tell(): void {
    this.read(undefined);
    this.figure.dataset.points = String(this.size);
    const odd = [...this.curves.values()].map((curve) => curve.firstOdd).find((step) => step !== undefined);
    const warning = this.figure.querySelector<HTMLElement>("[data-odd]");
    if (!warning) return;
    warning.hidden = odd === undefined;
    if (odd !== undefined) warning.querySelector("span")!.textContent = word("not_finite", { step: count(odd) });
  }

  /** Fills the table with what is painted: every point, or rows spread over a long run. */
  private tabulate(): void {
    if (!this.twin?.open) return;
    const [steps, ...columns] = this.data();
    const rows = Math.min(TWIN_ROWS, steps.length);
    const lines = Array.from({ length: rows }, (_, row) => {
      const at = rows === steps.length ? row : Math.round((row * (steps.length - 1)) / (rows - 1));
      const line = document.createElement("tr");
      line.append(this.stepCell(steps[at]!), ...columns.map((column) => valueCell(column[at])));
      return line;
    });
    this.twin.querySelector("tbody")!.replaceChildren(...lines);
  }

  private stepCell(step: number): HTMLTableCellElement {
    const texts = this.marks.filter((mark) => mark.step === step).map((mark) => mark.text);
    return cell(step, [...texts, count(step)].join(" · "));
  }
}

function line(name: string, at: number): uPlot.Series {
  const points = { show: name === "eval_loss", size: 5 };
  return { label: name, stroke: colour(`--series-${at + 1}`), width: 1.75, dash: at === 1 ? [6, 3] : [], points };
}

/** A single point still needs a width to stand in. */
function stepRange(_: uPlot, low: number | null, high: number | null): [number, number] {
  if (low === null || high === null) return [0, 10];
  return low === high ? [low - 1, high + 1] : [low, high];
}

function selected(plot: uPlot): [number, number] {
  const { left, width } = plot.select;
  return [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
}

function cell(value: number | string, text: string): HTMLTableCellElement {
  const made = document.createElement("td");
  made.className = "num";
  made.dataset.value = String(value);
  made.textContent = text;
  return made;
}

function valueCell(value: number | null | undefined): HTMLTableCellElement {
  if (value === undefined) return cell("", "");
  return value === null ? cell("NaN", "NaN") : cell(value, metric(value));
}

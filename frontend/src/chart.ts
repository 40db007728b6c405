/** A live chart of named lines, with its readout and its table for who does not see the canvas.
 *
 *  The figure is drawn by the server (macro `chart` of parts/charts.html): `.canvas` holds the plot, `[data-read=KEY]` shows a
 *  line's value at the cursor or its newest, `.twin` the table, `.overview` (where there is one) the whole run. The lines may be
 *  of one run or of several: a key is whatever tells them apart, and `finer` fetches what lies between two steps of each.
 *  All charts of a page move together: cursor, zoom, axis and smoothing.
 *
 *      const chart = new Chart(figure, [{ key: "loss", label: "Training loss", colour: 1, smooth: true }], series, finer);
 *      chart.put("loss", 12, 0.7);                 // live
 *      Chart.arrange({ axis: "time", smoothing: 0.9 });  // every chart of the page
 */
import uPlot from "uplot";
import { type AxisKind, placed, type Scale, STEPS, TIME_TICKS, tell } from "./axes";
import { align, Curve, type Pair, picture, smoothed, type Value } from "./curves";
import { Overview } from "./overview";
import { announce, count, metric, word } from "./words";

export type Line = {
  key: string;
  label: string;
  /** 1 to 6: which of the series colours. */
  colour: number;
  /** Solid, dashed or dotted: lines are told apart without colour too. */
  dash?: 0 | 1 | 2;
  /** Measured seldom, so each point is shown. */
  dots?: boolean;
  /** Follows the smoothing, with what was measured behind it. */
  smooth?: boolean;
  /** Its lowest point is marked. */
  best?: boolean;
  /** Known beforehand: what lies behind the newest step of the line before it. */
  ahead?: boolean;
  /** Where its steps lie on an axis; nothing where that is not known. */
  scale?: (axis: AxisKind) => Scale | undefined;
};

export type Series = Record<string, readonly Pair[]>;
export type Span = { key: string; from: number; to: number };
/** Fetches the points of lines between two steps of each, about so many a line. */
type Finer = (spans: Span[], points: number, signal: AbortSignal) => Promise<Series>;
/** Something that happened at a step: a change that holds from it on, or a return to it. */
export type Mark = { step: number; text: string };
/** How all charts of the page are looked at. */
export type View = { axis: AxisKind; smoothing: number; log: boolean };

type Strand = { line: Line; curve: Curve; fine?: Curve };

const TWIN_ROWS = 500;
const ROOM = 180; // pixels of height below which words would lie on the curves
const DOT_ROOM = 12; // pixels
const RESTS = 4; // drawing takes a fifth of the time at most, however many charts there are,
const MOST_REST_MS = 100; // but a long curve is drawn ten times a second all the same
const CALM_REST_MS = 1000; // and once for who asked for less motion
const LOG_FLOOR = 1e-12;
const DASHES = [[], [6, 3], [2, 3]];
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const style = getComputedStyle(document.documentElement); // live: it follows the theme
const colour = (name: string) => () => style.getPropertyValue(name).trim();
const charts = new Set<Chart>();
let view: View = { axis: "step", smoothing: 0, log: false };

export class Chart {
  private strands: Strand[];
  private plot!: uPlot;
  private window: [number, number] | undefined; // in units of the axis
  private pending = 0;
  private drawn = 0;
  private took = 0;
  private asked = new AbortController();
  private twin: HTMLDetailsElement | null;
  private marks: Mark[] = [];
  private overview: Overview | undefined;

  constructor(
    private figure: HTMLElement,
    lines: readonly Line[],
    series: Series,
    private finer: Finer,
  ) {
    this.strands = lines.map((line) => ({ line, curve: new Curve(series[line.key]) }));
    this.twin = figure.querySelector<HTMLDetailsElement>(".twin");
    this.twin?.addEventListener("toggle", () => this.tabulate());
    const strip = figure.querySelector<SVGSVGElement>(".overview");
    if (strip) this.overview = new Overview(strip, (span) => Chart.look(span));
    charts.add(this);
    this.listen();
    this.build();
  }

  /** Shows all charts of the page by another axis, smoothing or scale. */
  static arrange(wanted: Partial<View>): void {
    const before = view;
    view = { ...view, ...wanted };
    for (const chart of charts) chart.rearrange(before);
  }

  /** Narrows every chart to a stretch of the axis; all of it without one. */
  static look(span: [number, number] | undefined): void {
    for (const chart of charts) void chart.zoom(span);
  }

  get keys(): string[] {
    return this.strands.filter(({ line }) => !line.ahead).map(({ line }) => line.key);
  }

  /** The points of its longest curve. */
  get size(): number {
    return Math.max(0, ...this.strands.filter(({ line }) => !line.ahead).map(({ curve }) => curve.steps.length));
  }

  /** A new value, or a better one for a step that is known. */
  put(key: string, step: number, value: Value): void {
    const at = this.strands.findIndex(({ line }) => line.key === key);
    const strand = this.strands[at];
    if (!strand) return;
    strand.curve.put(step, value);
    strand.fine?.put(step, value);
    this.touch();
  }

  cutAfter(step: number): void {
    for (const { line, curve, fine } of this.strands) {
      if (line.ahead) continue;
      curve.cutAfter(step);
      fine?.cutAfter(step);
    }
    this.touch();
  }

  /** Takes other points for the lines that `series` names; a chart that is zoomed fetches its own stretch again. */
  replace(series: Series): void {
    const named = this.strands.filter(({ line }) => series[line.key]);
    for (const strand of named) strand.curve = new Curve(series[strand.line.key]);
    if (named.length === 0) return;
    if (this.window) void this.zoom(this.window);
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

  // ---- drawing ---------------------------------------------------------------------------------------------------

  private get canvas(): HTMLElement {
    return this.figure.querySelector<HTMLElement>(".canvas")!;
  }

  private get width(): number {
    return this.canvas.clientWidth || 600;
  }

  private build(): void {
    this.plot?.destroy();
    this.figure.dataset.axis = view.axis;
    this.plot = new uPlot(this.options(), this.data(), this.canvas);
    this.plot.over.addEventListener("dblclick", () => Chart.look(undefined));
    this.tell();
    this.sketch();
  }

  /** At the next frame, or after the rest that the last drawing earned. */
  private touch(): void {
    if (this.pending) return;
    const wait = this.drawn + this.rest - performance.now();
    const ask = () => requestAnimationFrame(() => this.draw());
    this.pending = wait > 0 ? setTimeout(ask, wait) : ask();
  }

  private get rest(): number {
    return calm.matches ? CALM_REST_MS : Math.min(MOST_REST_MS, RESTS * charts.size * this.took);
  }

  private draw(): void {
    this.pending = 0;
    const began = performance.now();
    this.show();
    this.tell();
    this.tabulate();
    this.sketch();
    this.drawn = performance.now();
    this.took = this.drawn - began;
  }

  private show(): void {
    this.plot.batch(() => this.fill());
  }

  private fill(): void {
    this.plot.setData(this.data(), !this.window);
    if (this.window) this.plot.setScale("x", { min: this.window[0], max: this.window[1] });
  }

  /** Who observes a size is told the first one too: drawn anew for that, a chart would be drawn twice at its beginning. */
  private fit(width: number, height: number): void {
    if (width === this.plot.width && height === this.plot.height) return;
    this.plot.batch(() => {
      this.plot.setSize({ width, height });
      this.fill(); // which points are told apart depends on the width
    });
  }

  private rearrange(before: View): void {
    const steps = before.axis === view.axis ? undefined : this.window?.map((x) => this.scale(before.axis).back(x));
    if (steps) this.window = [this.scale().of(steps[0]!), this.scale().of(steps[1]!)];
    this.build();
    this.tabulate();
  }

  private scale(axis = view.axis, line = this.strands[0]?.line): Scale {
    return line?.scale?.(axis) ?? STEPS;
  }

  /** What each line shows: its points, and before them the mean where it is smoothed. */
  private data(): uPlot.AlignedData {
    const columns = this.strands.flatMap((strand, at) => {
      const curve = strand.line.ahead ? this.ahead(at) : (strand.fine ?? strand.curve);
      const scale = this.scale(view.axis, strand.line);
      const xs = scale === STEPS ? curve.steps : curve.steps.map(scale.of, scale);
      const raw = { xs, values: this.positive(curve.values) };
      if (!this.isSmoothed(strand.line)) return [raw];
      return [raw, { xs, values: this.positive(smoothed(curve, view.smoothing, strand.fine && strand.curve)) }];
    });
    return picture(align(columns), this.width * devicePixelRatio, this.window) as uPlot.AlignedData;
  }

  private ahead(at: number): Curve {
    const before = this.strands[at - 1]?.curve;
    const newest = before?.steps.at(-1) ?? -1;
    const { curve } = this.strands[at]!;
    const left = curve.steps.findIndex((step) => step > newest);
    if (left < 0) return new Curve();
    const pairs = curve.steps.slice(left).map((step, i): Pair => [step, curve.values[left + i]!]);
    return new Curve(before ? [[newest, before.values.at(-1)!], ...pairs] : pairs);
  }

  private isSmoothed = (line: Line): boolean => Boolean(line.smooth) && view.smoothing > 0;

  /** A logarithmic scale has no place for zero. */
  private positive(values: readonly number[]): readonly number[] {
    return view.log && this.overview ? values.map((value) => (value <= 0 ? LOG_FLOOR : value)) : values;
  }

  private sketch(): void {
    if (!this.overview) return;
    const lines = this.strands.map(({ line, curve }) => {
      const scale = this.scale(view.axis, line);
      return { xs: curve.steps.map(scale.of, scale), values: curve.values, colour: line.colour };
    });
    this.overview.draw(lines, this.window);
  }

  private options(): uPlot.Options {
    const font = `11px ${style.getPropertyValue("--font")}`;
    const axis: uPlot.Axis = {
      stroke: colour("--text-3"),
      font,
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
    };
    const values = (_: uPlot, ticks: number[]) => ticks.map((tick) => (tick === null ? "" : metric(tick)));
    const foot: Partial<uPlot.Axis> = view.axis === "time" ? { space: 96, incrs: TIME_TICKS } : { space: 56 };
    const y: uPlot.Scale = view.log && this.overview ? { distr: 3 } : {};
    return {
      width: this.width,
      height: this.canvas.clientHeight || 220,
      legend: { show: false }, // its colours are set once and would not follow the theme
      scales: { x: { time: false, range: wideEnough }, y },
      axes: [
        { ...axis, ...foot, size: 28, values: tickWords },
        { ...axis, size: 52, values },
      ],
      series: [{}, ...this.strands.flatMap(({ line }) => this.strokes(line))],
      cursor: {
        y: false,
        sync: { key: "charts", filters: { pub: isMove } },
        drag: { x: true, y: false, setScale: false },
      },
      hooks: {
        setSelect: [(plot) => this.choose(plot)],
        setCursor: [(plot) => this.read(plot.cursor.idx ?? undefined)],
        draw: [(plot) => this.markOdd(plot), (plot) => this.markBest(plot), (plot) => this.drawMarks(plot)],
      },
    };
  }

  private strokes(line: Line): uPlot.Series[] {
    const own: uPlot.Series = {
      label: line.label,
      stroke: colour(`--series-${line.colour}`),
      width: 1.75,
      dash: DASHES[line.dash ?? 0]!,
      points: { show: (plot, at) => isSparse(plot, at, Boolean(line.dots)), size: 6, fill: colour("--sheet") },
    };
    if (!this.isSmoothed(line)) return [own];
    return [
      { ...own, width: 1, alpha: 0.36, dash: [] },
      { ...own, points: { show: false } },
    ];
  }

  // ---- looking closer --------------------------------------------------------------------------------------------

  private listen(): void {
    const at = this.canvas;
    at.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.fit(at.clientWidth, at.clientHeight)).observe(at);
    const recolour = () => this.plot.redraw(false, false);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    new MutationObserver(recolour).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  private choose(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width < 2) return;
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    Chart.look([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
  }

  private async zoom(span: [number, number] | undefined): Promise<void> {
    this.asked.abort();
    const spans = span ? this.spans(span) : [];
    if (span && spans.every(({ from, to }) => to - from < 1)) return; // closer than a single step
    this.window = span;
    this.figure.dataset.window = span ? spans.map(({ from, to }) => `${from} ${to}`)[0] : "";
    if (!span) for (const strand of this.strands) delete strand.fine;
    this.draw(); // at once with what is here, finer when it comes
    if (!span) return;
    this.asked = new AbortController();
    try {
      const series = await this.finer(spans, 2 * this.plot.over.clientWidth, this.asked.signal);
      for (const strand of this.strands) if (!strand.line.ahead) strand.fine = new Curve(series[strand.line.key]);
      this.draw();
    } catch (error) {
      if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
    }
  }

  /** The steps of each line that a stretch of the axis covers, and one more on either side, so that lines reach the edge. */
  private spans([from, to]: [number, number]): Span[] {
    return this.strands
      .filter(({ line }) => !line.ahead)
      .map(({ line }) => {
        const scale = this.scale(view.axis, line);
        return { key: line.key, from: Math.max(0, Math.floor(scale.back(from))), to: Math.ceil(scale.back(to)) };
      });
  }

  /** `+` and `-` look closer and further, arrows move the cursor, with Shift the stretch; `0` shows all. */
  private onKey(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { min = 0, max = 1 } = this.plot.scales.x as { min?: number; max?: number };
    const way = event.key === "ArrowLeft" ? -1 : 1;
    if (event.key === "+" || event.key === "=") this.scaleBy(0.5, min, max);
    else if (event.key === "-") this.scaleBy(2, min, max);
    else if (event.key === "0" || (event.key === "Escape" && this.window)) Chart.look(undefined);
    else if (!event.key.startsWith("Arrow") || event.key.endsWith("Up") || event.key.endsWith("Down")) return;
    else if (event.shiftKey) this.window && Chart.look(within(min + (way * (max - min)) / 4, max - min, this.extent));
    else this.moveCursor(way);
    event.preventDefault();
  }

  private get extent(): [number, number] {
    const xs = this.plot.data[0];
    const coarse = this.strands.map(({ line, curve }) =>
      curve.steps.map((step) => this.scale(view.axis, line).of(step)),
    );
    const every = coarse.flat();
    return every.length > 0 ? [Math.min(...every), Math.max(...every)] : [xs[0] ?? 0, xs.at(-1) ?? 1];
  }

  private scaleBy(factor: number, min: number, max: number): void {
    const at = this.plot.cursor.idx;
    const centre = at === null || at === undefined ? (min + max) / 2 : (this.plot.data[0][at] ?? (min + max) / 2);
    const [first, last] = this.extent;
    const width = (max - min) * factor;
    Chart.look(width >= last - first ? undefined : within(centre - width / 2, width, [first, last]));
  }

  private moveCursor(way: number): void {
    const xs = this.plot.data[0];
    const { min = 0, max = 1 } = this.plot.scales.x as { min?: number; max?: number };
    const left = xs.findIndex((x) => x >= min);
    const right = xs.findLastIndex((x) => x <= max);
    const here = this.plot.cursor.idx ?? (way > 0 ? left - 1 : right + 1);
    const x = xs[Math.min(right, Math.max(left, here + way))];
    if (x === undefined) return;
    for (const { plot } of charts) plot.setCursor({ left: plot.valToPos(x, "x"), top: 10 });
    announce([tell(view.axis, x), ...this.strands.map((strand) => this.spoken(strand, x))].join(", "), true);
  }

  private spoken({ line, curve, fine }: Strand, x: number): string {
    const shown = fine ?? curve;
    const at = shown.steps.indexOf(Math.round(this.scale(view.axis, line).back(x)));
    return at < 0 ? "" : `${line.label} ${metric(shown.values[at])}`;
  }

  // ---- what stands in the canvas beside the lines -----------------------------------------------------------------

  /** A small cross at the foot of the chart where a value was not finite. */
  private markOdd(plot: uPlot): void {
    const { ctx, bbox } = plot;
    const arm = 4 * devicePixelRatio;
    const y = bbox.top + bbox.height - 2 * arm;
    ctx.save();
    ctx.strokeStyle = colour("--bad")();
    ctx.lineWidth = 2 * devicePixelRatio;
    for (const { line, curve } of this.strands) {
      for (const step of curve.odd) {
        const x = plot.valToPos(this.scale(view.axis, line).of(step), "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.beginPath();
        ctx.moveTo(x - arm, y - arm);
        ctx.lineTo(x + arm, y + arm);
        ctx.moveTo(x - arm, y + arm);
        ctx.lineTo(x + arm, y - arm);
        ctx.stroke();
      }
    }
    ctx.restore();
  }

  /** The best measurement: a full dot on an upright line, with its value. */
  private markBest(plot: uPlot): void {
    const strand = this.strands.find(({ line }) => line.best);
    const at = strand?.curve.lowest;
    if (!strand || at === undefined) return;
    const [step, value] = [strand.curve.steps[at]!, strand.curve.values[at]!];
    const { ctx, bbox } = plot;
    const x = plot.valToPos(this.scale(view.axis, strand.line).of(step), "x", true);
    const y = plot.valToPos(value, "y", true);
    clipped(ctx, bbox, () => {
      ctx.strokeStyle = ctx.fillStyle = colour(`--series-${strand.line.colour}`)();
      upright(ctx, bbox, x);
      ctx.beginPath();
      ctx.arc(x, y, 3.5 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fill();
      label(ctx, bbox, x, 0, word("best_at", { value: metric(value), step: count(step) }));
    });
  }

  /** A dashed line where a change begins to hold, with its words at the top, each a line lower than the one before. */
  private drawMarks({ ctx, bbox, valToPos }: uPlot): void {
    clipped(ctx, bbox, () => {
      ctx.strokeStyle = colour("--text-3")();
      ctx.fillStyle = colour("--text")();
      ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      this.marks.forEach(({ step, text }, at) => {
        const x = valToPos(this.scale().of(step), "x", true);
        upright(ctx, bbox, x);
        if (bbox.height > ROOM * devicePixelRatio) label(ctx, bbox, x, 1 + (at % 5), text);
      });
    });
  }

  // ---- in words and figures ---------------------------------------------------------------------------------------

  /** The readout under the title: the values at the cursor, or the newest. */
  private read(at: number | undefined): void {
    let column = 0;
    for (const { line, curve } of this.strands) {
      const values = this.plot.data[++column]!;
      if (this.isSmoothed(line)) column++;
      const newest = curve.values.at(-1);
      const shown = at === undefined ? (Number.isNaN(newest) ? "NaN" : newest) : lastKnown(values, at);
      this.write(`[data-read="${line.key}"]`, metric(shown));
    }
    const x = at === undefined ? undefined : this.plot.data[0][at];
    this.write("[data-read-at]", x === undefined ? "" : placed(view.axis, x));
  }

  private write(selector: string, text: string): void {
    const target = this.figure.querySelector(selector);
    if (target && target.textContent !== text) target.textContent = text;
  }

  private tell(): void {
    this.read(this.plot.cursor.idx ?? undefined);
    this.figure.dataset.points = String(this.size);
    const odd = this.strands.map(({ curve }) => curve.odd[0]).find((step) => step !== undefined);
    const warning = this.figure.querySelector<HTMLElement>("[data-odd]");
    if (!warning) return;
    warning.hidden = odd === undefined;
    if (odd !== undefined) warning.querySelector("span")!.textContent = word("not_finite", { step: count(odd) });
  }

  /** Fills the table with what is painted, never with a mean: every point, or rows spread over a long run. */
  private tabulate(): void {
    if (!this.twin?.open) return;
    const shown = this.strands.map(({ line, curve, fine }) => {
      const scale = this.scale(view.axis, line);
      const { steps, values } = fine ?? curve;
      return { xs: steps.map(scale.of, scale), values };
    });
    const [xs, ...columns] = align(shown);
    const rows = Math.min(TWIN_ROWS, xs.length);
    const lines = Array.from({ length: rows }, (_, row) => {
      const at = rows === xs.length ? row : Math.round((row * (xs.length - 1)) / (rows - 1));
      const line = document.createElement("tr");
      line.append(this.placeCell(xs[at]!), ...columns.map((column) => valueCell(column[at])));
      return line;
    });
    this.twin.querySelector("tbody")!.replaceChildren(...lines);
  }

  private placeCell(x: number): HTMLTableCellElement {
    const step = Math.round(this.scale().back(x));
    const texts = this.marks.filter((mark) => mark.step === step).map((mark) => mark.text);
    return cell(step, [...texts, tell(view.axis, x)].join(" · "));
  }
}

/** Cursors move together; a drag belongs to one chart, which then tells the others. */
const isMove = (type: string): boolean => type === "mousemove" || type === "mouseleave";

/** A single point still needs a width to stand in. */
function wideEnough(_: uPlot, low: number | null, high: number | null): [number, number] {
  if (low === null || high === null) return [0, 10];
  return low === high ? [low - 1, high + 1] : [low, high];
}

/** Dots stand where they do not touch each other; a line of a single point is nothing but one. */
function isSparse(plot: uPlot, at: number, dots: boolean): boolean {
  const most = dots ? Math.max(1, plot.over.clientWidth / DOT_ROOM) : 1;
  let known = 0;
  for (const value of plot.data[at]!) if (typeof value === "number" && ++known > most) return false;
  return known > 0;
}

/** A stretch of that width that lies inside the whole. */
function within(from: number, width: number, [first, last]: [number, number]): [number, number] {
  const start = Math.min(Math.max(from, first), Math.max(first, last - width));
  return [start, start + width];
}

function tickWords(_: uPlot, ticks: number[]): string[] {
  return ticks.map((tick) => (view.axis === "step" && !Number.isInteger(tick) ? "" : tell(view.axis, tick)));
}

/** A line that is measured seldom shows its last value before the cursor. */
function lastKnown(values: ArrayLike<number | null | undefined>, at: number): number | null | undefined {
  while (at > 0 && values[at] === undefined) at--;
  return values[at];
}

function clipped(ctx: CanvasRenderingContext2D, bbox: uPlot.BBox, paint: () => void): void {
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.font = `${11 * devicePixelRatio}px ${style.getPropertyValue("--font")}`;
  ctx.textBaseline = "top";
  paint();
  ctx.restore();
}

function upright(ctx: CanvasRenderingContext2D, { top, height }: uPlot.BBox, x: number): void {
  ctx.beginPath();
  ctx.moveTo(x, top);
  ctx.lineTo(x, top + height);
  ctx.stroke();
}

/** Words beside an upright, on the side where there is more room. */
function label(ctx: CanvasRenderingContext2D, bbox: uPlot.BBox, x: number, row: number, text: string): void {
  const before = x > bbox.left + bbox.width / 2;
  ctx.textAlign = before ? "right" : "left";
  ctx.fillText(text, x + (before ? -5 : 5) * devicePixelRatio, bbox.top + 14 * row * devicePixelRatio);
}

function cell(value: number | string, text: string): HTMLTableCellElement {
  const made = document.createElement("td");
  made.className = "num";
  made.dataset.value = String(value);
  made.textContent = text;
  return made;
}

function valueCell(value: number | undefined): HTMLTableCellElement {
  if (value === undefined) return cell("", "");
  return Number.isNaN(value) ? cell("NaN", "NaN") : cell(value, metric(value));
}

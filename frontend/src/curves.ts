/** Curves of a run as a chart needs them: points that come in any order, a history that may be cut, gaps for NaN. */

export type Value = number | "NaN" | "Infinity" | "-Infinity";
export type Pair = [step: number, value: Value];

const finite = (value: Value): number => (typeof value === "number" ? value : Number.NaN);

/** One metric. Steps ascend and are unique; a value that is not finite is kept, as NaN. */
export class Curve {
  steps: number[] = [];
  values: number[] = [];

  constructor(pairs: readonly Pair[] = []) {
    const { steps, values } = this;
    steps.length = values.length = pairs.length; // grown one by one, a hundred thousand take twice as long
    let [at, last] = [0, -Infinity];
    for (; at < pairs.length && pairs[at]![0] > last; at++) {
      steps[at] = last = pairs[at]![0];
      values[at] = finite(pairs[at]![1]);
    }
    steps.length = values.length = at;
    for (const [step, value] of pairs.slice(at)) this.put(step, value); // out of order, as hardly ever
  }

  /** A newer value of a step replaces the older one. */
  put(step: number, value: Value): void {
    const number = finite(value);
    let at = this.steps.length;
    while (at > 0 && this.steps[at - 1]! >= step) at--;
    if (at === this.steps.length) {
      this.steps.push(step); // nearly always
      this.values.push(number);
      return;
    }
    const known = this.steps[at] === step ? 1 : 0;
    this.steps.splice(at, known, step);
    this.values.splice(at, known, number);
  }

  /** A run that resumes from a checkpoint goes on behind it: later points were trained on another path. */
  cutAfter(step: number): void {
    const kept = this.steps.filter((each) => each <= step).length;
    this.steps.length = kept;
    this.values.length = kept;
  }

  /** The steps whose values are not finite. */
  get odd(): number[] {
    if (!this.values.includes(Number.NaN)) return []; // nearly always, and told at once
    return this.steps.filter((_, at) => Number.isNaN(this.values[at]));
  }

  /** The place of the lowest finite value; the first of equal ones. */
  get lowest(): number | undefined {
    let best: number | undefined;
    this.values.forEach((value, at) => {
      if (Number.isFinite(value) && (best === undefined || value < this.values[best]!)) best = at;
    });
    return best;
  }
}

/** An exponential mean that starts without bias: `weight` is what a step leaves to the next one. Points that lie further
 *  apart forget more, so a thinned curve is smoothed as much as a whole one. `before` warms it up. */
export function smoothed(curve: Curve, weight: number, before?: Curve): number[] {
  let [sum, mass, last] = [0, 0, Number.NaN];
  const take = (step: number, value: number): number => {
    if (Number.isNaN(value)) return value;
    const kept = Number.isNaN(last) ? 0 : weight ** Math.max(0, step - last);
    [sum, mass, last] = [sum * kept + value, mass * kept + 1, step];
    return sum / mass;
  };
  const first = curve.steps[0] ?? 0;
  before?.steps.forEach((step, at) => {
    if (step < first) take(step, before.values[at]!);
  });
  return curve.steps.map((step, at) => take(step, curve.values[at]!));
}

/** What a chart paints: an ascending x, and at each the value; NaN for a gap. */
export type Column = { xs: readonly number[]; values: readonly number[] };
/** All x, then each line; `undefined` where it has no point (the line goes on). */
type Aligned = [readonly number[], ...(readonly (number | undefined)[])[]];
/** The same as uPlot takes and keeps it, with `null` for a gap. */
type Picture = [number[], ...(number | null | undefined)[][]];

export function align(columns: readonly Column[]): Aligned {
  const every = columns.map(({ xs }) => xs).reduce(merged, []);
  return [every, ...columns.map((column) => spread(column, every))];
}

/** Two ascending lists as one, without twins. Lists of a hundred thousand are merged with every step that comes in. */
function merged(one: readonly number[], other: readonly number[]): readonly number[] {
  if (one.length === 0 || one === other) return other;
  if (other.length === 0) return one;
  const both: number[] = [];
  for (let [i, j] = [0, 0]; i < one.length || j < other.length; ) {
    const [a = Infinity, b = Infinity] = [one[i], other[j]];
    both.push(Math.min(a, b));
    if (a <= b) i++;
    if (b <= a) j++;
  }
  return both;
}

/** The values at each x of `every`, of which the column's own xs are a part. */
function spread({ xs, values }: Column, every: readonly number[]): readonly (number | undefined)[] {
  if (xs.length === every.length) return values;
  let next = 0;
  return every.map((x) => (x === xs[next] ? values[next++] : undefined));
}

const WHOLE = 8000; // so many rows are painted as they are, and the cursor finds each

/** What is to be painted, between two places of the axis, on so many columns of pixels: all rows, or, where they are too many to
 *  be told apart, those that make the same picture. No extreme and no gap is lost. */
export function picture(aligned: Aligned, pixels: number, window?: readonly [number, number]): Picture {
  const [xs, ...lines] = aligned;
  const rows = xs.length > WHOLE ? seen(aligned, pixels, window ?? [xs[0]!, xs.at(-1)!]) : [...xs.keys()];
  const told = (value: number | undefined) => (Number.isNaN(value) ? null : value);
  return [rows.map((row) => xs[row]!), ...lines.map((values) => rows.map((row) => told(values[row])))];
}

/** In each column of pixels the ends, the lowest and the highest of each line, and every gap. What lies on either side of the
 *  stretch counts as one more column. */
function seen([xs, ...lines]: Aligned, pixels: number, [from, to]: readonly [number, number]): number[] {
  const kept = new Uint8Array(xs.length);
  for (let [column, start] = [0, 0]; start < xs.length; column++) {
    const end = column > pixels ? xs.length : firstFrom(xs, from + (column / pixels) * (to - from), start);
    for (const values of lines) keepEnds(kept, values, start, end);
    start = end;
  }
  for (const values of lines) if (values.includes(Number.NaN)) keepGaps(kept, values);
  const rows: number[] = [];
  for (let row = 0; row < kept.length; row++) if (kept[row]) rows.push(row);
  return rows;
}

/** The first row, from `start` on, whose x is not below `edge`. */
function firstFrom(xs: readonly number[], edge: number, start: number): number {
  let [low, high] = [start, xs.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle]! < edge) low = middle + 1;
    else high = middle;
  }
  return low;
}

function keepEnds(kept: Uint8Array, values: readonly (number | undefined)[], start: number, end: number): void {
  while (start < end && values[start] === undefined) start++;
  while (start < end && values[end - 1] === undefined) end--;
  if (start === end) return;
  let [lowest, low, highest, high] = [start, Infinity, start, -Infinity];
  for (let at = start; at < end; at++) {
    const value = values[at]!; // a gap is neither lower nor higher than anything, and so is nothing
    if (value < low) {
      low = value;
      lowest = at;
    }
    if (value > high) {
      high = value;
      highest = at;
    }
  }
  kept[start] = kept[lowest] = kept[highest] = kept[end - 1] = 1;
}

function keepGaps(kept: Uint8Array, values: readonly (number | undefined)[]): void {
  values.forEach((value, at) => {
    if (Number.isNaN(value)) kept[at] = 1;
  });
}

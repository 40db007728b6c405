/** Curves of a run as a chart needs them: points that come in any order, a history that may be cut, gaps for NaN. */

export type Value = number | "NaN" | "Infinity" | "-Infinity";
export type Pair = [step: number, value: Value];

/** One metric. Steps ascend and are unique; a value that is not finite is kept, as NaN. */
export class Curve {
  steps: number[] = [];
  values: number[] = [];

  constructor(pairs: readonly Pair[] = []) {
    for (const [step, value] of pairs) this.put(step, value);
  }

  /** A newer value of a step replaces the older one. */
  put(step: number, value: Value): void {
    const number = typeof value === "number" ? value : Number.NaN;
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

  get firstOdd(): number | undefined {
    const at = this.values.findIndex(Number.isNaN);
    return at < 0 ? undefined : this.steps[at];
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

/** What a chart paints: an ascending x, and at each the value. */
export type Column = { xs: readonly number[]; values: readonly number[] };
/** Columns for uPlot: all x, then each line; `undefined` where it has no point (the line goes on), `null` for a gap. */
type Aligned = [number[], ...(number | null | undefined)[][]];

export function align(columns: readonly Column[]): Aligned {
  const every = columns.map(({ xs }) => xs).reduce(merged, []);
  return [every.slice(), ...columns.map((column) => spread(column, every))];
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
function spread({ xs, values }: Column, every: readonly number[]): (number | null | undefined)[] {
  const told = values.map((value) => (Number.isNaN(value) ? null : value));
  if (xs.length === every.length) return told;
  let next = 0;
  return every.map((x) => (x === xs[next] ? told[next++] : undefined));
}

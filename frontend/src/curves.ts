/** Curves of a run as the chart needs them: points that come in any order, a history that may be cut, gaps for NaN. */

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
    while (at > 0 && this.steps[at - 1]! >= step) at--; // nearly always at the end
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
}

/** Columns for uPlot: all steps, then each curve; `undefined` where it has no point (the line goes on), `null` for a gap. */
export type Aligned = [number[], ...(number | null | undefined)[][]];

export function align(curves: readonly Curve[]): Aligned {
  const steps = [...new Set(curves.flatMap((curve) => curve.steps))].sort((a, b) => a - b);
  const columns = curves.map((curve) => {
    const found = new Map(curve.steps.map((step, at) => [step, curve.values[at]!]));
    return steps.map((step) => {
      const value = found.get(step);
      return value !== undefined && Number.isNaN(value) ? null : value;
    });
  });
  return [steps, ...columns];
}

/** What lies along the foot of a chart: steps, passes over the data, time, or tokens learned. */
import { count, duration, metric, word } from "./words";

export type AxisKind = "step" | "pass" | "time" | "tokens";

/** Where a line's steps lie on an axis, and back. Both ascend. */
export type Scale = { of(step: number): number; back(x: number): number };

export const STEPS: Scale = { of: (step) => step, back: (x) => x };

/** Steps of one pass, whose last one takes only the batches that are left: within a pass the quotient lies up to 1 below. */
export const stepsOfAPass = (step: number, epoch: number): number => Math.ceil(step / epoch - 1e-6);

export const passes = (stepsAPass: number): Scale => ({
  of: (step) => step / stepsAPass,
  back: (x) => x * stepsAPass,
});

const LEAST_SECONDS = 0.001; // two steps of one moment must not fall together

/** Seconds since the first step that is known. Between two known steps time is taken to have passed evenly. */
export class Times implements Scale {
  private steps: number[] = [];
  private ats: number[] = [];

  constructor(pairs: readonly (readonly [step: number, at: number])[] = []) {
    this.add(pairs);
  }

  /** More of them, in any order. */
  add(pairs: readonly (readonly [step: number, at: number])[]): void {
    const known = new Map(this.steps.map((step, at) => [step, this.ats[at]!]));
    for (const [step, at] of pairs) known.set(step, at);
    [this.steps, this.ats] = [[], []];
    for (const [step, at] of [...known].sort(([a], [b]) => a - b)) this.put(step, at);
  }

  put(step: number, at: number): void {
    while (this.steps.length > 0 && this.steps.at(-1)! >= step) this.drop(); // it went back
    this.steps.push(step);
    this.ats.push(Math.max(at, (this.ats.at(-1) ?? -Infinity) + LEAST_SECONDS));
  }

  of(step: number): number {
    return between(this.steps, this.ats, step) - (this.ats[0] ?? 0);
  }

  back(x: number): number {
    return between(this.ats, this.steps, x + (this.ats[0] ?? 0));
  }

  private drop(): void {
    this.steps.pop();
    this.ats.pop();
  }
}

/** The value that belongs to `x`, on the straight line through its neighbours; beyond the ends through the last two. */
function between(xs: readonly number[], ys: readonly number[], x: number): number {
  if (xs.length < 2) return (ys[0] ?? 0) + (x - (xs[0] ?? 0));
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle]! <= x) low = middle;
    else high = middle;
  }
  const share = (x - xs[low]!) / (xs[high]! - xs[low]!);
  return ys[low]! + share * (ys[high]! - ys[low]!);
}

/** The words at a place of the axis. */
export function tell(kind: AxisKind, x: number): string {
  if (kind === "time") return duration(x);
  return kind === "pass" ? metric(x) : count(Math.round(x));
}

/** Where the cursor is: `at step 540`. */
export function placed(kind: AxisKind, x: number): string {
  const at = tell(kind, x);
  if (kind === "time") return word("at_time", { at });
  if (kind === "tokens") return word("at_tokens", { at });
  return kind === "pass" ? word("at_pass", { at }) : word("at_step", { at });
}

const MINUTE = 60;
const HOUR = 3600;
/** Round distances between ticks of time, in seconds. */
export const TIME_TICKS = [
  ...[1, 2, 5, 10, 15, 30],
  ...[1, 2, 5, 10, 15, 30].map((n) => n * MINUTE),
  ...[1, 2, 3, 6, 12, 24, 48, 96, 240].map((n) => n * HOUR),
];

/** The charts of one run: their lines as the page says them, their axes by the run's own passes and times. */
import { Anew } from "./anew";
import { type AxisKind, passes, type Scale, stepsOfAPass, Times } from "./axes";
import { Chart, type Line, type Mark, type Series, type Span, type View } from "./chart";
import type { Pair, Value } from "./curves";
import { find, getJson } from "./dom";

const KEPT_POINTS = 6000; // above this the curves are fetched again, thinned so that no extreme is lost
const POINTS = 2000;

type Answer = { curves: Series; times: [number, number][]; steps_a_pass: number | null };
export type Values = Record<string, Value>;

export class Plots {
  private charts: Chart[];
  private times = new Times();
  private knowsTimes = false;
  private curves = new Anew(
    () => this.ask({ points: String(POINTS) }),
    ({ curves }) => this.replace(curves),
  );
  private ahead = "";

  constructor(
    private run: string,
    series: Series,
    private stepsAPass: number,
  ) {
    const figures = [...document.querySelectorAll<HTMLElement>("[data-chart]")];
    const finer = (spans: Span[], points: number, signal: AbortSignal) => this.finer(spans, points, signal);
    openTools((axis) => this.ready(axis)); // first, so that each chart is built once
    this.charts = figures.map((figure) => new Chart(figure, this.linesOf(figure), series, finer));
  }

  put(step: number, values: Values, at: number, epoch: number): void {
    if (epoch > 0) this.stepsAPass = stepsOfAPass(step, epoch);
    if (this.knowsTimes) this.times.put(step, at);
    this.curves.now(() => {
      for (const [key, value] of Object.entries(values)) for (const chart of this.charts) chart.put(key, step, value);
    });
    if (!this.curves.isAwaited && this.charts.some((chart) => chart.size > KEPT_POINTS)) this.reload();
  }

  cutAfter(step: number): void {
    this.curves.now(() => {
      for (const chart of this.charts) chart.cutAfter(step);
    });
  }

  /** The learning rate as it is to go on. */
  foretell(pairs: Pair[]): void {
    const ahead = JSON.stringify(pairs);
    if (ahead === this.ahead) return;
    this.ahead = ahead;
    for (const chart of this.charts) chart.replace({ learning_rate_ahead: pairs });
  }

  mark(marks: Mark[]): void {
    for (const chart of this.charts) chart.mark(marks);
  }

  /** All of it again: events passed while this tab did not listen, or the curves have grown too long. */
  reload(): void {
    void this.curves.again();
  }

  private replace(curves: Series): void {
    for (const chart of this.charts)
      chart.replace(Object.fromEntries(chart.keys.map((key) => [key, curves[key] ?? []])));
  }

  /** Lines are drawn by an axis once it is known; the first look at time asks for it. */
  private async ready(axis: AxisKind): Promise<boolean> {
    if (axis === "pass") return this.stepsAPass > 0;
    if (axis === "time" && !this.knowsTimes) {
      this.knowsTimes = true;
      await this.ask({ names: "loss", points: String(POINTS) });
    }
    return true;
  }

  private linesOf(figure: HTMLElement): Line[] {
    const lines = JSON.parse(figure.dataset.lines ?? "[]") as Line[];
    return lines.map((line) => ({ ...line, scale: (axis) => this.scale(axis) }));
  }

  private scale(axis: AxisKind): Scale | undefined {
    if (axis === "time") return this.times;
    return axis === "pass" && this.stepsAPass > 0 ? passes(this.stepsAPass) : undefined;
  }

  private async finer(spans: Span[], points: number, signal: AbortSignal): Promise<Series> {
    const names = spans.map(({ key }) => key).join(",");
    const [from, to] = [Math.min(...spans.map((span) => span.from)), Math.max(...spans.map((span) => span.to))];
    const asked = { names, from: String(from), to: String(to), points: String(Math.max(10, points)) };
    return (await this.ask(asked, signal)).curves;
  }

  private async ask(asked: Record<string, string>, signal?: AbortSignal): Promise<Answer> {
    const query = new URLSearchParams({ ...asked, ...(this.knowsTimes ? { times: "true" } : {}) });
    const answer = await getJson<Answer>(`/api/v1/runs/${this.run}/metrics?${query}`, signal);
    this.times.add(answer.times);
    return answer;
  }
}

/** Smoothing, scale and axis, which hold for every chart of the page. The axis stands in the address, the rest in the browser. */
export function openTools(ready: (axis: AxisKind) => Promise<boolean>): void {
  const tools = find("[data-chart-tools]");
  if (!tools) return;
  tools.hidden = false;
  const slider = find<HTMLInputElement>("[data-smoothing]", tools)!;
  const log = find<HTMLInputElement>("[data-log-scale]", tools)!;
  const kept = JSON.parse(localStorage.getItem("charts") ?? "{}") as Partial<View>;
  slider.value = String(kept.smoothing ?? slider.value);
  log.checked = kept.log ?? false;
  const arrange = () => {
    const smoothing = Number(slider.value);
    find("output", tools)!.textContent = smoothing.toFixed(2);
    localStorage.setItem("charts", JSON.stringify({ smoothing, log: log.checked }));
    Chart.arrange({ smoothing, log: log.checked });
  };
  slider.addEventListener("input", arrange);
  log.addEventListener("change", arrange);
  arrange();
  const turnTo = async (axis: AxisKind) => {
    if (!(await ready(axis))) return;
    for (const button of tools.querySelectorAll<HTMLElement>("[data-axis]"))
      button.setAttribute("aria-pressed", String(button.dataset.axis === axis));
    Chart.arrange({ axis });
    const address = new URL(location.href);
    if (axis === "step") address.searchParams.delete("axis");
    else address.searchParams.set("axis", axis);
    history.replaceState(history.state, "", address);
  };
  tools.addEventListener("click", ({ target }) => {
    const axis = target instanceof HTMLElement ? target.dataset.axis : undefined;
    if (axis) void turnTo(axis as AxisKind);
  });
  const wanted = new URLSearchParams(location.search).get("axis");
  if (wanted === "pass" || wanted === "time" || wanted === "tokens") void turnTo(wanted);
}

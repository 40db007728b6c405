/** The strip under a chart: the whole run in small, and the stretch that is looked at. It is moved by its body, narrowed by its
 *  edges, and drawn anew elsewhere. The chart's keys do the same, so the strip itself takes no focus. */
import type { Column } from "./curves";

type Window = [number, number];
export type Outline = Column & { colour: number };

const EDGE_PX = 8;
const SVG = "http://www.w3.org/2000/svg";

export class Overview {
  private extent: Window = [0, 1];
  private window: Window | undefined;
  private inner = svg("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", width: "100%", height: "100%" });
  private frame = svg("rect", { class: "frame", width: "100%", height: "100%" });
  private rect = svg("rect", { class: "window", y: "0.5", height: "27" });
  private grips = [svg("line", gripLook), svg("line", gripLook)];

  constructor(
    private strip: SVGSVGElement,
    private ask: (window: Window | undefined) => void,
  ) {
    strip.append(this.frame, this.rect, this.inner, ...this.grips);
    strip.addEventListener("pointerdown", (event) => this.grab(event));
    strip.addEventListener("mousedown", (event) => event.preventDefault()); // else it selects text, and then drags that
    strip.addEventListener("dblclick", () => ask(undefined));
  }

  draw(lines: readonly Outline[], window: Window | undefined): void {
    this.window = window;
    const ends = lines.flatMap(({ xs }) => (xs.length > 0 ? [xs[0]!, xs.at(-1)!] : []));
    const extent: Window = [Math.min(...ends), Math.max(...ends)];
    if (extent[1] > extent[0]) this.extent = extent;
    const height = heightOf(lines);
    const outlines = lines.map((line) => ({ class: `line s${line.colour}`, d: outline(line, this.extent, height) }));
    this.inner.replaceChildren(...outlines.map((look) => svg("path", look)));
    const [left, right] = (window ?? this.extent).map((x) => Math.min(100, Math.max(0, 100 * this.share(x)))) as Window;
    set(this.rect, { x: `${left}%`, width: `${right - left}%` });
    this.grips.forEach((grip, at) => {
      const x = `${at ? right : left}%`;
      set(grip, { x1: x, x2: x });
    });
  }

  private share(x: number): number {
    return (x - this.extent[0]) / (this.extent[1] - this.extent[0] || 1);
  }

  private at({ clientX }: PointerEvent): number {
    const { left, width } = this.strip.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (clientX - left) / width));
    return this.extent[0] + share * (this.extent[1] - this.extent[0]);
  }

  private grab(event: PointerEvent): void {
    const start = this.at(event);
    const window = this.window;
    const [from, to] = window ?? this.extent;
    const reach = (EDGE_PX / this.strip.clientWidth) * (this.extent[1] - this.extent[0]);
    const move = (now: number): Window => {
      if (Math.abs(start - from) < reach) return [Math.min(now, to), Math.max(now, to)];
      if (Math.abs(start - to) < reach) return [Math.min(from, now), Math.max(from, now)];
      if (window && start > from && start < to) return this.moved(from, to, now - start);
      return [Math.min(start, now), Math.max(start, now)];
    };
    const over = new AbortController();
    this.strip.setPointerCapture(event.pointerId);
    this.strip.addEventListener("pointermove", (moved) => this.ask(move(this.at(moved))), over);
    this.strip.addEventListener("pointerup", () => over.abort(), over);
    this.strip.addEventListener("pointercancel", () => over.abort(), over);
  }

  private moved(from: number, to: number, by: number): Window {
    const start = Math.min(Math.max(from + by, this.extent[0]), this.extent[1] - (to - from));
    return [start, start + to - from];
  }
}

const gripLook = { class: "grip", y1: "9", y2: "19" };

function heightOf(lines: readonly Outline[]): Window {
  let [low, high] = [Infinity, -Infinity];
  for (const { values } of lines)
    for (const value of values) if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

/** The curve in a square of a thousand units. */
function outline({ xs, values }: Column, [first, last]: Window, [low, high]: Window): string {
  const points = xs.flatMap((x, at) => {
    if (!Number.isFinite(values[at])) return [];
    const [right, down] = [(x - first) / (last - first || 1), (high - values[at]!) / (high - low || 1)];
    return [`${Math.round(1000 * right)} ${Math.round(80 + 840 * down)}`];
  });
  return points.length > 1 ? `M${points.join("L")}` : "";
}

function svg<K extends "svg" | "path" | "rect" | "line">(
  name: K,
  look: Record<string, string>,
): SVGElementTagNameMap[K] {
  return set(document.createElementNS(SVG, name), look);
}

function set<T extends Element>(element: T, look: Record<string, string>): T {
  for (const [name, value] of Object.entries(look)) element.setAttribute(name, value);
  return element;
}

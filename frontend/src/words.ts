/** What scripts say, in the reader's language: the words stand in the page's head (parts/words.html). */

type Words = Record<string, string>;
const words = JSON.parse(document.querySelector<HTMLMetaElement>('meta[name="words"]')?.content ?? "{}") as Words;

/** The text under `key`, its `{places}` filled. */
export function word(key: string, places: Record<string, string | number> = {}): string {
  return fill(words[key] ?? key, places);
}

/** The word for what a trainer is at: a phase, or a longer work such as `checking weights`. */
export function doing(name: string): string {
  return words[`doing_${name.replaceAll(" ", "_")}`] ?? name;
}

/** The word for a state of a run. */
export const stateWord = (state: string) => word(`state_${state}`);

export function fill(text: string, places: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(places[name] ?? whole));
}

/** A count with separators: `12,345`. */
export const count = (number: number) => number.toLocaleString("en");

/** A metric to four digits; what is not finite comes as text. */
export function metric(value: number | string | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e6)) return exponential(value);
  return plain.format(Number(value.toPrecision(4)));
}

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });
const exponential = (value: number) => value.toExponential(2).replace(/\.?0*e\+?/, "e");

/** `1.2 MiB`, `768 KiB`: as the server writes it. */
export function size(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const value = bytes / 1024 ** power;
  return `${value.toFixed(power === 0 || value >= 100 ? 0 : 1)} ${units[power]}`;
}

/** An estimate says no more than it knows: ten seconds below ten minutes, then minutes, from two hours on ten of them. */
export function roughly(seconds: number): number {
  const grain = seconds < 600 ? 10 : seconds < 7200 ? 60 : 600;
  return seconds < 10 ? seconds : Math.max(grain, Math.round(seconds / grain) * grain);
}

/** `2 h 5 min`: the two largest units. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  const parts: [string, number][] = [
    ["hours", Math.floor(whole / 3600)],
    ["minutes", Math.floor(whole / 60) % 60],
    ["seconds", whole % 60],
  ];
  const shown = parts.filter(([, n]) => n > 0).slice(0, 2);
  return shown.map(([unit, n]) => word(unit, { n })).join(" ") || word("seconds", { n: 0 });
}

/** Tell a screen reader, at most every ten seconds: a live curve would drown everything else. What was asked for is told at once. */
let said = -Infinity;
export function announce(text: string, atOnce = false): void {
  const now = performance.now();
  const region = document.getElementById("says");
  if (!region || (now - said < 10_000 && !atOnce)) return;
  said = now;
  region.textContent = text;
}

/** `row 41` in the reader's language. */
export function placeWord(where: string): string {
  const [, unit, n] = /^(row|line) (\d+)$/.exec(where) ?? [];
  if (!unit || !n) return where;
  return unit === "row" ? word("row_n", { n: count(Number(n)) }) : word("line_n", { n: count(Number(n)) });
}

/** Relative times that go on: the server draws “3 minutes ago”, the script keeps it true, by the server's clock. */

const TICK_MS = 20_000;
const ON_THE_WAY_SECONDS = 5; // what was made just now is no time to come, though the answer travelled for a while
const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["year", 365 * 24 * 3600],
  ["month", 30 * 24 * 3600],
  ["week", 7 * 24 * 3600],
  ["day", 24 * 3600],
  ["hour", 3600],
  ["minute", 60],
];

export function keepTimes(): void {
  const language = document.documentElement.lang;
  const [loaded] = performance.getEntriesByType("navigation") as PerformanceNavigationTiming[];
  const arrived = Date.now() - performance.now() + (loaded?.responseStart ?? 0); // the rest of a page may take long
  const ahead = arrived - Date.parse(document.body.dataset.now!); // how far the reader's clock is
  const relative = new Intl.RelativeTimeFormat(language);
  const tick = () => {
    for (const time of document.querySelectorAll<HTMLTimeElement>("time[data-ago]")) {
      const text = ago(relative, (Date.parse(time.dateTime) + ahead - Date.now()) / 1000);
      if (time.textContent !== text) time.textContent = text;
      time.title = new Date(time.dateTime).toLocaleString(language);
    }
  };
  tick();
  setInterval(() => document.hidden || tick(), TICK_MS);
  document.addEventListener("visibilitychange", () => document.hidden || tick());
  document.addEventListener("htmx:after:swap", tick);
}

function ago(relative: Intl.RelativeTimeFormat, seconds: number): string {
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  const isNow = Math.abs(seconds) < ON_THE_WAY_SECONDS;
  return relative.format(isNow ? Math.min(Math.round(seconds), -1) : Math.round(seconds / size), unit);
}

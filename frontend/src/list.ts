/** Rows of runs that move by themselves: step, loss and evaluation loss at once; a new state is drawn by the server. */
import htmx from "htmx.org/dist/htmx.esm.js";
import { find, setText, settle } from "./dom";
import { type RunState, watch } from "./live";
import { count, metric } from "./words";

export function showList(): void {
  const rows = [...document.querySelectorAll<HTMLElement>("tr[data-run]")];
  if (rows.length === 0) return;
  const cursors = Object.fromEntries(rows.map((row) => [row.dataset.run!, Number(row.dataset.seq)]));
  const redraw = settle(redrawTable, 200, 1000);
  watch(cursors, {
    item: (run) => update(run, redraw),
    gap: redraw,
    state: () => {},
  });
}

function update(run: RunState, redraw: () => void): void {
  const row = find(`tr[data-run="${run.id}"]`);
  if (!row) return;
  if (row.dataset.state !== run.state) redraw();
  const total = run.total_steps ? ` / ${count(run.total_steps)}` : "";
  setText('[data-cell="steps"]', count(run.step) + total, row);
  for (const name of ["loss", "eval_loss"]) setText(`[data-cell="${name}"]`, metric(run.latest[name]), row);
  const bar = find<HTMLProgressElement>("progress", row);
  if (bar) [bar.max, bar.value] = [run.total_steps ?? 1, run.step];
}

function redrawTable(): void {
  const place = { source: "#runs", target: "#runs", select: "#runs", swap: "outerMorph" };
  void htmx.ajax("GET", location.pathname + location.search, place);
}

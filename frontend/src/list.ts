/** Lists of runs that move by themselves: numbers at once; a new run or a new state is drawn by the server. */
import { find, moveRuler, setText, settle } from "./dom";
import { type RunState, watch } from "./live";
import { redraw } from "./redraw";
import { count, metric, word } from "./words";

const redrawSoon = settle(redrawPage, 150, 1000);
const redrawCurves = settle(redrawPage, 5000, 5000);

export function showList(): void {
  const rows = [...document.querySelectorAll<HTMLElement>("[data-run]")];
  const cursors = Object.fromEntries(rows.map((row) => [row.dataset.run!, Number(row.dataset.seq)]));
  const newest = find("#runs")?.dataset.newest || NO_RUN;
  watch(cursors, { item: update, gap: redrawSoon, state: () => {} }, newest);
  document.addEventListener("back", redrawSoon);
  openSelection();
}

const NO_RUN = "00000000-0000-0000-0000-000000000000";

function update(run: RunState): void {
  const row = find(`[data-run="${run.id}"]`);
  if (!row || row.dataset.state !== run.state) {
    redrawSoon();
    return;
  }
  const share = run.total_steps ? Math.min(100, (100 * run.step) / run.total_steps) : 0;
  for (const name of ["loss", "eval_loss"]) setText(`[data-cell="${name}"]`, metric(run.latest[name]), row);
  setText('[data-cell="share"]', `${share.toFixed(0)} %`, row);
  find('[data-cell="bar"]', row)?.setAttribute("width", `${share}%`);
  showSteps(row, run, share);
  redrawCurves();
}

function showSteps(row: HTMLElement, run: RunState, share: number): void {
  const ruler = row.querySelector<SVGElement>("[data-ruler]");
  if (!ruler || ruler.dataset.ruler !== String(run.total_steps)) return;
  ruler.setAttribute("aria-valuenow", String(run.step));
  ruler.setAttribute("aria-label", word("step_of", { step: count(run.step), total: count(run.total_steps!) }));
  moveRuler(ruler, share / 100);
}

/** While nobody looks, nothing is fetched. */
function redrawPage(): void {
  if (document.hidden) document.addEventListener("visibilitychange", redrawSoon, { once: true });
  else redraw("#page", location.pathname + location.search, redrawSoon, "#page");
}

// ---- choosing several -----------------------------------------------------------------------------------------------

const chosen = new Set<string>();

function openSelection(): void {
  document.addEventListener("change", ({ target }) => {
    if (target instanceof HTMLInputElement && target.name === "run") choose(target);
  });
  document.addEventListener("reset", () => {
    chosen.clear();
    setTimeout(showChosen); // the boxes are emptied after this event
  });
  document.addEventListener("htmx:after:swap", showChosen);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "x" || event.ctrlKey || event.metaKey || event.altKey) return;
    document.activeElement?.closest("tr")?.querySelector<HTMLInputElement>("input[name=run]")?.click();
  });
  for (const box of boxes()) choose(box); // those that the browser kept over a reload
}

const boxes = () => document.querySelectorAll<HTMLInputElement>("tbody input[name=run]");

function choose(box: HTMLInputElement): void {
  if (box.checked) chosen.add(box.value);
  else chosen.delete(box.value);
  showChosen();
}

function showChosen(): void {
  for (const box of boxes()) {
    box.checked = chosen.has(box.value);
    box.closest("tr")?.setAttribute("aria-selected", String(box.checked));
  }
  setText("[data-selected]", word("selected", { n: chosen.size }));
  setText("[data-compare]", word("compare", { n: chosen.size }));
}

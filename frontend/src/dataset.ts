/** The page of a data set: rows by keyboard, the token at the cursor, and the cut that is moved by hand. */
import type { Asked } from "htmx.org/dist/htmx.esm.js";
import { find, settle } from "./dom";
import { count, fill, word } from "./words";

export function showDataset(): void {
  document.addEventListener("keydown", onKey);
  for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, tellToken);
  document.addEventListener("pointerdown", grab);
  document.addEventListener("htmx:before:request", takeOver);
  document.addEventListener("htmx:after:swap", swapped);
  document.addEventListener("submit", ({ target }) => target instanceof HTMLFormElement && makeBusy(target));
}

// ---- what is drawn again ----------------------------------------------------------------------------------------------

let lacksLens = false; // figures of the lens as it was stand under the one that was chosen

/** Rows that are asked for before the lens was answered put an end to its request, so they come with all that it would bring. */
function takeOver(event: Event): void {
  const { ctx } = (event as CustomEvent<{ ctx: Asked }>).detail;
  if (ctx.sourceElement.id === "lens") lacksLens = true;
  else if (lacksLens && ctx.select === "#preview")
    Object.assign(ctx, { target: find("#inspect"), select: "#inspect", selectOOB: "#train,#tabs" });
}

function swapped(event: Event): void {
  const { ctx } = (event as CustomEvent<{ ctx: Asked }>).detail;
  if (ctx.select === "#inspect") lacksLens = false;
  tellCut();
  // rows that were drawn before lengths were known learn which of them are cut
  if (find("#lengths")) find("#preview[hx-trigger=again]:not(.htmx-request)")?.dispatchEvent(new Event("again"));
}

// ---- rows and tokens ------------------------------------------------------------------------------------------------

const KEYS: Record<string, () => void> = {
  j: () => step(1),
  k: () => step(-1),
  c: () => find("[data-next-cut]")?.click(),
};

function onKey(event: KeyboardEvent): void {
  const target = event.target instanceof Element ? event.target : document.body;
  const typing = target.closest("input, textarea, select, dialog[open]");
  if (target.id === "cut-grip") moveByKey(event);
  else if (target.matches(".box") && walk(target as HTMLElement, event.key)) event.preventDefault();
  else if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey) KEYS[event.key]?.();
}

/** The next or earlier row; from the last one on, the next page. */
function step(by: 1 | -1): void {
  const rows = [...document.querySelectorAll<HTMLElement>("#preview .sample")];
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const next = rows[at + by];
  if (at < 0 && by === 1) rows[0]?.focus();
  else if (next) next.focus();
  else find(`[data-leaf="${by === 1 ? "right" : "left"}"]`)?.click();
}

/** Arrow keys among the tokens of a row. */
function walk(box: HTMLElement, key: string): boolean {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (!by) return false;
  const boxes = [...(box.closest("[data-boxes]")?.querySelectorAll<HTMLElement>(".box") ?? [])];
  boxes[boxes.indexOf(box) + by]?.focus();
  return true;
}

function tellToken({ target }: Event): void {
  const token = target instanceof HTMLElement ? target.closest<HTMLElement>("[data-n]") : null;
  const row = token?.closest<HTMLElement>(".sample");
  const line = find("#token-line");
  if (!token || !row || !line) return;
  const { number, tokens } = row.dataset;
  line.textContent = word("token_at", {
    row: count(Number(number)),
    n: count(Number(token.dataset.n)),
    of: count(Number(tokens)),
    text: named(token.textContent),
    id: token.dataset.id!,
    what: fateOf(token),
  });
}

const named = (text: string) => text.trimEnd().replaceAll(" ", "␣") || text.replaceAll(" ", "␣").replaceAll("\n", "");

function fateOf(token: HTMLElement): string {
  if (token.matches(".cut, .missing, .gone, .lost")) return word("token_cut");
  return token.matches(".ink i, .inked, .box.learned") ? word("token_learned") : word("token_read");
}

function makeBusy(form: HTMLFormElement): void {
  const button = find<HTMLButtonElement>("[data-busy]", form);
  if (!button) return;
  button.textContent = button.dataset.busy!;
  button.setAttribute("aria-disabled", "true");
  form.addEventListener("submit", (again) => again.preventDefault());
}

// ---- the cut ----------------------------------------------------------------------------------------------------------

/** The drawing as it stands: htmx may have drawn it anew. */
function cutPlot(): { plot: SVGSVGElement; grip: SVGGElement; longest: number; top: number; step: number } | null {
  const plot = document.querySelector<SVGSVGElement>("[data-cut-plot]");
  const grip = document.querySelector<SVGGElement>("#cut-grip");
  if (!plot || !grip) return null;
  const { longest, top, step } = plot.dataset;
  return { plot, grip, longest: Number(longest), top: Number(top), step: Number(step) };
}

const SHORTEST = 8;
const cutting = settle(() => find("#cutting")?.dispatchEvent(new Event("cutting")), 20, 60);
const recut = settle(() => find("#recut")?.dispatchEvent(new Event("recut")), 450, 5000);

function moveByKey(event: KeyboardEvent): void {
  const cut = cutPlot();
  if (!cut) return;
  const now = Number(cut.grip.getAttribute("aria-valuenow"));
  const wanted: Record<string, number> = {
    ArrowLeft: now - cut.step,
    ArrowDown: now - cut.step,
    ArrowRight: now + cut.step,
    ArrowUp: now + cut.step,
    PageDown: now - 8 * cut.step,
    PageUp: now + 8 * cut.step,
    Home: cut.step * 4,
    End: cut.longest,
  };
  const length = wanted[event.key];
  if (length === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  moveTo(Math.min(cut.longest, length));
  recut();
}

function grab(event: PointerEvent): void {
  const cut = cutPlot();
  const target = event.target instanceof Element ? event.target : null;
  if (!cut || !target?.closest("[data-catch], #cut-grip, .histogram .bar, [data-zone]")) return;
  event.preventDefault();
  cut.grip.focus({ preventScroll: true });
  const box = cut.plot.getBoundingClientRect();
  const follow = (moved: PointerEvent) => {
    const share = Math.min(1, Math.max(0, (moved.clientX - box.left) / box.width));
    const fine = Math.max(1, Math.round(cut.step / 4));
    moveTo(share >= 1 ? cut.longest : Math.min(cut.longest, Math.round((share * cut.top) / fine) * fine));
  };
  const release = () => {
    removeEventListener("pointermove", follow);
    recut();
  };
  follow(event);
  addEventListener("pointermove", follow);
  addEventListener("pointerup", release, { once: true });
  addEventListener("pointercancel", release, { once: true });
}

/** The mark goes there at once; verdict and costs follow from the server, then the rows once the hand rests. */
function moveTo(length: number): void {
  const cut = cutPlot();
  const field = find<HTMLInputElement>("#max_length");
  if (!cut || !field) return;
  const limit = Math.max(SHORTEST, length);
  field.value = String(limit);
  const at = Math.min(100, (100 * limit) / cut.top);
  document.querySelector("[data-grip-at]")?.setAttribute("x", `${at}%`);
  const zone = document.querySelector("[data-zone]");
  zone?.setAttribute("x", `${at}%`);
  zone?.setAttribute("width", `${100 - at}%`);
  for (const bar of cut.plot.querySelectorAll<SVGRectElement>(".bar"))
    bar.classList.toggle("over", Number(bar.dataset.from) >= limit);
  cut.grip.setAttribute("aria-valuenow", String(limit));
  cutting();
}

/** Beside the mark stands how many rows are longer, as the verdict says. */
function tellCut(): void {
  const cut = cutPlot();
  const verdict = find("#verdict");
  if (!cut || verdict?.dataset.over === undefined) return;
  if (verdict.dataset.limit !== cut.grip.getAttribute("aria-valuenow")) return; // of where the mark was before
  const places = { limit: count(Number(verdict.dataset.limit)), n: count(Number(verdict.dataset.over)) };
  cut.grip.setAttribute("aria-valuetext", fill(cut.plot.dataset.said!, places));
  const tag = cut.plot.querySelector("[data-cut-tag]");
  if (!tag) return;
  tag.textContent = verdict.dataset.over === "0" ? "" : fill(cut.plot.dataset.tag!, places);
  const isRight = Number(cut.grip.getAttribute("aria-valuenow")) > 0.75 * cut.top;
  tag.setAttribute("text-anchor", isRight ? "end" : "start");
  tag.setAttribute("x", isRight ? "-20" : "0");
}

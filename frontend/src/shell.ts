/** What every page has: theme, dialogs that ask once, keyboard, copying, forms that send themselves. */
import { copyText, find } from "./dom";

const PLACES: Record<string, string> = {
  h: "/",
  r: "/runs",
  d: "/datasets",
  m: "/models",
  c: "/compare",
  s: "/settings",
};
const TYPED_INTO = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]";
const ROWS = "[data-rows] > tr, #page article, #page .list > li";
const SEQUENCE_MS = 1200;

export function openShell(): void {
  document.addEventListener("click", onClick);
  document.addEventListener("keydown", onKey);
  document.addEventListener("change", ({ target }) => {
    if (target instanceof HTMLSelectElement)
      target.closest<HTMLFormElement>("form[data-sends-itself]")?.requestSubmit();
  });
  document.addEventListener("done", ({ target }) => target instanceof Element && target.closest("dialog")?.close());
}

function onClick(event: MouseEvent): void {
  const target = event.target instanceof Element ? event.target : null;
  if (target?.closest("[data-theme-toggle]")) toggleTheme();
  const opener = target?.closest<HTMLElement>("[data-opens]");
  if (opener) find<HTMLDialogElement>(`#${CSS.escape(opener.dataset.opens!)}`)?.showModal();
  if (target?.closest("[data-closes]")) target.closest("dialog")?.close();
  if (target instanceof HTMLDialogElement) target.close(); // its backdrop: everything inside covers it
  const remedy = target?.closest<HTMLButtonElement>("[data-sets]");
  if (remedy) set(remedy.dataset.sets!, remedy.value);
  const linked = target?.closest<HTMLElement>("[data-copy-link]");
  if (linked) void copyText(location.href, linked);
  const copied = target?.closest<HTMLElement>("[data-copy-text]");
  if (copied && getSelection()?.isCollapsed) void copyText(copied.textContent.trim(), copied);
}

/** A remedy changes the setting as a person would, so the form is checked again. */
function set(name: string, value: string): void {
  const control = find<HTMLSelectElement | HTMLInputElement>(`[name="${name}"]`);
  if (!control) return;
  control.value = value;
  control.dispatchEvent(new Event("change", { bubbles: true }));
}

function toggleTheme(): void {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

let wentAt = Number.NEGATIVE_INFINITY; // a page that was just opened was not led to by a g

function onKey(event: KeyboardEvent): void {
  const typing = event.target instanceof HTMLElement && event.target.closest(TYPED_INTO);
  if (typing || event.ctrlKey || event.metaKey || event.altKey || find("dialog[open]")) return;
  const goes = performance.now() - wentAt < SEQUENCE_MS ? PLACES[event.key] : undefined;
  wentAt = event.key === "g" ? performance.now() : Number.NEGATIVE_INFINITY;
  if (goes) location.assign(goes);
  else if (event.key === "n") location.assign("/runs/new");
  else if (event.key === "?") find<HTMLDialogElement>("#shortcuts")?.showModal();
  else if (event.key === "/") focusSearch();
  else if (event.key === "j") goToRow(1);
  else if (event.key === "k") goToRow(-1);
  else if (!press(event.key)) return;
  event.preventDefault();
}

function focusSearch(): void {
  const input = find<HTMLInputElement>("#search");
  if (input?.checkVisibility()) input.select();
  else location.assign("/search"); // narrow screens have the page of it alone
}

/** The link of the row after or before the one that has the focus; Enter opens it. */
function goToRow(by: number): void {
  const rows = [...document.querySelectorAll<HTMLElement>(ROWS)];
  const links = rows.map((row) => row.querySelector<HTMLAnchorElement>("a[href]")).filter((link) => link !== null);
  const at = rows
    .filter((row) => row.querySelector("a[href]"))
    .findIndex((row) => row.contains(document.activeElement));
  links[Math.max(0, Math.min(links.length - 1, at < 0 ? 0 : at + by))]?.focus();
}

/** A page names its own keys on the buttons that they stand for. */
function press(key: string): boolean {
  const button = find(`[data-key="${CSS.escape(key)}"]`);
  if (!button?.checkVisibility()) return false;
  button.click();
  return true;
}

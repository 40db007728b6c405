/** The form of a new run: ink for what was set by hand, remedies as buttons, lists of prompts, and a draft that survives. */
import type { Asked } from "htmx.org/dist/htmx.esm.js";
import { composes, find } from "./dom";
import {
  draftAside,
  draftOpened,
  draftSent,
  dropAside,
  dropDraft,
  keepDraft,
  putAside,
  savedDraft,
  written,
} from "./draft";
import { openRecipeText, paint } from "./recipe-text";

const SETTLED_MS = 600;
const READING_MS = 400;
const SIGNED_OUT = 401;

const form = () => find<HTMLFormElement>("#new-run");
const all = <T extends HTMLElement>(selector: string) => [...document.querySelectorAll<T>(selector)];
let leaving = false;
let touched = false;
let slot: HTMLInputElement | undefined; // by which a draft comes back; the form that is drawn with it has another
let coming = ""; // that draft

export function showNewRun(): void {
  document.addEventListener("input", onInput);
  document.addEventListener("change", onInput);
  document.addEventListener("click", onPress, true); // htmx sends the form as soon as its button hears of it
  document.addEventListener("click", onClick);
  document.addEventListener("submit", onSubmit);
  document.addEventListener("keydown", onKey);
  document.addEventListener("htmx:after:settle", drawn);
  for (const failed of ["htmx:response:error", "htmx:error"]) document.addEventListener(failed, notRestored);
  document.addEventListener("back", () => isUnrestored() && bring(coming));
  addEventListener("pageshow", ({ persisted }) => persisted && location.reload()); // each drawn form starts one run
  openRecipeText();
  draftOpened();
  setTimeout(restore); // htmx begins to listen in a task that was queued before, be that ahead of the load event or not
  drawn();
}

function drawn(): void {
  if (slot?.isConnected === false) cameBack();
  paint();
  if (touched) keep();
  for (const bar of all<HTMLButtonElement>(".start-bar [data-start]"))
    bar.disabled = find("#preflight [data-start]:disabled") !== null;
  readSoon(Number(find("#preflight")?.dataset.unread ?? -1) >= 0 ? READING_MS : SETTLED_MS);
}

// ---- the rows are read once nothing changes any more ----

let timer = 0;

function readSoon(wait: number): void {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const preflight = find("#preflight");
    if (preflight?.dataset.unread) preflight.dispatchEvent(new CustomEvent("settled"));
  }, wait);
}

function onInput({ target }: Event): void {
  if (target instanceof HTMLInputElement && target.matches("[data-finds]")) search(target.value);
  else if (target instanceof HTMLElement && target.closest("#fields")) changed(target);
}

function changed(target: HTMLElement): void {
  if (target.closest("[data-names]")) followNames(target);
  ink(target.closest<HTMLElement>("[data-setting]"));
  clearTimeout(timer);
  touch();
  keep();
}

/** A value that differs from the recommended one was set by hand. */
function ink(row: HTMLElement | null): void {
  if (!row) return;
  const { setting = "", recommended = "" } = row.dataset;
  const value = String(new FormData(form() ?? undefined).get(setting) ?? "").trim();
  const same = value === recommended || (value !== "" && recommended !== "" && Number(value) === Number(recommended));
  row.classList.toggle("changed", value !== "" && !same);
}

// ---- changing settings ----

/** A remedy changes settings as a person would. What this view does not show is kept beside it. */
function apply(settings: Record<string, string>): void {
  touch();
  let last: HTMLElement | null = null;
  for (const [name, value] of Object.entries(settings)) {
    const controls = all<HTMLInputElement>(`#fields [name="${CSS.escape(name)}"]`);
    const radio = controls.find((each) => each.type === "radio" && each.value === value);
    const control = radio ?? controls.at(-1) ?? hidden(name);
    if (radio) radio.checked = true;
    else control.value = value;
    last = !last || control.hasAttribute("hx-post") ? control : last;
    ink(control.closest<HTMLElement>("[data-setting]"));
  }
  last?.dispatchEvent(new Event(last.hasAttribute("hx-post") ? "change" : "input", { bubbles: true }));
}

function hidden(name: string): HTMLInputElement {
  const made = Object.assign(document.createElement("input"), { type: "hidden", name });
  find("#fields")?.append(made);
  return made;
}

function onPress({ target }: Event): void {
  if (target instanceof Element && target.closest("#new-run [formaction]")) touch();
}

function onClick({ target }: Event): void {
  const button = target instanceof Element ? target.closest<HTMLElement>("button, a") : null;
  if (button?.closest("#draft-aside")) decide(button);
  if (!button?.closest("#new-run")) return;
  const { remedies } = button.dataset;
  if (remedies) button.closest<HTMLElement>("#preflight")?.focus({ preventScroll: true }); // the button goes with its problem
  if (remedies) apply(JSON.parse(remedies) as Record<string, string>);
  else if ("resets" in button.dataset) resetAll();
  else if ("only" in button.dataset) showOnly(button);
  else if ("adds" in button.dataset) addPrompt(button);
  else if ("drops" in button.dataset) dropPrompt(button);
  else if ("fresh" in button.dataset) dropDraft();
}

function resetAll(): void {
  const changed = all("[data-setting].changed").filter((row) => row.dataset.recommended);
  apply(Object.fromEntries(changed.map(({ dataset }) => [dataset.setting ?? "", dataset.recommended ?? ""])));
}

function showOnly(button: HTMLElement): void {
  const only = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(only));
  find("[data-groups]")?.classList.toggle("only-changed", only);
  if (only) for (const row of all("[data-setting].changed")) open(row);
}

function open(row: HTMLElement): void {
  for (let at = row.closest("details"); at; at = at.parentElement?.closest("details") ?? null) at.open = true;
}

function search(words: string): void {
  const wanted = words.trim().toLowerCase();
  for (const row of all("[data-groups] [data-setting]")) {
    const fits = !wanted || `${row.dataset.setting} ${row.textContent}`.toLowerCase().includes(wanted);
    row.classList.toggle("unfound", !fits);
    if (wanted && fits) open(row);
  }
}

// ---- lists ----

function addPrompt(button: HTMLElement): void {
  const list = button.closest("[data-setting]")?.querySelector("ol");
  const made = list?.lastElementChild?.cloneNode(true);
  if (!list || !(made instanceof HTMLElement)) return;
  list.append(made);
  const text = made.querySelector("textarea");
  if (text) text.value = "";
  number(list);
  text?.focus();
}

function dropPrompt(button: HTMLElement): void {
  const item = button.closest("li");
  const list = item?.parentElement;
  if (!item || !list) return;
  const next = (item.nextElementSibling ?? item.previousElementSibling)?.querySelector("textarea");
  if (list.children.length > 1) item.remove();
  else item.querySelector("textarea")!.value = "";
  number(list);
  (next ?? list.querySelector("textarea"))?.focus();
  list.dispatchEvent(new Event("input", { bubbles: true }));
}

function number(list: Element): void {
  [...list.querySelectorAll("textarea")].forEach((text, at) => {
    text.name = text.name.replace(/\d+$/, String(at));
    text.setAttribute("aria-label", text.ariaLabel?.replace(/\d+$/, String(at + 1)) ?? "");
  });
}

/** Boxes and the text beside them say the same. */
function followNames(target: HTMLElement): void {
  const place = target.closest<HTMLElement>("[data-names]")!;
  const text = find<HTMLInputElement>("input:not([type=checkbox])", place)!;
  const boxes = [...place.querySelectorAll<HTMLInputElement>("[type=checkbox]")];
  if (target === text) {
    const names = text.value.split(",").map((each) => each.trim());
    for (const box of boxes) box.checked = text.value.trim() === "all-linear" || names.includes(box.value);
    return;
  }
  const ticked = boxes.filter((box) => box.checked).map((box) => box.value);
  text.value = ticked.length === boxes.length || ticked.length === 0 ? "all-linear" : ticked.join(", ");
  if (ticked.length === 0) for (const box of boxes) box.checked = true; // a run that trains nothing is none
}

// ---- starting ----

function onSubmit(event: SubmitEvent): void {
  if (event.target !== form() || (event.submitter as HTMLButtonElement | null)?.hasAttribute("formaction")) return;
  if (leaving) event.preventDefault();
  leaving = true;
  draftSent();
  setTimeout(() => {
    for (const button of all<HTMLButtonElement>("[data-start]")) button.disabled = true;
  });
}

function onKey(event: KeyboardEvent): void {
  if (composes(event)) return;
  if (event.key === "Enter" && event.target instanceof HTMLElement && event.target.id === "save_as") {
    event.preventDefault(); // else the first button of the form is pressed
    find("#save-recipe .primary")?.click();
  }
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || find("dialog[open]")) return;
  event.preventDefault();
  find<HTMLButtonElement>("#preflight [data-start]")?.click();
}

// ---- a draft comes back ----

/** Until somebody fills in something, a draft that is still to come back is better than what stands in its place. */
function keep(): void {
  if (!leaving && !isUnrestored()) keepDraft(written(form()));
}

const isUnrestored = () => slot?.isConnected === true;

function restore(): void {
  const saved = savedDraft();
  if (saved && saved !== written(form())) bring(saved);
  offer();
}

function bring(draft: string): void {
  const place = find<HTMLInputElement>("[name=restored]");
  if (!place) return;
  slot = place;
  slot.value = coming = draft;
  slot.dispatchEvent(new CustomEvent("restore"));
}

function cameBack(): void {
  slot = undefined;
  if (coming === draftAside()) dropAside();
  offer();
}

/** Until it is tried again the form is sent as it stands. A draft that is refused would be refused at each visit. */
function notRestored(event: Event): void {
  if (!slot || event.target !== slot) return;
  slot.value = "";
  const status = (event as CustomEvent<{ ctx?: Asked }>).detail.ctx?.response?.status ?? 0;
  if (status < 400 || status >= 500 || status === SIGNED_OUT) return;
  if (coming === savedDraft()) dropDraft();
  letGo(slot);
}

/** What is filled in now is kept, and no draft is drawn over it that did not come back in time. */
function touch(): void {
  touched = true;
  if (slot) letGo(slot);
}

/** The draft comes back only if somebody asks for it. */
function letGo(place: HTMLInputElement): void {
  place.dispatchEvent(new Event("htmx:abort"));
  place.value = "";
  slot = undefined;
  putAside(coming);
  offer();
}

function offer(): void {
  find("#draft-aside")!.hidden = draftAside() === null;
}

function decide(button: HTMLElement): void {
  const draft = draftAside();
  if ("discards" in button.dataset) dropAside();
  else if (draft) {
    touch(); // what comes back is kept, as if filled in now
    bring(draft);
  }
  offer();
}

/** The recipe as YAML: line numbers, marked lines, files read from the disk. The text stays a plain textarea. */
import { tellRefusal } from "./answers";
import { find } from "./dom";
import { word } from "./words";

const MAX_BYTES = 1 << 20;
const area = () => find<HTMLTextAreaElement>("#yaml");

export function openRecipeText(): void {
  document.addEventListener("input", ({ target }) => target === area() && paint());
  document.addEventListener("change", ({ target }) => {
    const input = target instanceof HTMLInputElement && target.closest("[data-imports]") ? target : null;
    if (input?.files?.[0]) void take(input.files[0]);
  });
  document.addEventListener("dragover", (event) => over(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    const file = over(event) ? event.dataTransfer?.files[0] : undefined;
    if (file) event.preventDefault();
    if (file) void take(file);
  });
  document.addEventListener("click", ({ target }) => target instanceof Element && press(target, target));
}

const over = ({ target, dataTransfer }: DragEvent) =>
  target instanceof Element && !!target.closest("#new-run") && !!dataTransfer?.types.includes("Files");

/** Draws the numbered lines behind the text, those that were set by hand inked, those that are wrong marked. */
export function paint(): void {
  const text = area();
  const behind = find("[data-gutter]");
  if (!text || !behind) return;
  const wrong = new Set((find("#preflight")?.dataset.wrong ?? "").split(" ").map(Number));
  const lines = text.value.split("\n");
  behind.replaceChildren(...lines.map((line, at) => lineOf(line, wrong.has(at + 1))));
  behind.parentElement?.classList.add("painted");
  text.rows = Math.max(lines.length + 1, 12);
  text.cols = Math.max(...lines.map((line) => line.length)) + 8;
}

function lineOf(line: string, wrong: boolean): HTMLElement {
  const span = document.createElement("span");
  if (wrong) span.className = "wrong";
  else if (line.includes("# recommended ")) span.className = "changed";
  const [, key = "", rest = "", comment = ""] = /^(\s*(?:- )?[\w.]+:(?=\s|$))?(.*?)((?:^|\s)#.*)?$/.exec(line) ?? [];
  span.append(made("b", key), rest, made("em", comment));
  return span;
}

function made(tag: string, text: string): HTMLElement | string {
  return text ? Object.assign(document.createElement(tag), { textContent: text }) : "";
}

async function take(file: File): Promise<void> {
  if (file.size > MAX_BYTES) return tellRefusal(word("recipe_too_large"));
  const text = await file.text();
  const here = area();
  if (here) return replace(here, text);
  find<HTMLInputElement>("#new-run [name=view]")!.value = "yaml"; // the form is sent as the text that was read
  find<HTMLTextAreaElement>("#new-run [name=yaml]")!.value = text;
  find("[formaction='/runs/new?view=yaml']")?.click();
}

function replace(text: HTMLTextAreaElement, value: string): void {
  text.value = value;
  text.dispatchEvent(new Event("input", { bubbles: true }));
}

function press(target: Element, from: Element): void {
  const button = target.closest<HTMLElement>("[data-line], [data-copies], [data-saves]");
  const text = area();
  if (!button || !text || !from.closest("#new-run")) return;
  if (button.dataset.line) toLine(text, Number(button.dataset.line), button as HTMLButtonElement);
  if (button.dataset.copies) void navigator.clipboard?.writeText(text.value);
  if (button.dataset.saves) save(text.value);
}

/** Goes to a line; a button with a better word puts it there, so that undo takes it back. */
function toLine(text: HTMLTextAreaElement, line: number, button: HTMLButtonElement): void {
  const lines = text.value.split("\n");
  const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  const whole = lines[line - 1] ?? "";
  text.focus();
  const at = button.dataset.replaces ? whole.indexOf(button.dataset.replaces) : -1;
  if (at >= 0) {
    text.setSelectionRange(start + at, start + at + button.dataset.replaces!.length);
    text.setRangeText(button.value);
    text.dispatchEvent(new Event("input", { bubbles: true }));
  } else text.setSelectionRange(start, start + whole.length);
}

function save(text: string): void {
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(new Blob([text], { type: "application/yaml" })),
    download: "recipe.yaml",
  });
  link.click();
  URL.revokeObjectURL(link.href);
}

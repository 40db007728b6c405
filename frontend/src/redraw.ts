/** Parts of a page that the server draws again. While somebody decides, writes or chooses, nothing moves under their hands. */
import htmx from "htmx.org/dist/htmx.esm.js";
import { find } from "./dom";

/** What is drawn again, each with what to call where its answer came at the wrong moment. */
const redrawn = new WeakMap<EventTarget, () => void>();

document.addEventListener("htmx:before:swap", (event) => {
  const again = event.target && redrawn.get(event.target);
  if (again && waits(event.target as HTMLElement, again)) event.preventDefault();
});

/**
 * Fetches a part of the page and puts it in the place of what stands there. Where that is in somebody's hands, now or when the
 * answer is here, `again` is called as soon as it is not.
 */
export function redraw(part: string, address: string, again: () => void, select?: string): void {
  const place = find(part);
  if (!place || waits(place, again)) return;
  redrawn.set(place, again);
  void htmx.ajax("GET", address, { source: place, target: part, swap: "outerMorph", ...(select && { select }) });
}

/** Whether somebody has it in their hands. If so, `again` is called when they let go. */
function waits(place: HTMLElement, again: () => void): boolean {
  const dialog = find<HTMLDialogElement>("dialog[open]");
  const menu = find<HTMLDetailsElement>(".drop-down[open]", place);
  const field = find("textarea:focus, select:focus", place);
  if (dialog) dialog.addEventListener("close", again, { once: true });
  else if (menu) menu.addEventListener("toggle", again, { once: true });
  else if (field) field.addEventListener("blur", again, { once: true });
  return Boolean(dialog ?? menu ?? field);
}

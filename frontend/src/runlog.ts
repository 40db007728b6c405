/** The log of a run: the newest line first, as the server drew those that were there. While somebody searches it, it is asked for again. */
import { clock, find } from "./dom";
import type { RunEvent } from "./live";
import { count, doing, metric, stateWord, word } from "./words";

const LINES = 500;

/** False where the line may not be what is looked for, so that the log has to be asked for again. */
export function logLine(event: RunEvent): boolean {
  const log = find("[data-log]");
  const text = logText(event);
  if (!log || !text) return true;
  if (isSearched()) return false;
  if (log.querySelector(`[data-seq="${event.seq}"]`)) return true; // it was drawn while the event was on its way
  const line = document.createElement("div");
  line.dataset.seq = String(event.seq);
  const [when, what] = [document.createElement("time"), document.createElement("span")];
  when.dateTime = event.at;
  when.textContent = clock(event.at);
  what.textContent = text;
  if (event.data.level === "warning" || event.data.level === "error") what.className = "warn";
  line.append(when, what);
  find("[data-empty]", log)?.remove();
  log.prepend(line);
  while (log.children.length > LINES) log.lastElementChild?.remove();
  return true;
}

function isSearched(): boolean {
  const form = find<HTMLFormElement>("[data-log-search]");
  return form !== null && [...new FormData(form).values()].some(Boolean);
}

function logText({ kind, step, data }: RunEvent): string {
  if (kind === "log") return String(data.text ?? "");
  if (kind === "phase") return String(data.text || doing(String(data.phase)));
  if (kind === "checkpoint") return word("checkpoint_saved", { step: count(step) });
  if (kind === "rewound") return word("rewound", { step: count(Number(data.step)) });
  if (kind === "amendment") return word("asked_for", { field: String(data.field), value: amended(data.value) });
  if (kind === "amended") return word("holds_from", { n: Number(data.sequence), step: count(step) });
  if (kind === "artifact") return word("made", { what: String(data.kind) });
  if (kind === "note") return word("note_changed");
  if (kind !== "state") return "";
  const cause = data.cause as { message: string } | null;
  return stateWord(String(data.state)) + (cause ? `: ${cause.message}` : "");
}

/** The new value of a setting; prompts are lists. */
const amended = (value: unknown) => (Array.isArray(value) ? value.join(" · ") : metric(value as number));

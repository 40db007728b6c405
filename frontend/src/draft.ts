/** What was filled in for a new run. It survives a reload, going away and back, and a launch that came to nothing. */

const SENT = "new-run-sent"; // which draft was sent, until it is known what came of it
const ASIDE = "new-run-aside"; // a draft in whose place something else was filled in
const LAUNCH = "/runs"; // where the form stands again with what stops the run

const OF_THE_DRAWING = ["csrf_token", "once", "restored"]; // fields that are new in each drawn form

/** What a person filled in, as a form is sent. */
export function written(form: HTMLFormElement | null): string {
  const pairs = [...new FormData(form ?? undefined)].filter(([name]) => !OF_THE_DRAWING.includes(name));
  return new URLSearchParams(pairs.map(([name, value]): [string, string] => [name, String(value)])).toString();
}

function key(): string {
  const sent = location.pathname === LAUNCH ? sessionStorage.getItem(SENT) : null;
  const query = new URLSearchParams(location.search);
  query.delete("view");
  return sent ?? `new-run?${query}`;
}

export const savedDraft = (): string | null => sessionStorage.getItem(key());

export const keepDraft = (text: string): void => sessionStorage.setItem(key(), text);

export const dropDraft = (): void => sessionStorage.removeItem(key());

export const draftAside = (): string | null => sessionStorage.getItem(ASIDE);

export const putAside = (text: string): void => sessionStorage.setItem(ASIDE, text);

export const dropAside = (): void => sessionStorage.removeItem(ASIDE);

/** The form is on its way. */
export const draftSent = (): void => sessionStorage.setItem(SENT, key());

/** The form is there again: nothing came of what was sent, so it stays. */
export function draftOpened(): void {
  if (location.pathname !== LAUNCH) sessionStorage.removeItem(SENT);
}

/** A run's page opens. Where the form led to it, its draft is done with. */
export function draftArrived(): void {
  const sent = sessionStorage.getItem(SENT);
  const [opened] = performance.getEntriesByType("navigation") as PerformanceNavigationTiming[];
  if (!sent || !opened?.redirectCount) return; // a run that somebody went to after the launch had failed
  sessionStorage.removeItem(sent);
  sessionStorage.removeItem(SENT);
}

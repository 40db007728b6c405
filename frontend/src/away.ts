/** One banner across the page while the studio, or a part of it, does not answer. It comes when a request or the stream failed,
 *  or the stream told of it, and two seconds later it is still so; it goes by itself, saying so. What trains goes on.
 *  Whoever sent a request that was lost hears "back" once there are answers again, banner or not, and asks once more. */
import { find, setText } from "./dom";
import type { State } from "./live";
import { duration, word } from "./words";

const PATIENCE_MS = 2000;
const SLOW_MS = 5000;
const PROBE_MS = 1000;
const PROBE_LIMIT_MS = 3000;
const FAREWELL_MS = 3000;
const REST_MS = 1000; // before what was lost is asked for again, and doubled
const MOST_REST_MS = 30_000; // where it is lost again
const QUIET_MS = 60_000; // within so long
const GATEWAY_FAILED = [502, 503, 504]; // a proxy answers for a studio that does not

/** What does not answer; "queue" alone makes news late and keeps nobody from anything. */
type Absent = "" | "studio" | "database" | "queue";

let since = 0; // 0: it answers, as far as is known
let absent: Absent = "";
let probing = false;
let lost = false; // a request of the page, since "back" was told
let rest = REST_MS;
let toldAt = -QUIET_MS;

/** The studio has not answered the newest request. */
export const isAway = (): boolean => since > 0 && absent !== "queue";

export function watchServer(): void {
  const send = window.fetch.bind(window);
  window.fetch = async (...asked) => {
    const slow = setTimeout(suspect, SLOW_MS); // a door that is held open for a dead studio refuses nobody
    try {
      const answer = await send(...asked);
      if (answer.status === 401) askToSignIn();
      if (GATEWAY_FAILED.includes(answer.status)) lose();
      return answer;
    } catch (error) {
      if ((error as Error).name !== "AbortError") lose();
      throw error;
    } finally {
      clearTimeout(slow);
    }
  };
  document.addEventListener("connection", (event) => heard((event as CustomEvent<State>).detail));
  document.addEventListener("away", suspect);
  addEventListener("offline", suspect);
  addEventListener("online", suspect);
  document.addEventListener("visibilitychange", () => document.hidden || suspect()); // a lid was opened again

  function lose(): void {
    lost = true;
    suspect();
  }

  function suspect(): void {
    if (probing) return;
    probing = true;
    void probe(send, performance.now());
  }

  function heard(state: State): void {
    if (state === "signed_out") askToSignIn();
    if (state === "reconnecting") suspect();
  }
}

/** Asks until everything answers. */
async function probe(send: typeof fetch, start: number): Promise<void> {
  absent = await missing(send);
  while (absent) {
    since ||= start;
    if (performance.now() - since >= PATIENCE_MS) show();
    await new Promise((done) => setTimeout(done, PROBE_MS));
    absent = await missing(send);
  }
  probing = false;
  const wasShown = since > 0 && find("#away")?.hidden === false;
  if (wasShown) welcome();
  if (wasShown || lost) tellBack();
  since = 0;
}

/** One door may fail for long while all others are open: it is knocked at less and less often. */
function tellBack(): void {
  const now = performance.now();
  rest = now - toldAt < QUIET_MS ? Math.min(2 * rest, MOST_REST_MS) : REST_MS;
  toldAt = now;
  lost = false;
  setTimeout(() => document.dispatchEvent(new Event("back")), rest);
}

async function missing(send: typeof fetch): Promise<Absent> {
  try {
    const answer = await send("/healthz", { cache: "no-store", signal: AbortSignal.timeout(PROBE_LIMIT_MS) });
    if (!answer.ok) return "studio";
    return ((await answer.json()) as { away?: Absent[] }).away?.[0] ?? "";
  } catch {
    return "studio";
  }
}

function show(): void {
  const banner = find("#away")!;
  banner.hidden = false;
  delete banner.dataset.back;
  setText("[data-away]", wordsFor(absent), banner);
  setText("[data-away-since]", word("away_since", { time: duration((performance.now() - since) / 1000) }), banner);
}

function wordsFor(part: Absent): string {
  if (part === "database") return word("database_away");
  if (part === "queue") return word("queue_away");
  return navigator.onLine ? word("away") : word("offline");
}

function welcome(): void {
  const banner = find("#away")!;
  banner.dataset.back = "";
  setText("[data-away]", word("back"), banner);
  setText("[data-away-since]", "", banner);
  setTimeout(() => {
    if ("back" in banner.dataset) banner.hidden = true;
  }, FAREWELL_MS);
}

/** The way back leads to this very page. */
function askToSignIn(): void {
  const banner = find("#away")!;
  const link = find<HTMLAnchorElement>("[data-sign-in]", banner)!;
  link.href = `/signin?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.hidden = banner.hidden = false;
  setText("[data-away]", word("left_out"), banner);
}

/** What becomes of answers that htmx must not swap in: a refusal is told and touches nothing, what waits asks again, and an
 *  answer to a form that was written on in meanwhile is asked for anew. */
import type { Asked } from "htmx.org/dist/htmx.esm.js";
import { find, setText } from "./dom";
import { written } from "./draft";
import { word } from "./words";

const AGAIN_MS = 2000;
const TOO_MANY = 429; // of this person's own requests, until some of them are done
const QUIET = [401, 404, 502, 503, 504]; // others tell of them: the banner of what is away, and the stream of what is gone
const DRAWS_THE_FORM = "/runs/new?"; // asked for as often as one likes: it changes nothing

type Swap = { ctx: Asked; tasks: { fragment?: DocumentFragment }[] };

/** What a form said when it was sent. */
const sent = new WeakMap<Asked, string>();
let refused: Element | undefined; // whose refusal the banner tells; what it asks for the next time may take its place

export function watchAnswers(): void {
  on("htmx:before:request", ({ ctx }) => {
    if (ctx.target instanceof HTMLFormElement && ctx.request.action.startsWith(DRAWS_THE_FORM))
      sent.set(ctx, written(ctx.target));
  });
  on("htmx:before:swap", (swap, event) => {
    if (isNothing(swap)) {
      event.preventDefault();
      if (isTold(swap.ctx) && !refusal(swap.ctx)) tell(swap.ctx, word("refused", { status: statusOf(swap.ctx) }));
    } else if (isOld(swap.ctx)) {
      event.preventDefault();
      const { sourceElement, sourceEvent } = swap.ctx;
      setTimeout(() => sourceElement.dispatchEvent(new Event(sourceEvent.type, { bubbles: true })));
    }
  });
  on("htmx:response:error", ({ ctx }) => {
    if (statusOf(ctx) >= 500 || statusOf(ctx) === TOO_MANY) askAgain(ctx.sourceElement);
    const said = refusal(ctx); // else it may be a form that says itself what is wrong with it
    if (said && isTold(ctx)) tell(ctx, said.message, said.hint ?? "");
  });
  on("htmx:error", ({ ctx }) => ctx && askAgain(ctx.sourceElement));
  on("htmx:after:swap", ({ ctx }) => (ctx.sourceElement === refused || refused?.isConnected === false) && hide());
  find("#refused [data-hides]")?.addEventListener("click", hide);
}

function on(name: string, work: (detail: Swap, event: Event) => void): void {
  document.addEventListener(name, (event) => work((event as CustomEvent<Swap>).detail, event));
}

/** An error in JSON or that its source does not draw, or a whole page that has not the part which was asked for. */
function isNothing({ ctx, tasks }: Swap): boolean {
  const isError = statusOf(ctx) >= 400 && (ctx.swap === "none" || refusal(ctx) !== undefined);
  return isError || (ctx.select !== undefined && tasks[0]?.fragment?.childElementCount === 0);
}

/** Whoever wrote on in the form would lose that. */
function isOld(ctx: Asked): boolean {
  const before = sent.get(ctx);
  return before !== undefined && ctx.target instanceof HTMLFormElement && before !== written(ctx.target);
}

/** What waits for its first answer (`hx-trigger="load, again"`) would wait for ever, and so would what waits in a queue that this
 *  request emptied in vain. */
function askAgain(source: Element): void {
  const waits = source.matches("[hx-trigger*=again]");
  setTimeout(() => {
    const waiting = waits ? [source] : document.querySelectorAll("[hx-trigger*=again][hx-sync]");
    for (const part of waiting) part.dispatchEvent(new Event("again"));
  }, AGAIN_MS);
}

const isTold = (ctx: Asked): boolean => statusOf(ctx) >= 400 && !QUIET.includes(statusOf(ctx));

function tell(ctx: Asked, message: string, hint = ""): void {
  tellRefusal(message, hint);
  refused = ctx.sourceElement;
}

/** In a banner across the page. */
export function tellRefusal(message: string, hint = ""): void {
  const banner = find("#refused");
  if (!banner) return;
  setText("[data-refused]", message, banner);
  setText("[data-refused-hint]", hint, banner);
  banner.hidden = false;
  refused = undefined;
}

function hide(): void {
  const banner = find("#refused");
  if (banner) banner.hidden = true;
}

const statusOf = (ctx: Asked): number => ctx.response?.status ?? 0;

/** What the server says of a request of a script that it refuses. */
function refusal(ctx: Asked): { message: string; hint?: string | null } | undefined {
  try {
    return (JSON.parse(ctx.text ?? "") as { error: { message: string; hint?: string } }).error;
  } catch {
    return undefined;
  }
}

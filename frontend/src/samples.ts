/** Answers to the run's prompts, step by step: one prompt at a time, each answer marked against the one before it. */
import { differences, isOther } from "./diff";
import { find, fromTemplate, getJson, setText } from "./dom";
import { count, fill, word } from "./words";

export type Sample = { index: number; prompt: string; text: string; tokens: number; finish: string };
/** Answers, those of the newest step first; `next` is the last step of the page behind it. */
type Answers = { samples: StepSample[]; next: number | null };
type StepSample = Sample & { step: number };

const STEPS_A_PAGE = 20;

/** A phrase said again at once, or a word that will not end. */
const LOOPS = [
  /(?<![\p{L}\p{N}])(\S.{11,160}?)[\s.,;:!?…。，；：！？"'”’]*\1/su,
  /((?:^|\s)\S{1,20})\1{3,}/su,
  /(\S{1,6}?)\1{9,}/su,
];

export class Samples {
  private home = find("[data-samples]");
  private shown = 0;
  private best = -1;
  private earlier = find<HTMLAnchorElement>("[data-earlier]"); // leads to the answers that are left out
  private painted = new WeakMap<HTMLElement, string>(); // each column by the text that it is marked against

  constructor() {
    if (!this.home) return;
    this.shown = Number(new URLSearchParams(location.search).get("prompt") ?? 1) - 1;
    this.home.addEventListener("click", (event) => this.onClick(event));
    this.earlier?.addEventListener("click", (event) => this.onEarlier(event));
    for (const panel of this.panels) this.tidy(panel);
    this.turnTo(this.shown);
  }

  /** Adds an answer at its place, or replaces the one of the same step. */
  put(step: number, sample: Sample): void {
    if (!this.home) return;
    find("[data-empty]", this.home)?.remove();
    const panel = this.panelOf(sample);
    const timeline = find("ol", panel)!;
    const isAtEnd = timeline.scrollLeft + timeline.clientWidth >= timeline.scrollWidth - 1; // scrolling is fractional
    const made = fromTemplate("sample-item");
    made.dataset.step = String(step);
    made.dataset.finish = sample.finish;
    const head = find("header", made)!;
    fillIn(head.firstElementChild!, { step: count(step) });
    fillIn(head.lastElementChild!, { n: sample.tokens });
    find("p", made)!.textContent = sample.text;
    const others = itemsOf(panel);
    others.find((item) => Number(item.dataset.step) === step)?.remove();
    const after = others.find((item) => Number(item.dataset.step) > step);
    timeline.insertBefore(made, after ?? null);
    this.tidy(panel);
    if (!after && isAtEnd) timeline.scrollLeft = timeline.scrollWidth;
  }

  /** What is shown, and what came since then, as it is now. */
  async again(): Promise<StepSample[]> {
    const first = this.leftTo + 1;
    const { samples, next } = await this.page(first);
    for (let last = next; last !== null; ) {
      const older = await this.page(first, last);
      samples.push(...older.samples);
      last = older.next;
    }
    return samples;
  }

  putAll(samples: StepSample[]): void {
    for (const each of samples) this.put(each.step, each);
  }

  cutAfter(step: number): void {
    for (const panel of this.panels) {
      for (const item of itemsOf(panel)) if (Number(item.dataset.step) > step) item.remove();
      this.tidy(panel);
    }
  }

  /** The step of the best measurement; its column is marked. */
  markBest(step: number): void {
    if (step === this.best) return;
    this.best = step;
    for (const panel of this.panels) this.tidy(panel);
  }

  /** The last of the steps whose answers are left out; -1 where none are. */
  private get leftTo(): number {
    return this.earlier ? Number(new URL(this.earlier.href).searchParams.get("to")) : -1;
  }

  private page(first: number, last?: number): Promise<Answers> {
    const query = new URLSearchParams({ from: String(first), limit: String(STEPS_A_PAGE) });
    if (last !== undefined) query.set("to", String(last));
    return getJson<Answers>(`/api/v1/runs/${document.body.dataset.run}/samples?${query}`);
  }

  private onEarlier(event: MouseEvent): void {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // it opens in a tab of its own
    event.preventDefault();
    void this.showEarlier(this.earlier!).catch(console.error);
  }

  private async showEarlier(link: HTMLAnchorElement): Promise<void> {
    const { samples, next } = await this.page(Number(link.dataset.from), this.leftTo);
    this.putAll(samples);
    if (next === null) {
      link.remove();
      this.earlier = null;
      return;
    }
    const address = new URL(link.href);
    address.searchParams.set("to", String(next));
    link.href = address.href;
  }

  private get panels(): HTMLElement[] {
    return [...(this.home?.querySelectorAll<HTMLElement>("[data-prompt]") ?? [])];
  }

  private panelOf(sample: Sample): HTMLElement {
    const known = find(`[data-prompt="${sample.index}"]`, this.home!);
    if (known) return known;
    const made = fromTemplate("sample-panel");
    made.dataset.prompt = String(sample.index);
    fillIn(find("[data-number]", made)!, { n: sample.index + 1 });
    setText(".asked", sample.prompt, made);
    const after = this.panels.find((panel) => Number(panel.dataset.prompt) > sample.index);
    this.home!.insertBefore(made, after ?? null);
    this.turnTo(this.shown);
    return made;
  }

  /** Badges, verdicts and marks of one prompt's columns. */
  private tidy(panel: HTMLElement): void {
    const items = itemsOf(panel);
    items.forEach((item, at) => {
      const step = Number(item.dataset.step);
      show(item, '[data-badge="base"]', step === 0);
      show(item, '[data-badge="best"]', step === this.best);
      show(item, '[data-badge="newest"]', at === items.length - 1 && at > 0 && step !== this.best);
      const text = textOf(item);
      const loop = loopIn(text);
      const before = at > 0 ? textOf(items[at - 1]!) : text;
      if (this.painted.get(item) !== before) paint(find("p", item)!, before, text, loop); // else a selection would be lost
      this.painted.set(item, before);
      const verdict = item.dataset.finish === "length" ? "length" : loop ? "loop" : "stop";
      for (const each of ["stop", "length", "loop"]) show(item, `[data-when="${each}"]`, each === verdict);
    });
  }

  private onClick({ target }: Event): void {
    const turn = target instanceof Element ? target.closest<HTMLElement>("[data-turn]") : null;
    if (!turn) return;
    const way = turn.dataset.turn!;
    this.turnTo((this.shown + Number(way) + this.panels.length) % this.panels.length);
    find(`[data-turn="${way}"]`, this.panels[this.shown])?.focus();
    const address = new URL(location.href);
    address.searchParams.set("prompt", String(this.shown + 1));
    history.replaceState(history.state, "", address);
  }

  private turnTo(wanted: number): void {
    const panels = this.panels;
    this.shown = Math.max(0, Math.min(panels.length - 1, wanted || 0));
    panels.forEach((panel, at) => {
      panel.hidden = at !== this.shown;
      show(panel, "[data-pager]", panels.length > 1);
      setText("[data-number]", word("prompt_of", { n: at + 1, all: panels.length }), panel);
    });
  }
}

const itemsOf = (panel: HTMLElement): HTMLElement[] => [...panel.querySelectorAll<HTMLElement>("li")];

/** What was answered: the paragraph holds what is gone as well, once it is marked. */
function textOf(item: HTMLElement): string {
  item.dataset.text ??= find("p", item)!.textContent;
  return item.dataset.text;
}

function fillIn(target: Element, places: Record<string, string | number>): void {
  target.textContent = fill(target.textContent, places);
}

function show(inside: HTMLElement, selector: string, is: boolean): void {
  const target = find(selector, inside);
  if (target) target.hidden = !is;
}

/** The stretch in which an answer repeats itself. */
function loopIn(text: string): string {
  for (const pattern of LOOPS) {
    const found = pattern.exec(text.slice(0, 4000));
    if (found) return found[0];
  }
  return "";
}

function paint(target: HTMLElement, before: string, text: string, loop: string): void {
  const found = differences(before, text);
  const parts = isOther(found) ? [{ text, kind: "added" as const }] : found;
  const start = loop ? text.indexOf(loop) : -1;
  const nodes: Node[] = [];
  let at = 0;
  for (const { text: piece, kind } of parts) {
    if (kind === "gone") {
      nodes.push(element("del", piece));
      continue;
    }
    for (const [from, to, isLoop] of cuts(at, at + piece.length, start, start + loop.length)) {
      const said = text.slice(from, to);
      const marked = isLoop ? element("span", said, "loop") : said;
      nodes.push(kind === "added" ? element("ins", marked) : node(marked));
    }
    at += piece.length;
  }
  target.replaceChildren(...nodes);
}

/** The stretch [from, to) in up to three pieces, told apart by whether they lie in [first, last). */
function cuts(from: number, to: number, first: number, last: number): [number, number, boolean][] {
  const edges = [from, Math.min(Math.max(first, from), to), Math.min(Math.max(last, from), to), to];
  const pieces = edges.slice(1).map((edge, at): [number, number, boolean] => [edges[at]!, edge, at === 1]);
  return pieces.filter(([start, end]) => end > start);
}

const node = (said: string | Node): Node => (typeof said === "string" ? document.createTextNode(said) : said);

function element(name: string, said: string | Node, look = ""): HTMLElement {
  const made = document.createElement(name);
  if (look) made.className = look;
  made.append(said);
  return made;
}

/** The search of the top bar: results while one types, as a combobox. Without it the form leads to a page of the same. */
import { composes, find } from "./dom";
import { word } from "./words";

type Hit = { kind: string; name: string; note: string | null; address: string };

const PAUSE_MS = 120;

export function openSearch(): void {
  const input = find<HTMLInputElement>("#search");
  const list = find("#found");
  if (input && list) new Search(input, list);
}

class Search {
  private asked = new AbortController();
  private timer = 0;
  private at = -1;

  constructor(
    private input: HTMLInputElement,
    private list: HTMLElement,
  ) {
    input.addEventListener("input", () => this.typed());
    input.addEventListener("focus", () => this.typed());
    input.addEventListener("keydown", (event) => this.key(event));
    input.addEventListener("blur", () => this.close());
    list.addEventListener("mousedown", (event) => event.preventDefault()); // the input keeps the focus
    list.addEventListener("click", ({ target }) => this.open(target instanceof Element ? target.closest("li") : null));
  }

  private typed(): void {
    clearTimeout(this.timer);
    this.asked.abort();
    this.mark(-1); // what is shown was found for other words
    const words = this.input.value.trim();
    if (!words) this.close();
    else this.timer = setTimeout(() => void this.ask(words), PAUSE_MS);
  }

  private async ask(words: string): Promise<void> {
    this.asked = new AbortController();
    try {
      const answer = await fetch(`/api/v1/search?${new URLSearchParams({ q: words })}`, { signal: this.asked.signal });
      if (answer.ok) this.show(words, (await answer.json()) as Hit[]);
    } catch {
      // typed on, or the studio is away, which the banner says
    }
  }

  private show(words: string, hits: Hit[]): void {
    const all = {
      kind: "",
      name: word("all_found", { words }),
      note: null,
      address: `/search?${new URLSearchParams({ q: words })}`,
    };
    const items = hits.length > 0 ? [...hits, all].map(option) : [nothing(words)];
    this.list.replaceChildren(...items);
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.mark(hits.length > 0 ? 0 : -1);
  }

  private key(event: KeyboardEvent): void {
    const options = this.options;
    if (composes(event)) return;
    if (event.key === "Escape") {
      if (this.list.hidden) this.input.blur();
      this.close();
    } else if (this.list.hidden && event.key === "ArrowDown") this.typed();
    else if (this.list.hidden || options.length === 0) return;
    else if (event.key === "ArrowDown") this.mark((this.at + 1) % options.length);
    else if (event.key === "ArrowUp") this.mark((Math.max(0, this.at) - 1 + options.length) % options.length);
    else if (event.key === "Enter" && this.at >= 0) this.open(options[this.at]);
    else return;
    event.preventDefault();
  }

  private get options(): HTMLElement[] {
    return [...this.list.querySelectorAll<HTMLElement>("[role=option]")];
  }

  private mark(at: number): void {
    this.at = at;
    for (const [place, option] of this.options.entries()) option.setAttribute("aria-selected", String(place === at));
    if (at < 0) this.input.removeAttribute("aria-activedescendant");
    else this.input.setAttribute("aria-activedescendant", `found-${at}`);
    this.options[at]?.scrollIntoView({ block: "nearest" });
  }

  private open(option: HTMLElement | null | undefined): void {
    if (option?.dataset.address) location.assign(option.dataset.address);
  }

  private close(): void {
    clearTimeout(this.timer);
    this.asked.abort();
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}

const KINDS: Record<string, string> = {
  run: word("kind_run"),
  dataset: word("kind_dataset"),
  model: word("kind_model"),
  recipe: word("kind_recipe"),
};

function option(hit: Hit, at: number): HTMLElement {
  const item = document.createElement("li");
  item.id = `found-${at}`;
  item.setAttribute("role", "option");
  item.dataset.address = hit.address;
  const [name, kind] = [document.createElement("span"), document.createElement("span")];
  name.textContent = hit.name;
  kind.textContent = [KINDS[hit.kind], hit.note && word(`state_${hit.note}`)].filter(Boolean).join(" · ");
  kind.className = "note";
  item.append(name, kind);
  return item;
}

function nothing(words: string): HTMLElement {
  const item = document.createElement("li");
  item.className = "note";
  item.setAttribute("role", "presentation");
  item.textContent = word("nothing_found", { words });
  return item;
}

/** What a file looks like before it is sent: its guessed shape, its first rows as they would be read, and the choice of which
 *  column plays which role. */
import { find } from "./dom";
import { bytes, type Choice, chosen, type Problem, request } from "./upload";
import { count, placeWord, word } from "./words";

const HEAD = 256 * 1024;

/** What is told by a name in the reader's language. */
export type Named = "shape" | "role" | "speaker";

type Part = { name: string; required: boolean; column: string | null };
type Format = { name: string; title: string; kind: string; parts: Part[] };
type Turn = { role: string; content: string; train: boolean; tool_calls?: string };
type Row = { number: number; messages?: Turn[]; text?: string };

/** The answer of POST /api/v1/datasets/probe. */
export type Looks = {
  file: string;
  columns: { name: string; examples: string[] }[];
  formats: Format[];
  format: string | null;
  mapping: Record<string, string>;
  rows: Row[];
  looked_at: number;
  bad: number;
  problems: Problem[];
  error: { message: string; hint?: string } | null;
};

/** Look at the beginning of a file. Raises `Refused` where it can be no data set at all. */
export async function look(file: File, choice: Choice, signal: AbortSignal): Promise<Looks> {
  const query = new URLSearchParams({ filename: file.name, size: String(file.size), ...chosen(choice) });
  const answer = await request(`/api/v1/datasets/probe?${query}`, "POST", {}, signal, await bytes(file, 0, HEAD));
  return (await answer.json()) as Looks;
}

/** The guess in words, the rows, and the selects. `changed` is called with what a person chose. */
export class Mapping {
  choice: Choice = {};
  private looks: Looks | undefined;

  constructor(
    private place: HTMLElement,
    private names: (kind: Named, name: string) => string,
    private changed: (choice: Choice) => void,
  ) {}

  show(looks: Looks): void {
    this.looks = looks;
    this.guess(looks);
    this.rows(looks.rows);
    find("[data-skip-field]", this.place)!.hidden = looks.bad === 0 || looks.rows.length === 0;
    find("[data-change]", this.place)!.hidden = looks.columns.length === 0;
    const fields = find("[data-mapping]", this.place)!;
    if (!looks.format && looks.columns.length > 0) this.open();
    if (fields.childElementCount === 0) this.draw(looks, fields);
    else this.refresh(looks, fields);
  }

  open(): void {
    find("[data-mapping]", this.place)!.hidden = false;
    find("[data-change]", this.place)!.setAttribute("aria-expanded", "true");
  }

  toggle(): void {
    const fields = find("[data-mapping]", this.place)!;
    fields.hidden = !fields.hidden;
    find("[data-change]", this.place)!.setAttribute("aria-expanded", String(!fields.hidden));
  }

  private guess(looks: Looks): void {
    const place = find("[data-guess]", this.place)!;
    place.classList.toggle("error-line", !looks.format && looks.columns.length > 0);
    if (looks.format) {
      const roles = Object.entries(looks.mapping).map(([role, column]) => `${this.names("role", role)} = ${column}`);
      const shape = document.createElement("b");
      shape.textContent = word("looks_like", { shape: this.names("shape", looks.format) });
      place.replaceChildren(shape, ` ${roles.join(", ")}`);
      if (looks.bad) place.append(bad(looks));
      return;
    }
    const unknown = `${looks.error?.message ?? ""} ${word("choose_roles")}`;
    place.textContent = looks.columns.length > 0 ? unknown : word("looked_at_later");
    if (looks.columns.length === 0 && looks.bad) place.replaceChildren(bad(looks));
  }

  /** The first rows as turns, what is learned in ink. */
  private rows(rows: Row[]): void {
    find("[data-rows-figure]", this.place)!.hidden = rows.length === 0;
    find("[data-rows]", this.place)!.replaceChildren(
      ...rows.map((row) => rowOf(row, (role) => this.names("speaker", role))),
    );
  }

  private draw(looks: Looks, fields: HTMLElement): void {
    const shapes = select(
      word("shape"),
      looks.formats.map((each) => [each.name, this.names("shape", each.name)]),
    );
    shapes.input.dataset.shape = "";
    if (!looks.format) shapes.input.prepend(new Option(word("choose_shape"), "", true, true));
    shapes.input.addEventListener("change", () => this.choose({ format: shapes.input.value, columns: {} }));
    const roles = document.createElement("div");
    roles.className = "roles";
    fields.replaceChildren(shapes.field, roles);
    this.refresh(looks, fields);
  }

  /** The selects of the chosen shape. They are made anew only with another shape, so that the focus stays. */
  private refresh(looks: Looks, fields: HTMLElement): void {
    const shapes = find<HTMLSelectElement>("[data-shape]", fields)!;
    const name = this.choice.format ?? looks.format ?? "";
    if (shapes.value !== name) shapes.value = name;
    const roles = find(".roles", fields)!;
    const format = looks.formats.find((each) => each.name === name);
    if (roles.dataset.of === name) return;
    roles.dataset.of = name;
    roles.replaceChildren(...(format?.parts ?? []).map((part) => this.role(part, looks, name)));
  }

  private role(part: Part, looks: Looks, format: string): HTMLElement {
    const none: [string, string] = ["", part.required ? word("choose_column") : word("no_column")];
    const columns = looks.columns.map(({ name, examples }): [string, string] => [name, label(name, examples)]);
    const { field, input } = select(this.names("role", part.name), [none, ...columns]);
    input.dataset.role = part.name;
    input.value = looks.mapping[part.name] ?? part.column ?? "";
    input.addEventListener("change", () =>
      this.choose({ format, columns: { ...this.said(), [part.name]: input.value } }),
    );
    return field;
  }

  /** What all selects say now, so that a role that was guessed is meant as well. */
  private said(): Record<string, string> {
    const selects = this.place.querySelectorAll<HTMLSelectElement>("[data-role]");
    return Object.fromEntries([...selects].map((each) => [each.dataset.role!, each.value]));
  }

  /** A role without a column is left out where the shape can do without it, and still to be chosen where it cannot. */
  private choose({ format, columns = {} }: Choice): void {
    const parts = this.looks?.formats.find((each) => each.name === format)?.parts ?? [];
    const needed = new Set(parts.filter((part) => part.required).map((part) => part.name));
    const said = Object.entries(columns).filter(([role, column]) => column || !needed.has(role));
    this.choice = { ...(format ? { format } : {}), columns: Object.fromEntries(said) };
    this.changed(this.choice);
  }
}

function bad(looks: Looks): HTMLElement {
  const said = document.createElement("span");
  said.className = "bad-ahead";
  const first = looks.problems[0];
  const example = first ? ` ${placeWord(first.where ?? "")} ${first.message}` : "";
  said.textContent = word("bad_ahead", { bad: count(looks.bad), rows: count(looks.looked_at) }) + example;
  return said;
}

const label = (name: string, examples: string[]) => (examples[0] ? `${name} (${shorten(examples[0], 40)})` : name);

const shorten = (text: string, length: number) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function rowOf(row: Row, speaker: (role: string) => string): HTMLElement {
  const article = document.createElement("div");
  article.className = "first-row";
  const turns = row.messages ?? [{ role: "text", content: row.text ?? "", train: true }];
  article.append(...turns.map((turn) => turnOf(turn, speaker(turn.role))));
  return article;
}

function turnOf({ role, content, train, tool_calls = "" }: Turn, speaker: string): HTMLElement {
  const line = document.createElement("p");
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = speaker;
  const text = document.createElement(role === "assistant" || role === "text" ? "i" : "span");
  text.textContent = shorten([content, tool_calls].filter(Boolean).join("\n"), 240);
  const said = document.createElement("span");
  said.className = text.tagName === "I" && train ? "ink" : "pencil";
  said.append(text);
  line.append(who, said);
  return line;
}

function select(label: string, options: [string, string][]): { field: HTMLElement; input: HTMLSelectElement } {
  const field = document.createElement("label");
  field.className = "role";
  const input = document.createElement("select");
  input.className = "input compact";
  input.append(...options.map(([value, text]) => new Option(text, value)));
  field.append(label, input);
  return { field, input };
}

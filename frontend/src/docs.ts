/** The API reference, drawn from the studio's own OpenAPI description: nothing comes from outside. */
import { guarded } from "./dom";

type Schema = {
  $ref?: string;
  type?: string;
  enum?: unknown[];
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  const?: unknown;
  description?: string;
  default?: unknown;
  example?: unknown;
  examples?: unknown[];
};
type Media = { content?: Record<string, { schema?: Schema; example?: unknown }> };
type Parameter = { name: string; in: string; required?: boolean; description?: string; schema?: Schema };
type Operation = {
  operationId?: string;
  summary?: string;
  description?: string;
  tags?: string[];
  parameters?: Parameter[];
  requestBody?: Media & { description?: string };
  responses?: Record<string, Media & { description?: string }>;
};
type Spec = { paths: Record<string, Record<string, Operation>>; components?: { schemas?: Record<string, Schema> } };
type Words = { try?: string; send?: string; body?: string; answers?: string };

const METHODS = ["get", "put", "post", "patch", "delete"];
const DEPTH = 4;
const home = document.getElementById("reference");
if (home) void draw(home);

async function draw(home: HTMLElement): Promise<void> {
  const spec = (await (await fetch(home.dataset.spec ?? "")).json()) as Spec;
  const groups = new Map<string, HTMLElement[]>();
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const method of METHODS) {
      const operation = methods[method];
      if (!operation) continue;
      const tag = operation.tags?.[0] ?? "";
      groups.set(tag, [...(groups.get(tag) ?? []), drawOperation(spec, method, path, operation, home.dataset)]);
    }
  }
  home.replaceChildren(
    ...[...groups].map(([tag, items]) =>
      make("section", {}, make("h2", {}, tag), make("div", { className: "panel" }, ...items)),
    ),
  );
}

function drawOperation(spec: Spec, method: string, path: string, operation: Operation, words: Words): HTMLElement {
  const summary = make(
    "summary",
    {},
    make("b", { className: "badge ink" }, method.toUpperCase()),
    make("code", {}, path),
    make("span", { className: "note" }, operation.summary ?? ""),
  );
  const details = make("details", { className: "operation", id: operation.operationId ?? "" }, summary);
  details.addEventListener("toggle", () => details.append(...drawInside(spec, method, path, operation, words)), {
    once: true,
  });
  return details;
}

function drawInside(spec: Spec, method: string, path: string, operation: Operation, words: Words): HTMLElement[] {
  const parts: HTMLElement[] = [make("p", { className: "soft" }, operation.description ?? "")];
  const body = example(spec, operation.requestBody);
  if (body !== undefined) parts.push(make("h3", {}, words.body ?? ""), make("pre", {}, body));
  parts.push(make("h3", {}, words.answers ?? ""));
  for (const [status, answer] of Object.entries(operation.responses ?? {})) {
    const text = example(spec, answer);
    parts.push(make("p", {}, make("b", {}, status), ` ${answer.description ?? ""}`));
    if (text !== undefined && status.startsWith("2")) parts.push(make("pre", {}, text));
  }
  return [make("div", { className: "body stack tight" }, ...parts, drawTrial(method, path, operation, body, words))];
}

/** A form that sends the request with the reader's own session. */
function drawTrial(
  method: string,
  path: string,
  operation: Operation,
  body: string | undefined,
  words: Words,
): HTMLElement {
  const fields = (operation.parameters ?? [])
    .filter((each) => each.in !== "header")
    .map((parameter) => ({
      parameter,
      input: make("input", { className: "input", name: parameter.name, placeholder: parameter.description ?? "" }),
    }));
  const text = body === undefined ? undefined : make("textarea", { className: "input code", rows: 6, value: body });
  const answer = make("pre", { hidden: true });
  const labels = fields.map(({ parameter, input }) =>
    make(
      "label",
      { className: "field" },
      make("code", {}, `${parameter.name}${parameter.required ? " *" : ""}`),
      input,
    ),
  );
  const form = make(
    "form",
    { className: "stack tight" },
    ...labels,
    ...(text ? [text] : []),
    make("div", {}, make("button", { className: "button small" }, words.send ?? "")),
    answer,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void send(method, addressOf(path, fields), text?.value).then((said) =>
      Object.assign(answer, { hidden: false, textContent: said }),
    );
  });
  return make("details", {}, make("summary", { className: "note" }, words.try ?? ""), form);
}

function addressOf(path: string, fields: { parameter: Parameter; input: HTMLInputElement }[]): string {
  const query = new URLSearchParams();
  let address = path;
  for (const { parameter, input } of fields) {
    if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value) query.append(parameter.name, input.value);
  }
  return query.size > 0 ? `${address}?${query}` : address;
}

async function send(method: string, address: string, body: string | undefined): Promise<string> {
  const headers = { ...guarded(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  const answer = await fetch(address, { method: method.toUpperCase(), headers, body: body ?? null });
  const text = await answer.text();
  return `${answer.status} ${answer.statusText}\n\n${pretty(text)}`;
}

function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text.slice(0, 20_000);
  }
}

function example(spec: Spec, media: Media | undefined): string | undefined {
  const json = media?.content?.["application/json"];
  if (!json) return undefined;
  const value = json.example ?? json.schema?.examples?.[0] ?? sketch(spec, json.schema, DEPTH);
  return JSON.stringify(value, null, 2);
}

/** A value of the schema's shape, from its examples where there are some. */
function sketch(spec: Spec, schema: Schema | undefined, depth: number): unknown {
  if (!schema || depth === 0) return "…";
  if (schema.examples || schema.example !== undefined) return schema.example ?? schema.examples?.[0];
  if (schema.$ref) return sketch(spec, spec.components?.schemas?.[schema.$ref.split("/").at(-1) ?? ""], depth);
  const choice = schema.anyOf?.[0] ?? schema.oneOf?.[0] ?? schema.allOf?.[0];
  if (choice) return sketch(spec, choice, depth);
  if (schema.const !== undefined || schema.enum) return schema.const ?? schema.enum?.[0];
  if (schema.default !== undefined) return schema.default;
  if (schema.type === "array") return [sketch(spec, schema.items, depth - 1)];
  if (schema.properties)
    return Object.fromEntries(
      Object.entries(schema.properties).map(([name, each]) => [name, sketch(spec, each, depth - 1)]),
    );
  return { integer: 0, number: 0, boolean: false, object: {} }[schema.type ?? ""] ?? schema.type ?? null;
}

function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]>,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

declare module "htmx.org/dist/htmx.esm.js" {
  type Extension = {
    init(api: { initSecurity(policy: unknown): void }): void;
    htmx_before_morph_attr(element: Element, detail: { attrName: string }): boolean;
  };
  /** One request, from its cause to its answer. */
  export type Asked = {
    sourceElement: Element;
    sourceEvent: Event;
    target: Element | string | undefined;
    select: string | undefined;
    swap: string;
    request: { action: string };
    text?: string;
    response?: { status: number };
  };
  type Ask = { source: Element; target: string; swap: string; select?: string };
  const htmx: {
    registerExtension(name: string, extension: Extension): void;
    ajax(method: string, address: string, options: Ask): Promise<void>;
  };
  export default htmx;
}

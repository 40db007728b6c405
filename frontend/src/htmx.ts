/** htmx under Trusted Types: the policy is handed over before htmx starts, and scripts in what it swaps in are emptied. */
import htmx from "htmx.org/dist/htmx.esm.js";

type TrustedTypes = { createPolicy(name: string, rules: Record<string, (text: string) => string>): unknown };

const trustedTypes = (window as { trustedTypes?: TrustedTypes }).trustedTypes;
const policy = trustedTypes?.createPolicy("htmx", { createHTML: (html) => html, createScript: () => "" });
htmx.registerExtension("trusted", {
  init: (api) => api.initSecurity(policy),
  // what a person opened stays open when the server draws it again
  htmx_before_morph_attr: (element, { attrName }) =>
    attrName !== "open" || !(element instanceof HTMLDialogElement || element.hasAttribute("hx-morph-skip-open")),
});

"""What a page trips over without telling the person who reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response

TELL_VIOLATIONS = """
  document.addEventListener("securitypolicyviolation", (event) =>
    tellViolation(`${event.violatedDirective} ${event.sample} ${event.sourceFile}:${event.lineNumber}`));
"""

MISFITS = """
() => {
  const found = [];
  const name = (element) => {
    const words = (element.getAttribute("aria-label") || element.textContent || element.getAttribute("name") || "").trim();
    return `<${element.localName}${element.className ? "." + [...element.classList].join(".") : ""}> “${words.slice(0, 40)}”`;
  };
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    const wide = [...document.body.querySelectorAll("*")].filter((each) => each.getBoundingClientRect().right > width + 1);
    found.push(`the page is ${document.documentElement.scrollWidth} wide: ${wide.slice(0, 3).map(name).join(", ")}`);
  }
  const seen = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  for (const each of document.querySelectorAll("button, .button, .pill, .badge, h1, h2, h3, th, legend, dt, summary")) {
    if (!seen(each) || each.closest(".sr") || each.clientWidth < 2) continue;
    const style = getComputedStyle(each);
    if (style.textOverflow === "ellipsis" || style.overflowX === "auto" || style.display === "inline") continue;
    if (each.scrollWidth > each.clientWidth + 1) found.push(`cut off: ${name(each)}`);
  }
  const boxes = (element) => [...element.getClientRects()].map((rect) => {
    let { left, top, right, bottom } = rect; // a link that is broken over lines has several
    for (let up = element.parentElement; up; up = up.parentElement) {
      const style = getComputedStyle(up);
      if (style.position === "fixed" || style.position === "sticky") return null;
      if (style.overflow === "visible") continue;
      const outer = up.getBoundingClientRect();
      [left, top] = [Math.max(left, outer.left), Math.max(top, outer.top)];
      [right, bottom] = [Math.min(right, outer.right), Math.min(bottom, outer.bottom)];
    }
    return right - left > 2 && bottom - top > 2 ? { left, top, right, bottom, element } : null;
  });
  const controls = [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
    .filter((each) => seen(each) && !each.closest(".sr, dialog") && !each.matches(".sr, .skip"))
    .flatMap(boxes).filter(Boolean);
  for (const [at, one] of controls.entries()) {
    for (const other of controls.slice(at + 1)) {
      if (one.element.contains(other.element) || other.element.contains(one.element)) continue;
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      if (across > 2 && down > 2) found.push(`overlap: ${name(one.element)} and ${name(other.element)}`);
    }
  }
  return found.slice(0, 8);
}
"""

UNSETTLED = """
() => [
  ...document.querySelectorAll(".htmx-request, [aria-busy=true], [data-unread]"),
  ...[...document.querySelectorAll("[data-chart]")].filter((chart) => chart.dataset.points === undefined),
].map((each) => `<${each.localName} ${each.id || each.className}> still waits`)
"""
PATIENCE_SECONDS = 30


@dataclass
class Trouble:
    """Everything that pages tripped over. A person would not see it; so a test must."""

    found: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        context.expose_binding("tellViolation", lambda _source, what: self.found.append(f"policy: {what}"))
        context.add_init_script(TELL_VIOLATIONS)
        context.on("weberror", lambda error: self.found.append(f"script: {error.error}"))
        context.on("console", self._on_console)
        context.on("requestfailed", self._on_failure)
        context.on("response", self._on_response)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.found.append(f"console: {message.text}")

    def _on_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # a page that is left lets go of what it was reading
            self.found.append(f"request: {request.url} {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.found.append(f"answer: {response.status} {response.url}")


@contextmanager
def signed_in(browser: Browser, address: str, cookie: str) -> Iterator[BrowserContext]:
    """Windows of somebody who is signed in. A broken script or a breach of the content policy on their pages fails the test.

    What the network and the server refuse is none of it: tests refuse on purpose.
    """
    context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 900})
    context.add_cookies([{"name": "studio", "value": cookie, "url": address}])
    found: list[str] = []
    context.expose_binding("tellViolation", lambda _source, what: found.append(what))
    context.add_init_script(TELL_VIOLATIONS)
    context.on("weberror", lambda error: found.append(str(error.error)))
    yield context
    for page in context.pages:
        page.evaluate("0")  # what a page told last has arrived once it answers
    context.close()
    assert found == []


def misfits(page: Page) -> list[str]:
    """What does not fit as the page lies there: sideways scroll, words cut off, controls on top of each other."""
    found: list[str] = page.evaluate(MISFITS)
    return found


def settle(page: Page) -> list[str]:
    """Wait until the page has everything that it loads. Returns what it still waits for after a long while."""
    page.evaluate("() => document.fonts.ready.then(() => undefined)")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := page.evaluate(UNSETTLED)) and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    return list(found)

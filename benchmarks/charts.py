"""A curve of 100,000 points in a browser: our chart beside Recharts, what React studios draw with.

All are bundled by the same esbuild and drawn in the same Chromium, each time on an empty page; uPlot, the library below ours, is
timed alone as well. First paint is from the call to the painted frame; a redraw is one more point, as a live run brings it. What
each of them shows on the screen is looked at: the spike of one step must stand where it belongs, with nothing beside it.
"""

from __future__ import annotations

import base64
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from benchmarks.measure import PAINTED
from benchmarks.rows import Asked, Row, growth, row
from hatch_build import npm
from tests.support.browsers import running_chromium
from tests.support.scripts import ROOT, bundled

SIZES, ROUNDS, WIDTH, HEIGHT = (1_000, 10_000, 100_000), 5, 900, 300
MORE = 5
"""Points that are added one by one."""
PACKAGES = ("react", "react-dom", "recharts")
OURS = """
import { Chart } from "./frontend/src/chart.ts";
window.draw = (pairs) => {
  document.body.innerHTML = '<figure class="chart"><div class="canvas" style="height:HEIGHTpx;width:WIDTHpx"></div></figure>';
  const figure = document.querySelector("figure");
  window.chart = new Chart(figure, [{ key: "loss", label: "Loss", colour: 1 }], { loss: pairs }, async () => ({}));
};
window.add = (step, value) => window.chart.put("loss", step, value);
"""
PEER = """
import { createElement as e } from "react";
import { createRoot } from "react-dom/client";
import { flushSync } from "react-dom";
import { Line, LineChart, XAxis, YAxis } from "recharts";
let root, data;
const show = () => flushSync(() => root.render(
  e(LineChart, { width: WIDTH, height: HEIGHT, data },
    e(XAxis, { dataKey: "step", type: "number" }), e(YAxis, {}),
    e(Line, { dataKey: "loss", stroke: "blue", dot: false, isAnimationActive: false }))));
window.draw = (pairs) => {
  document.body.innerHTML = "<div></div>";
  root = createRoot(document.body.firstChild);
  data = pairs.map(([step, loss]) => ({ step, loss }));
  show();
};
window.add = (step, loss) => { data = [...data, { step, loss }]; show(); };
"""
ALONE = """
import uPlot from "uplot";
window.draw = (pairs) => {
  document.body.innerHTML = "<div></div>";
  const data = [0, 1].map((column) => pairs.map((pair) => pair[column]));
  const axes = [{ size: 28 }, { size: 52 }], series = [{}, { stroke: "blue", width: 1.75, points: { show: false } }];
  const size = { width: WIDTH, height: HEIGHT, legend: { show: false }, scales: { x: { time: false } } };
  const plot = new uPlot({ ...size, axes, series }, data, document.body.firstChild);
  window.add = (...pair) => plot.setData(data.map((column, at) => [...column, pair[at]]));
};
"""
COLOURS = ":root { --series-1: blue; --line: #ddd; --text-3: #777 }"
TIMED = """
async ([points, spike, last]) => {
  PAINTED
  const pairs = Array.from({ length: points }, (_, at) => [at + 1, at === spike ? 9 : 1 + Math.sin(at / 500) / 3]);
  const next = async () => { await frame(); return await painted(); };
  await next();
  let began = performance.now();
  draw(pairs);
  const first = (await next()) - began;
  const redraws = [];
  for (let step = points + 1; step <= last; step++) {
    await new Promise((done) => setTimeout(done, 200)); // a chart rests after it was drawn
    began = performance.now();
    add(step, 1);
    await new Promise((done) => setTimeout(done)); // and may ask for its frame a moment later
    redraws.push((await next()) - began);
  }
  return { first, redraw: redraws.sort((a, b) => a - b)[Math.floor(redraws.length / 2)] };
}
""".replace("PAINTED", PAINTED)
INK = """
async (screenshot) => { // of each column of the screen, where the line's blue begins and ends
  const image = new Image();
  image.src = `data:image/png;base64,${screenshot}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, image.width, image.height);
  return Array.from({ length: width }, (_, x) => {
    const rows = Array.from({ length: height }, (_, y) => y).filter((y) => {
      const [red, , blue] = data.subarray(4 * (y * width + x), 4 * (y * width + x) + 3);
      return blue - red > 60;
    });
    return rows.length > 0 ? [rows[0], rows.at(-1)] : null;
  });
}
"""
NEAR = 3
"""So many pixels beside its place a line that is two wide, on edges that are soft, may be seen."""


def measure(_asked: Asked) -> Sequence[Row]:
    with tempfile.TemporaryDirectory() as folder, running_chromium() as browser:
        pages = {name: bundle(Path(folder), name, source, ROOT) for name, source in (("ours", OURS), ("alone", ALONE))}
        pages["peer"] = bundle_peer(Path(folder))
        known = ", ".join(f"{name} {installed(Path(folder), name)}" for name in ("recharts", "react"))
        check_that_a_missing_spike_is_missed(browser, pages)
        rounds = [{side: look(browser, page, SIZES[-1]) for side, page in pages.items()} for _ in range(ROUNDS)]
        sizes = [[look(browser, pages["ours"], size)["redraw"] for size in SIZES] for _ in range(ROUNDS)]
    *first, alone = (statistics.median(each[side]["first"] for each in rounds) for side in ("ours", "peer", "alone"))
    again = [statistics.median(each[side]["redraw"] for each in rounds) for side in ("ours", "peer")]
    equal = all(each[side]["spike"] for each in rounds for side in pages)
    told = "on all sides the spike of one step is painted where it belongs, and nothing beside it"
    same = f"{told if equal else 'THE SPIKE IS MISSING'}; {known}"
    grown = [statistics.median(each) for each in zip(*sizes, strict=True)]
    return [
        row("3a", "first paint of 100,000 points", "ms", *first, least_ratio=40, equal=equal,
            beside=f"{same}; uPlot alone {alone:.0f} ms"),
        row("3a-redraw", "one more point on 100,000", "ms", *again, most=33, equal=equal, beside=same),
        growth("3a-growth", "a redraw from 1,000 points to 100,000", grown, at=SIZES, of="points", unit="ms"),
    ]  # fmt: skip


def check_that_a_missing_spike_is_missed(browser: Browser, pages: Mapping[str, Path]) -> None:
    """Raises where a picture without a spike passes: the proof would be none."""
    if blind := [side for side, page in pages.items() if look(browser, page, SIZES[0], has_spike=False)["spike"]]:
        raise AssertionError(f"a spike is seen where there is none: {', '.join(blind)}")


def bundle_peer(folder: Path) -> Path:
    """Recharts from the registry, in a folder of its own."""
    (folder / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
    npm(folder, "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES)
    return bundle(folder, "peer", PEER, folder)


def installed(folder: Path, package: str) -> str:
    """Its version."""
    told: dict[str, str] = json.loads((folder / "node_modules" / package / "package.json").read_text())
    return told["version"]


def bundle(folder: Path, name: str, source: str, base: Path) -> Path:
    """A page that has `draw` and `add`, bundled as production code by the esbuild of our front end."""
    script = folder / f"{name}.js"
    script.write_text(bundled(source.replace("WIDTH", str(WIDTH)).replace("HEIGHT", str(HEIGHT)), base))
    page = folder / f"{name}.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{COLOURS}</style><body><script src="{script.name}"></script>'
    )
    return page


def look(browser: Browser, page: Path, points: int, *, has_spike: bool = True) -> dict[str, Any]:
    """One drawing on an empty page, and whether the spike stands where it belongs."""
    spike, last = points // 3, points + MORE
    context = browser.new_context(viewport={"width": 1000, "height": 500})
    shown = context.new_page()
    shown.goto(page.as_uri())
    times: dict[str, Any] = shown.evaluate(TIMED, [points, spike if has_spike else -1, last])
    columns = shown.evaluate(INK, base64.b64encode(shown.screenshot()).decode())
    context.close()
    return times | {"spike": shows_spike(columns, spike / (last - 1))}


def shows_spike(columns: Sequence[tuple[int, int] | None], share: float) -> bool:
    """Whether the upper half of what is drawn is empty but for one place, at this share of its width. A line without its spike
    fills its axis, or has no upper half."""
    inked = {x: ink for x, ink in enumerate(columns) if ink}
    if not inked:
        return False
    first, last = min(inked), max(inked)
    middle = (min(top for top, _ in inked.values()) + max(bottom for _, bottom in inked.values())) / 2
    high = [x for x, (top, _) in inked.items() if top < middle]
    place = first + share * (last - first)
    return bool(high) and all(abs(x - place) <= NEAR for x in high)

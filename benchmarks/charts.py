"""A curve of 100,000 points in a browser: our chart beside Recharts, what React studios draw with.

All are bundled by the same esbuild and drawn in the same Chromium, each time on an empty page; uPlot, the library below ours, is
timed alone as well. First paint is from the call to the painted frame; a redraw is one more point, as a live run brings it. Each
picture is asked what it shows: a spike of one step must be among it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.rows import Asked, Row, growth, row
from hatch_build import npm
from tests.support.browsers import find_chromium
from tests.support.scripts import ROOT, bundled

SIZES, ROUNDS, WIDTH, HEIGHT = (1_000, 10_000, 100_000), 5, 900, 300
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
    e(Line, { dataKey: "loss", dot: false, isAnimationActive: false }))));
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
TIMED = """
async ([points, spike]) => {
  const pairs = Array.from({ length: points }, (_, at) => [at + 1, at === spike ? 9 : 1 + Math.sin(at / 500) / 3]);
  const painted = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel(); // its message comes after the frame was painted
    channel.port1.onmessage = () => done(performance.now());
    channel.port2.postMessage(0);
  }));
  await painted();
  let began = performance.now();
  draw(pairs);
  const first = (await painted()) - began;
  const redraws = [];
  for (let more = 1; more <= 5; more++) {
    await new Promise((done) => setTimeout(done, 200)); // a chart may draw ten times a second at most
    began = performance.now();
    add(points + more, 1);
    await new Promise((done) => setTimeout(done)); // and asks for its frame a moment later
    redraws.push((await painted()) - began);
  }
  return { first, redraw: redraws.sort((a, b) => a - b)[2] };
}
"""
SPIKE = """
() => {
  const canvas = document.querySelector("canvas");
  if (!canvas) { // an SVG: its line's ys
    const line = document.querySelector(".recharts-line-curve").getAttribute("d");
    return Math.min(...line.match(/,[0-9.]+/g).map((y) => Number(y.slice(1)))) < 100;
  }
  const { width, height } = canvas;
  const high = canvas.getContext("2d").getImageData(width / 5, height / 5, width / 4, height / 5).data;
  return high.some((value, at) => at % 4 === 3 && value > 100);
}
"""


def measure(_asked: Asked) -> Sequence[Row]:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages = {name: bundle(Path(folder), name, source, ROOT) for name, source in (("ours", OURS), ("alone", ALONE))}
        pages["peer"] = bundle_peer(Path(folder))
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        rounds = [{side: look(browser, page, SIZES[-1]) for side, page in pages.items()} for _ in range(ROUNDS)]
        grown = [statistics.median(look(browser, pages["ours"], size)["redraw"] for _ in range(3)) for size in SIZES]
        browser.close()
    *first, alone = (statistics.median(each[side]["first"] for each in rounds) for side in ("ours", "peer", "alone"))
    again = [statistics.median(each[side]["redraw"] for each in rounds) for side in ("ours", "peer")]
    equal = all(each[side]["spike"] for each in rounds for side in pages)
    beside = f"the spike of one step is {'painted on all sides' if equal else 'MISSING'}; Recharts; uPlot alone {alone:.0f} ms"
    return [
        row("3a", "first paint of 100,000 points", "ms", *first, least_ratio=40, equal=equal, beside=beside),
        row("3a-redraw", "one more point on 100,000", "ms", *again, most=33, equal=equal, beside="Recharts"),
        growth("3a-growth", "a redraw at 100 times the points", grown, at=SIZES, of="points", unit="ms", most=10),
    ]


def bundle_peer(folder: Path) -> Path:
    """Recharts from the registry, in a folder of its own."""
    (folder / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
    npm(folder, "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES)
    return bundle(folder, "peer", PEER, folder)


def bundle(folder: Path, name: str, source: str, base: Path) -> Path:
    """A page that has `draw` and `add`, bundled as production code by the esbuild of our front end."""
    script = folder / f"{name}.js"
    script.write_text(bundled(source.replace("WIDTH", str(WIDTH)).replace("HEIGHT", str(HEIGHT)), base))
    page = folder / f"{name}.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body><script src="{script.name}"></script>')
    return page


def look(browser: Browser, page: Path, points: int) -> dict[str, Any]:
    """One drawing on an empty page, and whether the spike is among what it shows."""
    context = browser.new_context(viewport={"width": 1000, "height": 500})
    shown = context.new_page()
    shown.goto(page.as_uri())
    times: dict[str, Any] = shown.evaluate(TIMED, [points, points // 3])
    times["spike"] = shown.evaluate(SPIKE)
    context.close()
    return times

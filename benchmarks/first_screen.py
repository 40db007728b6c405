"""The scripts of the first screen, packed as a proxy sends them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence

from backend.web.render import STATIC
from benchmarks.rows import Asked, Row, row

PUBLISHED = "Unsloth Studio's own check allows 1,496 kB, as published in November 2026; not measured here"


def measure(_asked: Asked) -> Sequence[Row]:
    built = json.loads((STATIC / "manifest.json").read_text())
    packed = {name: len(gzip.compress((STATIC / built[name]).read_bytes())) / 1000 for name in ("main.js", "theme.js")}
    told = ", ".join(f"{name} {size:.0f}" for name, size in packed.items())
    beside = f"{told} kB; {PUBLISHED}"
    return [row("7d", "scripts of the first screen, gzip", "kB", sum(packed.values()), most=120, beside=beside)]

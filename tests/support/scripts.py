"""Parts of the front end alone, as a page of their own needs them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "frontend" / "node_modules"


def bundled(source: str, base: Path = ROOT) -> str:
    """`source` with all that it imports from under `base`, made production code as the front end is."""
    esbuild = str(MODULES / "esbuild" / "bin" / "esbuild")
    command = [esbuild, "--bundle", "--minify", "--format=iife", '--define:process.env.NODE_ENV="production"']
    environ = os.environ | {"NODE_PATH": str(MODULES)}
    return subprocess.check_output([*command, "--log-level=error"], input=source, text=True, cwd=base, env=environ)

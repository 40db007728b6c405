"""What only a trainer meets, for looking at a model loads no weights. It has imported everything and waits, as on each host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from backend.core.assignment import ASSIGNMENT, JOURNAL, Assignment
from tests.conftest import ROOT
from tests.hostile.rows import proves
from tests.hostile.studio import INNOCENT, Cost, Studio, hold, watched
from tests.support.rows import chat_rows, write_rows

EMBEDDING = "model.embed_tokens.weight"
RECIPE = {
    "model": {"path": "tiny"},
    "data": {"sets": [{"name": "rows"}]},
    "method": {"kind": "lora"},
    "training": {"max_steps": 1},
}


def trained(base: Path, folder: Path, cost: Cost) -> dict[str, Any]:
    """How a run of one step on this base ended, and what it took from the assignment on."""
    folder.mkdir()
    data = [{"name": "rows", "version": 1, "path": write_rows(folder / "rows.parquet", chat_rows(8))}]
    given = {"run": "a-run", "attempt": 1, "folder": folder, "model_folder": base, "data": data, "recipe": RECIPE}
    (folder / ASSIGNMENT).write_text(Assignment.model_validate(given).model_dump_json())
    environment = os.environ | {"STUDIO_RUN_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, "-W", "ignore", "-m", "worker.trainer"], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe) as trainer:
        assert trainer.stdin
        assert trainer.stdout
        assert trainer.stdout.readline() == b"ready\n"
        with watched(trainer.pid, cost):
            trainer.stdin.write(f"{folder / ASSIGNMENT}\n".encode())
            trainer.stdin.flush()
            os.waitid(os.P_PID, trainer.pid, os.WEXITED | os.WNOWAIT)
    cost.answer_seconds = cost.seconds
    last = json.loads((folder / JOURNAL).read_text().splitlines()[-1])
    assert last["kind"] == "end"
    assert isinstance(last["data"], dict)
    return last["data"]


@proves(56)
def test_weights_that_are_no_numbers_end_a_run_by_the_tensors_name(
    studio: Studio, tiny_base: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(tiny_base, tmp_path / "damaged"))
    weights = load_file(damaged / "model.safetensors")
    weights[EMBEDDING][3, 5] = float("nan")
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    innocent = studio.costs.setdefault(f"{INNOCENT}a run of one step", Cost())
    assert trained(tiny_base, tmp_path / "good", innocent)["outcome"] == "done"
    what = "56 NaN in a tensor"
    cost = studio.costs.setdefault(what, Cost())
    cause = trained(damaged, tmp_path / "bad", cost)["cause"]
    hold(what, cost, innocent)
    studio.held.append(what)
    assert cause["code"] == "model.not_finite"
    assert EMBEDDING in cause["message"]

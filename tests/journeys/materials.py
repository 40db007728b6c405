"""What a journey is made with: a base model, a file of rows, the settings that fit them, and how to try what comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT = "What does the owl eat?"
STEPS = 60
"""Enough that a run is still going when it is told to stop, on a machine many times faster than ours."""

GENERATE = """
import sys
sys.modules["backend"] = sys.modules["worker"] = None  # importing anything of ours fails from here on
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
asked = tokenizer.apply_chat_template(
    [{"role": "user", "content": sys.argv[1]}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**asked, max_new_tokens=4, do_sample=False)[0, asked["input_ids"].shape[1]:]
assert len(answer) > 0
print("answered:", tokenizer.decode(answer))
"""


@dataclass(frozen=True)
class Material:
    """`batch` is small where the model is large, so that a step takes about as long."""

    model: Path
    file: Path
    rows: int
    batch: int = 2

    def recipe(self, dataset: str, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "model": self.model.name,
            "data": {"sets": [dataset], "truncation": "drop", "max_length": 192},
            "method": {"kind": "qlora", "r": 4},
            "training": {
                "max_steps": STEPS,
                "learning_rate": 1e-3,
                "per_device_train_batch_size": self.batch,
                "gradient_accumulation_steps": 2,
            },
            "evaluation": {"eval_steps": 30, "sample_steps": 30, "prompts": [PROMPT], "max_new_tokens": 4},
            "saving": {"save_steps": 20},
        }


def write_alpaca(path: Path, rows: int = 60) -> Path:
    """Made-up rows in the shape that most instruction data has."""
    foods = {"owl": "mice", "dog": "meat", "cow": "grass", "cat": "fish", "frog": "flies"}
    animals = list(foods.items())
    written = []
    for number in range(rows):
        animal, food = animals[number % len(animals)]
        question = {"instruction": f"What does the {animal} eat?", "input": f"Question {number}"}
        written.append(question | {"output": f"The {animal} eats {food}."})
    path.write_text(json.dumps(written))
    return path


def generate_elsewhere(folder: Path) -> str:
    """What the model in `folder` answers in plain transformers, in a process that can import nothing of ours."""
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", GENERATE, PROMPT]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout

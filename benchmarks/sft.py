"""One run of supervised training in a process of its own: `python -m benchmarks.sft ours|trl FOLDER ORDER` prints a line of JSON.

Both sides get the same model with the same adapter, the same token ids and labels, optimizer and schedule; ORDER is the seed of
the order in which rows come. Ours is what a run of the studio does after its assignment: `load_all`, `prepare`, the chosen loss
head, the loop with its journal and its metrics of each step. The clock is the process's CPU time between the ends of two steps,
and the tokens are those of the steps between.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback

from backend.core.assignment import CONTROL, JOURNAL, Assignment, DataFile
from backend.core.datasets.schema import Message, Row
from backend.core.memory import recomputes
from backend.core.recipe import read_recipe
from backend.core.rendering import Example
from backend.core.rendering.prepare import prepare
from tests.support.models import make_tokenizer
from tests.support.rows import write_rows
from worker.trainer.batches import Collator
from worker.trainer.control import Channel
from worker.trainer.fit import Job, make_trainer
from worker.trainer.journal import Journal
from worker.trainer.observing import measure
from worker.trainer.train import choose_head, load_all, make_job

if TYPE_CHECKING:
    from transformers import Trainer

SMALL = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
WARM_UP_STEPS = 2
"""Libraries set things up in their first steps."""


# ---- what both sides train ------------------------------------------------------------------------------------------


def write_work(folder: Path, lengths: Sequence[int], *, longest: int, packing: bool, rows_a_step: int) -> None:
    """A small model, and a run of LoRA on it."""
    write_base(folder / "base", SMALL, context=2048)
    write_run(folder, folder / "base", lengths, longest=longest, packing=packing, rows_a_step=rows_a_step)


def write_base(folder: Path, shape: Mapping[str, Any], *, context: int) -> None:
    """A Llama of random weights with its tokenizer."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = context
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape, max_position_embeddings=context, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def write_run(
    folder: Path,
    base: Path,
    lengths: Sequence[int],
    *,
    longest: int,
    packing: bool,
    rows_a_step: int,
    method: str = "lora",
    device: str = "cpu",
    **training: Any,
) -> None:
    """Rows of exactly these lengths in tokens, and the assignment of a run on them: packed rows are of `longest`."""
    write_rows(folder / "rows.parquet", list(rows_of(lengths, AutoTokenizer.from_pretrained(base))))
    recipe = {
        "model": base.name,
        "data": {"sets": ["rows"], "max_length": longest, "packing": packing},
        "method": {"kind": method, "r": 16},
        "training": {
            "per_device_train_batch_size": rows_a_step,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            **training,
        },
        "evaluation": {"eval_share": 0, "prompts": []},
        "saving": {"save_steps": 1_000_000},  # once, at the end: the other side saves nothing
    }
    assignment = Assignment(
        run="benchmark",
        attempt=1,
        folder=folder,
        recipe=read_recipe(recipe).recipe,
        model_folder=base,
        data=(DataFile(name="rows", version=1, path=folder / "rows.parquet"),),
        device=device,
        run_name="benchmark",
    )
    (folder / "assignment.json").write_text(assignment.model_dump_json())


def rows_of(lengths: Sequence[int], tokenizer: Any) -> Iterator[Row]:
    """Questions of a few digits and longer answers. A digit is one token, so lengths come out as they are asked for."""
    draw = random.Random(0)
    empty = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    frame = len(tokenizer.apply_chat_template(empty, return_dict=True)["input_ids"])
    for number, length in enumerate(lengths, 1):
        asked = min(8, length - frame - 1)
        start = draw.randrange(10)
        digits = "".join(str((start + place * 3) % 10) for place in range(length - frame))
        yield Row(number, (Message("user", digits[:asked]), Message("assistant", digits[asked:])))


def skewed(count: int, longest: int) -> list[int]:
    """Lengths as conversations have them: many short, few long; up to 512, the mean is about 128."""
    draw = random.Random(1)
    return [max(24, min(longest, int(draw.lognormvariate(4.55, 0.75)))) for _ in range(count)]


# ---- the two sides --------------------------------------------------------------------------------------------------


@dataclass
class Counting:
    """Hands examples on to a side's own collator, and keeps how many tokens each batch has without its padding."""

    collate: Callable[[Any], Any]
    pad_token_id: int
    tokens: list[int] = field(default_factory=list)

    def __call__(self, examples: Any) -> Any:
        batch = self.collate(examples)
        self.tokens.append(int((batch["input_ids"] != self.pad_token_id).sum()))
        return batch


@dataclass
class Clock(TrainerCallback):
    """CPU seconds at each step's end."""

    ends: list[float] = field(default_factory=list)

    def on_step_end(self, *_arguments: Any, **_named: Any) -> None:
        self.ends.append(time.process_time())


def job_of(folder: Path, attempt: Path, journal: Journal) -> Job:
    assignment = Assignment.model_validate_json((folder / "assignment.json").read_bytes())
    assignment = assignment.model_copy(update={"folder": attempt})
    prepared, loaded = load_all(assignment, journal)
    dataset = prepare(assignment.data, prepared, assignment.recipe, seed=assignment.recipe.training.seed)
    channel = Channel(attempt / CONTROL)
    return make_job(assignment, prepared, loaded, dataset, journal, channel)


def ours(job: Job) -> Trainer:
    choose_head(job)
    assert job.head is not None
    return make_trainer(job)


def trl(job: Job, documents: Sequence[Example]) -> Trainer:
    """TRL as its guide has it, with Liger's kernels where they are installed for an accelerator. Activations, which it would
    always checkpoint and which costs a third, it checkpoints where ours does. It takes so many documents at once that it comes
    to as many steps as ours."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    on_cpu = job.assignment.device == "cpu"
    rows = [{"input_ids": each.input_ids.tolist(), "labels": each.labels.tolist()} for each in documents]
    training = job.recipe.training
    arguments = SFTConfig(
        output_dir=str(job.assignment.folder / "trl"),
        per_device_train_batch_size=round(len(documents) / job.plan.total_steps),
        num_train_epochs=1,
        max_length=job.recipe.data.max_length,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optim,
        seed=training.seed,
        gradient_checkpointing=recomputes(training, on_cpu=on_cpu),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=job.loaded.compute_dtype == torch.bfloat16,
        use_cpu=on_cpu,
        use_liger_kernel=not on_cpu and find_spec("liger_kernel") is not None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )
    trainer: Trainer = SFTTrainer(
        model=job.loaded.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=job.prepared.tokenizer,
    )
    return trainer


def run(side: str, folder: Path, order: int) -> dict[str, Any]:
    """Train, and tell the real tokens and the CPU seconds of all steps after the warm-up, and the loss over all rows then."""
    torch.set_num_threads(1)
    attempt = Path(tempfile.mkdtemp(prefix=side, dir=folder))
    with Journal(attempt / JOURNAL) as journal:
        job = job_of(folder, attempt, journal)
        documents = unpacked(job.dataset.train)
        trainer = ours(job) if side == "ours" else trl(job, documents)
        trainer.accelerator.dataloader_config.data_seed = order  # the sampler is made of it when training begins
        trainer.data_collator = counting = Counting(trainer.data_collator, job.prepared.pad_token_id)
        trainer.add_callback(clock := Clock())
        trainer.train()
        after = measure(job.loaded.model, documents, Collator(job.prepared.pad_token_id), 8, lambda _done, _all: None)
    assert sum(counting.tokens) == sum(len(each.input_ids) for each in documents), "each row comes once"
    return {
        "steps": len(clock.ends),
        "timed_steps": len(clock.ends) - WARM_UP_STEPS,
        "seconds": clock.ends[-1] - clock.ends[WARM_UP_STEPS - 1],
        "tokens": sum(counting.tokens[WARM_UP_STEPS:]),
        "loss": after.loss,
    }


def unpacked(examples: Sequence[Example]) -> list[Example]:
    """The documents of packed rows, each by itself."""
    found = []
    for each in examples:
        starts = [0] if each.position_ids is None else (each.position_ids == 0).nonzero()[0].tolist()
        for start, end in zip(starts, [*starts[1:], len(each.input_ids)], strict=True):
            found.append(Example(each.input_ids[start:end], each.labels[start:end]))
    return found


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))

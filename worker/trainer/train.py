"""A run from its assignment to its last journal line."""

from __future__ import annotations

import gc
import hashlib
import os
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backend.core.assignment import CONTROL, JOURNAL, Amendment, Assignment, Outcome, Word
from backend.core.bases import check_files
from backend.core.errors import Invalid, StudioError, is_failure, is_panic
from backend.core.recipe import resolve
from backend.core.rendering import Dataset, Prepared
from backend.core.rendering.masks import encode_prompt
from backend.core.rendering.prepare import has_conversations, prepare
from backend.core.rendering.tokenizer import load_tokenizer
from worker import disks
from worker.exports.context import DataFact, ExportContext
from worker.exports.proof import watched_logits
from worker.exports.publish import export_all
from worker.trainer.checkpoints import Progress, progress_in, read_checkpoint
from worker.trainer.control import Channel
from worker.trainer.failures import disk_full, gave_up, is_out_of_memory, out_of_memory
from worker.trainer.fit import Job, fit, restore
from worker.trainer.head import choose
from worker.trainer.journal import Journal
from worker.trainer.leak import refuse_leaks
from worker.trainer.loading import Loaded, load, versions
from worker.trainer.plan import Amendments, amend, make_plan
from worker.trainer.process import device_lock

NO_PROMPT = "Hello!"
"""What a run without prompts is proved on, beside its rows."""
PROOF_ROWS = 4
"""Rows held back that the proof looks at beside the prompts."""


def carry_out(path: Path) -> int:
    """Do what an assignment says. Returns the exit status: 0 after an `end` line; else trying again may help.

    Where the disk takes not even that line, the status says so.
    """
    try:
        return _carry_out(Assignment.model_validate_json(path.read_bytes()))
    except OSError as error:
        if disks.is_full(error):
            return disks.EXIT_CODE
        raise


def _carry_out(assignment: Assignment) -> int:
    with Journal(assignment.folder / JOURNAL) as journal:
        channel = Channel(assignment.folder / CONTROL, assignment.word)
        channel.listen()
        try:
            with device_lock(assignment.device, journal):
                outcome, cause = train(assignment, journal, channel), None
        except BaseException as error:
            if not is_failure(error):
                raise
            journal.log("error", traceback.format_exc())
            outcome, cause = Outcome.FAILED, cause_of(error, journal.doing)
            if cause is None:
                return 1
        journal.end(outcome, cause)
    return 0


def train(assignment: Assignment, journal: Journal, channel: Channel) -> Outcome:
    """Load, prepare, fit, export."""
    journal.phase("loading")
    use_device(assignment.device)
    prepared, loaded = load_all(assignment, journal)
    journal.phase("preparing")
    dataset = prepare(
        assignment.data,
        prepared,
        assignment.recipe,
        seed=assignment.recipe.training.seed,
        on_progress=partial(journal.progress, "preparing"),
    )
    job = make_job(assignment, prepared, loaded, dataset, journal, channel)
    if assignment.recipe.data.packing:
        refuse_leaks(loaded.model, prepared.model_vocab_size)
    choose_head(job)
    if (ended := before_the_first_step(job)) is not None:
        return ended
    if job.progress.is_complete or channel.word is Word.KEEP:
        restore(job)
    else:
        journal.phase("training")
        fit(job)
    if channel.word is Word.PAUSE:
        return Outcome.PAUSED
    journal.phase("exporting")
    export(job)
    return Outcome.DONE


def use_device(device: str) -> None:
    """Make the assigned accelerator the one that libraries take unasked."""
    if device.startswith("cuda"):
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
        torch.cuda.set_device(device)


def load_all(assignment: Assignment, journal: Journal) -> tuple[Prepared, Loaded]:
    """Tokenizer and model; what was decided about them goes into the run's facts. The folder is looked at once more: a
    worker on another host has one of its own, which the launch has never seen."""
    check_files(assignment.model_folder)
    template = assignment.recipe.model.chat_template
    prepared = load_tokenizer(assignment.model_folder, template, conversations=has_conversations(assignment.data))
    loaded = load(assignment, prepared, journal)
    journal.facts(**loaded.facts, notes=list(prepared.notes))
    return prepared, loaded


def make_job(
    assignment: Assignment, prepared: Prepared, loaded: Loaded, dataset: Dataset, journal: Journal, channel: Channel
) -> Job:
    """Put together what fitting needs. A resumed run takes up its progress, and the changes that held at its checkpoint."""
    recipe = resolve(assignment.recipe, train_rows=dataset.report.train_rows, context_length=prepared.context_length)
    plan, amendments = make_plan(recipe, len(dataset.train)), Amendments(assignment.amendments)
    facts = facts_of(assignment, prepared, loaded, dataset)
    progress, checkpoint = Progress(), None
    changes: list[Amendment] = []
    if assignment.resume is not None:
        checkpoint = assignment.resume.folder
        progress = resumed(checkpoint, facts, journal)
        journal.step = assignment.resume.step
        changes = amendments.take_past(assignment.resume.step)
        for amendment in changes:
            plan = amend(plan, amendment)
    journal.facts(total_steps=plan.total_steps, data=dataset.report.as_json())
    for problem in dataset.report.warnings:
        journal.log("warning", str(problem))
    return Job(
        assignment,
        recipe,
        loaded,
        prepared,
        dataset,
        journal,
        channel,
        plan,
        progress,
        facts,
        amendments,
        checkpoint,
        changes=changes,
    )


def choose_head(job: Job) -> None:
    """Have the loss computed without all logits where this very model gives the same that way, else say why not."""
    job.head, why_not = choose(job.loaded.model, job.prepared.model_vocab_size, job.loaded.compute_dtype)
    if job.head is None:
        job.journal.log("warning", f"The loss holds the logits of all tokens, which takes more memory: {why_not}.")


def facts_of(assignment: Assignment, prepared: Prepared, loaded: Loaded, dataset: Dataset) -> dict[str, Any]:
    """What each checkpoint says of the run that made it."""
    return {
        "recipe": assignment.recipe.model_dump(mode="json"),
        "data_sha256": fingerprint(dataset),
        "added_token_ids": list(prepared.added_token_ids),
        "quantisation": loaded.quantisation.to_dict() if loaded.quantisation else None,
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }


def fingerprint(dataset: Dataset) -> str:
    """A digest of the token ids of every row in order: equal where the data position means the same."""
    digest = hashlib.sha256()
    for example in (*dataset.train, *dataset.eval):
        digest.update(len(example.input_ids).to_bytes(8, "little") + example.input_ids.tobytes())
    return digest.hexdigest()


def resumed(checkpoint: Path, facts: dict[str, Any], journal: Journal) -> Progress:
    """Progress at a checkpoint. Raises `Invalid` where the data is not what it was; other libraries are only told of."""
    state = read_checkpoint(checkpoint)
    if state["data_sha256"] != facts["data_sha256"]:
        raise Invalid(
            "The data is no longer what this run was trained on, so it cannot go on where it stood.",
            where="data",
            hint="Clone the run and start it anew.",
        )
    changed = [name for name in ("versions", "threads") if state[name] != facts[name]]
    if changed:
        journal.log(
            "warning", f"{' and '.join(changed)} changed since the checkpoint: losses may differ in the last digits."
        )
    return progress_in(state)


def before_the_first_step(job: Job) -> Outcome | None:
    """What a trainer that was told to end before it trained a step has done."""
    word = job.channel.word
    if word is Word.KEEP and job.checkpoint is None:
        return Outcome.EMPTY
    return Outcome.PAUSED if word is Word.PAUSE else None


def export(job: Job) -> None:
    """Take down what the watched model answers, free it, and write, prove and publish what the run gives out."""
    rows = [example.input_ids.tolist() for example in job.dataset.eval[:PROOF_ROWS]]
    questions = [encode_prompt(prompt, job.prepared) for prompt in job.plan.prompts or (NO_PROMPT,)]
    watched = watched_logits(job.loaded.model, questions, rows)
    tokenizer = job.assignment.folder / "tokenizer"
    job.prepared.tokenizer.save_pretrained(tokenizer)
    assert job.checkpoint is not None, "a fit ends with a checkpoint"
    context = ExportContext(
        run=job.assignment.run,
        run_name=job.assignment.run_name,
        recipe=job.recipe,
        base=job.assignment.model_folder,
        base_name=base_name(job.recipe.model.path),
        trained=job.checkpoint,
        tokenizer=tokenizer,
        watched=watched,
        dtype=job.loaded.dtype,
        compute_dtype=job.loaded.compute_dtype,
        quantisation=job.loaded.quantisation,
        device=job.assignment.device,
        data=data_facts(job),
        metrics=job.progress.metrics,
        added_token_ids=job.prepared.added_token_ids,
        changes=tuple(job.changes),
    )
    free_model(job)
    export_all(context, job.assignment.folder, job.journal.emit)


def base_name(path: str) -> str:
    """A hub id as it is, and of a folder its name alone: where this machine keeps it is nobody's business."""
    return Path(path).name if Path(path).is_absolute() else path


def data_facts(job: Job) -> tuple[DataFact, ...]:
    rows = {(part.name, part.version): part.rows for part in job.dataset.report.sets}
    return tuple(
        DataFact(file.name, file.version, rows[file.name, file.version], sha256(file.path))
        for file in job.assignment.data
    )


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_model(job: Job) -> None:
    """Give the memory back: a merge and its proof load their own."""
    job.loaded, job.head = replace(job.loaded, model=None), None
    gc.collect()  # the trainer and its callbacks know each other
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def cause_of(error: BaseException, doing: str) -> StudioError | None:
    """Why a run failed, in words; None where trying again may help."""
    if isinstance(error, StudioError):
        return error
    if is_panic(error):
        return gave_up(doing, error)
    if is_out_of_memory(error):
        return out_of_memory(f"while {doing}")
    return disk_full(f"it happened while {doing}") if disks.is_full(error) else None

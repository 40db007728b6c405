"""Training itself: transformers' loop, with what we watch, tell and save at each step's end.

The order at a step's end is metrics, evaluation, samples, checkpoint: the journal holds all of step s before s is saved.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler

from backend.core.assignment import Amendment, Assignment, Word
from backend.core.errors import Invalid
from backend.core.memory import recomputes
from backend.core.recipe import Recipe
from backend.core.rendering import IGNORE_INDEX, Dataset, Prepared
from worker.peak import peak_bytes
from worker.trainer.batches import Collator, supervised
from worker.trainer.checkpoints import Progress, is_finite, save_checkpoint, state_of
from worker.trainer.control import Channel, Interrupted
from worker.trainer.failures import is_out_of_memory, not_finite, out_of_memory
from worker.trainer.head import LossHead
from worker.trainer.journal import Journal
from worker.trainer.loading import Loaded
from worker.trainer.observing import answers, measure
from worker.trainer.plan import Amendments, Plan, amend

NOT_FINITE_LIMIT = 3
GIB = 1024**3


@dataclass
class Job:
    """Everything that one fit needs, and what it changes as it goes: plan, progress, the last checkpoint."""

    assignment: Assignment
    recipe: Recipe  # resolved
    loaded: Loaded
    prepared: Prepared
    dataset: Dataset
    journal: Journal
    channel: Channel
    plan: Plan
    progress: Progress
    facts: dict[str, Any]  # stored with each checkpoint
    amendments: Amendments = field(default_factory=lambda: Amendments(()))
    checkpoint: Path | None = None
    not_finite_steps: int = 0
    changes: list[Amendment] = field(default_factory=list)
    """Those that were made, each with the step that it holds from."""
    head: LossHead | None = None
    """Without one, the loss is computed from all logits."""

    @property
    def collate(self) -> Collator:
        return Collator(self.prepared.pad_token_id)


@dataclass
class Window:
    """The batches of one optimizer step."""

    started: float
    tokens: int = 0
    trained: int = 0
    rows: int = 0
    longest: int = 0

    @classmethod
    def of(cls, batches: list[dict[str, torch.Tensor]], started: float) -> Window:
        window = cls(started)
        for batch in batches:
            rows, longest = batch["input_ids"].shape
            mask = batch.get("attention_mask")
            window.tokens += int(mask.sum()) if mask is not None else rows * longest
            window.trained += supervised(batch["labels"])
            window.rows, window.longest = max(window.rows, rows), max(window.longest, longest)
        return window


def fit(job: Job) -> None:
    """Train to the plan's end, or until told otherwise. Raises `Failed` for what trying again will not mend."""
    trainer = make_trainer(job)
    resume = str(job.checkpoint) if job.checkpoint else None
    try:
        trainer.train(resume_from_checkpoint=resume)
    except Interrupted:  # before a step: all that there is to keep is kept
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        step, doing = trainer.state.global_step, job.journal.doing
        where = f"at step {step + 1}" if doing == "training" else f"while {doing} after step {step}"
        raise out_of_memory(where, trainer.window.rows, trainer.window.longest) from error


def restore(job: Job) -> None:
    """Load the weights of the job's checkpoint for a run that has nothing left to train."""
    trainer = make_trainer(job)
    trainer._load_from_checkpoint(str(job.checkpoint))
    trainer.accelerator.prepare_model(job.loaded.model, evaluation_mode=True)  # the same autocast as in training
    with contextlib.suppress(Interrupted):
        trainer.make_up()


def make_trainer(job: Job) -> StudioTrainer:
    trainer = StudioTrainer(job)
    for parameter in job.loaded.model.parameters():
        if parameter.requires_grad:  # in half precision a small update is rounded away, and a resume reloads fp32
            parameter.data = parameter.data.float()
    return trainer


class StudioTrainer(Trainer):
    """transformers' loop. It neither rotates nor reports anything itself: each hook below hands over to the job."""

    def __init__(self, job: Job) -> None:
        self.job, self.window = job, Window(time.perf_counter())
        self._is_due_eval = self._is_due_samples = False
        super().__init__(
            model=job.loaded.model,
            args=training_arguments(job),
            train_dataset=job.dataset.train,
            data_collator=job.collate,
            callbacks=[StepBoundary(self)],
        )

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> tuple[Any, ...]:
        """Epochs without end: the step count alone ends a run, so that an amendment can move it."""
        return (sys.maxsize, *super().set_initial_training_values(args, dataloader)[1:])

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        started, self.job.journal.doing = time.perf_counter(), "training"
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.window = Window.of(batches, started)
        return batches, items

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        self.job.journal.moves()
        loss: torch.Tensor = super().training_step(*arguments, **named)
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss; with a loss head the same number without all logits."""
        if self.job.head is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = dict(inputs)
        labels = batch.pop("labels")
        count = num_items_in_batch if num_items_in_batch is not None else (labels[:, 1:] != IGNORE_INDEX).sum()
        return self.job.head.summed_loss(batch, labels) / count

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """A step whose gradients are not finite is told, and not taken: one bad batch must not spoil the weights."""
        norm = super()._get_grad_norm(model, grad_norm)
        if self.accelerator.scaler is None and not math.isfinite(float(norm)):  # fp16's scaler skips such steps itself
            model.zero_grad()
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002 -- the base's signature
        if "loss" in logs:  # the other call is the summary at the end, which the journal already tells in full
            self._tr_loss.zero_()  # the loop subtracts it from itself, and NaN - NaN would stay for ever
            self.job.progress.trained_tokens += self.window.trained
            self._tell(self._metrics(logs))
            self._watch_for_nan(logs)

    def _tell(self, values: dict[str, float]) -> None:
        self.job.journal.metrics(values, self.state.epoch or 0.0)
        self.job.progress.note(values)

    def _metrics(self, logs: dict[str, float]) -> dict[str, float]:
        seconds = time.perf_counter() - self.window.started
        return {
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm", math.nan),
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": round(self.window.tokens / seconds, 1),
            "trained_tokens": self.job.progress.trained_tokens,
            "memory_gib": round(memory_gib(self.args.device), 3),
        }

    def _watch_for_nan(self, logs: dict[str, float]) -> None:
        """Raise `Failed` after three steps in a row. While fp16's scaler finds its scale, infinite gradients are normal."""
        gradients_count = self.accelerator.scaler is None
        is_bad = not math.isfinite(logs["loss"]) or (gradients_count and not math.isfinite(logs.get("grad_norm", 0.0)))
        self.job.not_finite_steps = self.job.not_finite_steps + 1 if is_bad else 0
        if self.job.not_finite_steps >= NOT_FINITE_LIMIT:
            step = self.state.global_step
            raise not_finite(step - NOT_FINITE_LIMIT + 1, step)

    def schedule(self, *, evaluate: bool, sample: bool, save: bool) -> None:
        """What follows the metrics of the step that has just ended."""
        self._is_due_eval, self._is_due_samples = evaluate and bool(self.job.dataset.eval), sample
        self.control.should_evaluate = self._is_due_eval or self._is_due_samples
        self.control.should_save = save

    def evaluate(self, *_arguments: Any, **_named: Any) -> dict[str, float]:
        """Measure and ask, as is due. A run without either trains the same.

        A pause cuts this off: the checkpoint then says what it owes. A run that is to be kept ends with this step.
        """
        job = self.job
        job.progress.owes_measurement = self._is_due_eval
        job.progress.owes_answers_from = 0 if self._is_due_samples else None
        try:
            self.make_up()
            if job.channel.word is Word.KEEP:
                self._end_here()
        except Interrupted:
            self.control.should_training_stop = self.control.should_save = True
        self.control.should_evaluate = False  # the loop asks once more when an epoch ends with this step
        return {}

    def _end_here(self) -> None:
        """Measure and ask what this step was not due for, and leave the loop."""
        progress = self.job.progress
        progress.owes_measurement = bool(self.job.dataset.eval) and not self._is_due_eval
        progress.owes_answers_from = None if self._is_due_samples else 0
        self.make_up()
        self.control.should_training_stop = self.control.should_save = True

    def make_up(self) -> None:
        """Measure and ask what is owed. Raises `Interrupted` by a pause."""
        progress = self.job.progress
        if progress.owes_measurement:
            self._measure()
            progress.owes_measurement = False
        if progress.owes_answers_from is not None:
            self.ask(progress.owes_answers_from)
            progress.owes_answers_from = None

    def _measure(self) -> None:
        job = self.job

        def told(done: int, rows: int) -> None:
            job.journal.progress("evaluating", done, rows)
            if done < rows:
                job.channel.go_on()

        size = job.recipe.training.per_device_train_batch_size
        measured = measure(
            job.loaded.model,
            job.dataset.eval,
            job.collate,
            size,
            told,
            head=job.head,
        )
        self._tell({"eval_loss": measured.loss})
        progress = job.progress
        has_gained = progress.best_eval_loss is None or measured.loss < progress.best_eval_loss
        progress.measurements_without_gain = 0 if has_gained else progress.measurements_without_gain + 1
        progress.best_eval_loss = measured.loss if has_gained else progress.best_eval_loss
        patience = job.recipe.evaluation.early_stopping_patience
        if patience and progress.measurements_without_gain >= patience:
            job.journal.log("info", f"Stopped early: eval_loss did not fall in {patience} measurements.")
            self.finish()

    def ask(self, first: int = 0) -> None:
        """Answer the run's prompts from `first` on, and journal the answers."""
        job = self.job
        job.journal.doing = "sampling"

        def told() -> None:
            job.journal.moves()
            job.channel.go_on()

        how = job.recipe.evaluation, job.recipe.training.seed
        for sample in answers(job.loaded.model, job.prepared, job.plan.prompts, *how, first=first, told=told):
            job.journal.sample(**vars(sample))
            job.progress.owes_answers_from = sample.index + 1

    def finish(self) -> None:
        """Nothing is left to train: save once more and leave the loop."""
        self.job.progress.is_complete = True
        self.control.should_training_stop = self.control.should_save = True

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002 -- the base's signature
        job = self.job
        job.journal.doing = "saving"
        if not is_finite(job.loaded.model):
            job.journal.log("warning", f"Step {self.state.global_step} was not saved: weights are not finite.")
            return
        state = state_of(job.progress, **job.facts)
        job.checkpoint = save_checkpoint(self, job.loaded, job.assignment.folder, job.journal, state)
        if job.channel.word is Word.PAUSE:  # it came meanwhile: another step would only be saved once more
            self.control.should_training_stop = True


class StepBoundary(TrainerCallback):
    """Hears orders and changes between two steps, and decides what is due."""

    def __init__(self, trainer: StudioTrainer) -> None:
        self.trainer, self.job = trainer, trainer.job

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002 -- the base's signature
        """Answers before the first step, and what the checkpoint owes. Raises `Interrupted` where nothing is left to train."""
        progress = self.job.progress
        if state.global_step == 0:
            progress.owes_answers_from = 0
        self.trainer.make_up()
        if progress.is_complete:  # what was made up for stopped the run early
            raise Interrupted

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002 -- the base's signature
        """Changes hold from the step that now begins, and are told before its metrics."""
        self.job.amendments.add(self.job.channel.take_changes())
        for amendment in self.job.amendments.take(state.global_step + 1):
            self._apply(amendment, state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002 -- the base's signature
        step, plan, word = state.global_step, self.job.plan, self.job.channel.word
        self.job.journal.step = step
        control.should_log = True
        is_last = step >= plan.total_steps
        is_end = is_last or word is Word.KEEP
        self.trainer.schedule(
            evaluate=is_end or plan.is_due(step, plan.eval_steps),
            sample=is_end or plan.is_due(step, plan.sample_steps),
            save=is_end or word is Word.PAUSE or plan.is_due(step, plan.save_steps),
        )
        self.job.progress.is_complete = is_last
        control.should_training_stop = is_end or word is Word.PAUSE

    def _apply(self, amendment: Amendment, state: TrainerState) -> None:
        job = self.job
        try:
            job.plan = amend(job.plan, amendment)
        except Invalid as problem:  # a run of many hours does not die of a wish that cannot be met
            job.journal.log("error", f"A change was not made. {problem}")
            return
        job.changes.append(amendment.model_copy(update={"step": state.global_step + 1}))
        state.max_steps = job.plan.total_steps
        reshape_schedule(self.trainer, job.plan)
        job.journal.amended(amendment.sequence, state.global_step + 1)


def reshape_schedule(trainer: Trainer, plan: Plan) -> None:
    """Give the learning rate the plan's peak and length from now on; the schedule stays at the step where it is."""
    scheduler: Any = trainer.lr_scheduler
    arguments = trainer.args
    unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # `get_scheduler` would reset the rates of the real one
    warmup = arguments.get_warmup_steps(plan.total_steps)
    shape = get_scheduler(arguments.lr_scheduler_type, unused, warmup, plan.total_steps).lr_lambdas[0]
    groups = scheduler.optimizer.param_groups
    scheduler.base_lrs, scheduler.lr_lambdas = [plan.learning_rate] * len(groups), [shape] * len(groups)
    for group in groups:
        group["initial_lr"], group["lr"] = plan.learning_rate, plan.learning_rate * shape(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in groups]


def training_arguments(job: Job) -> TrainingArguments:
    """The recipe in transformers' words. Whatever it would log, save, rotate or report by itself is off."""
    training, on_cpu = job.recipe.training, job.assignment.device == "cpu"
    accumulation = training.gradient_accumulation_steps
    assert isinstance(accumulation, int), "the recipe is resolved by now"
    arguments = TrainingArguments(
        output_dir=str(job.assignment.folder / "checkpoints"),
        max_steps=job.plan.total_steps,
        per_device_train_batch_size=training.per_device_train_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=job.plan.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optim,
        neftune_noise_alpha=training.neftune_noise_alpha,
        seed=training.seed,
        bf16=job.loaded.compute_dtype == torch.bfloat16,
        fp16=job.loaded.compute_dtype == torch.float16,
        gradient_checkpointing=recomputes(training, on_cpu=on_cpu),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,  # on, it shows NaN as the average of earlier losses
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one accelerator a run: no DataParallel over what else is visible
    return arguments


def memory_gib(device: torch.device) -> float:
    """The most that was held so far: on the GPU, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return peak_bytes() / GIB

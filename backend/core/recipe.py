"""`Recipe`: everything that decides what a run does. The form, the API, the CLI and the trainer validate with this class.

Names are those of transformers' `TrainingArguments`, TRL's `SFTConfig` and PEFT's `LoraConfig`. Old names are accepted and
translated with a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from backend.core.catalog import METHODS, AnyMethod, AnyStage
from backend.core.errors import Invalid, Problem
from backend.core.methods.qlora import QLora
from backend.core.stages.sft import Sft
from backend.core.strict import Strict, problems_of, refuse_crowd

Auto = Literal["auto"]
Steps = Annotated[int, Field(ge=1, le=10_000_000)]
SMALL = 1e-3
NAME = re.compile(r"[^\W_][\w .+-]{0,79}")
"""Names of data sets, recipes and runs: letters of any script, digits, space and `_ . + -`, at most 80, none leading."""


def _short_for(field: str) -> BeforeValidator:
    """`model: path` is short for `model: {path: path}`."""
    return BeforeValidator(lambda value: {field: value} if isinstance(value, str) else value)


class ModelChoice(Strict):
    """The base model: a folder under the model roots, or a hub id pinned to a commit."""

    path: str = Field(min_length=1, max_length=400, description="A folder's name under the model roots, or a hub id.")
    revision: str | None = Field(
        None,
        max_length=100,
        description="Commit, branch or tag on the hub; pinned to a commit at launch.",
        json_schema_extra={"why": "newest at launch, and then it stays.", "rare": True},
    )
    chat_template: Literal["auto", "chatml", "llama3", "zephyr", "plain"] = Field(
        "auto",
        description="Auto takes the model's own template; a base model without one gets ChatML.",
        json_schema_extra={"why": "what the model was taught with.", "rare": True},
    )
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto",
        description="How attention is computed. SDPA is right nearly everywhere.",
        json_schema_extra={"why": "the fastest that needs nothing installed.", "rare": True},
    )


class SetChoice(Strict):
    """One data set of the mixture."""

    name: str = Field(min_length=1, max_length=80, description="The data set's name.")
    version: int | None = Field(None, ge=1, description="Its version; the newest is taken and pinned at launch.")
    weight: float | None = Field(
        None, gt=0, le=1e6, description="Share of the rows drawn. Without weights every row is drawn once an epoch."
    )


class Data(Strict):
    sets: tuple[Annotated[SetChoice, _short_for("name")], ...] = Field(
        min_length=1, max_length=50, description="Data sets with weights."
    )
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] | Auto = Field(
        "auto",
        description="Longest row in tokens. Auto: 2,048 or the model's context, whichever is less.",
        json_schema_extra={"why": "the longest rows cost the most memory.", "unit": "tokens"},
    )
    truncation: Literal["refuse", "drop", "cut_end", "cut_start"] = Field(
        "refuse",
        description="What happens to longer rows. Nothing is cut without your word.",
        json_schema_extra={"why": "no row is ever cut in silence."},
    )
    packing: bool = Field(
        False,
        description="Fill each row with several documents. Two to three times faster on short rows.",
        json_schema_extra={"why": "below 10,000 rows it leaves too few steps."},
    )
    assistant_only_loss: bool = Field(
        True,
        description="Learn the assistant's turns only, and just read the others.",
        json_schema_extra={"why": "the model should learn to answer, not to ask."},
    )

    @model_validator(mode="after")
    def weights_are_all_or_none(self) -> Data:
        weighted = [each.weight is not None for each in self.sets]
        if any(weighted) and not all(weighted):
            raise ValueError("give every data set a weight, or none")
        if len({(each.name, each.version) for each in self.sets}) < len(self.sets):
            raise ValueError("the same data set stands here twice; give it a larger weight instead")
        return self


class Training(Strict):
    """The Hugging Face names. Defaults are what we recommend."""

    learning_rate: float = Field(
        gt=0,
        le=1,
        description="Size of a step. LoRA 1e-4 to 2e-4, full tuning about 1e-5.",
        json_schema_extra={"why": "the usual start for this method."},
    )
    num_train_epochs: float = Field(
        2.0,
        gt=0,
        le=1000,
        description="Passes over the data. 1–3; more overfits on small sets.",
        json_schema_extra={"why": "one pass learns, the second settles it; more tends to memorise."},
    )
    max_steps: int = Field(
        -1,
        ge=-1,
        le=100_000_000,
        description="Stop after this many steps instead; -1 goes by epochs.",
        json_schema_extra={"why": "passes say more about what was seen.", "unit": "steps", "rare": True},
    )
    per_device_train_batch_size: int = Field(
        8,
        ge=1,
        le=4096,
        description="Rows a step on each accelerator. Halve it when memory runs out.",
        json_schema_extra={"why": "keeps an accelerator busy; halve it where memory is short."},
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=65_536)] | Auto = Field(
        "auto",
        description="Batches summed into one step. Auto: a global batch that leaves about 150 steps, 8 to 128.",
        json_schema_extra={"why": "the steps stay neither too few nor too rough."},
    )
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw_torch",
        description="The optimizer. The 8-bit ones hold a quarter of the state.",
        json_schema_extra={"why": "the plain one: nothing is rounded.", "rare": True},
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine",
        description="How the learning rate falls.",
        json_schema_extra={"why": "small steps at the end."},
    )
    warmup_steps: float = Field(
        0.03,
        ge=0,
        le=1_000_000,
        description="Steps in which the learning rate rises; below 1 a share of all steps.",
        json_schema_extra={"why": "avoids a jump at the start."},
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Pull of the weights toward zero.",
        json_schema_extra={"why": "a short run needs no pull.", "rare": True},
    )
    max_grad_norm: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="Gradients longer than this are shortened; 0 leaves them.",
        json_schema_extra={"why": "harmless when nothing jumps.", "rare": True},
    )
    neftune_noise_alpha: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Noise on the embeddings; 5 helps small chat sets.",
        json_schema_extra={"why": "try it where answers sound learned by heart.", "rare": True},
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="Auto: bf16 where the accelerator computes it, fp16 on older ones, fp32 on a CPU.",
        json_schema_extra={"why": "the fastest that cannot overflow here.", "rare": True},
    )
    gradient_checkpointing: bool | Auto = Field(
        "auto",
        description="Recompute instead of remember: a third slower, far less memory.",
        json_schema_extra={"why": "spares memory where it is dear.", "rare": True},
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**32 - 1,
        description="The same seed on the same machine gives the same run.",
        json_schema_extra={"why": "the same as in other runs, so that they compare.", "rare": True},
    )

    @model_validator(mode="after")
    def warmup_is_a_count_or_a_share(self) -> Training:
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            raise ValueError("warmup_steps is a whole number of steps, or a share below 1")
        return self


class Evaluation(Strict):
    eval_share: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="Share of rows held back to measure on. 0 holds none back.",
        json_schema_extra={"why": "enough to see when it begins to memorise."},
    )
    eval_steps: Steps | Auto = Field(
        "auto",
        description="Measure every so many steps. Auto: about 20 times a run.",
        json_schema_extra={"why": "often enough to see the turn, seldom enough to cost little.", "unit": "steps"},
    )
    early_stopping_patience: int = Field(
        0,
        ge=0,
        le=1000,
        description="Stop after so many measurements without a gain; 0 never does.",
        json_schema_extra={"why": "the best checkpoint is kept in any case.", "unit": "times"},
    )
    prompts: tuple[Annotated[str, Field(min_length=1, max_length=8000)], ...] = Field(
        (),
        max_length=16,
        description="Answered before, during and after training, so that you see what changes.",
        json_schema_extra={"why": "Three to eight are good; let one be a request that it should refuse."},
    )
    sample_steps: Steps | Auto = Field(
        "auto",
        description="Answer the prompts every so many steps. Auto: about 10 times.",
        json_schema_extra={"why": "answers change more slowly than the loss.", "unit": "steps", "rare": True},
    )
    max_new_tokens: int = Field(
        64,
        ge=1,
        le=4096,
        description="Longest answer in tokens.",
        json_schema_extra={"why": "enough to see how an answer begins.", "unit": "tokens", "rare": True},
    )
    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        description="0 always takes the likeliest token.",
        json_schema_extra={"why": "the same answer each time, so that only training changes it.", "rare": True},
    )

    @model_validator(mode="after")
    def early_stopping_has_something_to_measure(self) -> Evaluation:
        if self.early_stopping_patience and not self.eval_share:
            raise ValueError("early stopping measures on rows held back, and an eval_share of 0 holds none back")
        return self


class Saving(Strict):
    save_steps: Steps | Auto = Field(
        "auto",
        description="Save every so many steps. Auto: about 10 times a run.",
        json_schema_extra={"why": "little is lost when a machine fails.", "unit": "steps"},
    )
    save_total_limit: int = Field(
        2,
        ge=1,
        le=100,
        description="How many checkpoints are kept.",
        json_schema_extra={"why": "the newest, and one to fall back on."},
    )
    merge_onto: Literal["trained", "original"] = Field(
        "trained",
        description="Merge onto the weights trained on (dequantised for QLoRA), or the original ones, whose drift is shown.",
        json_schema_extra={"why": "this is the model that was watched.", "rare": True},
    )


OLD_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("training", "warmup_ratio"): ("training", "warmup_steps"),
    ("training", "batch_size"): ("training", "per_device_train_batch_size"),
    ("training", "max_seq_length"): ("data", "max_length"),
    ("training", "max_length"): ("data", "max_length"),
    ("training", "packing"): ("data", "packing"),
    ("training", "attn_implementation"): ("model", "attn_implementation"),
    ("training", "eval_steps"): ("evaluation", "eval_steps"),
    ("training", "save_steps"): ("saving", "save_steps"),
    ("training", "save_total_limit"): ("saving", "save_total_limit"),
    ("data", "max_seq_length"): ("data", "max_length"),
    ("method", "lora_rank"): ("method", "r"),
    ("method", "rank"): ("method", "r"),
    ("method", "alpha"): ("method", "lora_alpha"),
    ("method", "dropout"): ("method", "lora_dropout"),
}


class Recipe(Strict):
    """A run, said in full. Equal recipes with equal data versions on equal machines give equal runs."""

    name: str = Field("", max_length=80, description="What the run is called; empty picks one.")
    model: Annotated[ModelChoice, _short_for("path")]
    stage: Annotated[AnyStage, _short_for("kind")] = Sft()
    data: Data
    method: Annotated[AnyMethod, _short_for("kind")] = Field(default_factory=QLora)
    training: Training
    evaluation: Evaluation = Evaluation()
    saving: Saving = Saving()

    @model_validator(mode="before")
    @classmethod
    def the_method_recommends_a_rate(cls, data: Any) -> Any:
        """Where no learning rate is given, the method's own recommendation is written in, so that a stored recipe is whole.
        Settings of a method that is not named are QLoRA's, as no method is QLoRA."""
        if not isinstance(data, Mapping):
            return data
        if isinstance(data.get("method"), Mapping) and "kind" not in data["method"]:
            data = {**data, "method": {"kind": "qlora", **data["method"]}}
        training = data.get("training", {})
        if isinstance(training, Mapping) and "learning_rate" not in training:
            method = data.get("method", "qlora")
            kind = method.get("kind") if isinstance(method, Mapping) else method
            rate = next(
                (m.learning_rate for m in METHODS if m.model_fields["kind"].default == kind), QLora.learning_rate
            )
            return {**data, "training": {**training, "learning_rate": rate}}
        return data

    @field_validator("name")
    @classmethod
    def its_name_can_be_a_name(cls, value: str) -> str:
        if value and not NAME.fullmatch(value):
            raise ValueError("holds letters, digits, spaces and _ . + - and starts with a letter or digit")
        return value


@dataclass(frozen=True)
class Read:
    """A recipe as it was read, and notes on what was translated."""

    recipe: Recipe
    notes: tuple[Problem, ...] = ()


def read_recipe(data: object) -> Read:
    """Validate what a person wrote. Raises `Invalid` with the problems at once, each at its place."""
    if not isinstance(data, Mapping):
        raise Invalid("A recipe is a mapping of settings.", hint="It starts with model: and data:.")
    refuse_crowd(data)
    body, notes = translate_old_names(data)
    try:
        return Read(Recipe.model_validate(body), notes)
    except ValidationError as error:
        found = problems_of(error, Recipe, body)
        problems = tuple(map(_given_twice, found.first))
        count = "1 setting is" if found.total == 1 else f"{found.total:,} settings are"
        raise Invalid(f"The recipe cannot be used: {count} wrong.", code="recipe", problems=problems) from None


def _given_twice(problem: Problem) -> Problem:
    """An old name is left where today's stands beside it, and then says so."""
    today = OLD_NAMES.get(tuple(problem.where.split(".")))
    if problem.code != "unknown_key" or today is None:
        return problem
    return replace(problem, hint=f"It is called {'.'.join(today)} today, which is given as well.")


def translate_old_names(data: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The same settings under today's names, with a note for each that was renamed. A new name that is given wins."""
    body = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    notes = []
    for (old_group, old), (group, name) in OLD_NAMES.items():
        source = body.get(old_group)
        if not isinstance(source, dict) or old not in source:
            continue
        target = (
            {"path": body["model"]} if group == "model" and isinstance(body.get("model"), str) else body.get(group, {})
        )
        if not isinstance(target, dict) or name in target:
            continue
        value = source.pop(old)
        body[group] = (source if group == old_group else target) | {name: value}
        notes.append(Problem("renamed", f"is called {group}.{name} today and was taken as such.", f"{old_group}.{old}"))
    return body, tuple(notes)


def recommended_global_batch(rows: int, epochs: float) -> int:
    """The power of two between 8 and 128 that leaves about 150 steps or more."""
    best = 8
    for size in (16, 32, 64, 128):
        if rows * epochs / size >= 150:
            best = size
    return best


def resolve(recipe: Recipe, *, train_rows: int, context_length: int | None) -> Recipe:
    """The recipe with every `auto` that depends on the data or the model written out. What depends on the machine stays.

    `train_rows` counts the rows of one epoch; steps are counted again by the trainer, after packing.
    """
    training, data = recipe.training, recipe.data
    accumulation = training.gradient_accumulation_steps
    if accumulation == "auto":
        batch = recommended_global_batch(train_rows, training.num_train_epochs)
        accumulation = max(1, batch // training.per_device_train_batch_size)
    max_length = min(2048, context_length or 2048) if data.max_length == "auto" else data.max_length
    return recipe.model_copy(
        update={
            "training": training.model_copy(update={"gradient_accumulation_steps": accumulation}),
            "data": data.model_copy(update={"max_length": max_length}),
        }
    )


def figure(value: float) -> str:
    """As people write it: `2e-4`, `0.03`, `2`."""
    if value == 0 or abs(value) >= SMALL:
        return f"{value:.12g}"
    mantissa, _, exponent = f"{value:.11e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def every(setting: int | Auto, total_steps: int, times: int) -> int:
    """The interval in steps: as set, or so that it comes at most `times` times in the run."""
    return setting if isinstance(setting, int) else max(1, math.ceil(total_steps / times))

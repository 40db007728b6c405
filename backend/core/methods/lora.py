"""LoRA: low-rank updates beside frozen weights. Hu et al. 2021, https://arxiv.org/abs/2106.09685.

rsLoRA: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732. DoRA: Liu et al. 2024, https://arxiv.org/abs/2402.09353.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from backend.core.errors import Invalid
from backend.core.methods.base import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from backend.core.memory import Shape
    from backend.core.methods.merging import MergePlanner


class LoraSettings(Method):
    """The fields that LoRA and QLoRA share."""

    learning_rate: ClassVar[float] = 2e-4
    makes_adapter: ClassVar[bool] = True

    r: int = Field(
        16,
        ge=1,
        le=1024,
        description="Rank of the update. 8–16 suits style and format; 64+ suits code.",
        json_schema_extra={"why": "enough for a few thousand rows; more learns little and saves more."},
    )
    lora_alpha: int = Field(
        32,
        ge=1,
        le=4096,
        description="Scale of the update: it is multiplied by lora_alpha / r. Twice the rank is usual.",
        json_schema_extra={"why": "twice the rank, and follows it."},
    )
    lora_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the update's inputs dropped in training. 0.05 helps on few rows.",
        json_schema_extra={"why": "small matrices seldom memorise before the evaluation shows it."},
    )
    target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description="Layers that get an update: all-linear, or names such as q_proj, v_proj.",
        json_schema_extra={"why": "learns more than attention alone at the same rank."},
    )
    use_rslora: bool = Field(
        False,
        description="Scale by lora_alpha / √r, which keeps large ranks stable.",
        json_schema_extra={"why": "it makes a difference from rank 64 on.", "rare": True},
    )
    use_dora: bool = Field(
        False,
        description="Learn direction and magnitude apart. Closer to full tuning, about a third slower.",
        json_schema_extra={"why": "the time is better spent on data first.", "rare": True},
    )

    @model_validator(mode="before")
    @classmethod
    def alpha_follows_the_rank(cls, data: Any) -> Any:
        """Where only the rank is given, the scale is twice the rank."""
        return data if not isinstance(data, dict) or "lora_alpha" in data else data | cls.recommended(data)

    @classmethod
    def recommended(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        rank = given.get("r")
        return {"lora_alpha": 2 * rank} if isinstance(rank, int) and 1 <= rank <= 1024 else {}

    @field_validator("target_modules")
    @classmethod
    def modules_are_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        if not names or not all(
            name and name.replace("_", "").replace(".", "").replace("-", "").isalnum() for name in names
        ):
            raise ValueError("must be all-linear, or names of layers such as q_proj")
        return value if value == "all-linear" or not isinstance(value, str) else (value,)

    def apply(self, model: PreTrainedModel, added_token_ids: list[int]) -> Any:
        """Wrap the model with PEFT. Added tokens train only their own rows, which keeps a tied head tied."""
        from peft import LoraConfig, get_peft_model

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        if isinstance(targets, list):
            refuse_unknown_layers(model, targets)
        return get_peft_model(
            model,
            LoraConfig(
                r=self.r,
                lora_alpha=self.lora_alpha,
                lora_dropout=self.lora_dropout,
                target_modules=targets,
                use_rslora=self.use_rslora,
                use_dora=self.use_dora,
                trainable_token_indices=trained_rows(model, added_token_ids),
                task_type="CAUSAL_LM",
            ),
        )

    def merge_planner(self) -> MergePlanner:
        from backend.core.methods.lora_merge import plan_lora

        return plan_lora

    def trained_parameters(self, shape: Shape) -> int:
        """Two matrices of rank r for each layer that is a target, and with DoRA a magnitude for each output."""
        names = None if self.target_modules == "all-linear" else set(self.target_modules)
        targets = [each for each in shape.linears if names is None or each.name in names]
        wide = 1 if self.use_dora else 0
        return sum(each.count * (self.r * (each.inputs + each.outputs) + wide * each.outputs) for each in targets)


def trained_rows(model: PreTrainedModel, token_ids: list[int]) -> dict[str, list[int]] | None:
    """PEFT's `trainable_token_indices`: the tokens' rows in the embedding, and in the head where it has weights of its own."""
    if not token_ids:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return {names[id(layer)]: token_ids for layer in ((embedding,) if tied else (embedding, head))}


def refuse_unknown_layers(model: PreTrainedModel, targets: list[str]) -> None:
    """Raise `Invalid` for names that no layer with weights has, listing those that exist."""
    known = {name.rpartition(".")[2]: name for name, module in model.named_modules() if hasattr(module, "weight")}
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in known.values())]
    if missing:
        raise Invalid(
            f"The model has no layer called {', '.join(missing)}.",
            where="method.target_modules",
            hint=f"It has {', '.join(sorted(known))}. all-linear takes all but the head.",
        )


class Lora(LoraSettings):
    title: ClassVar[str] = "LoRA"
    help: ClassVar[str] = "Trains small matrices beside the frozen weights: a few MB to save, a third of the memory."

    kind: Literal["lora"] = "lora"

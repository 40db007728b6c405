"""The worker's tools that an export asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.core.exports.base import Facts
from backend.core.recipe import Recipe
from worker.exports.adapter import write_adapter
from worker.exports.card import card
from worker.exports.context import ExportContext
from worker.exports.merge import OnProgress
from worker.exports.merged import write_merged
from worker.exports.proof import Base, prove


@dataclass(frozen=True)
class WorkerBench:
    """See `backend.core.exports.base.Bench`."""

    context: ExportContext
    on_progress: OnProgress

    @property
    def recipe(self) -> Recipe:
        return self.context.recipe

    def write_adapter(self, folder: Path) -> Facts:
        return write_adapter(self.context, folder)

    def write_merged(self, folder: Path) -> Facts:
        return write_merged(self.context, folder, self.on_progress)

    def write_card(self, folder: Path, kind: str, facts: Facts) -> None:
        (folder / "README.md").write_text(card(self.context, kind, facts))

    def prove(self, folder: Path) -> Facts:
        """A merge onto other weights than those trained on is a choice: how far it drifts is shown, and not refused."""
        context = self.context
        onto = "trained" if context.quantisation is None else context.recipe.saving.merge_onto
        adapted = context.recipe.method.makes_adapter
        base = Base(context.base, context.dtype, context.compute_dtype, context.quantisation, context.device, adapted)
        return prove(context.watched, folder, base, must_agree=onto == "trained") | {"merged_onto": onto}

"""The whole model in Hugging Face's layout, proved to answer like the model that was watched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from backend.core.exports.base import Bench, Export, Facts

if TYPE_CHECKING:
    from backend.core.recipe import Recipe


class MergedExport(Export):
    kind: ClassVar[str] = "merged"
    title: ClassVar[str] = "Merged model"
    help: ClassVar[str] = "The whole model with the training in its weights; loads in plain transformers."

    def applies(self, recipe: Recipe) -> bool:  # noqa: ARG002 -- every method ends in a model
        return True

    def write(self, bench: Bench, folder: Path) -> Facts:
        facts = bench.write_merged(folder)
        facts |= bench.prove(folder)
        bench.write_card(folder, self.kind, facts)
        return facts

"""The adapter alone, in PEFT's layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from backend.core.exports.base import Bench, Export, Facts

if TYPE_CHECKING:
    from backend.core.recipe import Recipe


class AdapterExport(Export):
    kind: ClassVar[str] = "adapter"
    title: ClassVar[str] = "Adapter"
    help: ClassVar[str] = "The trained update alone, a few MB in PEFT's layout; loads beside the base model."

    def applies(self, recipe: Recipe) -> bool:
        return recipe.method.makes_adapter

    def write(self, bench: Bench, folder: Path) -> Facts:
        facts = bench.write_adapter(folder)
        bench.write_card(folder, self.kind, facts)
        return facts

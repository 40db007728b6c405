"""What every kind of artifact says of itself, and what a worker lends it to be made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from backend.core.recipe import Recipe  # a recipe reads the catalog, which reads this

Facts = dict[str, Any]
"""What is worth telling about an artifact beside its files: strict JSON, shown on the run's page."""


class Bench(Protocol):
    """A finished run on a worker, with the tools to write what came out of it. Folders given to it exist and are empty.

    An export never sees torch: it says which steps make it, and the worker does them.
    """

    @property
    def recipe(self) -> Recipe: ...

    def write_adapter(self, folder: Path) -> Facts:
        """PEFT's two files and the tokenizer of training."""
        ...

    def write_merged(self, folder: Path) -> Facts:
        """The whole model in Hugging Face's layout with the tokenizer of training."""
        ...

    def write_card(self, folder: Path, kind: str, facts: Facts) -> None:
        """README.md: what this is, what made it, and the lines that load it."""
        ...

    def prove(self, folder: Path) -> Facts:
        """Reload the folder and compare it with the model that was watched. Raises `StudioError` where they differ."""
        ...


class Export:
    """One kind of artifact. A subclass states its three texts, when it applies, and the steps that write it."""

    kind: ClassVar[str]
    title: ClassVar[str]
    help: ClassVar[str]

    def applies(self, recipe: Recipe) -> bool:
        """Whether a run of this recipe gives out this artifact."""
        raise NotImplementedError(type(self).__name__)

    def write(self, bench: Bench, folder: Path) -> Facts:
        """Write the artifact into `folder`. Whatever it raises means that there is no artifact."""
        raise NotImplementedError(type(self).__name__)

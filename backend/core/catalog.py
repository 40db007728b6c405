"""Everything that can be chosen, one typed line each. To add a method, a stage … write its file and add its line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backend.core.exports.adapter import AdapterExport
from backend.core.exports.base import Export
from backend.core.exports.merged import MergedExport
from backend.core.methods.full import Full
from backend.core.methods.lora import Lora
from backend.core.methods.qlora import QLora
from backend.core.stages.sft import Sft

AnyMethod = Annotated[Full | Lora | QLora, Field(discriminator="kind")]
METHODS = (QLora, Lora, Full)  # in the order in which they are offered

AnyStage = Sft
STAGES = (Sft,)

EXPORTS: tuple[Export, ...] = (AdapterExport(), MergedExport())

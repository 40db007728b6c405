"""Everything that can be chosen, one typed line each. To add a method, a stage … write its file and add its line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backend.core.cleaners.base import Cleaner
from backend.core.cleaners.broken import Broken
from backend.core.cleaners.control_text import ControlText
from backend.core.cleaners.personal import Personal
from backend.core.cleaners.repeats import Repeats
from backend.core.cleaners.short_answers import ShortAnswers
from backend.core.cleaners.speaks_of_ai import SpeaksOfAi
from backend.core.exports.adapter import AdapterExport
from backend.core.exports.base import Export
from backend.core.exports.merged import MergedExport
from backend.core.formats.alpaca import Alpaca
from backend.core.formats.base import Format
from backend.core.formats.messages import Messages
from backend.core.formats.preference import Labelled, Pairs
from backend.core.formats.prompt_completion import PromptCompletion
from backend.core.formats.sharegpt import ShareGpt
from backend.core.formats.text import Text
from backend.core.methods.full import Full
from backend.core.methods.lora import Lora
from backend.core.methods.qlora import QLora
from backend.core.stages.sft import Sft

AnyMethod = Annotated[Full | Lora | QLora, Field(discriminator="kind")]
METHODS = (QLora, Lora, Full)  # in the order in which they are offered

AnyStage = Sft
STAGES = (Sft,)

EXPORTS: tuple[Export, ...] = (AdapterExport(), MergedExport())

FORMATS: tuple[Format, ...] = (  # in the order in which they are tried
    Pairs(),
    Labelled(),
    Messages(),
    ShareGpt(),
    Alpaca(),
    PromptCompletion(),
    Text(),
)

CLEANERS: tuple[type[Cleaner], ...] = (  # in the order in which their findings are shown
    Repeats,
    SpeaksOfAi,
    Personal,
    ControlText,
    Broken,
    ShortAnswers,
)

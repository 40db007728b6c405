"""From normalised rows to what the model reads, and which of it the model learns. Preview and trainer share this one path.

Only light names stand here: nothing of this imports torch, and transformers is loaded inside functions alone.
"""

from backend.core.rendering.types import (
    IGNORE_INDEX,
    AddedToken,
    Dataset,
    Encoded,
    Example,
    Prepared,
    Report,
    SetReport,
)

__all__ = ["IGNORE_INDEX", "AddedToken", "Dataset", "Encoded", "Example", "Prepared", "Report", "SetReport"]

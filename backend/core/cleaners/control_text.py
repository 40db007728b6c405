"""Control tokens of chat templates that are spelled out in the data."""

from __future__ import annotations

import re

from backend.core.cleaners.base import Cleaner, Hit, quoted, texts_of
from backend.core.datasets.schema import Row

CONTROL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|eot_id|eom_id|begin_of_text|end_of_text|start_header_id|end_header_id"
    r"|user|assistant|system|end|return|channel|message|start)\|>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|(?<![\w<])</s>(?![\w>])"
)


class ControlText(Cleaner):
    """Rows that went through a template once would go through a second one."""

    name = "control_text"
    fix = "leave_out"

    def see(self, place: int, row: Row) -> Hit | None:  # noqa: ARG002
        for text in texts_of(row):
            if found := CONTROL.search(text):
                return quoted(text, *found.span())
        return None

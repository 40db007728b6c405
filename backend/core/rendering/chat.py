"""Render conversations with a model's template, and find in the result what the assistant itself has to write.

A turn of the assistant begins where the template's generation prompt ends, since that is where the model takes over, and
ends with the template's end token. Neither needs `{% generation %}` in the template; where that stands, it decides.
"""

from __future__ import annotations

import gc
import json
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from backend.core.datasets.schema import Row
from backend.core.errors import Invalid
from backend.core.limited import at_most_more, foretell
from backend.core.rendering.reader import MARK
from backend.core.rendering.types import Span

Turn = dict[str, Any]
QUESTION, ANSWER = "Qzx", "Azx"
FIXED_DATE = "26 Jul 2024"
INTERNALS = re.compile(r"__\w+__")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
RENDER_SECONDS = 0.5
"""Of the processor, for one conversation, which takes about a thousandth of it."""
HELD_SECONDS, ENDED_BY = 0.75, signal.SIGPROF
"""After so long the system itself ends the process: no handler of Python's interrupts one call that never returns, such as
a comparison of two lists that hold themselves forty times over."""
RENDER_MIB = 128
"""More than there was before, for one conversation."""
MORE_CHARACTERS, TIMES = 100_000, 10
"""What a template may write of its own, and how often it may say what it was given."""


class TemplateRefused(ValueError):
    """The template cannot, or will not, render a conversation; the message says why in its own words."""


class _TimeIsOver(BaseException):
    """No `Exception`, since Jinja goes on after one that comes while it works out constants."""


@dataclass(frozen=True)
class Rendered:
    text: str
    spans: tuple[Span, ...] = ()


class Chat:
    """One template with the special tokens it may name.

    `added` are all tokens of the vocabulary that text is split at, `special` those of them that data cannot spell out,
    and `ends` are known to end a turn or a text. Raises `TemplateRefused` where the template cannot render one question
    and one answer.
    """

    def __init__(
        self,
        template: str,
        variables: Mapping[str, str],
        *,
        added: Sequence[str],
        special: Sequence[str],
        ends: Sequence[str],
    ) -> None:
        if internals := INTERNALS.search(template):
            raise TemplateRefused(f"it reaches for {internals[0]}, which no template needs")
        self.template, self._marks_itself = template, GENERATION.search(template) is not None
        # A date that moves would make a resumed run read other rows than it began with.
        dated = {"date_string": FIXED_DATE} if "date_string" in template else {}
        self.variables = {**variables, **dated}
        foretell(ENDED_BY, endless())
        self.header = self._find_header()
        bos = variables.get("bos_token", "")
        run = self._find_end(added, not_an_end="" if bos in ends else bos)
        self.turn_end = run[0] if run else None
        self._end_run = "".join(run)
        # Where no end follows an answer, any other that stands in the text belongs to somebody else's turn.
        self.ends = tuple(each for each in dict.fromkeys((*run, *ends)) if each) if run else ()
        self._end = re.compile("|".join(map(re.escape, self.ends)) or "(?!)")
        self._header_is_certain = any(token in self.header for token in special)

    def render(self, turns: Sequence[Turn], tools: Any = None, *, add_generation_prompt: bool = False) -> str:
        """The text that the model reads. Raises `TemplateRefused`."""
        return self._render(turns, tools, add_generation_prompt)[0]

    def render_row(self, turns: Sequence[Turn], tools: Any, train: Sequence[bool]) -> Rendered:
        """The text with a span for each turn of the assistant that it shows; `train` has one entry for each of them."""
        text, marked = self._render(turns, tools, False)
        self._check_tools(text, turns, tools)
        if self._marks_itself:
            return Rendered(text, self._spans_marked(text, marked, train))
        answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
        starts = self._starts(text, turns, tools, answers)
        limits = [*starts[1:], len(text)][: len(starts)]
        spans = [
            self._span(text, start, limit, turns[number]["content"], learn)
            for number, start, limit, learn in zip(answers, starts, limits, train, strict=True)
        ]
        for place in range(len(spans) - 2, -1, -1):
            if not spans[place].ends and answers[place + 1] == answers[place] + 1:
                # The template writes both answers as one, so that the model goes on to the next where this one stops.
                spans[place] = replace(spans[place], end=spans[place + 1].start, ends=spans[place + 1].ends)
        return Rendered(text, tuple(spans))

    def _render(self, turns: Sequence[Turn], tools: Any, prompt: bool) -> tuple[str, list[tuple[int, int]]]:
        from jinja2 import TemplateError
        from transformers.utils import chat_template_utils

        library: Any = chat_template_utils  # its own types are wrong
        try:
            with _stopped_after(RENDER_SECONDS, HELD_SECONDS), at_most_more(RENDER_MIB):
                texts, marked = library.render_jinja_template(
                    [list(turns)],
                    tools=tools,
                    chat_template=self.template,
                    add_generation_prompt=prompt,
                    return_assistant_tokens_mask=self._marks_itself,
                    **self.variables,
                )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise TemplateRefused(str(error) or type(error).__name__) from None
        except RecursionError:
            raise TemplateRefused("it calls itself without end") from None
        except MemoryError:
            raise unusable(f"it needs more memory than {RENDER_MIB} MiB for one conversation") from None
        _refuse_flood(texts[0], turns, tools)
        return texts[0], list(marked[0]) if self._marks_itself else []

    def _find_header(self) -> str:
        """What the template writes to make the model answer; empty where it writes nothing."""
        turns = [{"role": "user", "content": QUESTION}]
        try:
            without, prompt = self.render(turns), self.render(turns, add_generation_prompt=True)
        except TemplateRefused:
            return ""
        return prompt.removeprefix(without) if prompt.startswith(without) else ""

    def _find_end(self, added: Sequence[str], not_an_end: str) -> list[str]:
        """The tokens that the template writes right behind an answer, wherever in the conversation it stands."""
        turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
        last = self.render(turns).rpartition(ANSWER)[2]
        try:
            middle = self.render([*turns, turns[0]]).rpartition(ANSWER)[2]
        except TemplateRefused:
            middle = last
        longest_first = sorted((each for each in added if each != not_an_end), key=len, reverse=True)
        token = "|".join(map(re.escape, longest_first)) or "(?!)"
        run = re.match(rf"\s*((?:{token})+)", last[: _shared(last, middle)]) or re.match(rf"\s*({token})", last)
        return re.findall(token, run[1]) if run else []

    def _starts(self, text: str, turns: Sequence[Turn], tools: Any, answers: Sequence[int]) -> list[int]:
        """Where the model takes over, for each answer. Data cannot spell out a header that holds a control token."""
        if self._header_is_certain and not text.endswith(self.header):
            found = [each.end() for each in re.finditer(re.escape(self.header), text)]
            if len(found) == len(answers):
                return found
        return [self._start_by_change(text, turns, tools, number) for number in answers]

    def _start_by_change(self, text: str, turns: Sequence[Turn], tools: Any, number: int) -> int:
        """Where the text begins to differ when this answer does."""
        changed = [*turns[:number], {**turns[number], "content": MARK}, *turns[number + 1 :]]
        start = _shared(text, self.render(changed, tools))
        if start < len(text):
            return start
        # The template shows a call and not the words beside it: the turn begins behind all that came before.
        return _shared(text, self.render(turns[:number], tools, add_generation_prompt=True))

    def _span(self, text: str, start: int, limit: int, content: str, train: bool) -> Span:
        end = self._end.search(text, start, limit)
        if end is None:
            words = content.strip()
            found = text.find(words, start, limit)
            return Span(start, found + len(words) if found >= 0 else limit, train, ends=False)
        whole_run = bool(self._end_run) and text.startswith(self._end_run, end.start())
        return Span(start, end.start() + len(self._end_run) if whole_run else end.end(), train, ends=True)

    def _spans_marked(self, text: str, marked: Sequence[tuple[int, int]], train: Sequence[bool]) -> tuple[Span, ...]:
        """The template's own `{% generation %}` blocks, one for each turn of the assistant."""
        if len(marked) != len(train):
            turns = f"{len(train)} turn{'s' if len(train) != 1 else ''} of the assistant"
            raise TemplateRefused(f"its generation blocks ({len(marked)}) do not match the {turns}")
        return tuple(
            Span(start, end, learn, ends=self._end.search(text, start, end) is not None)
            for (start, end), learn in zip(marked, train, strict=True)
        )

    def _check_tools(self, text: str, turns: Sequence[Turn], tools: Any) -> None:
        """Refuse what the template would leave out in silence."""
        if tools and text == self.render(turns):
            raise TemplateRefused("it cannot show the tools of this row")
        if any("tool_calls" in turn for turn in turns):
            without = [{key: value for key, value in turn.items() if key != "tool_calls"} for turn in turns]
            if text == self._or_empty(without, tools):
                raise TemplateRefused("it cannot show the tool calls of this row")
        if any(turn["role"] == "tool" for turn in turns):
            changed = [{**turn, "content": MARK} if turn["role"] == "tool" else turn for turn in turns]
            if text == self._or_empty(changed, tools):
                raise TemplateRefused("it cannot show the answers of tools")

    def _or_empty(self, turns: Sequence[Turn], tools: Any) -> str:
        try:
            return self.render(turns, tools)
        except TemplateRefused:
            return ""


def _refuse_flood(text: str, turns: Sequence[Turn], tools: Any) -> None:
    """Many rows are kept at once, and each character becomes a token in the worst case."""
    if len(text) > MORE_CHARACTERS:
        given = len(str(turns)) + len(str(tools))
        if len(text) > MORE_CHARACTERS + TIMES * given:
            raise TemplateRefused(f"it writes {len(text):,} characters where it was given {given:,}")


def unusable(why: str) -> Invalid:
    """The template cannot be used for any row."""
    return Invalid(
        f"The model's chat template cannot be used: {why}.",
        hint="Choose a built-in one: chatml, llama3, zephyr or plain.",
        code="template",
        where="model.chat_template",
    )


def endless() -> Invalid:
    """The template takes too long over one conversation, and nothing tells whether it would ever be done."""
    return unusable(f"it timed out, since one conversation takes it more than {RENDER_SECONDS:g} s")


@contextmanager
def _stopped_after(seconds: float, held_seconds: float) -> Iterator[None]:
    """Raise `Invalid` once the block has computed for so long, or end the process by `ENDED_BY` where not even that can
    stop it: a template is a program, and may have no end.

    Only a main thread can be interrupted. Limited processes and trainers, the only ones that render, do so in theirs.
    The garbage collector waits meanwhile: to look through all that a trainer holds takes it half a second (measured: 0.47 s
    for 774,000 objects), which is none of the template's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _TimeIsOver

    before, collects = signal.signal(signal.SIGVTALRM, stop), gc.isenabled()
    gc.disable()
    signal.setitimer(signal.ITIMER_PROF, held_seconds)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    except _TimeIsOver:
        raise endless() from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGVTALRM, before)
        if collects:
            gc.enable()


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def turns_of(row: Row) -> list[Turn]:
    """The messages as templates take them. Raises `TemplateRefused` where tool calls are not JSON."""
    turns: list[Turn] = []
    for message in row.messages:
        turn: Turn = {"role": message.role, "content": message.content}
        if message.name:
            turn["name"] = message.name
        if message.tool_calls:
            turn["tool_calls"] = _calls(message.tool_calls)
        turns.append(turn)
    return turns


def tools_of(row: Row) -> list[Any] | None:
    """The tools of the row as JSON schemas. Raises `TemplateRefused` where they are not a list of them."""
    tools = _json(row.tools, "tools") if row.tools else None
    if not isinstance(tools, list | None):
        raise TemplateRefused("its tools are not a list")
    return tools


def _calls(text: str) -> list[Any]:
    """Templates write arguments as JSON themselves, so they must not be JSON text already."""
    calls = _json(text, "tool calls")
    calls = calls if isinstance(calls, list) else [calls]
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise TemplateRefused("its tool calls name no function")
        if isinstance(function.get("arguments"), str):
            function["arguments"] = _json(function["arguments"], "arguments")
    return calls


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise TemplateRefused(f"its {what} are not JSON") from None

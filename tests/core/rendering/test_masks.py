from __future__ import annotations

import gc
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from backend.core.datasets.schema import Message, Row
from backend.core.errors import Invalid
from backend.core.rendering import Encoded, Prepared
from backend.core.rendering.masks import cut, encode, encode_prompt
from backend.core.rendering.tokenizer import load_tokenizer
from tests.core.rendering.families import CHATML, DEEPSEEK, FALCON, FAMILIES, LLAMA2, MERGING, QWEN3, Family, save
from tests.core.rendering.oracle import expected

Load = Callable[..., Prepared]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A family's tokenizer, ready for training."""

    @cache
    def loaded(family: Family) -> Prepared:
        return load_tokenizer(save(tmp_path_factory.mktemp("model"), family))

    return loaded


def read(prepared: Prepared, *messages: Message, assistant_only_loss: bool = True) -> Encoded:
    row = Row(7, messages=tuple(messages))
    return encode(row, prepared, assistant_only_loss=assistant_only_loss, max_length=4096, truncation="refuse")


def learned(encoded: Encoded) -> str:
    """The text of the learned tokens, each character once."""
    pairs = zip(encoded.starts.tolist(), encoded.ends.tolist(), encoded.trained.tolist(), strict=True)
    places = {place for start, end, trained in pairs if trained for place in range(start, end)}
    return "".join(encoded.text[place] for place in sorted(places))


TALK = (
    Message("user", "What is the capital of France?"),
    Message("assistant", "The capital of France is Paris. 巴黎 🗼"),
    Message("user", "Are you sure, naïve one?"),
    Message("assistant", "Yes:\n\n    def main():\n\t\treturn  'yes'"),
)

words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Co"], include_characters="\n\t "), max_size=30)


@st.composite
def talks(draw: st.DrawFn) -> list[Message]:
    """Conversations of any text. A letter and a digit keep each message apart from the others, as the oracle needs."""
    pairs = draw(st.lists(st.tuples(words, words, st.booleans()), min_size=1, max_size=3))
    talk = []
    for number, (question, answer, train) in enumerate(pairs):
        talk.append(Message("user", f"{question}Q{number}{question}"))
        talk.append(Message("assistant", f"{answer}A{number}{answer}", train=train))
    return talk


@pytest.mark.parametrize("name", FAMILIES)
class TestEveryFamily:
    def test_the_mask_is_what_character_offsets_say(self, load: Load, name: str) -> None:
        prepared, family = load(FAMILIES[name]), FAMILIES[name]

        @settings(max_examples=40, deadline=None, derandomize=True, database=None)
        @given(talks())
        def agree(talk: list[Message]) -> None:
            text, ids, trained = expected(prepared.tokenizer, family, talk)
            encoded = read(prepared, *talk)
            assert encoded.text == text
            assert encoded.input_ids.tolist() == ids
            assert encoded.trained.tolist() == trained

        agree()

    def test_it_reads_what_the_model_reads_when_it_is_asked(self, load: Load, name: str) -> None:
        prepared = load(FAMILIES[name])
        chat = [{"role": message.role, "content": message.content} for message in TALK]
        ids = prepared.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
        assert read(prepared, *TALK).input_ids.tolist() == ids

    def test_each_answer_is_learned_up_to_its_end_token_and_nothing_else_is(self, load: Load, name: str) -> None:
        prepared, end = load(FAMILIES[name]), FAMILIES[name].end
        answers = [message.content + end for message in TALK if message.role == "assistant"]
        without_space = "".join("".join(answers).split())
        assert "".join(learned(read(prepared, *TALK)).split()) == without_space

    def test_an_answer_that_is_only_read_is_not_learned(self, load: Load, name: str) -> None:
        prepared = load(FAMILIES[name])
        encoded = read(prepared, TALK[0], replace(TALK[1], train=False), *TALK[2:])
        assert "Paris" not in learned(encoded)
        assert "main" in learned(encoded)

    def test_control_tokens_that_data_spells_out_are_plain_text(self, load: Load, name: str) -> None:
        prepared, family = load(FAMILIES[name]), FAMILIES[name]
        spelled = "".join(family.specials)
        innocent = read(prepared, Message("user", "hi"), Message("assistant", "ho"))
        encoded = read(prepared, Message("user", f"hi{spelled}"), Message("assistant", f"ho {spelled} ho"))
        control = prepared.reader.control_ids
        assert encoded.control_text == family.specials
        assert [each for each in encoded.input_ids if each in control] == [
            each for each in innocent.input_ids if each in control
        ]
        assert spelled in learned(encoded)
        assert encoded.text.count(spelled) == 2
        assert encoded.spans[0].ends

    def test_a_bos_stands_at_the_start_alone(self, load: Load, name: str) -> None:
        prepared, family = load(FAMILIES[name]), FAMILIES[name]
        text = encode(Row(1, text="Hello there"), prepared, max_length=99, truncation="refuse")
        assert (text.input_ids[0] == prepared.tokenizer.bos_token_id) == (family.bos is not None)
        assert text.input_ids[-1] == prepared.document_end_id
        assert text.trained.tolist() == [False] + [True] * (len(text) - 1)
        once = read(prepared, *TALK[:2]).input_ids.tolist().count(prepared.tokenizer.bos_token_id)
        assert once == (prepared.chat.template.count("bos_token") > 0)

    def test_the_prompt_of_a_sample_is_where_the_answer_begins_to_be_learned(self, load: Load, name: str) -> None:
        prepared = load(FAMILIES[name])
        encoded = read(prepared, *TALK[:2])
        prompt = encode_prompt(TALK[0].content, prepared)
        assert encoded.input_ids[: len(prompt)].tolist() == prompt
        assert int(encoded.trained.argmax()) == len(prompt)

    def test_the_rest_is_learned_too_where_the_recipe_says_so(self, load: Load, name: str) -> None:
        prepared = load(FAMILIES[name])
        encoded = read(prepared, TALK[0], replace(TALK[1], train=False), *TALK[2:], assistant_only_loss=False)
        assert "sure" in learned(encoded)
        assert "Paris" not in learned(encoded)
        assert not encoded.trained[0]


def test_the_end_is_learned_where_it_is_the_padding_token_as_well(load: Load) -> None:
    prepared = load(replace(FAMILIES["llama3"], pad="<|eot_id|>"))
    assert prepared.pad_token_id == prepared.tokenizer.eos_token_id
    encoded = read(prepared, *TALK)
    ends = encoded.input_ids == prepared.pad_token_id
    assert encoded.trained[ends].tolist() == [False, True, False, True]  # the users' turns end with it, too


def test_reasoning_is_learned_from_where_the_model_takes_over(load: Load) -> None:
    prepared = load(replace(FAMILIES["qwen2.5"], name="qwen3", template=QWEN3))
    thought = "<think>\nLet me see.\n</think>\n\n"
    encoded = read(prepared, TALK[0], Message("assistant", f"{thought}Paris."))
    assert learned(encoded) == f"{thought}Paris.<|im_end|>"
    plain = read(prepared, TALK[0], Message("assistant", "Paris."))
    assert learned(plain) == "<think>\n\n</think>\n\nParis.<|im_end|>"


def test_the_dropped_reasoning_of_an_earlier_turn_leaves_its_answer_learned(load: Load) -> None:
    prepared = load(replace(FAMILIES["qwen2.5"], name="qwen3", template=QWEN3))
    earlier = Message("assistant", "<think>\nHm.\n</think>\n\nParis.")
    encoded = read(prepared, TALK[0], earlier, TALK[2], Message("assistant", "Yes."))
    assert learned(encoded) == "Paris.<|im_end|><think>\n\n</think>\n\nYes.<|im_end|>"


def test_a_template_whose_prompt_is_unlike_its_history_is_masked_by_what_changes(load: Load) -> None:
    thinking = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    prepared = load(replace(FAMILIES["gpt2-chatml"], template=thinking))
    assert prepared.chat.header.endswith("<think>\n")
    assert learned(read(prepared, *TALK)) == "".join(
        message.content + "<|im_end|>" for message in TALK if message.role == "assistant"
    )


@pytest.mark.parametrize(
    ("template", "taught"),
    [
        (DEEPSEEK, "\n\nThat.<|end|>Yes.<|end|>And more.<|end|>"),
        (MERGING, "<think>\nHm.\n</think>\n\nThat.<|end|>Yes.\n\nAnd more.<|end|>"),
        (FALCON, "<think>\nHm.\n</think>\n\nThat.<|end|>Yes.<|end|>And more.<|end|>"),
    ],
)
def test_templates_of_other_shapes_teach_what_the_model_has_to_write(load: Load, template: str, taught: str) -> None:
    specials = ("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>")
    family = Family("other", "byte_level", template, "<|end|>", specials, bos="<|begin|>", eos="<|end|>")
    answers = ("<think>\nHm.\n</think>\n\nThat.", "Yes.", "And more.")
    first, second, third = (Message("assistant", answer) for answer in answers)
    encoded = read(load(family), Message("user", "What?"), first, Message("user", "Sure?"), second, third)
    assert learned(encoded).replace(" Yes", "Yes").replace(" And", "And") == taught
    assert all(span.ends for span in encoded.spans)


def test_a_template_without_a_generation_prompt_does_not_teach_the_header(load: Load) -> None:
    bare = CHATML.split("{% if add_generation_prompt %}")[0]
    prepared = load(replace(FAMILIES["gpt2-chatml"], template=bare))
    assert prepared.chat.header == ""
    assert learned(read(prepared, *TALK[:2])) == TALK[1].content + "<|im_end|>"


def test_a_template_that_marks_what_is_generated_decides(load: Load) -> None:
    marked = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content }}<|im_end|>\n{% endgeneration %}"
        "{% else %}{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    )
    prepared = load(replace(FAMILIES["gpt2-chatml"], template=marked))
    encoded = read(prepared, TALK[0], replace(TALK[1], train=False), *TALK[2:])
    assert learned(encoded) == TALK[3].content + "<|im_end|>\n"
    assert all(span.ends for span in encoded.spans)


def test_an_end_token_outside_the_generation_block_is_seen(load: Load) -> None:
    marked = CHATML.replace(
        "{{ message.content }}",
        "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
        "{% else %}{{ message.content }}{% endif %}",
    )
    encoded = read(load(replace(FAMILIES["gpt2-chatml"], template=marked)), *TALK)
    assert learned(encoded) == TALK[1].content + TALK[3].content
    assert not any(span.ends for span in encoded.spans)


def test_a_template_without_an_end_token_is_seen(load: Load) -> None:
    endless = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    prepared = load(replace(FAMILIES["gpt2-chatml"], template=endless))
    encoded = read(prepared, *TALK)
    assert not any(span.ends for span in encoded.spans)
    assert learned(encoded).strip() == TALK[1].content + TALK[3].content


def test_the_end_of_a_question_is_not_taken_for_that_of_an_answer(load: Load) -> None:
    endless = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "{{ '<|im_end|>\n' if message.role == 'user' else '\n' }}{% endfor %}"
    )
    encoded = read(load(replace(FAMILIES["gpt2-chatml"], template=endless)), *TALK)
    assert learned(encoded) == TALK[1].content + TALK[3].content
    assert not any(span.ends for span in encoded.spans)


@pytest.mark.parametrize(
    ("name", "messages", "reason"),
    [
        ("gemma", (Message("system", "Be brief."), *TALK[:2]), "System role not supported"),
        ("llama2", (TALK[0], TALK[0], TALK[1]), "roles must alternate"),
    ],
)
def test_what_a_template_refuses_is_told_by_row_in_its_words(
    load: Load, name: str, messages: tuple[Message, ...], reason: str
) -> None:
    with pytest.raises(Invalid, match=reason) as refusal:
        read(load(FAMILIES[name]), *messages)
    assert refusal.value.where == "row 7"
    assert refusal.value.code == "rows.template"


def test_no_garbage_is_collected_on_a_templates_time(load: Load) -> None:
    """A trainer holds so many objects that one collection could use up what a conversation may take."""
    keeps = (
        "{% set kept = namespace(all=[]) %}{% for each in range(300) %}{% set kept.all = kept.all + [[]] %}{% endfor %}"
    )
    prepared = load(replace(FAMILIES["gpt2-chatml"], template=keeps + CHATML))
    on_its_time: list[bool] = []

    def look(_phase: str, _about: dict[str, int]) -> None:
        on_its_time.append(signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0)

    thresholds = gc.get_threshold()
    gc.set_threshold(50)
    gc.callbacks.append(look)
    try:
        prepared.chat.render([{"role": "user", "content": "Hello"}])
    finally:
        gc.callbacks.remove(look)
        gc.set_threshold(*thresholds)
    assert not any(on_its_time)
    assert gc.isenabled()


CALL = '[{"type": "function", "function": {"name": "find", "arguments": "{\\"what\\": \\"a <|im_end|> fox\\"}"}}]'
TOOLS = '[{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]'
USED = (
    Message("user", "Find it."),
    Message("assistant", "", tool_calls=CALL),
    Message("tool", '{"found": true}'),
    Message("assistant", "Found."),
)


def test_a_call_of_a_tool_is_learned_and_its_answer_is_not(load: Load) -> None:
    row = Row(7, messages=USED, tools=TOOLS)
    encoded = encode(row, load(FAMILIES["qwen2.5"]), max_length=999, truncation="refuse")
    assert '"parameters"' in encoded.text
    call = '{"name": "find", "arguments": {"what": "a <|im_end|> fox"}}'
    assert learned(encoded) == f"<tool_call>\n{call}\n</tool_call><|im_end|>Found.<|im_end|>"
    assert encoded.control_text == ("<|im_end|>",)


def test_chatml_for_base_models_shows_tools_and_teaches_their_calls(load: Load) -> None:
    prepared = load(replace(FAMILIES["llama2"], template=None))
    row = Row(7, messages=(Message("system", "Be brief."), *USED), tools=TOOLS)
    encoded = encode(row, prepared, max_length=4096, truncation="refuse")
    call = '{"name": "find", "arguments": {"what": "a <|im_end|> fox"}}'
    assert learned(encoded) == f"<tool_call>\n{call}\n</tool_call><|im_end|>Found.<|im_end|>"
    assert encoded.text.startswith("<s><|im_start|>system\nBe brief.\n\n# Tools\n")
    assert encoded.text.count("Be brief.") == 1


def test_a_system_message_that_a_template_merges_into_a_question_is_not_learned(load: Load) -> None:
    encoded = read(load(FAMILIES["llama2"]), Message("system", "Be brief."), *TALK)
    assert "<<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is" in encoded.text
    assert learned(encoded) == learned(read(load(FAMILIES["llama2"]), *TALK))


def test_a_tokenizer_that_cannot_read_a_control_token_as_text_refuses_the_row(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyzAINST<>/[]"]
    backend = Tokenizer(Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = LLAMA2
    tokenizer.save_pretrained(tmp_path)
    prepared = load_tokenizer(tmp_path)
    assert read(prepared, Message("user", "hi"), Message("assistant", "ho")).trained.any()
    with pytest.raises(Invalid, match="spells out </s>, which this tokenizer cannot read as plain text"):
        read(prepared, Message("user", "hi </s> ho"), Message("assistant", "ho"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row(7, messages=TALK[:2], tools=TOOLS), "cannot show the tools"),
        (Row(7, messages=(*USED[:1], replace(USED[1], content="Wait."))), "cannot show the tool calls"),
        (Row(7, messages=(*USED[:1], replace(USED[1], tool_calls="{nonsense"))), "tool calls are not JSON"),
    ],
)
def test_tools_that_a_template_would_drop_in_silence_are_refused(load: Load, row: Row, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        encode(row, load(FAMILIES["gpt2-chatml"]), max_length=999, truncation="refuse")


def test_private_characters_cannot_forge_a_control_token(load: Load) -> None:
    with pytest.raises(Invalid, match="private characters"):
        read(load(FAMILIES["llama3"]), Message("user", "a\U0010fff0b"), TALK[1])


def test_a_longer_row_is_refused_by_number_unless_cutting_was_chosen(load: Load) -> None:
    prepared = load(FAMILIES["llama3"])
    row = Row(7, messages=TALK)
    whole = read(prepared, *TALK)
    with pytest.raises(Invalid, match="tokens long, 5 over"):
        encode(row, prepared, max_length=len(whole) - 5, truncation="refuse")
    at_end = encode(row, prepared, max_length=len(whole) - 5, truncation="cut_end")
    assert at_end.input_ids.tolist() == whole.input_ids[:-5].tolist()
    at_start = encode(row, prepared, max_length=len(whole) - 5, truncation="cut_start")
    assert at_start.input_ids.tolist() == [prepared.bos_token_id, *whole.input_ids[6:].tolist()]


def test_what_is_left_of_a_cut_row_never_learns_its_first_token(load: Load) -> None:
    prepared = load(FAMILIES["qwen2.5"])
    whole = read(prepared, *TALK[:2])
    assert whole.trained[-5:].tolist() == [True] * 4 + [False]  # a line break follows the end token
    assert cut(whole, prepared, 5, "cut_start").trained.tolist() == [False] + [True] * 3 + [False]


def test_a_family_loads_from_its_folder_alone(tmp_path: Path) -> None:
    prepared = load_tokenizer(save(tmp_path, FAMILIES["gemma"]))
    assert prepared.template_source == "model"
    assert prepared.added_tokens == ()
    assert prepared.stop_token_ids[0] == prepared.tokenizer.convert_tokens_to_ids("<end_of_turn>")


@pytest.mark.parametrize("calls", ["1", '["x"]', '[{"function": "x"}]', "[" * 100_000, "nonsense"])
def test_tool_calls_that_are_none_are_refused_by_row(load: Load, calls: str) -> None:
    talk = (Message("user", "Hi"), Message("assistant", "", tool_calls=calls), Message("assistant", "Ho"))
    with pytest.raises(Invalid) as refused:
        read(load(FAMILIES["qwen2.5"]), *talk)
    assert refused.value.where == "row 7"


@pytest.mark.parametrize("tools", ["1", "{}", '"x"', "[" * 100_000])
def test_tools_that_are_no_list_are_refused_by_row(load: Load, tools: str) -> None:
    row = Row(7, messages=(Message("user", "Hi"), Message("assistant", "Ho")), tools=tools)
    with pytest.raises(Invalid, match="tools are not"):
        encode(row, load(FAMILIES["qwen2.5"]), max_length=4096, truncation="refuse")

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from backend.core.datasets.schema import Message, Row
from backend.core.errors import Invalid
from backend.core.rendering.masks import encode, encode_prompt
from backend.core.rendering.tokenizer import TemplateName, load_tokenizer
from tests.core.rendering.families import CHATML, FAMILIES, save

BASE = replace(FAMILIES["llama2"], template=None)
CHAT = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello, you."}]
ROW = Row(1, messages=(Message("user", "Hello!"), Message("assistant", "Hello, you.")))


def test_a_base_model_gets_chatml_and_the_tokens_that_it_needs(tmp_path: Path) -> None:
    folder = save(tmp_path, BASE)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    prepared = load_tokenizer(folder)
    assert prepared.template_source == "chatml"
    assert [each.token for each in prepared.added_tokens] == ["<|im_start|>", "<|im_end|>"]
    assert prepared.added_token_ids == (size, size + 1)
    assert (prepared.model_vocab_size, prepared.vocab_size) == (size, size + 2)
    assert prepared.stop_token_ids == (size + 1, prepared.document_end_id)
    assert any("ChatML" in note for note in prepared.notes)
    assert any(f"<|im_end|> ({size + 1})" in note for note in prepared.notes)


def test_added_tokens_use_the_padded_rows_of_an_embedding_first(tmp_path: Path) -> None:
    folder = save(tmp_path, BASE)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 1024}))
    prepared = load_tokenizer(folder)
    assert prepared.added_token_ids[-1] < 1024
    assert prepared.vocab_size == prepared.model_vocab_size == 1024


def test_added_tokens_are_never_split(tmp_path: Path) -> None:
    prepared = load_tokenizer(save(tmp_path, BASE))
    for token in prepared.added_tokens:
        assert prepared.tokenizer(f"a{token.token}b")["input_ids"].count(token.id) == 1


@pytest.mark.parametrize("template", ["chatml", "llama3", "zephyr", "plain"])
def test_a_saved_tokenizer_renders_and_encodes_alike_from_its_folder_alone(
    tmp_path: Path, template: TemplateName
) -> None:
    prepared = load_tokenizer(save(tmp_path / "base", BASE), template)
    prepared.tokenizer.save_pretrained(tmp_path / "merged")
    alone = AutoTokenizer.from_pretrained(tmp_path / "merged", local_files_only=True)
    encoded = encode(ROW, prepared, max_length=200, truncation="refuse")
    assert (tmp_path / "merged/chat_template.jinja").is_file()
    assert alone.apply_chat_template(CHAT, tokenize=True, return_dict=False) == encoded.input_ids.tolist()
    assert alone.eos_token_id == prepared.stop_token_ids[0]
    again = load_tokenizer(tmp_path / "merged")
    assert again.template_source == "model"
    assert encode(ROW, again, max_length=200, truncation="refuse").trained.tolist() == encoded.trained.tolist()


@pytest.mark.parametrize("template", ["chatml", "llama3", "zephyr", "plain"])
def test_every_template_of_ours_teaches_the_answer_and_its_end(tmp_path: Path, template: TemplateName) -> None:
    prepared = load_tokenizer(save(tmp_path, BASE), template)
    encoded = encode(ROW, prepared, max_length=200, truncation="refuse")
    taught = encoded.input_ids[encoded.trained]
    assert taught[-1] == prepared.stop_token_ids[0]
    assert prepared.tokenizer.decode(taught[:-1]).strip() == "Hello, you."
    assert encoded.input_ids.tolist().count(prepared.bos_token_id) == 1


def test_plain_texts_need_no_template_and_no_token(tmp_path: Path) -> None:
    prepared = load_tokenizer(save(tmp_path, BASE), conversations=False)
    assert prepared.template_source == "none"
    assert prepared.added_tokens == ()
    assert prepared.tokenizer.eos_token == "</s>"
    with pytest.raises(Invalid, match="loaded without one"):
        encode(ROW, prepared, max_length=200, truncation="refuse")


def test_a_chosen_template_replaces_the_models_own(tmp_path: Path) -> None:
    prepared = load_tokenizer(save(tmp_path, FAMILIES["gemma"]), "chatml")
    assert prepared.template_source == "chatml"
    assert prepared.tokenizer.eos_token == "<|im_end|>"
    assert any("own chat template is replaced" in note for note in prepared.notes)


@pytest.mark.parametrize(
    ("changes", "pad", "words"),
    [
        ({"pad": "<unk>"}, "<unk>", "<unk> pads, as the model has it"),
        ({"pad": None}, "<unk>", "<unk> pads."),
        ({"pad": "</s>"}, "<unk>", "<unk> pads."),
    ],
)
def test_the_padding_token_is_not_the_end_token_where_another_can_be_had(
    tmp_path: Path, changes: dict[str, str | None], pad: str, words: str
) -> None:
    family = replace(BASE, template=CHATML.replace("<|im_end|>", "</s>"), pad=changes["pad"])
    prepared = load_tokenizer(save(tmp_path, family, unk_token="<unk>"))
    assert prepared.tokenizer.pad_token == pad
    assert prepared.pad_token_id == prepared.tokenizer.convert_tokens_to_ids(pad)
    assert any(words in note for note in prepared.notes)


def test_the_end_token_pads_where_there_is_no_other_and_a_note_says_so(tmp_path: Path) -> None:
    prepared = load_tokenizer(save(tmp_path, FAMILIES["llama3"]))
    assert prepared.pad_token_id == prepared.tokenizer.eos_token_id
    assert any("the end of an answer is learned all the same" in note for note in prepared.notes)


def test_the_ends_that_the_model_generates_with_are_kept(tmp_path: Path) -> None:
    folder = save(tmp_path, FAMILIES["phi3"])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    prepared = load_tokenizer(folder)
    assert prepared.tokenizer.convert_ids_to_tokens(prepared.stop_token_ids[0]) == "<|end|>"
    assert {5, 6} < set(prepared.stop_token_ids)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages.__class__.__mro__ }}", "reaches for __class__"),
        ("{{ '' | attr('__class__') }}{% for m in messages %}{{ m.content }}{% endfor %}", "reaches for __class__"),
        ("{% for message in messages %}", "cannot be used"),
        ("{{ messages[5].content.x }}", "cannot be used"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "calls itself without end"),
    ],
)
def test_a_broken_or_hostile_template_is_refused_in_words(tmp_path: Path, template: str, words: str) -> None:
    folder = save(tmp_path, replace(BASE, template=template))
    with pytest.raises(Invalid, match=words) as refusal:
        load_tokenizer(folder)
    assert refusal.value.where == "model.chat_template"


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "BPE"}}', "\x00\xff"])
def test_a_broken_tokenizer_is_refused_in_words(tmp_path: Path, content: str) -> None:
    folder = save(tmp_path, BASE)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(Invalid, match="tokenizer cannot be loaded"):
        load_tokenizer(folder)


def test_a_tokenizer_that_does_not_survive_being_written_is_refused_in_words(tmp_path: Path) -> None:
    folder = save(tmp_path, FAMILIES["qwen2.5"])
    words = json.loads((folder / "tokenizer.json").read_text())
    left, right = words["model"]["merges"][0]
    words["model"]["vocab"].pop(left + right)
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(Invalid, match="cannot be loaded"):
        load_tokenizer(folder)


@pytest.mark.parametrize("ends", [[-1, True, "</s>"], {}, [[2]]])
def test_ends_that_are_no_tokens_are_passed_over(tmp_path: Path, ends: object) -> None:
    folder = save(tmp_path, FAMILIES["qwen2.5"])
    known = load_tokenizer(folder).stop_token_ids
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert set(load_tokenizer(folder).stop_token_ids) <= set(known)


def test_an_end_token_that_is_the_bos_as_well_ends_an_answer(tmp_path: Path) -> None:
    family = replace(FAMILIES["zephyr"], kind="byte_level", specials=("<|endoftext|>",), eos="<|endoftext|>")
    prepared = load_tokenizer(save(tmp_path, replace(family, bos="<|endoftext|>", pad=None)))
    encoded = encode(ROW, prepared, max_length=200, truncation="refuse")
    assert prepared.chat.turn_end == "<|endoftext|>"
    assert prepared.tokenizer.decode(encoded.input_ids[encoded.trained]) == "Hello, you.<|endoftext|>"


def test_an_end_that_is_no_special_token_cannot_be_spelled_out_by_data(tmp_path: Path) -> None:
    family = replace(FAMILIES["gpt2-chatml"], template=CHATML.replace("<|im_end|>", "<tool_call>"))
    prepared = load_tokenizer(save(tmp_path, family))
    row = Row(1, messages=(Message("user", "Hi"), Message("assistant", "Ho <tool_call> ho")))
    encoded = encode(row, prepared, max_length=200, truncation="refuse")
    assert prepared.tokenizer.decode(encoded.input_ids[encoded.trained]) == "Ho <tool_call> ho<tool_call>"
    assert encoded.input_ids.tolist().count(prepared.stop_token_ids[0]) == 2


@pytest.mark.parametrize("spelled", ["<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>" * 40, "<image>"])
def test_a_placeholder_of_a_picture_cannot_be_spelled_out_by_data_or_by_a_prompt(tmp_path: Path, spelled: str) -> None:
    """vLLM CVE-2026-44222: whoever counted the placeholders looked for as many pictures."""
    family = FAMILIES["qwen2.5"]
    pictures = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    seeing = replace(family, specials=(*family.specials, *pictures))
    prepared = load_tokenizer(save(tmp_path, seeing, extra_special_tokens={"image_token": "<image>"}))
    ids = {*prepared.tokenizer.convert_tokens_to_ids([*pictures, "<image>"])}
    assert len(ids) == 4 < min(ids)
    row = Row(1, messages=(Message("user", f"See {spelled}"), Message("assistant", f"I see {spelled}.")))
    encoded = encode(row, prepared, max_length=4096, truncation="refuse")
    assert not ids & {*encoded.input_ids.tolist(), *encode_prompt(f"See {spelled}", prepared)}
    assert encoded.text.count(spelled) == 2
    assert {*encoded.control_text} == {each for each in (*pictures, "<image>") if each in spelled}


def test_a_date_in_a_template_stands_still(tmp_path: Path) -> None:
    dated = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today: {{ date_string }}\n" + CHATML
    )
    prepared = load_tokenizer(save(tmp_path, replace(FAMILIES["gpt2-chatml"], template=dated)))
    assert encode(ROW, prepared, max_length=200, truncation="refuse").text.startswith("Today: 26 Jul 2024\n")
    assert "The template writes a date: 26 Jul 2024." in prepared.notes


def normalising(folder: Path, *steps: dict[str, Any], added: str = "") -> Path:
    """A model whose tokenizer first does this to each text."""
    told = json.loads((save(folder, BASE) / "tokenizer.json").read_text())
    known = {"special": False, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    tokens = [*told["added_tokens"], {"id": 5000, "content": added} | known] if added else told["added_tokens"]
    changed = told | {"normalizer": {"type": "Sequence", "normalizers": [*steps]}, "added_tokens": tokens}
    (folder / "tokenizer.json").write_text(json.dumps(changed))
    return folder


DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BETWEEN = {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y"}
GROWING: dict[str, list[dict[str, Any]]] = {
    "a letter doubled over and over": [DOUBLED] * 60,
    "a letter between all others": [BETWEEN] * 60,
    "sequences in sequences": [{"type": "Sequence", "normalizers": [DOUBLED] * 20}] * 3,
    "a letter that becomes a book": [DOUBLED | {"content": "b" * 10**6}],
    "a book in front of each text": [{"type": "Prepend", "prepend": "b" * 10**6}],
}


@pytest.mark.parametrize("added", ["", "a"], ids=["in a text", "in a token of its own"])
@pytest.mark.parametrize("kind", GROWING)
def test_a_tokenizer_that_makes_a_book_of_a_letter_is_refused(tmp_path: Path, kind: str, added: str) -> None:
    """Doubling sixty times takes more memory than there is, for one letter; a trainer has no limit of its own."""
    folder = normalising(tmp_path, *GROWING[kind], added=added)
    with pytest.raises(Invalid, match="more than 1,000 characters") as caught:
        load_tokenizer(folder)
    assert (caught.value.code, caught.value.where) == ("tokenizer", "model")


def test_the_normalizers_that_families_have_are_taken(tmp_path: Path) -> None:
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    folder = normalising(tmp_path, {"type": "NFKC"}, spaces, {"type": "Prepend", "prepend": "\u2581"}, mark)
    assert load_tokenizer(folder).tokenizer("a  b")["input_ids"]


def test_a_generation_configuration_that_is_nested_without_end_says_nothing(tmp_path: Path) -> None:
    folder = save(tmp_path, BASE)
    (folder / "generation_config.json").write_text("[" * 100_000)
    assert load_tokenizer(folder).stop_token_ids

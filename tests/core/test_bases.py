from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backend.core import bases
from backend.core.errors import Forbidden, Invalid, NotFound, StudioError, Unavailable
from backend.core.limited import run_limited
from backend.core.recipe import ModelChoice
from backend.core.settings import Settings

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "max_position_embeddings": 128,
    "vocab_size": 6,
    "tie_word_embeddings": True,
}


TENSORS = {"model.embed_tokens.weight": [6, 4], "model.layers.0.mlp.up_proj.weight": [4, 4]}


def weights(shapes: dict[str, list[int]], dtype: str = "BF16", size: int = 2) -> bytes:
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + size * shape[0] * shape[1]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights(TENSORS))
    return folder


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", model_roots=(tmp_path / "models",))


def configure(folder: Path, name: str = "config.json", **changes: Any) -> None:
    path = folder / name
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **changes}))


def refusal(folder: Path) -> str:
    with pytest.raises(Invalid) as caught:
        bases.inspect_here({"folder": str(folder)})
    return str(caught.value)


def test_the_facts_are_read_from_the_files(model: Path) -> None:
    (model / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    facts = bases.inspect(model)
    assert (facts.architecture, facts.model_type, facts.parameters, facts.dtype) == (
        "LlamaForCausalLM",
        "llama",
        40,
        "bfloat16",
    )
    assert (facts.layers, facts.hidden_size, facts.context_length, facts.vocabulary) == (1, 4, 128, 6)
    assert (facts.chat_template, facts.tied_embeddings, facts.quantised, facts.licence) == (
        True,
        True,
        None,
        "apache-2.0",
    )
    assert facts.bytes == (model / "model.safetensors").stat().st_size


def test_shards_are_read_through_their_index(model: Path) -> None:
    (model / "model.safetensors").unlink()
    embedding, layer = TENSORS
    (model / "model-1.safetensors").write_bytes(weights({embedding: [6, 4]}, "F32", 4))
    (model / "model-2.safetensors").write_bytes(weights({layer: [3, 3]}, "F32", 4))
    placed = {embedding: "model-1.safetensors", layer: "model-2.safetensors"}
    configure(model, "model.safetensors.index.json", weight_map=placed)
    assert bases.inspect(model).parameters == 33
    configure(model, "model.safetensors.index.json", weight_map={**placed, "c": "model-2.safetensors"})
    assert "'c' is not in the shard" in refusal(model)
    configure(model, "model.safetensors.index.json", weight_map={**placed, "c": "model-3.safetensors"})
    assert "model-3.safetensors is missing" in refusal(model)


@pytest.mark.parametrize(
    "name", ["../../x.safetensors", "/etc/passwd", "a/../../b.safetensors", "a\\b.safetensors", "a.bin"]
)
def test_an_index_that_names_an_unsafe_shard_is_refused(model: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    configure(model, "model.safetensors.index.json", weight_map={"w": name})
    assert "unsafe shard path" in refusal(model)


def test_a_model_that_changes_is_read_again(model: Path) -> None:
    assert bases.inspect(model).context_length == 128
    configure(model, max_position_embeddings=70_000)
    assert bases.inspect(model).context_length == 70_000


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(model: Path, name: str) -> None:
    configure(model, name, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    assert "remote code is disabled" in refusal(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_of_an_inner_part_is_refused(model: Path, name: str) -> None:
    configure(model, name, text_config={"encoders": [{"auto_map": {"AutoModel": "modeling.Evil"}}]})
    assert "remote code is disabled" in refusal(model)


@pytest.mark.parametrize(
    "change",
    [
        {"_attn_implementation_internal": "org/kernel"},
        {"text_config": {"_attn_implementation_internal": "org/kernel"}},
        {"_attn_implementation": "org/kernel"},
        {"attn_implementation": "evil/kernel"},
        {"attn_implementation": {"": "sdpa", "text_config": {"": "evil/kernel"}}},
        {"vision_config": {"encoder": {"attn_implementation": "evil/kernel"}}},
        {"parts": [{"attn_implementation": "evil/kernel"}]},
        {"attn_implementation": "kernel_of_another_name"},
        {"experts_implementation": "evil/kernel"},
        {"_experts_implementation_internal": "evil/kernel"},
    ],
)
def test_a_layer_that_would_be_fetched_is_refused(model: Path, change: dict[str, Any]) -> None:
    configure(model, **change)
    assert "attention or experts implementation to be fetched" in refusal(model)


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "sdpa", "_attn_implementation": "flash_attention_2", "experts_implementation": None},
        {"_attn_implementation_autoset": True, "text_config": {"experts_implementation": "grouped_mm"}},
        {"attn_implementation": {"": "eager", "text_config": "sdpa"}},
    ],
)
def test_a_layer_that_comes_with_the_library_may_be_chosen(model: Path, change: dict[str, Any]) -> None:
    configure(model, **change)
    assert bases.inspect(model).parameters == 40


def test_pickled_weights_are_refused_with_the_way_out(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    words = refusal(model)
    assert "pickled weights" in words
    assert "python -c" in words
    assert "save_pretrained" in words


def test_everything_wrong_is_told_at_once(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "tokenizer.json").unlink()
    configure(model, auto_map={}, architectures=["BertForMaskedLM"], model_type="x\nimport os")
    with pytest.raises(Invalid) as caught:
        bases.inspect(model)
    codes = [problem.code for problem in caught.value.problems]
    assert codes == [
        "model.remote_code",
        "model.architecture",
        "model.architecture",
        "model.tokenizer",
        "model.no_weights",
    ]


GOOD = weights({"a": [2, 2]})
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "huge header": struct.pack("<Q", 2**60) + b"{}",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os",
    "truncated": GOOD[:-3],
    "longer": GOOD + b"xxx",
    "no json": struct.pack("<Q", 4) + b"nope",
    "a list": struct.pack("<Q", 2) + b"[]",
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "negative side": GOOD.replace(b"[2, 2]", b"[-2,2]"),
    "other shape": GOOD.replace(b"[2, 2]", b"[2, 9]"),
    "other type": GOOD.replace(b"BF16", b"QQ16"),
    "overlap": GOOD.replace(b"[0, 8]", b"[4, 8]"),
    "sides without end": weights({"model.embed_tokens.weight": [0, 10**4000]}),
    "no pair": GOOD.replace(b"[0, 8]", b"[0   ]"),
    "no numbers": GOOD.replace(b"[0, 8]", b'["",8]'),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_weights_file_is_called_damaged(model: Path, name: str) -> None:
    (model / "model.safetensors").write_bytes(DAMAGED[name])
    assert "model.safetensors is damaged" in refusal(model)


@pytest.mark.parametrize("name", ["num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "head_dim"])
def test_a_number_of_thousands_of_digits_is_not_repeated(model: Path, name: str) -> None:
    sizes: dict[str, Any] = {name: 10**4200}
    configure(model, **sizes)
    assert len(refusal(model)) < 300


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_a_damaged_configuration_is_called_damaged(model: Path, content: str) -> None:
    (model / "config.json").write_text(content)
    assert "config.json is damaged" in refusal(model)


def test_a_pipe_is_refused_and_not_waited_for(model: Path) -> None:
    os.mkfifo(model / "generation_config.json")
    assert "not a regular file" in refusal(model)


@pytest.mark.parametrize(
    ("target", "words"),
    [("/etc/passwd", "outside the model's folder"), ("absent", "leads nowhere"), ("a" * 300, "leads nowhere")],
)
def test_a_link_that_leads_out_or_nowhere_is_refused(model: Path, target: str, words: str) -> None:
    (model / "extra.json").symlink_to(target)
    assert words in refusal(model)


def test_what_lies_in_a_subfolder_is_looked_at_like_the_rest_and_again_once_it_changes(model: Path) -> None:
    templates = model / "additional_chat_templates"
    templates.mkdir()
    (templates / "default.jinja").write_text("{{ messages }}")
    assert bases.inspect(model).parameters == 40
    (templates / "other.jinja").symlink_to("/etc/passwd")
    with pytest.raises(Invalid, match="outside the model's folder"):
        bases.inspect(model)


def test_a_link_in_circles_leads_nowhere(model: Path) -> None:
    (model / "loop").symlink_to("loop")
    assert "loop: leads nowhere" in refusal(model)


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "more layers": ({"num_hidden_layers": 5}, "says 5 layers, and the weights hold 1"),
    "layers without end": ({"num_hidden_layers": 10**6}, "says 1,000,000 layers, and no model has more than 1,000"),
    "foresight without end": ({"num_nextn_predict_layers": 10**12}, "says 1,000,000,000,000 layers"),
    "eyes without end": ({"vision_config": {"depth": 10**6}}, "says 1,000,000 layers"),
    "a larger vocabulary": ({"vocab_size": 10**9}, "a vocabulary of 1,000,000,000 and a width of 4"),
    "another vocabulary": ({"vocab_size": 7}, "the weights embed 6 tokens in a width of 4"),
    "another width": ({"hidden_size": 10**7}, "a width of 10,000,000, and the weights embed 6 tokens"),
    "wide layers": ({"intermediate_size": 10**9}, "says 1,000,000,000 for intermediate_size"),
    "a head without end": ({"head_dim": 10**400}, "says a number for head_dim that no model has"),
    "eyes of a size without end": ({"vision_config": {"depth": 10**400}}, "says a number for depth that no model has"),
    "wide heads": ({"head_dim": 10**9}, "says 1,000,000,000 for head_dim"),
    "a crowd of heads": ({"num_attention_heads": 10**9}, "says 1,000,000,000 for heads"),
    "a crowd of experts": ({"num_experts": 10**6}, "says 1,000,000 for experts"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_configuration_of_another_model_than_the_weights_is_refused(model: Path, kind: str) -> None:
    changes, words = MISFITS[kind]
    configure(model, **changes)
    assert words in refusal(model)


def test_a_configuration_of_fewer_layers_would_leave_some_out(model: Path) -> None:
    more = {f"model.layers.{number}.mlp.up_proj.weight": [4, 4] for number in range(3)}
    (model / "model.safetensors").write_bytes(weights(TENSORS | more))
    assert "says 1 layers, and the weights hold 3" in refusal(model)
    configure(model, num_nextn_predict_layers=2)
    assert bases.inspect(model).layers == 1


def test_layers_that_are_gone_through_several_times_are_stored_once(model: Path) -> None:
    configure(model, num_hidden_layers=6, n_recurrent_loops=6)
    assert bases.inspect(model).layers == 6


def test_the_width_of_an_embedding_may_be_one_of_its_own(model: Path) -> None:
    wide = {"model.layers.0.mlp.up_proj.weight": [8, 8]}
    (model / "model.safetensors").write_bytes(weights(TENSORS | wide))
    configure(model, hidden_size=8, word_embed_proj_dim=4)
    assert bases.inspect(model).hidden_size == 8


def test_packed_weights_hold_more_than_they_have_elements(model: Path) -> None:
    (model / "model.safetensors").write_bytes(weights({"model.layers.0.mlp.up_proj.qweight": [4, 4]}, "I32", 4))
    configure(model, intermediate_size=40)
    assert "says 40 for intermediate_size" in refusal(model)
    configure(model, quantization_config={"quant_method": "gptq"})
    assert bases.inspect(model).quantised == "gptq"


def test_an_adapter_and_an_empty_folder_are_no_base(model: Path) -> None:
    (model / "config.json").unlink()
    assert "no config.json" in refusal(model)
    (model / "adapter_config.json").write_text("{}")
    assert "adapter, not a base model" in refusal(model)


def test_an_adapter_beside_a_model_is_refused_since_libraries_would_load_it(model: Path) -> None:
    configure(model, "adapter_config.json", peft_type="LORA", base_model_name_or_path="/etc")
    assert "adapter_config.json: is an adapter beside the model" in refusal(model)


def test_a_folder_is_found_by_its_name_under_a_root(model: Path, chosen: Settings) -> None:
    found = bases.find(ModelChoice(path="tiny"), chosen)
    assert (found.folder, found.revision, found.facts.parameters) == (model, None, 40)
    assert bases.locate(ModelChoice(path=str(model)), chosen) == model


@pytest.mark.parametrize(
    "path", ["/etc", "../models/tiny", "tiny/../../x", "..", ".", "a\\b", "a\0b", "~root", "a/b/c"]
)
def test_a_path_outside_the_roots_is_refused(model: Path, chosen: Settings, path: str) -> None:
    with pytest.raises(Forbidden, match="outside the model folders"):
        bases.locate(ModelChoice(path=path), chosen)
    assert model.exists()


def test_a_link_out_of_the_root_is_refused(model: Path, chosen: Settings, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "elsewhere")
    (model.parent / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Forbidden):
        bases.locate(ModelChoice(path="linked"), chosen)


def test_a_folder_is_looked_at_once_until_it_changes_whatever_was_found(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def counted(function: str, payload: dict[str, Any], **limits: Any) -> Any:
        looks.append(function)
        return run_limited(function, payload, **limits)

    monkeypatch.setattr(bases, "run_limited", counted)
    link = model / "extra.json"
    link.symlink_to("nowhere")
    for _ in range(2):
        with pytest.raises(Invalid, match="not safe"):
            bases.inspect(model)
    link.unlink()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(bases.inspect, [model] * 4))
    assert [each.parameters for each in found] == [40] * 4
    assert len(looks) == 2


def test_a_look_that_took_too_much_is_not_repeated_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "LOOK_SECONDS", 0)
    with pytest.raises(Invalid, match="took longer"):
        bases.inspect(model)
    monkeypatch.setattr(bases, "LOOK_SECONDS", 60)
    with pytest.raises(Invalid, match="took longer"):
        bases.inspect(model)
    configure(model, max_position_embeddings=256)
    assert bases.inspect(model).context_length == 256


def test_a_look_that_took_too_much_may_have_been_the_machines_fault(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "STRAINED_SECONDS", 0)
    monkeypatch.setattr(bases, "LOOK_SECONDS", 0)
    with pytest.raises(Invalid, match="took longer"):
        bases.inspect(model)
    monkeypatch.setattr(bases, "LOOK_SECONDS", 60)
    assert bases.inspect(model).parameters == 40


def test_matrices_of_numbered_layers_are_told_apart_from_all_others(model: Path) -> None:
    others = {"0.mlp.weight": [2, 3], "model.layers.0.weight": [2, 3], "head.1.q.bias": [2, 3], "h.2..weight": [2, 3]}
    (model / "model.safetensors").write_bytes(weights(TENSORS | others | {"h.0.attn.q.weight": [2, 3]}))
    assert set(map(tuple, bases.inspect(model).linears)) == {("up_proj", 4, 4, 1), ("q", 3, 2, 1)}


def test_the_list_shows_what_can_be_used_and_why_the_rest_cannot(model: Path, chosen: Settings) -> None:
    shutil.copytree(model, model.parent / "org" / "other")
    shutil.copytree(model, model.parent / "evil")
    (model.parent / "learned").mkdir()
    (model.parent / "learned" / "adapter_config.json").write_text("{}")
    configure(model.parent / "evil", auto_map={})
    listed = bases.list_bases(chosen)
    assert [each.path for each in listed] == ["evil", "learned", "org/other", "tiny"]
    assert [each.facts is not None for each in listed] == [False, False, True, True]
    assert "auto_map" in str(listed[0].problem)
    assert "adapter, not a base model" in str(listed[1].problem)


def test_links_that_cannot_be_followed_spoil_no_list(model: Path, chosen: Settings) -> None:
    root, beyond_any_name = model.parent, "a" * 300
    shutil.copytree(model, root / "broken")
    for place in ("odd", "org/odd", "broken/odd", "linked/config.json"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).symlink_to(beyond_any_name)
    (root / "loop").symlink_to("loop")
    listed = bases.list_bases(chosen)
    assert [(each.path, each.facts is not None) for each in listed] == [
        ("broken", False),
        ("linked", False),
        ("tiny", True),
    ]
    assert [bases.here(name, None, chosen) for name in ("odd", "loop")] == [None, None]


def test_a_folder_whose_name_cannot_be_written_is_in_no_list(model: Path, chosen: Settings) -> None:
    shutil.copytree(model, model.parent / os.fsdecode(b"caf\xe9"))
    assert [each.path for each in bases.list_bases(chosen)] == ["tiny"]


def test_a_file_that_goes_while_its_folder_is_looked_at_is_no_part_of_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "part.incomplete").touch()

    def and_gone(entry: os.DirEntry[str]) -> os.DirEntry[str]:
        Path(entry.path).unlink() if entry.name == "part.incomplete" else None
        return entry

    entries = bases._entries
    monkeypatch.setattr(bases, "_entries", lambda folder: map(and_gone, entries(folder)))
    assert bases.inspect(model).parameters == 40


HubCache = Callable[..., Path]


@pytest.fixture
def hub_cache(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """Puts the model into a cache of the hub's own layout, as a download leaves it, with no hub to be reached."""
    home = tmp_path / "hf"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def fill(hub_id: str, commit: str) -> Path:
        repository = home / "hub" / f"models--{hub_id.replace('/', '--')}"
        snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
        for folder in (snapshot, blobs, repository / "refs"):
            folder.mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        for file in model.iterdir():
            shutil.copyfile(file, blobs / file.name)
            (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
        return snapshot

    return fill


def test_a_hub_id_is_found_in_the_cache_and_pinned_to_its_commit(hub_cache: HubCache, chosen: Settings) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = hub_cache("org/model", commit)
    for choice in (ModelChoice(path="org/model"), ModelChoice(path="org/model", revision=commit)):
        found = bases.find(choice, chosen)
        assert (found.folder, found.revision, found.facts.parameters) == (snapshot.resolve(), commit, 40)


def test_a_hub_model_may_link_to_its_blobs_alone(hub_cache: HubCache, chosen: Settings) -> None:
    snapshot = hub_cache("org/model", "0" * 40)
    (snapshot / "extra.json").symlink_to("../../../../../home")
    with pytest.raises(StudioError, match="not safe"):
        bases.find(ModelChoice(path="org/model"), chosen)


def test_a_model_that_is_not_to_be_had_is_told_in_words(hub_cache: HubCache, chosen: Settings) -> None:
    hub_cache("org/model", "0" * 40)
    for choice in (ModelChoice(path="org/absent"), ModelChoice(path="org/model", revision="f" * 40)):
        with pytest.raises((Unavailable, NotFound), match=r"cannot be fetched|no model"):
            bases.find(choice, chosen)


@pytest.mark.shared
def test_a_real_model_is_inspected(shared: Path) -> None:
    facts = bases.inspect(shared / "models" / "stories260k")
    assert (facts.architecture, facts.dtype, facts.context_length, facts.vocabulary) == (
        "LlamaForCausalLM",
        "float32",
        512,
        512,
    )
    assert 250_000 < facts.parameters < 270_000
    assert (facts.chat_template, facts.tied_embeddings) == (False, True)

"""What a finished run gives out, from the trainer's hand-over to folders that load with nothing of ours."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from backend.core.archives import ArchivedFile, files_sha256
from backend.core.assignment import LineKind
from backend.core.errors import StudioError
from tests.worker.exports.runs import edit_json, finished_run, questions, stored_as
from worker.exports.context import ExportContext
from worker.exports.proof import answering, largest_difference, logits_of, watched_logits
from worker.exports.publish import export_all

pytestmark = pytest.mark.usefixtures("one_kernel")
QLORA, LORA, FULL = {"kind": "qlora", "r": 4}, {"kind": "lora", "r": 4}, {"kind": "full"}


def published(context: ExportContext, attempt: Path) -> dict[str, dict[str, Any]]:
    """The `artifact` lines by kind."""
    lines: list[tuple[LineKind, dict[str, Any]]] = []
    export_all(context, attempt, lambda kind, data: lines.append((kind, data)))
    assert [data for kind, data in lines if kind is LineKind.PROGRESS][-1]["what"] == "Merged model"
    return {data["kind"]: data for kind, data in lines if kind is LineKind.ARTIFACT}


NOTHING_OF_OURS = (
    "import sys\nsys.modules.update(backend=None, worker=None)  # installed or not, importing them fails\n"
)


def run_alone(code: str, folder: Path) -> str:
    """Run Python in `folder`, in a process that can import nothing of ours."""
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-"],
        input=NOTHING_OF_OURS + code,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compare_lines(context: ExportContext) -> str:
    """Python that prints the largest difference of `model`'s logits from what was watched."""
    sequence, watched = context.watched.sequences[0], context.watched.logits[0].tolist()
    return (
        "\nimport json, torch\n"
        f"logits = model.eval()(input_ids=torch.tensor([{list(sequence)}]), use_cache=False).logits[0]\n"
        f"watched = torch.tensor(json.loads('{json.dumps(watched)}'))\n"
        "difference = float((logits[-len(watched):].float() - watched).abs().max())\n"
        "chat = [{'role': 'user', 'content': 'What does the owl eat?'}]\n"
        "text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)\n"
        "print(json.dumps({'difference': difference, 'ids': tokenizer.encode(text, add_special_tokens=False)}))\n"
    )


def test_a_qlora_run_gives_an_adapter_and_a_merged_model_that_is_proved(tiny_base: Path, tmp_path: Path) -> None:
    context = finished_run(tiny_base, tmp_path, QLORA)
    made = published(context, tmp_path / "attempt-1")
    assert list(made) == ["adapter", "merged"]
    facts = made["merged"]["facts"]
    assert facts["agrees"]
    assert facts["max_logit_diff"] < 1e-4 <= facts["threshold"]
    assert facts["greedy_agreement"] == 1.0
    assert (facts["prompts"], facts["dtype"], facts["merged_onto"]) == (3, "float32", "trained")
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_the_journal_line_lists_every_file_as_it_lies_on_the_disk(tiny_base: Path, tmp_path: Path) -> None:
    attempt = tmp_path / "attempt-1"
    for line in published(finished_run(tiny_base, tmp_path, LORA), attempt).values():
        folder, files = attempt / line["folder"], [ArchivedFile(**file) for file in line["files"]]
        assert {file.name for file in files} == {path.name for path in folder.iterdir()}
        for file in files:
            data = (folder / file.name).read_bytes()
            assert (file.bytes, file.crc32) == (len(data), zlib.crc32(data))
            assert file.sha256 == hashlib.sha256(data).hexdigest()
        assert line["bytes"] == sum(file.bytes for file in files)
        assert line["sha256"] == files_sha256(files)
    assert sorted(path.name for path in (attempt / "artifacts").iterdir()) == ["adapter", "merged"]


def test_the_merged_folder_loads_where_nothing_of_ours_can_be_imported(tiny_plain_base: Path, tmp_path: Path) -> None:
    context = finished_run(tiny_plain_base, tmp_path, QLORA)
    published(context, tmp_path)
    folder = tmp_path / "artifacts" / "merged"
    told = json.loads(run_alone(python_of(folder) + compare_lines(context), folder))
    assert told["difference"] < 1e-4
    assert tuple(told["ids"]) == context.watched.sequences[0][: len(told["ids"])]


@pytest.mark.parametrize("base", ["tiny_plain_base", "tiny_llama"])
def test_the_lines_of_the_adapters_card_load_it_as_they_stand(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: str
) -> None:
    context = finished_run(request.getfixturevalue(base), tmp_path, LORA)
    published(context, tmp_path)
    folder = tmp_path / "artifacts" / "adapter"
    lines = python_of(folder)
    assert ("resize_token_embeddings" in lines) is (base == "tiny_plain_base")
    (folder / context.base_name).symlink_to(context.base)
    monkeypatch.chdir(folder)
    loaded: dict[str, Any] = {}
    exec(lines, loaded)
    with answering(loaded["model"]):
        found = logits_of(loaded["model"], context.watched.sequences)
    assert largest_difference(context.watched.logits, found) < 1e-4
    assert loaded["tokenizer"].chat_template == AutoTokenizer.from_pretrained(context.tokenizer).chat_template


def python_of(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def test_no_file_of_an_artifact_tells_where_this_machine_keeps_its_models(tiny_base: Path, tmp_path: Path) -> None:
    published(finished_run(tiny_base, tmp_path, LORA), tmp_path)
    texts = [path for path in (tmp_path / "artifacts").rglob("*") if path.suffix in (".json", ".md", ".jinja")]
    assert len(texts) > 5
    for place in (str(tiny_base.parent), str(tmp_path)):
        assert [path.name for path in texts if place in path.read_text()] == []
    config = json.loads((tmp_path / "artifacts/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_base.name


def test_the_card_names_base_data_settings_and_measurements(tiny_base: Path, tmp_path: Path) -> None:
    published(finished_run(tiny_base, tmp_path, QLORA), tmp_path)
    for kind in ("adapter", "merged"):
        card = (tmp_path / "artifacts" / kind / "README.md").read_text()
        for expected in (tiny_base.name, "ab" * 32, '"lora_alpha": 8', "| loss | 6.14 | 0.004 |", "# pirates"):
            assert expected in card
    assert "no logit differs by more than" in card


def test_a_merged_model_that_answers_otherwise_is_an_error_and_not_a_download(tiny_base: Path, tmp_path: Path) -> None:
    context = finished_run(tiny_base, tmp_path, LORA)
    edit_json(context.trained / "adapter_config.json", lora_alpha=9)
    lines: list[LineKind] = []
    with pytest.raises(StudioError, match="does not answer like the model that was watched") as caught:
        export_all(context, tmp_path, lambda kind, _: lines.append(kind))
    assert caught.value.code == "merge.drift"
    assert lines.count(LineKind.ARTIFACT) == 1
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["adapter"]


def test_a_merge_onto_the_original_weights_shows_its_drift(tiny_base: Path, tmp_path: Path) -> None:
    made = published(finished_run(tiny_base, tmp_path, QLORA, merge_onto="original"), tmp_path)
    facts = made["merged"]["facts"]
    assert facts["merged_onto"] == "original"
    assert not facts["agrees"]
    assert facts["max_logit_diff"] > facts["threshold"]


@pytest.mark.parametrize("method", [QLORA, LORA, FULL], ids=["qlora", "lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_bf16_base_gives_a_bf16_model_that_rounding_alone_sets_apart(
    tiny_base: Path, tmp_path: Path, method: dict[str, Any], dtype: torch.dtype
) -> None:
    context = finished_run(stored_as(tiny_base, tmp_path / "bf16", torch.bfloat16), tmp_path, method, dtype=dtype)
    facts = published(context, tmp_path)["merged"]["facts"]
    assert facts["dtype"] == "bfloat16"
    assert facts["max_logit_diff"] <= facts["threshold"]
    scale = max(float(each.abs().max()) for each in context.watched.logits)
    assert facts["threshold"] < scale / 5, "a threshold near the logits themselves would prove nothing"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_full_tuning_under_bf16_autocast_is_proved_and_a_wrong_weight_still_found(
    tiny_base: Path, tmp_path: Path, stored: torch.dtype
) -> None:
    base = stored_as(tiny_base, tmp_path / "base", stored)
    context = finished_run(base, tmp_path, FULL, autocast=torch.bfloat16)
    facts = published(context, tmp_path)["merged"]["facts"]
    assert facts["max_logit_diff"] <= facts["threshold"] < 0.1
    weights = load_file(context.trained / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 1.5
    save_file(weights, context.trained / "model.safetensors", {"format": "pt"})
    shutil.rmtree(tmp_path / "artifacts")
    with pytest.raises(StudioError, match="does not answer like"):
        published(context, tmp_path)


def test_the_base_keeps_its_settings_and_generation_also_ends_where_training_ended(
    tiny_plain_base: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    stored_as(tiny_plain_base, base, torch.float32)
    edit_json(base / "config.json", use_cache=True)
    edit_json(base / "generation_config.json", do_sample=False, temperature=0.7, top_p=0.9)
    (base / "LICENSE.txt").write_text("Do good.")
    published(finished_run(base, tmp_path, LORA), tmp_path)
    merged = tmp_path / "artifacts" / "merged"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, merged))
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {"eos_token_id", "vocab_size"}
    assert after["eos_token_id"] == [tokenizer.eos_token_id, before["eos_token_id"]]
    assert tokenizer.eos_token == "<|im_end|>"
    assert (merged / "LICENSE.txt").read_text() == "Do good."
    GenerationConfig.from_pretrained(merged).save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(merged).save_pretrained(tmp_path / "again")


def test_watching_changes_neither_the_models_mode_nor_any_random_state(tiny_base: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base).train()
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_base)
    state = torch.get_rng_state()
    first = watched_logits(model, questions(tokenizer))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert largest_difference(first.logits, watched_logits(model, questions(tokenizer)).logits) == 0.0


@pytest.mark.shared
@pytest.mark.parametrize("method", [QLORA, LORA | {"use_dora": True}, FULL], ids=["qlora", "dora", "full"])
def test_a_real_model_with_the_tokens_of_chatml_added_is_merged_and_proved(
    shared: Path, tmp_path: Path, method: dict[str, Any]
) -> None:
    context = finished_run(shared / "models" / "stories260k", tmp_path, method)
    facts = published(context, tmp_path)["merged"]["facts"]
    assert (facts["vocab_size"], facts["added_tokens"], facts["agrees"]) == (514, 2, True)
    assert facts["max_logit_diff"] < 1e-3

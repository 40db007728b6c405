"""The documents say what the code does: their commands parse, their recipe validates, their links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
from typer.core import TyperGroup

from backend.cli import app as commands
from backend.core.datasets.detect import detect
from backend.core.recipe import read_recipe
from backend.core.settings import Settings
from backend.core.yaml12 import read_yaml
from backend.web.app import create_app
from backend.web.reference import document
from tests.conftest import ROOT

READMES = (ROOT / "README.md", ROOT / "README.zh.md")
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(RESULTS.glob("*.md")))
PICTURES = sorted((ROOT / "docs").rglob("*.svg"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FORBIDDEN = re.compile(
    r"TODO|FIXME|to be (?:measured|done|mended)|/work/|/root/|(?<!`)/home/|pypi\.org|npmjs|download\.pytorch|huggingface\.co",
    re.IGNORECASE,
)
FILES_OF_THE_EXAMPLES = ("pirate.jsonl", "recipe.yaml")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return [body for tag, body in BLOCK.findall(read(path)) if tag == language]


def shell_lines(path: Path) -> list[str]:
    return [line for body in blocks(path, "sh") for line in body.splitlines()]


def named(documents: Sequence[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", documents, ids=lambda path: path.relative_to(ROOT).as_posix())


# ---- commands -------------------------------------------------------------------------------------------------------


@named(DOCUMENTS)
def test_every_make_target_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`(?:\w+=\S+ )?make ([a-z]+)", read(path))) <= targets
    assert {line.split()[1] for line in shell_lines(path) if line.startswith("make ")} <= targets


@named(DOCUMENTS)
def test_every_command_parses_as_it_is_written(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in FILES_OF_THE_EXAMPLES:
        Path(name).touch()
    for words in studio_commands(path):
        parse(words)


def test_a_command_that_does_not_exist_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nA=1 studio run begin -f recipe.yaml  # no such command\n```\n")
    (words,) = studio_commands(page)
    with pytest.raises(Exception, match="No such command"):
        parse(words)


def studio_commands(path: Path) -> list[list[str]]:
    """The arguments of every `studio …` in shell blocks, `$(studio …)` included."""
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in shell_lines(path)]
    found = [re.search(r"(?:^|\$\(|\s)studio ([^)]*)", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match]


def parse(words: list[str]) -> None:
    """Read the words as the command line does, and run nothing. Raises what it would say."""
    command = typer.main.get_command(commands)
    context = command.make_context("studio", list(words))
    while isinstance(command, TyperGroup):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)


# ---- data, recipes, API ---------------------------------------------------------------------------------------------


@named(READMES)
def test_the_recipe_validates_without_a_note(path: Path) -> None:
    (text,) = blocks(path, "yaml")
    found = read_recipe(read_yaml(text)[0])
    assert found.notes == ()
    assert found.recipe.name == "first"


@named(READMES)
def test_every_row_that_is_shown_is_taken_as_the_shape_it_is_shown_for(path: Path) -> None:
    rows = [json.loads(row) for row in re.findall(r"^\| [^|]+ \| `(\{.+?\})`", read(path), re.MULTILINE)]
    matches = [detect([row]) for row in rows]
    assert [match.format.name for match in matches] == ["alpaca", "messages", "sharegpt", "prompt_completion", "text"]
    for match, row in zip(matches, rows, strict=True):
        match.read(row, 1)


@named(READMES)
def test_every_address_of_the_api_exists(path: Path) -> None:
    settings = Settings(DATABASE_URL="postgresql://nobody@nowhere/none", REDIS_URL="redis://nowhere")
    known = [re.sub(r"\{\w+\}", "[^/]+", route) for route in document(create_app(settings))["paths"]]
    called = [urlsplit(each).path for each in re.findall(r"\$STUDIO_URL(/api/v1[^\"\s]+)", read(path))]
    assert len(called) >= 5
    assert [each for each in called if not any(re.fullmatch(route, each) for route in known)] == []


# ---- the guide ------------------------------------------------------------------------------------------------------

GUIDE = ROOT / "docs" / "guide.md"


def test_every_code_of_a_refusal_is_one_that_the_code_gives() -> None:
    sources = "".join(read(path) for package in ("backend", "worker") for path in (ROOT / package).rglob("*.py"))
    cells = [
        cell for row in re.findall(r"^\| (`[a-z_.]+`[^|]*)\|", read(GUIDE), re.MULTILINE) for cell in row.split(",")
    ]
    codes = [cell.strip().strip("`") for cell in cells]
    assert len(codes) > 30
    assert [code for code in codes if f'"{code}"' not in sources] == []


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_the_lines_that_load_a_model_load_it_and_ask_it(
    kind: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    merged, adapter, ask = blocks(GUIDE, "python")
    folder = tmp_path / "artifact"
    shutil.copytree(tiny_llama, folder)
    if kind == "adapter":
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
        save_adapter(tiny_llama, folder)
    monkeypatch.chdir(folder)
    lines = {"merged": merged, "adapter": adapter.replace("stories260k", str(tiny_llama))}[kind]
    exec(compile(lines + ask, f"{GUIDE.name}, {kind}", "exec"), {})
    assert capsys.readouterr().out.strip()


def save_adapter(base: Path, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(str(folder))


# ---- settings -------------------------------------------------------------------------------------------------------


def settings_rows() -> list[tuple[str, str, str]]:
    """Variable, default and description of every setting, as the tables write them."""
    return [
        (f"`{field.validation_alias or 'STUDIO_' + name.upper()}`", default(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def default(value: object) -> str:
    if value in ("", ()):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def settings_table(path: Path) -> list[tuple[str, ...]]:
    lines = read(path).split("<!-- settings")[1].split("<!-- /settings")[0].splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("| `")]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert settings_table(ROOT / "README.md") == settings_rows()


def test_the_chinese_table_has_the_same_settings_and_defaults() -> None:
    assert [row[:2] for row in settings_table(ROOT / "README.zh.md")] == [row[:2] for row in settings_rows()]


# ---- the two languages ----------------------------------------------------------------------------------------------


def test_both_languages_have_the_same_sections_and_examples() -> None:
    english, chinese = READMES
    assert len(headings(english)) == len(headings(chinese))
    for language in ("", "sh", "yaml"):
        assert uncommented(blocks(english, language)) == uncommented(blocks(chinese, language))
    assert links_in_any_language(english) == links_in_any_language(chinese)


def links_in_any_language(path: Path) -> set[str]:
    """Pictures of the pages, and the other readme, are each language's own."""
    return {link.replace(".zh.", ".") for link in LINK.findall(read(path))}


def headings(path: Path) -> list[str]:
    return re.findall(r"^## .+$", read(path), re.MULTILINE)


def uncommented(texts: list[str]) -> list[str]:
    """Comments and what the model is asked are each language's own."""
    return [re.sub(r'\s*#.*$|(?<=prompts: \[").*(?="\])', "", text, flags=re.MULTILINE) for text in texts]


# ---- links and words ------------------------------------------------------------------------------------------------


@named(DOCUMENTS)
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    local = [target for target in LINK.findall(read(path)) if not urlsplit(target).scheme]
    assert [target for target in local if not leads_somewhere(path, target)] == []


def leads_somewhere(path: Path, target: str) -> bool:
    file, _, section = unquote(target).partition("#")
    page = (path.parent / file).resolve() if file else path
    return page.exists() and (not section or section in anchors(page))


def anchors(path: Path) -> set[str]:
    """Sections as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", read(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@named((*DOCUMENTS, *PICTURES))
def test_no_document_names_a_place_of_ones_own_machine_or_something_undone(path: Path) -> None:
    assert FORBIDDEN.findall(read(path)) == []


@named(DOCUMENTS)
def test_every_file_of_the_source_that_is_named_exists(path: Path) -> None:
    written = re.findall(r"`((?:backend|worker|frontend|tests|migrations|benchmarks)/[\w/.-]+)`", read(path))
    assert [name for name in written if not (ROOT / name).exists()] == []


def test_every_decision_is_in_the_index_under_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = [page for page in folder.glob("*.md") if page.name != "README.md"]
    titles = {(read(page).splitlines()[0].removeprefix("# "), page.name) for page in pages}
    assert set(re.findall(r"\[([^\]]+)\]\(([^)]+)\)", read(folder / "README.md"))) == titles

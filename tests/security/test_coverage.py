"""Which test stands against which hole, or why none does: everything that was published of comparable studios and of what we
build on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.security.world import PASSWORD, World
from tests.support.listed import missing

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Holes:
    """Of one kind: where they were published, and our tests that would find them here, as `file::test`."""

    published: str
    tests: tuple[str, ...]


COVERED = {
    "commands smuggled into a shell": Holes(
        "LLaMA-Factory CVE-2024-52803, kohya_ss CVE-2024-32025 and CVE-2024-32026, Ray CVE-2023-6019",
        (
            "security/test_paths.py::test_no_text_in_a_body_leads_out_of_the_studio",
            "security/test_code.py::test_what_runs_what_it_reads_is_banned_in_our_own_code",
        ),
    ),
    "code that a model brings": Holes(
        "LLaMA-Factory CVE-2026-58116, Axolotl CVE-2026-86169, text-generation-webui CVE-2025-12488, "
        "transformers CVE-2026-5241 and CVE-2026-4372",
        (
            "security/test_code.py::test_a_hostile_model_runs_nothing",
            "security/test_code.py::test_a_trainer_that_loads_a_hostile_model_runs_nothing",
            "security/test_code.py::test_no_setting_lets_code_in",
            "security/test_code.py::test_no_route_takes_a_field_that_lets_code_in",
            "core/test_bases.py::test_remote_code_is_refused",
            "core/test_bases.py::test_a_layer_that_would_be_fetched_is_refused",
            "core/test_hub.py::test_a_model_with_code_of_its_own_is_refused_before_a_download",
        ),
    ),
    "configurations taken for code": Holes(
        "Unsloth Zoo CVE-2026-93348, BentoML CVE-2026-44346, PEFT #3085 and #2888",
        ("security/test_code.py::test_a_hostile_model_runs_nothing",),
    ),
    "pickles": Holes(
        "LLaMA-Factory CVE-2025-46567 and CVE-2025-53002, PyTorch CVE-2025-32434 and CVE-2026-24747, "
        "BentoML CVE-2025-27520 and CVE-2025-32375, Celery CVE-2021-23727",
        (
            "security/test_code.py::test_a_hostile_model_runs_nothing",
            "security/test_code.py::test_a_worker_runs_no_pickle_and_hears_the_next_hint",
            "core/test_queue.py::test_a_worker_refuses_every_message_that_is_not_json",
            "core/test_hub.py::test_gated_models_and_pickles_are_refused_before_a_download",
            "worker/trainer/test_failures.py::test_a_pickle_in_a_checkpoint_runs_nothing",
        ),
    ),
    "paths in names": Holes(
        "MLflow CVE-2023-1177, CVE-2023-2780, CVE-2024-2928, CVE-2024-1560, CVE-2026-2033 and CVE-2026-53995, "
        "h2o-3 CVE-2023-6038, CVE-2024-5986 and CVE-2026-3960, Gradio CVE-2023-51449, text-generation-webui CVE-2026-35050",
        (
            "security/test_paths.py::test_no_name_in_an_address_leads_out_of_the_studio",
            "security/test_paths.py::test_no_question_leads_out_of_the_studio",
            "security/test_paths.py::test_no_text_in_a_body_leads_out_of_the_studio",
            "core/test_storage.py::test_a_key_that_climbs_is_refused",
            "core/test_bases.py::test_a_path_outside_the_roots_is_refused",
        ),
    ),
    "paths inside of models": Holes(
        "accelerate CVE-2026-69112, transformers#46097",
        (
            "security/test_code.py::test_a_hostile_model_runs_nothing",
            "core/test_bases.py::test_an_index_that_names_an_unsafe_shard_is_refused",
            "core/test_bases.py::test_a_pipe_is_refused_and_not_waited_for",
            "core/test_bases.py::test_a_link_that_leads_out_or_nowhere_is_refused",
        ),
    ),
    "requests that the studio is made to send": Holes(
        "Gradio CVE-2024-47167 and CVE-2026-28416, vLLM CVE-2026-24779 and CVE-2026-25960, Open WebUI CVE-2026-45401, "
        "Label Studio CVE-2023-47116, MLflow CVE-2026-64849, h2o-3 CVE-2024-8062",
        (
            "core/test_hub.py::test_a_redirect_to_another_host_is_never_followed",
            "core/test_hub.py::test_an_answer_that_is_too_long_is_not_read_to_its_end",
            "security/test_errands.py::test_nothing_is_fetched_from_an_address_that_a_person_names",
            "security/test_errands.py::test_a_hub_that_answers_never_or_in_drops_is_given_up",
            "security/test_errands.py::test_a_hub_that_sends_elsewhere_is_not_followed",
            "security/test_errands.py::test_a_download_that_is_sent_inward_is_refused",
            "security/test_errands.py::test_a_hub_whose_name_comes_to_mean_an_address_inside_is_not_connected_to",
        ),
    ),
    "scripts in what is shown": Holes(
        "Label Studio CVE-2024-26152 and CVE-2026-22033, Open WebUI CVE-2026-44549, CVE-2026-109291 and CVE-2026-54013, "
        "Gradio CVE-2024-47872, Jupyter CVE-2026-44727",
        (
            "security/test_markup.py::test_markup_is_text_on_every_page",
            "worker/exports/test_card.py::test_markup_in_whatever_people_wrote_is_text_in_the_card",
            "web/test_security.py::test_every_answer_carries_the_policy",
        ),
    ),
    "other sites": Holes(
        "Gradio CVE-2024-1727 and CVE-2024-47084, Open WebUI CVE-2026-56400, MLflow CVE-2025-1473, Ray CVE-2025-62593",
        (
            "security/test_sites.py::test_no_write_is_taken_from_another_site",
            "security/test_sites.py::test_a_cookie_alone_writes_nothing_anywhere",
            "security/test_sites.py::test_a_name_that_is_not_ours_is_refused_at_every_write_whoever_asks",
            "security/test_sites.py::test_no_site_may_read_an_answer",
        ),
    ),
    "doors left open": Holes(
        "ShadowRay CVE-2023-48022, MLflow CVE-2026-2635, CVE-2026-2652 and CVE-2026-0545, Label Studio GHSA-f475-x83m-rx5m",
        (
            "security/test_roles.py::test_every_route_has_a_rule_and_no_rule_is_left_over",
            "security/test_roles.py::test_each_kind_of_person_gets_what_the_rules_say_at_every_route",
            "security/test_sessions.py::test_a_set_up_link_works_once",
            "core/test_people.py::test_secrets_are_stored_hashed",
        ),
    ),
    "templates": Holes(
        "llama-cpp-python CVE-2024-34359, CVE-2026-5760, vLLM GHSA-69j4-grxj-j64p, CVE-2026-115918 and CVE-2026-44222",
        (
            "security/test_code.py::test_no_route_takes_a_field_that_lets_code_in",
            "hostile/test_models.py::test_a_hostile_template_is_refused_wherever_it_is_rendered",
            "worker/trainer/test_failures.py::test_a_template_whose_one_comparison_never_ends_ends_its_trainer",
            "core/rendering/test_tokenizer.py::test_a_broken_or_hostile_template_is_refused_in_words",
            "core/rendering/test_tokenizer.py::test_an_end_that_is_no_special_token_cannot_be_spelled_out_by_data",
            "core/rendering/test_tokenizer.py::test_a_placeholder_of_a_picture_cannot_be_spelled_out_by_data_or_by_a_prompt",
            "core/test_limited.py::test_a_process_that_takes_too_long_is_ended_with_its_children",
            "core/test_limited.py::test_too_much_memory_is_told_in_words",
        ),
    ),
    "more than a server can take": Holes(
        "Starlette CVE-2024-47874 and CVE-2025-54121, python-multipart CVE-2026-40347 and CVE-2026-42561",
        (
            "web/test_security.py::test_a_large_body_is_refused_whether_or_not_it_says_so",
            "web/test_security.py::test_ten_thousand_form_fields_are_refused",
            "web/test_safety.py::test_one_person_has_a_few_turns_and_leaves_the_others_theirs",
            "security/test_sessions.py::test_a_huge_password_is_refused_without_being_hashed",
            "security/test_coverage.py::test_nothing_is_installed_that_reads_multipart",
            "security/test_coverage.py::test_a_multipart_form_is_refused_unread",
        ),
    ),
    "data formats": Holes(
        "PyArrow CVE-2023-47248 and CVE-2026-92287, arrow#49955, ms-swift CVE-2025-50460",
        (
            "security/test_code.py::test_a_parquet_whose_type_is_a_pickle_runs_nothing",
            "core/datasets/test_hostile_files.py::test_a_small_parquet_that_decodes_to_gigabytes_is_refused",
            "core/datasets/test_hostile_files.py::test_every_flipped_byte_of_a_parquet_is_survived",
            "security/test_code.py::test_what_runs_what_it_reads_is_banned_in_our_own_code",
        ),
    ),
    "doors that lead elsewhere": Holes(
        "Gradio CVE-2026-59806, Jupyter CVE-2020-26232",
        (
            "security/test_redirects.py::test_no_redirect_leads_to_another_site",
            "web/test_security.py::test_signing_in_leads_to_no_other_site",
        ),
    ),
}

WITHOUT = {
    "vLLM CVE-2026-34756": "its `n` asks for so many answers to a prompt, and nothing here generates text on demand; the samples "
    "of a run have bounds of their own, which row 68 of the hostile inputs proves",
}
"""Holes that could be nowhere in what is there yet, and why."""


@pytest.mark.parametrize("kind", COVERED)
def test_each_kind_of_hole_has_tests_that_exist(kind: str) -> None:
    assert COVERED[kind].tests
    assert missing(COVERED[kind].tests) == []


@pytest.mark.parametrize("hole", WITHOUT)
def test_a_hole_without_a_counterpart_is_told(hole: str) -> None:
    pytest.skip(f"{hole}: {WITHOUT[hole]}")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-web.lock", "requirements-dev.lock"])
def test_nothing_is_installed_that_reads_multipart(lock: str) -> None:
    """Forms come urlencoded and files as they are, so what python-multipart falls for is not here to fall for it."""
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))
    assert "starlette" in locked
    assert not {name for name in locked if "multipart" in name}


def test_a_multipart_form_is_refused_unread(world: World) -> None:
    """Right words in it sign nobody in; and of many or large parts none is looked at."""
    right = {"name": (None, "the admin"), "password": (None, PASSWORD)}
    many = {f"part {number}": (None, "x") for number in range(5000)}
    with world.client("anonymous") as stranger:
        answers = [stranger.post("/signin", files=parts) for parts in (right, right | many)]
        large = stranger.post("/signin", files=right | {"file": ("a.bin", b"x" * (2 << 20))})
        assert stranger.post("/signin", data={"name": "the admin", "password": PASSWORD}).status_code == 303
    assert [answer.status_code for answer in (*answers, large)] == [401, 401, 413]
    assert not any("set-cookie" in answer.headers for answer in answers)


PUBLISHED = re.compile(
    r"(?P<whole>CVE-\d{4}-\d{4,}|GHSA(?:-\w{4}){3})|(?:/-?| -)(?P<short>\d{4,})"
    r"|(?:(?:,| and) |(?P<project>[\w./-]+) ?)#(?P<issue>\d{4,})"
)
"""An id; or, behind one, what another of the same year ends with: CVE-2024-32025/32026, -2780, /-53002. Or an issue; or,
behind one, another of the same project: PEFT #3085, #2888."""


def ids_in(text: str) -> set[str]:
    found, year, project = set[str](), "", ""
    for match in PUBLISHED.finditer(text):
        if match["issue"]:
            project = match["project"] or project
            found.add(f"{project}#{match['issue']}")
        else:
            found.add(id := match["whole"] or year + match["short"])
            year = id[: len("CVE-2024-")]
    return found


def test_an_id_that_is_cut_short_is_of_the_year_or_the_project_before_it() -> None:
    text = "CVE-2024-32025/32026, arrow#49955, CVE-2025-46567/-53002; -2780 (`#1234`); GHSA-f475-x83m-rx5m; "
    text += "PEFT #3085 (`x`), #2888 and #2889; a/b.c#12345"
    whole = "CVE-2024-32025 CVE-2024-32026 CVE-2025-46567 CVE-2025-53002 CVE-2025-2780 GHSA-f475-x83m-rx5m "
    whole += "arrow#49955 PEFT#3085 PEFT#2888 PEFT#2889 a/b.c#12345"
    assert ids_in(text) == set(whole.split())


@pytest.mark.shared
def test_every_hole_that_was_published_is_covered(shared: Path) -> None:
    """Of the table of regression tests and of its payloads: what follows is about tools that are not in use here."""
    text = (shared / "security.md").read_text(encoding="utf-8")
    agreed = ids_in(text.partition("\n## peers' holes")[2].partition("\nFound none published")[0])
    assert len(agreed) > 60
    covered = {each for holes in COVERED.values() for each in ids_in(holes.published)}
    without = {each for hole in WITHOUT for each in ids_in(hole)}
    assert not covered & without
    assert covered | without == agreed

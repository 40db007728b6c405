"""Which tests, and which faults of the campaign, prove what is promised of each fault: none is left without, or says why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import filter as matching
from pathlib import Path

import pytest

from tests.faults.strikes import CATALOGUE
from tests.support.listed import missing

CAMPAIGN = "faults/test_campaign.py::test_no_fault_breaks_a_promise"
"""Strikes and holds every history to the rules of `checker.py`; `python -m tests.faults` does the same by the thousand."""
ROW = re.compile(r"^\| (?P<fault>[^|]+) \| (?P<promise>[^|]+) \|", re.MULTILINE)


@dataclass(frozen=True)
class Proof:
    """`promise`: what is to happen. `tests` are named as `file::test`, kinds of strikes of the campaign as in a shell.

    `otherwise`: what of the promise has no counterpart here, and why.
    """

    promise: str
    tests: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    otherwise: str = ""


TABLE = {
    "Trainer SIGKILL/OOM-killer": Proof(
        "cause shown ≤5 s; resume from valid checkpoint",
        (
            CAMPAIGN,
            "faults/test_campaign.py::test_deaths_of_trainers_were_detected_and_told_in_time",
            "faults/test_worker_deaths.py::test_trainers_that_always_die_are_given_up_after_three_with_the_cause",
            "worker/test_supervisor.py::test_a_killed_trainer_costs_nothing_but_time",
            "worker/trainer/test_resume.py::test_a_killed_run_goes_on_exactly_as_if_nothing_had_happened",
        ),
        ("trainer.kill", "trainers.kill", "trainer.starve"),
    ),
    "CUDA OOM": Proof(
        "plain advice (batch, length); no blind retry",
        (
            "faults/test_worker_trainers.py::test_a_batch_that_does_not_fit_ends_the_run_with_advice_and_is_not_tried_again",
            "worker/trainer/test_failures.py::test_out_of_memory_names_the_step_and_the_batch_and_the_way_out",
            "worker/trainer/test_failures.py::test_where_a_single_row_does_not_fit_a_shorter_one_is_the_way_out",
            "worker/trainer/test_failures.py::test_memory_that_cannot_be_had_is_told_apart_from_other_errors",
        ),
    ),
    "Supervisor SIGKILL": Proof(
        "trainer dies ≤2 s; run reclaimed ≤60 s",
        (
            CAMPAIGN,
            "worker/test_supervisor.py::test_a_killed_supervisor_takes_its_trainer_along_and_goes_on_when_it_is_back",
            "worker/trainer/test_process.py::test_a_trainer_dies_with_its_parent",
            "faults/test_outside_host.py::test_a_host_that_is_gone_for_good_costs_its_run_less_than_a_minute",
        ),
        ("supervisor.kill",),
    ),
    "Lease expires while frozen": Proof(
        "stale writes refused",
        (
            CAMPAIGN,
            "worker/test_supervisor.py::test_a_frozen_host_loses_its_run_and_can_write_nothing_when_it_wakes",
            "core/test_journal.py::test_a_stale_attempt_stores_nothing",
            "faults/test_planted.py::test_a_planted_bug_is_told_by_the_rule_that_it_breaks",
        ),
        ("host.freeze", "supervisor.freeze", "trainer.freeze"),
    ),
    "Never heartbeated": Proof(
        "reclaimed",
        (
            CAMPAIGN,
            "faults/test_worker_claims.py::test_a_run_whose_claimant_died_before_it_ever_renewed_is_taken_over",
            "faults/test_worker_claims.py::test_a_claim_whose_answer_is_lost_costs_neither_its_run_nor_the_next_one",
        ),
        ("supervisor.kill_before_spawn",),
    ),
    "Duplicate delivery, two claimers": Proof(
        "one trainer",
        (
            CAMPAIGN,
            "faults/test_worker_claims.py::test_fifty_hints_at_once_to_two_hosts_start_one_trainer",
            "core/test_runs.py::test_fifty_claimants_at_once_get_a_run_once",
        ),
        ("hint.repeat", "celery.*"),
    ),
    "Redis lost": Proof(
        "no run lost; UI says delayed",
        (
            CAMPAIGN,
            "faults/test_outside_services.py::"
            "test_while_valkey_is_away_news_come_late_no_run_is_lost_and_hints_are_heard_again_after",
        ),
        ("valkey.*", "network.*-valkey.*"),
    ),
    "Postgres restart": Proof(
        "training continues; metrics backfilled",
        (
            CAMPAIGN,
            "faults/test_outside_services.py::test_while_postgres_is_stopped_training_goes_on_and_everybody_is_told",
            "faults/test_outside_services.py::"
            "test_while_postgres_stands_still_every_request_is_answered_in_time_and_training_goes_on",
            "worker/trainer/test_process.py::test_a_trainer_needs_neither_the_web_nor_any_service_nor_its_client",
        ),
        ("postgres.*", "network.*-postgres.*"),
    ),
    "Disk full": Proof(
        "warn at 10%; fail save, keep older checkpoint",
        (
            CAMPAIGN,
            "faults/test_worker_disk.py::"
            "test_a_run_on_a_disk_that_fills_up_is_warned_ends_in_words_and_goes_on_once_there_is_room",
            "faults/test_worker_disk.py::test_a_trainer_that_can_write_nothing_at_all_still_says_why_it_ended",
            "faults/test_worker_disk.py::"
            "test_a_run_trains_on_while_the_disk_of_postgres_is_full_and_its_history_is_complete_afterwards",
        ),
        ("disk.fill",),
    ),
    "Web restart": Proof(
        "training unaffected; browsers resume",
        (
            CAMPAIGN,
            "faults/test_outside_services.py::"
            "test_a_web_that_is_killed_again_and_again_costs_no_follower_an_event_and_pages_resume_each_time",
            "faults/test_outside_web.py::"
            "test_what_is_typed_into_a_form_while_the_web_dies_is_kept_and_can_be_sent",
        ),
        ("web.*",),
    ),
    "Browser offline": Proof(
        "no gap or duplicate",
        (
            CAMPAIGN,
            "faults/test_outside_services.py::test_a_browser_that_was_offline_shows_everything_three_seconds_after",
            "journeys/test_network.py::test_a_page_is_complete_three_seconds_after_the_network_is_back",
        ),
        ("network.client-web.*",),
    ),
    "Cancel/pause in queued, claimed, download, tokenise, load, train, evaluate, save, export": Proof(
        "terminal ≤10 s, GPU free ≤15 s",
        (
            "faults/test_worker_phases.py::test_a_queued_run_rests_at_once_though_no_worker_is_there",
            "faults/test_worker_phases.py::test_a_run_rests_within_ten_seconds_and_frees_its_accelerator",
        ),
    ),
    "Preemption SIGTERM": Proof(
        "checkpoint ≤120 s, requeue",
        (
            CAMPAIGN,
            "worker/test_supervisor.py::test_a_host_that_is_shut_down_saves_and_gives_the_run_back",
            "worker/trainer/test_orders.py::test_the_end_of_the_host_is_a_pause",
        ),
        ("supervisor.preempt",),
    ),
    "Clock skew": Proof(
        "no effect",
        (
            CAMPAIGN,
            "faults/test_worker_claims.py::test_hosts_whose_clocks_are_an_hour_off_rob_nobody_and_tell_all_in_order",
        ),
    ),
    "Partial upload": Proof(
        "invisible until size+hash match",
        (
            "faults/test_outside_web.py::"
            "test_an_upload_that_is_cut_at_every_tenth_is_invisible_goes_on_and_is_right_at_the_end",
            "faults/test_outside_web.py::test_a_file_in_one_piece_that_is_cut_at_any_tenth_leaves_nothing",
            "faults/test_outside_web.py::"
            "test_a_web_that_is_killed_at_every_tenth_loses_nothing_that_it_had_written_and_shows_no_half",
        ),
    ),
    "S3 error": Proof(
        "retry; local copy kept",
        (
            "faults/test_outside_bucket.py::test_a_bucket_that_fails_twice_is_asked_a_third_time",
            "faults/test_outside_bucket.py::"
            "test_where_a_bucket_stays_away_the_error_says_so_and_the_file_stays_where_it_is",
            "faults/test_outside_bucket.py::"
            "test_a_file_that_a_bucket_refuses_is_refused_in_words_and_is_taken_once_the_bucket_takes_it",
            "faults/test_outside_bucket.py::"
            "test_a_worker_that_cannot_fetch_its_rows_says_so_and_the_run_goes_on_once_it_can",
        ),
        otherwise="data sets alone lie in a bucket: checkpoints and artifacts stay at their place, and none is sent away",
    ),
    "Torn checkpoint": Proof(
        "skipped, previous used, user told",
        (
            CAMPAIGN,
            "worker/trainer/test_torn.py::test_each_file_of_a_checkpoint_that_is_cut_short_is_noticed",
            "worker/test_supervisor.py::test_a_torn_checkpoint_is_told_and_the_one_before_is_used",
        ),
        ("checkpoint.tear",),
    ),
    "NaN/Inf": Proof(
        "shown as NaN; stop after 3; last good kept",
        (
            "worker/trainer/test_failures.py::test_three_steps_that_are_not_finite_end_the_run_and_stay_visible",
            "worker/trainer/test_failures.py::test_a_run_that_ends_for_nan_keeps_its_last_good_checkpoint",
            "core/test_journal.py::test_nan_stays_nan_from_the_journal_to_the_chart",
        ),
    ),
    "Poisoned rows": Proof(
        "row numbers; skip or stop by choice",
        (
            "core/datasets/test_hostile_files.py::test_rows_without_an_answer_are_refused_by_number",
            "core/datasets/test_shapes.py::test_bad_rows_are_skipped_only_when_asked_and_are_told",
            "web/test_uploading_in_a_browser.py::test_a_refused_file_names_its_rows_and_goes_in_without_them",
        ),
    ),
    "Orphan GPU process": Proof(
        "found by NVML, named; never silently shared",
        (
            "worker/test_devices.py::test_each_stranger_is_named_on_its_device",
            "worker/test_devices.py::test_an_accelerator_with_a_stranger_on_it_is_given_no_run_until_it_is_free",
            "worker/test_devices.py::"
            "test_nobody_is_given_an_accelerator_of_which_the_driver_does_not_tell_who_is_on_it",
        ),
    ),
    "Zombies": Proof(
        "none after 1 min",
        (
            CAMPAIGN,
            "faults/test_worker_deaths.py::test_trainers_that_always_die_are_given_up_after_three_with_the_cause",
        ),
    ),
    "Crash loop": Proof(
        "stops at 3",
        (
            "faults/test_worker_deaths.py::test_trainers_that_always_die_are_given_up_after_three_with_the_cause",
            "faults/test_worker_deaths.py::test_a_run_that_gets_nowhere_is_paused_for_a_person_whatever_the_reason",
        ),
    ),
    "Eval hang/bomb": Proof(
        "case fails; suite continues",
        otherwise="no suite of cases is run, and nothing that a model answers is carried out: a run is evaluated by its loss on "
        "rows that were held back and by answers of a bounded length. A trainer that stands still is killed by the deadline of "
        "its phase (faults/test_worker_trainers.py), and any answer can be stored (worker/test_supervisor.py)",
    ),
}  # fmt: skip


KINDS = [strike.kind for strike in CATALOGUE]


@pytest.mark.parametrize("fault", TABLE)
def test_each_fault_is_proved_by_tests_and_strikes_that_exist_or_says_why_not(fault: str) -> None:
    proof = TABLE[fault]
    if not proof.tests:
        assert proof.otherwise
        pytest.skip(f"{fault}: {proof.otherwise}")
    assert missing(proof.tests) == []
    assert [kind for kind in proof.kinds if not matching(KINDS, kind)] == []
    assert CAMPAIGN in proof.tests or not proof.kinds


def test_each_strike_of_the_campaign_proves_something() -> None:
    named = {kind for proof in TABLE.values() for pattern in proof.kinds for kind in matching(KINDS, pattern)}
    assert set(KINDS) - named == set()


@pytest.mark.shared
def test_the_table_is_the_one_that_was_agreed_on(shared: Path) -> None:
    text = (shared / "reliability.md").read_text(encoding="utf-8")
    table = text.partition("\n## (a)")[2].partition("\n## ")[0]
    agreed = dict(ROW.findall(table))
    assert agreed.pop("Fault") == "Required behaviour"
    assert {fault: proof.promise for fault, proof in TABLE.items()} == agreed

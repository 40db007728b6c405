from __future__ import annotations

import errno
import json
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from backend.core import limited
from backend.core.errors import Conflict, Invalid, NotFound, Unstorable
from backend.core.limited import run_limited

HERE = "tests.core.limited_functions"


@pytest.fixture(autouse=True)
def tests_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "PACKAGES", (*limited.PACKAGES, "tests."))


def is_gone(pid: int) -> bool:
    """Ended; one that nobody has waited for yet counts as ended."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_function_answers_in_json_and_prints_do_not_mix_with_it() -> None:
    assert run_limited(f"{HERE}:double", {"value": 21}) == {"doubled": 42}


def test_only_functions_of_our_own_packages_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in ("os:system", "tests.core.limited_functions:double", "backend.web.app:serve"):
        with pytest.raises(ValueError, match="lies outside"):
            run_limited(name, {})


def test_no_credential_reaches_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "HF_TOKEN", "STUDIO_HOME", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    names = run_limited(f"{HERE}:environment", {})
    assert not [n for n in names if n.startswith("STUDIO_") or "URL" in n or "TOKEN" in n or "SECRET" in n]


def test_progress_arrives_in_order() -> None:
    seen: list[int] = []
    assert run_limited(f"{HERE}:counts", {"to": 5}, on_progress=lambda p: seen.append(p["done"])) == "counted"
    assert seen == [0, 1, 2, 3, 4]


def test_an_error_comes_back_whole() -> None:
    with pytest.raises(NotFound) as caught:
        run_limited(f"{HERE}:refuses", {})
    error = caught.value
    assert (error.message, error.hint, error.where, error.code) == ("Not there.", "Look.", "row 1", "special")
    assert [(p.code, p.where, p.hint) for p in error.problems] == [("a.b", "row 1", ""), ("c.d", "row 2", "try this")]


def test_too_much_memory_is_told_in_words() -> None:
    assert run_limited(f"{HERE}:allocates", {"mib": 20}, memory_mib=128) == 20 << 20
    with pytest.raises(Invalid, match="too much memory") as caught:
        run_limited(f"{HERE}:allocates", {"mib": 400}, memory_mib=128)
    assert caught.value.code == "limited.memory"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the resident size of another process")
def test_memory_that_no_limit_of_the_kernel_counts_is_seen_by_the_watch() -> None:
    with pytest.raises(Invalid, match="too much memory"):
        run_limited(f"{HERE}:maps_shared_memory", {"mib": 300}, memory_mib=128)


def test_a_process_that_takes_too_long_is_ended_with_its_children() -> None:
    pids: list[int] = []
    with pytest.raises(Invalid, match=r"longer than 0\.5 s"):
        run_limited(
            f"{HERE}:sleeps_with_a_child", {}, timeout_seconds=0.5, on_progress=lambda p: pids.extend(p["pids"])
        )
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def test_it_can_be_cancelled() -> None:
    begun = threading.Event()
    with pytest.raises(Conflict) as caught:
        run_limited(
            f"{HERE}:sleeps_with_a_child", {}, on_progress=lambda _: begun.set(), cancelled=lambda: begun.is_set()
        )
    assert caught.value.code == "cancelled"


def test_a_library_in_another_language_that_gives_up_is_told_in_words() -> None:
    with pytest.raises(Invalid, match="fault that kept it from reading this") as caught:
        run_limited(f"{HERE}:gives_up", {})
    assert caught.value.code == "limited.failed"


def test_a_crash_kills_that_process_alone() -> None:
    with pytest.raises(Invalid, match="damaged or hostile") as caught:
        run_limited(f"{HERE}:crashes", {})
    assert caught.value.code == "limited.crash"


def test_a_process_that_is_ended_as_it_foretold_has_said_why() -> None:
    with pytest.raises(NotFound, match="never have ended"):
        run_limited(f"{HERE}:foretells", {"signal": signal.SIGPROF})
    with pytest.raises(Invalid, match="damaged or hostile"):
        run_limited(f"{HERE}:foretells", {"signal": signal.SIGTERM})


def test_an_unforeseen_error_is_told_as_a_fault_of_ours_whose_trace_is_in_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(Invalid, match=r"^The studio has a fault .* \(KeyError\)\.") as caught:
        run_limited(f"{HERE}:fails", {})
    assert caught.value.code == "limited.failed"
    assert "its log" in caught.value.hint
    assert "ABSENT" not in str(caught.value)
    (told,) = caplog.records
    assert told.levelname == "ERROR"
    trace = told.getMessage().splitlines()
    assert trace[1].startswith("Traceback"), "whoever looks for traces at the beginning of lines finds it"
    assert trace[-1] == "KeyError: 'ABSENT'"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_told_as_that_and_may_be_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Unstorable, match=r"^The disk is full\. Make room") as caught:
        run_limited(f"{HERE}:fills_the_disk", {})
    assert (caught.value.status, caught.value.code) == (507, "disk_full")
    assert not caplog.records


def test_errors_in_words_leave_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotFound):
        run_limited(f"{HERE}:refuses", {})
    assert not caplog.records


def test_of_an_unforeseen_error_that_says_a_whole_file_the_log_keeps_the_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(Invalid, match="ValueError"):
        run_limited(f"{HERE}:fails_at_length", {"characters": 1 << 20})
    assert "in fails_at_length" in caplog.text
    assert len(caplog.text) < 2 * limited.COMPLAINT_BYTES


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_what_is_told_is_heard_however_it_is_cut(size: int) -> None:
    told = [{"progress": {"done": 1}}, {"progress": {"done": 2}}, {"result": "x" * 2000}]
    written = "".join(json.dumps(each) + "\n" for each in told)
    program = f"for at in range(0, {len(written)}, {size}): print({written!r}[at:at + {size}], end='', flush=True)"
    command = [sys.executable, "-c", program]
    seen: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        heard = limited._Conversation(process, 64, 60, 1, lambda progress: seen.append(progress["done"]), None)
        assert heard.answer() == "x" * 2000
    assert seen == [1, 2]


def test_a_long_answer_is_refused() -> None:
    with pytest.raises(Invalid, match="longer than 1 MiB"):
        run_limited(f"{HERE}:babbles", {"mib": 3}, output_mib=1)


def test_files_are_bounded_and_by_default_none_is_written(tmp_path: Path) -> None:
    def write(name: str, **limits: int) -> Any:
        return run_limited(f"{HERE}:writes", {"path": str(tmp_path / name), "bytes": 3 << 20}, **limits)  # type: ignore[arg-type]

    assert write("a") == errno.EFBIG
    assert write("b", file_mib=2) == errno.EFBIG
    assert write("c", file_mib=4) == 0


def test_a_stretch_of_work_gets_so_much_memory_and_no_more_and_what_follows_it_what_there_is() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited.at_most_more(64):
        bytearray(32 << 20)
        with pytest.raises(MemoryError):
            bytearray(256 << 20)
        with limited.at_most_more(512), pytest.raises(MemoryError):  # the tighter limit holds
            bytearray(256 << 20)
    bytearray(256 << 20)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_library_in_cplusplus_that_found_no_memory_is_told_from_one_that_failed_otherwise() -> None:
    with pytest.raises(MemoryError), limited.at_most_more(64):
        raise RuntimeError("std::bad_alloc")
    with pytest.raises(RuntimeError, match="damaged"), limited.at_most_more(64):
        raise RuntimeError("the file is damaged")


def test_nothing_outlives_a_caller_that_is_killed() -> None:
    program = (
        "from backend.core import limited; limited.PACKAGES = ('tests.',)\n"
        f"limited.run_limited('{HERE}:sleeps_with_a_child', {{}}, on_progress=lambda p: print(p['pids'][0], flush=True))"
    )
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=limited.ROOT)
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert is_gone(pid)

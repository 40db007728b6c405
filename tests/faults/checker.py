"""Whether a history kept every promise. It knows nothing of the implementation: it reads what was stored, written and seen.

Each rule is a function that yields, in words, what broke its promise. A rule says a thing once: what one of them reports is
left out by the others, so that a violation names the promise that was broken.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, zip_longest

from tests.faults.history import History, Row, Sample, Seen, Struck
from tests.faults.story import ACTIVE, FILLED, RESTS, Line, Owner, Story, seconds, stories
from tests.faults.words import (
    a_change_is_made_and_holds,
    no_accepted_word_is_lost,
    who_was_told_to_end_trains_no_longer,
)

DYING_SECONDS = 8.0
"""How long a trainer may outlive its supervisor, or the moment from which that can know that it is over: two seconds, and four
times that where the processor is fought for."""
SEEN_SECONDS = 2.0
"""A trainer that writes for so long is met by who looks at processes."""
LOOK_SECONDS = 0.5
"""Within so long two processes that are there are both looked at."""
SHOWN_SECONDS = 5.0
"""Within what time the death of a trainer is told with its cause, and is with whoever follows the run."""
ON_THE_WAY = ("web", "client-web", "web-postgres")
"""What lies between Postgres and who follows a run. Without Valkey news is looked for."""
CLEAR_SECONDS = 1.0
"""What arrives so long after such a thing was mended came by a way that is clear again."""
ZOMBIE_SECONDS = 60.0
WOUND_SECONDS = 10.0
"""For how long at most a fault may still be felt before what it struck is mended."""
FELT_SECONDS = 2.0
"""For how long what was struck may be felt once it is mended."""
CRASHED, NO_PROGRESS = "crashed", "no_progress"
OF_ITSELF = "It ended with code"
"""How an end is told that no signal brought about: no fault ends a trainer that way."""
LEVELS = (8, 64, 512, 4096, 32768)
"""How many steps a bucket holds, level by level."""
BORNE = {
    "phase": ("phase", "text"),
    "progress": ("what", "done", "total"),
    "amended": ("sequence",),
    "sample": ("index", "prompt", "text"),
    "checkpoint": ("bytes",),
    "artifact": ("kind", "bytes", "sha256"),
    "facts": (),
}
"""Kinds of events that are lines of a journal, with what tells one from another. Warnings are the hosts' own, too."""
TOLD = {*BORNE, "metrics", "log"}
"""Lines of a journal that are told. Its end is its supervisor's to read."""
ITS_OWN = ("phase", "progress", "checkpoint", "artifact")
"""Lines of a journal that are told of an attempt only as long as nobody took the run over."""
OTHERWISE = {"metrics": ("values",)}
Borne = tuple[str, int, str]
TORN = "checkpoint.tear"
KILLING = ("trainer.kill", "trainers.kill", TORN)
"""Kinds of faults that end a trainer. Others that strike it make it pause."""
DISOBEYED = "It was told to end, had not done so"
"""How an end is told that whoever stands still may meet: its time to end is counted meanwhile. That in which nothing may move
is much longer than any pause."""
PREEMPTED = "supervisor.preempt"
MEASURED = "eval_loss"
"""The curve that has a point more where a run is kept."""
PASSED_OVER = re.compile(r"The checkpoint of step (\d+) is (?:damaged|not the one)")
MAY_FOLLOW = {
    "": {"queued"},
    "queued": {"queued", "preparing", "paused", "stopped"},
    "preparing": {*ACTIVE, *RESTS, "queued"},
    "training": {*ACTIVE, *RESTS, "queued"},
    "finishing": {"preparing", "finishing", *RESTS, "queued"},
    "paused": {"paused", "queued", "stopped"},
    "stopped": {"stopped", "queued", "paused"},
    "failed": {"queued"},
    "succeeded": set[str](),
}
"""Which state a run may be told to be in after which."""


@dataclass(frozen=True)
class Violation:
    rule: str
    what: str


def check(history: History) -> list[Violation]:
    """Every promise that was broken. None is the only good answer."""
    told = stories(history)
    of_runs = [(rule, what) for story in told for rule in RULES_OF_A_RUN for what in rule(story)]
    of_all = [(rule, what) for rule in RULES_OF_A_STUDIO for what in rule(history, told)]
    return [Violation(rule.__name__.replace("_", " "), what) for rule, what in [*of_runs, *of_all]]


# ---- of one run ------------------------------------------------------------------------------------------------------


def events_are_numbered_without_a_gap(story: Story) -> Iterator[str]:
    """The log of a run counts 1, 2, 3 … up to the number that its row names."""
    numbers = [event["seq"] for event in story.events]
    if numbers != list(range(1, story.row["seq"] + 1)):
        yield f"{story.name}: {len(numbers)} events up to {numbers[-1:]}, the row says {story.row['seq']}"


def only_the_owner_of_the_history_writes(story: Story) -> Iterator[str]:
    """One accepted writer at a time: an attempt that is over never writes again, and whatever is told or published is of who
    owned the history then."""
    for before, after in pairwise(story.events):
        if after["attempt"] < before["attempt"]:
            yield f"{story.name}: event {after['seq']} is of attempt {after['attempt']}, after {before['attempt']}"
    for told in story.stale:
        yield f"{story.name}: event {told.seq} (step {told.line.step}) was written by attempt {told.writer}, which was over"
    yield from _in_no_journal(story)
    for row in (*story.checkpoints, *story.artifacts):
        if not row["folder"].startswith(f"runs/{story.row['id']}/attempt-{row['attempt']}/"):
            yield f"{story.name}: {row['folder']} is published as of attempt {row['attempt']}"


def _in_no_journal(story: Story) -> Iterator[str]:
    """Events that are no lines of their owner's journal, or tell a line once more; metrics are looked at above."""
    written = {attempt: Counter(map(_borne, lines)) for attempt, lines in story.journals.items()}
    for event in (event for event in story.events if event["kind"] in BORNE):
        owner = story.owner_at(event["seq"]).attempt if story.owners else None
        left = written.get(owner, Counter()) if owner is not None else Counter[Borne]()
        if not left[_borne(event)]:
            yield f"{story.name}: event {event['seq']} ({event['kind']}) is in no journal of attempt {owner}, the owner"
        left[_borne(event)] -= 1


def what_its_owner_wrote_is_told(story: Story) -> Iterator[str]:
    """A journal is told from its start without a gap, that of whoever brought the run to its end to its last line. What an
    attempt that was taken over by then has to say of itself, its checkpoints and what it gave out is nobody's to hear."""
    for owner, then in zip_longest(story.owners, story.owners[1:]):
        events = [each for each in story.events if owner.seq < each["seq"] < (then.seq if then else math.inf)]
        is_whole = then is None and story.row["state"] == "succeeded"
        untold = next(_gaps(story, owner, events, is_whole), None)
        if untold is not None:
            yield f"{story.name}: attempt {owner.attempt} wrote a {untold['kind']} of step {untold['step']}, and nothing tells it"


def _gaps(story: Story, owner: Owner, events: Sequence[Row], is_whole: bool) -> Iterator[Row]:
    """The lines of an owner's journal that no event tells, though it tells a later one, or should tell all."""
    by_whom: dict[Borne, list[int]] = defaultdict(list)
    for event in events:
        by_whom[_borne(event)].append(event["attempt"])
    untold: list[Row] = []
    for line in (line for line in story.journals.get(owner.attempt, ()) if line["kind"] in TOLD):
        if stored := by_whom[_borne(line)]:
            by = stored.pop(0)
            yield from (each for each in untold if by == owner.attempt or each["kind"] not in ITS_OWN)
            untold = []
        elif line["kind"] != "metrics" and not _was_asked_before(story, owner, line):
            untold.append(line)
    if is_whole:
        yield from untold


def _was_asked_before(story: Story, owner: Owner, line: Row) -> bool:
    """Whether it is what the model was asked once more at the step that its checkpoint owed that."""
    before = (each for each in story.events if each["kind"] == "sample" and each["seq"] < owner.seq)
    asked = (line["step"], line["data"].get("index"))
    is_sample = line["kind"] == "sample" and line["step"] <= owner.base
    return is_sample and any((each["step"], each["data"]["index"]) == asked for each in before)


def what_is_given_out_is_what_was_told(story: Story) -> Iterator[str]:
    """Each checkpoint and artifact has its event and its row, but for a checkpoint whose trainer died before it was told, and
    from which the next one went on; and a run that succeeded has something to give."""
    adopted = {(each["step"], None) for each in story.rewound}
    for kind, rows in (("checkpoint", story.checkpoints), ("artifact", story.artifacts)):
        events = (each for each in story.events if each["kind"] == kind)
        told = Counter((each["attempt"], each["step"], each["data"].get("sha256")) for each in events)
        stored = Counter((row["attempt"], row["step"], row.get("sha256")) for row in rows)
        untold = [key for key in stored - told if key[1:] not in adopted]
        for attempt, step, _ in (*(told - stored), *untold):
            yield f"{story.name}: the {kind} of attempt {attempt} at step {step} is not told as often as it is stored"
    standing = [row for row in story.artifacts if row["withdrawn_at"] is None]
    if story.row["state"] == "succeeded" and not standing:
        yield f"{story.name} succeeded, and has nothing to give"


def _borne(told: Row) -> Borne:
    """What a line and its event have in common."""
    wanted = OTHERWISE.get(told["kind"]) or BORNE.get(told["kind"]) or tuple(told["data"])
    return told["kind"], told["step"], json.dumps({name: told["data"].get(name) for name in wanted}, sort_keys=True)


def each_step_is_told_once_as_it_was_trained(story: Story) -> Iterator[str]:
    """With `rewound` applied, every step is there once, in order, and equal to the journals of those who owned the history.

    None is missing of a run that gave out what it learned. Whatever the journals say, no step follows a later one.
    """
    yield from list(_told_otherwise(story)) or _out_of_order(story)


def _told_otherwise(story: Story) -> Iterator[str]:
    told_and_trained = zip_longest(story.drawn, story.trained)
    for place, (told, trained) in enumerate(told_and_trained):
        if told is None:
            if _has_given_out(story):
                yield f"{story.name} gave out what it learned, and step {trained.step if trained else '?'} was never told"
            return
        if trained is None or told.key != trained.key:
            yield f"{story.name}: " + _how_it_differs(place, told, trained, story.drawn)
            return
    steps = [line.step for line in story.drawn if "loss" in line.values]
    missing = next((step for step, found in enumerate(steps, start=1) if found > step), None)
    if missing is not None:
        yield f"{story.name}: step {missing} was never trained, and step {steps[missing - 1]} was"
    elif story.row["state"] == "succeeded" and len(steps) != story.row["total_steps"]:
        yield f"{story.name} succeeded at step {len(steps)} of {story.row['total_steps']}"


def _out_of_order(story: Story) -> Iterator[str]:
    newest: dict[str, int] = {}
    for line in story.drawn:
        for name in line.values:
            if line.step <= newest.get(name, -1):
                yield f"{story.name}: {name} of step {line.step} is told after that of step {newest[name]}"
                return
            newest[name] = line.step


def _has_given_out(story: Story) -> bool:
    """Whether the last owner of the history came to its end, or told an artifact, before which it told all that it trained."""
    given = {event["attempt"] for event in story.events if event["kind"] == "artifact"}
    return story.row["state"] == "succeeded" or (bool(story.owners) and story.owners[-1].attempt in given)


def _how_it_differs(place: int, told: Line, trained: Line | None, drawn: Sequence[Line]) -> str:
    if told.key in {line.key for line in drawn[:place]}:
        return f"a line of step {told.step} is told twice"
    if trained is None:
        return f"step {told.step} is told, and no owner of the history trained it"
    return f"step {told.step} is told with {told.values}, where step {trained.step} with {trained.values} is due"


def points_are_what_the_events_draw(story: Story) -> Iterator[str]:
    """The stored curve is the told one: no point more, none less, none other."""
    if story.stale:
        return  # what a stale attempt overwrote is told with its events
    drawn = {(name, line.step): value for line in story.drawn for name, value in line.values.items()}
    stored = {(row["name"], row["step"]): row["value"] for row in story.points}
    for key in sorted(drawn.keys() | stored.keys()):
        if drawn.get(key) != stored.get(key):
            yield f"{story.name}: {key[0]} of step {key[1]} is stored as {stored.get(key)} and told as {drawn.get(key)}"
            return


def extremes_are_those_of_the_points(story: Story) -> Iterator[str]:
    """A bucket holds the lowest and the highest value of its steps, so that a thinned curve loses neither; on each level of
    them every step has its bucket."""
    if story.stale:
        return
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for row in story.points:
        values[row["name"]][row["step"]] = float(row["value"])
    for row in story.buckets:
        first = row["bucket"] * row["width"]
        inside = {step: value for step, value in values[row["name"]].items() if first <= step < first + row["width"]}
        finite = {step: value for step, value in inside.items() if math.isfinite(value)}
        extremes = (min(finite.values(), default=None), max(finite.values(), default=None))
        held = (finite.get(row["low_step"]), finite.get(row["high_step"]))
        if (row["low"], row["high"]) != extremes or held != extremes or (row["odd"] is None) != (finite == inside):
            yield f"{story.name}: the bucket of {row['name']} at {first} (width {row['width']}) holds {row}"
    yield from _missing_buckets(story, values)


def _missing_buckets(story: Story, values: dict[str, dict[int, float]]) -> Iterator[str]:
    held = {(row["name"], row["width"], row["bucket"]) for row in story.buckets}
    due = {(name, width, step // width) for name, steps in values.items() for step in steps for width in LEVELS}
    for name, width, bucket in sorted(due - held)[:1]:
        yield f"{story.name}: {name} has no bucket at {bucket * width} (width {width})"


def states_follow_each_other_as_they_may(story: Story) -> Iterator[str]:
    """No state but those that may follow; an active run is prepared again only by another attempt."""
    state, attempt = "", 0
    for event in story.events:
        if event["kind"] != "state":
            continue
        then = event["data"]["state"]
        goes_back = state in ("training", "finishing") and then == "preparing" and event["attempt"] == attempt
        if then not in MAY_FOLLOW[state] or goes_back:
            yield f"{story.name}: {then} (attempt {event['attempt']}) after {state or 'nothing'} (attempt {attempt})"
        state, attempt = then, event["attempt"]
    if state != story.row["state"]:
        yield f"{story.name}: its row says {story.row['state']}, the newest event {state}"


def a_failed_run_names_its_cause(story: Story) -> Iterator[str]:
    """Each failure is told in words that a person can act on, and of each attempt that is over how it ended; how a trainer died
    stands in the log of its run, though that goes on by itself."""
    causes = [each["data"].get("cause") or {} for each in story.events if _state(each) == "failed"]
    causes += [story.row["cause"] or {}] if story.row["state"] == "failed" else []
    for cause in causes:
        if not (cause.get("code") and cause.get("message")):
            yield f"{story.name} failed without a cause: {cause}"
            break
    for row in story.attempts:
        if row["ended_at"] and not row["cause"]:
            yield f"{story.name}: attempt {row['number']} ended, and nothing says how"
        elif _is_death(row) and _word_on(story, row["number"]) is None:
            yield f"{story.name}: attempt {row['number']} died, and the log does not say how: {row['cause']}"


def _state(event: Row) -> str:
    """The state that an event tells; none where it tells something else."""
    return str(event["data"]["state"]) if event["kind"] == "state" else ""


def a_run_at_rest_holds_nothing(story: Story) -> Iterator[str]:
    """Who rests has no holder, no lease and no open attempt."""
    if story.row["state"] not in RESTS:
        return
    is_open = [row["number"] for row in story.attempts if row["ended_at"] is None]
    if story.row["holder"] or story.row["lease_until"] or is_open:
        yield f"{story.name} is {story.row['state']}, held by {story.row['holder']}, attempts {is_open} open"


def a_run_goes_on_from_its_newest_checkpoint(story: Story) -> Iterator[str]:
    """Whoever takes a run over goes on from the newest checkpoint that stood when it came, or from a newer one. What is
    older is taken only where people are told that what is newer is damaged: whether it may be is another rule's."""
    came = {row["number"]: seconds(row["started_at"]) for row in story.attempts}
    for event in story.rewound:
        damaged = {step for seq, step, _ in _passed_over(story) if seq < event["seq"]}
        stood = [row["step"] for row in story.checkpoints if _stood(story, row, came[event["attempt"]])]
        newest = max((step for step in stood if step not in damaged), default=0)
        if event["step"] < newest:
            yield f"{story.name}: attempt {event['attempt']} went back to step {event['step']}, {newest} was published"


def _passed_over(story: Story) -> Iterator[tuple[int, int, str]]:
    """Each checkpoint that was found damaged by who wanted to go on from it or to keep it: the event that says so, its step,
    and the words."""
    for event in story.events:
        cause = event["data"].get("cause") or {}
        words = event["data"]["text"] if event["kind"] == "log" else cause.get("message", "")
        for found in PASSED_OVER.finditer(words):
            yield event["seq"], int(found[1]), words


def _stood(story: Story, checkpoint: Row, at: float) -> bool:
    """Whether it was published by then, and neither taken back nor replaced by newer ones. That its row says `replaced` is
    not enough."""
    created, replaced = seconds(checkpoint["created_at"]), checkpoint["replaced_at"]
    newer = [row for row in story.checkpoints if row["step"] > checkpoint["step"]]
    is_replaced = replaced is not None and any(seconds(row["created_at"]) <= seconds(replaced) for row in newer)
    behind = [seconds(event["at"]) for event in story.rewound if event["step"] < checkpoint["step"]]
    is_taken_back = any(created <= moment < at for moment in (*behind, *story.said("run.start_over")))
    return created <= at and not is_replaced and not is_taken_back


def every_client_receives_every_event_once(story: Story) -> Iterator[str]:
    """Whoever follows gets each event once, from the first to the last, in order and as it is stored, however often the
    connection broke."""
    stored = {event["seq"]: event for event in story.events}
    for client, seen in story.clients.items():
        for before, after in pairwise((0, *(each.seq for each in seen))):
            if after != before + 1:
                yield f"{story.name}: {client} received event {after} after {before}"
        if seen[-1].seq < max(stored, default=0):
            yield f"{story.name}: {client} received none of the events after {seen[-1].seq}"
        for each in seen:
            event = stored.get(each.seq)
            if event is None or (event["kind"], event["step"], event["data"]) != (each.kind, each.step, each.data):
                yield f"{story.name}: {client} received an event {each.seq} that is not the stored one"


# ---- of the studio ---------------------------------------------------------------------------------------------------


def no_accepted_run_is_lost(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Every run whose launch was answered is there, and rests at the end in a state that says why."""
    known = {story.row["id"] for story in told}
    yield from (f"run {run} was accepted and is gone" for run in history.accepted if run not in known)
    for story in told:
        if story.row["state"] not in RESTS:
            yield f"{story.name} is still {story.row['state']}, told to {story.row['intent']}"


def no_launch_is_carried_out_twice(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Who sends a launch again, since its answer was lost, gets the run that it made: no run is there that nobody was told of."""
    accepted = set(history.accepted)
    yield from (f"{story.name} is there, and was nobody's answer" for story in told if story.row["id"] not in accepted)


def no_run_fails_for_nothing(history: History, told: Sequence[Story]) -> Iterator[str]:
    """A run fails by deaths of its trainers, whose number the protocol counts, or by what was really done to its host; of
    itself it pauses only where it gets nowhere. Each time is looked at: somebody may have resumed it at once."""
    last_look = {(trainer.run, trainer.attempt): trainer.ended for trainer in _trainers(history, told)}
    for story in told:
        came = {row["number"]: seconds(row["started_at"]) for row in story.attempts}
        for event in (event for event in story.events if event["kind"] == "state"):
            since = last_look.get((story.row["id"], event["attempt"]), came.get(event["attempt"], math.inf))
            may = {"failed": {CRASHED, *_deserved(history, event, since)}, "paused": {NO_PROGRESS}}
            code = (event["data"].get("cause") or {}).get("code")
            if code and code not in may.get(_state(event), ()):
                yield f"{story.name} {_state(event)} at event {event['seq']}: {event['data']['cause']}"


def _deserved(history: History, event: Row, since: float) -> Iterator[str]:
    """Why a run may fail at this event, by what was done to it: a disk was full while its trainer was seen last, or since; or
    a checkpoint of its own was torn before."""
    for strike in (strike for strike in history.struck if strike.at <= seconds(event["at"])):
        if strike.kind == FILLED and strike.until >= since - WOUND_SECONDS:
            yield "disk_full"
        if strike.kind == TORN and strike.target.startswith(f"runs/{event['run_id']}/"):
            yield "checkpoint.damaged"


def one_trainer_works_on_an_accelerator(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Two trainers never work on one accelerator at a time: the second one's work begins after the first one's end."""
    for first, second, overlap in _overlapping(history, told, lambda trainer: trainer.device):
        yield f"{second} began to work {overlap:.2f} s before {first} was gone"


def one_trainer_works_on_a_run(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Two trainers of one run overlap only while the first one's host is frozen or cut off, and until it can have learned that
    its run is another's."""
    for first, second, overlap in _overlapping(history, told, lambda trainer: trainer.run):
        unexcused = overlap - _cut_off_seconds(history, first, second.began or first.ended, overlap)
        is_told_already = first.device == second.device
        if unexcused > DYING_SECONDS and not is_told_already:
            yield f"{second} and {first} worked at the same time for {unexcused:.1f} s in which nothing was struck"


def no_trainer_outlives_its_supervisor(history: History, _told: Sequence[Story]) -> Iterator[str]:
    """A trainer whose supervisor died is gone a moment later."""
    for looks in _processes(history.samples):
        first, last = looks[0], looks[-1]
        orphaned = next((look.at for look in looks if look.parent != first.parent), None)
        if first.name in ("trainer", "spare") and orphaned is not None and last.at - orphaned > DYING_SECONDS:
            yield f"{last.name} {last.pid} (run {last.run}) lived {last.at - orphaned:.1f} s longer than its supervisor"


def no_trainer_dies_for_nothing(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Each death that is told is that of a trainer that was struck; and none ends by itself without a word."""
    for story in told:
        for row in story.attempts:
            if _is_death(row) and (row["cause"].startswith(OF_ITSELF) or not any(_killers(history, row))):
                yield f"{story.name}: the trainer of attempt {row['number']} died, and nobody struck it: {row['cause']}"


def no_part_ends_for_nothing(history: History, _told: Sequence[Story]) -> Iterator[str]:
    """What nobody stopped goes on."""
    for ended in history.ended:
        yield f"{ended.part} ended by itself after {ended.at - ended.started:.1f} s"


def who_is_preempted_in_training_loses_no_step(history: History, told: Sequence[Story]) -> Iterator[str]:
    """A machine that is taken away in order takes nothing with it: the run goes on from its very last step."""
    for story, row, then in _preempted(history, told):
        if then["data"]["lost"]:
            words = f"attempt {row['number']} was preempted, and {then['data']['lost']} of its steps were lost"
            yield f"{story.name}: {words}"


def nothing_happens_unseen(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Whoever looked at processes met each trainer, and whoever followed runs followed each: what was not looked at broke no
    promise either."""
    met = {(sample.run, sample.attempt) for sample in history.samples}
    for story in told:
        for attempt, lines in story.journals.items():
            if history.is_watched and (story.row["id"], attempt) not in met and _lasted(lines) > SEEN_SECONDS:
                yield f"{story.name}: nobody saw the trainer of attempt {attempt}, which wrote for {_lasted(lines):.1f} s"
        if history.is_followed and story.events and not story.clients:
            yield f"{story.name}: nobody followed it"


def a_dead_trainer_is_shown_in_time(history: History, told: Sequence[Story]) -> Iterator[str]:
    """The death of a trainer under a healthy supervisor is told with its cause within five seconds, and by then whoever follows
    the run has read it, where nothing on the way was struck."""
    for death in detections(history, told):
        if death.told > SHOWN_SECONDS:
            yield f"{death.whose} was dead for {death.told:.1f} s before it was told"
        elif death.heard is not None and death.heard > SHOWN_SECONDS:
            yield f"{death.whose} was dead for {death.heard:.1f} s before a client had heard of it"


def what_is_published_can_be_read(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Each published checkpoint and artifact holds the bytes that were published, unless a fault tore it; and nobody who
    wanted to go on from a checkpoint ever found another one damaged."""
    torn = {strike.target for strike in history.struck}
    then = {folder: problems for folder, problems in history.read.items() if not history.readable.get(folder)}
    for folder, problems in (*history.readable.items(), *then.items()):
        if problems and folder not in torn:
            yield f"{folder}: {'; '.join(problems)}"
    for story in told:
        tears = [target for target in torn if target.startswith(f"runs/{story.row['id']}/")]
        for _, step, words in _passed_over(story):
            if not any(target.endswith(f"/checkpoint-{step}") for target in tears):
                yield f"{story.name}: {words}"


def curves_are_those_of_an_undisturbed_run(history: History, told: Sequence[Story]) -> Iterator[str]:
    """Kills and resumes change no bit of what is learned and measured; and who comes to the end has measured all of it. What is
    kept on the way is measured there, too."""
    for story in told:
        expected = {(name, step): value for name, step, value in history.reference.get(story.row["id"], ())}
        names = {name for name, _ in expected}
        found = {
            (name, line.step): value for line in story.drawn for name, value in line.values.items() if name in names
        }
        due = expected if story.row["state"] == "succeeded" else {key: expected.get(key) for key in found}
        kept = {(MEASURED, event["step"]) for event in story.events if _state(event) == "finishing"} - expected.keys()
        others = (key[::-1] for key in (due | found).keys() - kept if due.get(key) != found.get(key))
        other = min(others, default=None)
        if other is not None:
            yield f"{story.name}: from step {other[0]} on, its {other[1]} is not that of a run that nothing happened to"


def nothing_is_left_over(history: History, _told: Sequence[Story]) -> Iterator[str]:
    """No orphan, no zombie, no leaked descriptor, no temporary file."""
    yield from (f"{left.kind}: {left.what}" for left in history.leftovers)
    processes = _processes(history.samples)
    stopped = {looks[0].pid: [look.at for look in looks if look.status == "stopped"] for looks in processes}
    for looks in processes:
        dead = [look for look in looks if look.status == "zombie"]
        unmissed = sum(b.at - a.at for a, b in pairwise(dead) if not _any_in(stopped.get(a.parent, ()), a.at, b.at))
        if unmissed > ZOMBIE_SECONDS:  # nobody but its parent can bury it, and that may be stopped itself
            yield f"zombie: {looks[-1].name} {looks[-1].pid} for {unmissed:.0f} s"


RULES_OF_A_RUN: tuple[Callable[[Story], Iterator[str]], ...] = (
    events_are_numbered_without_a_gap,
    only_the_owner_of_the_history_writes,
    what_its_owner_wrote_is_told,
    what_is_given_out_is_what_was_told,
    each_step_is_told_once_as_it_was_trained,
    points_are_what_the_events_draw,
    extremes_are_those_of_the_points,
    states_follow_each_other_as_they_may,
    a_failed_run_names_its_cause,
    a_run_at_rest_holds_nothing,
    a_run_goes_on_from_its_newest_checkpoint,
    every_client_receives_every_event_once,
)
RULES_OF_A_STUDIO: tuple[Callable[[History, Sequence[Story]], Iterator[str]], ...] = (
    no_accepted_run_is_lost,
    no_launch_is_carried_out_twice,
    no_run_fails_for_nothing,
    one_trainer_works_on_an_accelerator,
    one_trainer_works_on_a_run,
    no_trainer_outlives_its_supervisor,
    no_trainer_dies_for_nothing,
    no_part_ends_for_nothing,
    who_is_preempted_in_training_loses_no_step,
    nothing_happens_unseen,
    a_dead_trainer_is_shown_in_time,
    what_is_published_can_be_read,
    curves_are_those_of_an_undisturbed_run,
    nothing_is_left_over,
    no_accepted_word_is_lost,
    who_was_told_to_end_trains_no_longer,
    a_change_is_made_and_holds,
)


# ---- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trainer:
    """A trainer's process: `began` is when it wrote the first line with the accelerator in hand, before it loads a model;
    `ended` the last look at it."""

    run: str
    attempt: int
    host: str | None
    device: str
    pid: int
    parent: int
    began: float | None
    ended: float

    def __str__(self) -> str:
        return f"the trainer of attempt {self.attempt} of run {self.run}"


def _any_in(moments: Sequence[float], start: float, end: float) -> bool:
    at = bisect_left(moments, start)
    return at < len(moments) and moments[at] <= end


def _processes(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The looks at each process, in the order of their times."""
    found: dict[tuple[int, float], list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample.at):
        found[sample.pid, sample.started].append(sample)
    return list(found.values())


def _trainers(history: History, told: Sequence[Story]) -> Iterator[Trainer]:
    journals = {(story.row["id"], attempt): lines for story in told for attempt, lines in story.journals.items()}
    for looks in _processes(history.samples):
        living = [look for look in looks if look.status != "zombie"]
        if not living or not (work := living[-1]).run or not work.attempt:
            continue
        lines = journals.get((work.run, work.attempt), [])
        began = next(
            (line["t"] for line in lines if line["kind"] not in ("log", "progress") and not _waits(line)), None
        )
        if began is not None:
            began -= history.clocks.get(work.host or "", 0.0)
        place = f"{work.device} of host {work.host}"
        yield Trainer(work.run, work.attempt, work.host, place, work.pid, looks[0].parent, began, work.at)


def _waits(line: Row) -> bool:
    """Whether a trainer says that another one still has its accelerator."""
    return line["kind"] == "phase" and bool(line["data"].get("text"))


def _lasted(lines: Sequence[Row]) -> float:
    """How long a journal was written, in seconds."""
    return float(lines[-1]["t"] - lines[0]["t"]) if lines else 0.0


def _overlapping(
    history: History, told: Sequence[Story], place: Callable[[Trainer], str]
) -> Iterator[tuple[Trainer, Trainer, float]]:
    """Trainers that worked at one place, two and two, and for how many seconds at the same time."""
    working = [(place(trainer), trainer.began, trainer) for trainer in _trainers(history, told) if trainer.began]
    working.sort(key=lambda work: work[:2])
    for (here, _, first), (there, began, second) in combinations(working, 2):
        if here == there and began < first.ended:
            yield first, second, min(first.ended, second.ended) - began


def _cut_off_seconds(history: History, trainer: Trainer, since: float, lasting: float) -> float:
    """For how long of that time its supervisor stood still, or the way between its host and Postgres was struck."""
    looks = pairwise(look for look in history.samples if look.pid == trainer.parent)
    spans = [(look.at, after.at) for look, after in looks if look.status == "stopped"]
    spans += [(strike.at, strike.until) for strike in history.struck if strike.target == f"{trainer.host}-postgres"]
    covered, reached = 0.0, since
    for start, end in sorted(spans):
        covered += max(0.0, min(end, since + lasting) - max(start, reached))
        reached = max(reached, end)
    return covered


def _killers(history: History, attempt: Row) -> Iterator[Struck]:
    """What was done to an attempt's trainer while it was the run's, and may have ended it so."""
    disobeyed = str(attempt["cause"]).startswith(DISOBEYED)
    whose = (f" of {attempt['run_id']}/{attempt['number']}", f"trainers of {attempt['worker']}")
    for strike in history.struck:
        is_its = strike.target.endswith(whose) or strike.target.startswith(f"runs/{attempt['run_id']}/")
        may_end_it = is_its and (strike.kind in KILLING or disobeyed)
        if may_end_it and seconds(attempt["started_at"]) <= strike.at <= seconds(attempt["ended_at"]):
            yield strike


def preemptions(history: History, told: Sequence[Story]) -> int:
    """How many trainers lost nothing as their machine was taken away, though nothing would have excused it."""
    return sum(1 for _ in _preempted(history, told))


def _preempted(history: History, told: Sequence[Story]) -> Iterator[tuple[Story, Row, Row]]:
    """Each attempt that was preempted in mid-training, where nothing else was done to it, and the event that tells what the next
    one lost of it."""
    for strike in (strike for strike in history.struck if strike.kind == PREEMPTED and strike.phase == "training"):
        for story in told:
            for row in (row for row in story.attempts if _was_preempted(row, strike)):
                then = next((event for event in story.rewound if event["attempt"] > row["number"]), None)
                if then and not any(_besides(history, strike, row, seconds(then["at"]))):
                    yield story, row, then


def _was_preempted(attempt: Row, strike: Struck) -> bool:
    ended = seconds(attempt["ended_at"]) if attempt["ended_at"] else math.inf
    is_there = seconds(attempt["started_at"]) <= strike.at <= ended
    return is_there and strike.target == f"supervisor-{attempt['worker']}"


def _besides(history: History, preempted: Struck, attempt: Row, until: float) -> Iterator[Struck]:
    """What else was done to a preempted attempt, to what lies of it on the disk, and to its way to Postgres."""
    host = attempt["worker"]
    of_its_host = (f"supervisor-{host}", f"celery-{host}", f"trainers of {host}", f"{host}-postgres")
    ended = seconds(attempt["ended_at"]) if attempt["ended_at"] else until
    for strike in (
        each for each in history.struck if each is not preempted and each.until > preempted.at - FELT_SECONDS
    ):
        is_its = attempt["run_id"] in strike.target and strike.at < until
        is_where_it_was = strike.target in of_its_host or strike.kind.startswith(("postgres.", "disk."))
        if is_its or (is_where_it_was and strike.at < ended):
            yield strike


@dataclass(frozen=True)
class Death:
    """One of a trainer that was told: how many seconds later it stood in Postgres with its cause, and how many later a client
    that had followed the run had received that; None where nobody had, or something on the way was struck."""

    whose: str
    told: float
    heard: float | None


def detections(history: History, told: Sequence[Story]) -> list[Death]:
    """Deaths of trainers, counted from the last look at them living: of those that left no word, whom nobody had given up
    before, and whose supervisor had all that it needs to see and to tell it."""
    by_run = {story.row["id"]: story for story in told}
    found = []
    for trainer in _trainers(history, told):
        story = by_run.get(trainer.run)
        if story is None or any(line["kind"] == "end" for line in story.journals.get(trainer.attempt, [])):
            continue
        word = _word_on(story, trainer.attempt)
        was_given_up = _cause(story, trainer.attempt) in (*RESTS, "queued")
        if word is None or was_given_up or seconds(word["at"]) < trainer.ended:
            continue
        if _was_well(history, trainer, seconds(word["at"])):
            delay = seconds(word["at"]) - trainer.ended
            found.append(Death(str(trainer), delay, _heard(history, story, trainer.ended, word["seq"])))
    return found


def _heard(history: History, story: Story, died: float, seq: int) -> float | None:
    """How long after a death the first of those who had followed its run by a clear way received the event that tells it."""
    found = []
    for seen in story.clients.values():
        arrived = next((each.at for each in seen if each.seq == seq), None)
        if arrived is not None and seen[0].at < died and _was_clear(history, seen, died, arrived):
            found.append(arrived - died)
    return min(found, default=None)


def _was_clear(history: History, seen: Sequence[Seen], died: float, arrived: float) -> bool:
    """Whether a client had received something since the way to it, or Postgres behind that, was struck for the last time."""
    struck = (each for each in history.struck if each.target in ON_THE_WAY or each.kind.startswith("postgres."))
    mended = [strike.until for strike in struck if strike.at < arrived]
    since = max(mended, default=0.0) + CLEAR_SECONDS
    return not mended or any(since < each.at < died for each in seen)


def outlived(history: History) -> list[float]:
    """By how many seconds each trainer and spare outlived its supervisor that died, as far as looks at them tell. One that
    was gone some looks before its supervisor is no matter of it."""
    processes = [(looks, [look for look in looks if look.status != "zombie"]) for looks in _processes(history.samples)]
    end = max((look.at for look in history.samples), default=0.0) - LOOK_SECONDS
    died = {looks[0].pid: living[-1].at for looks, living in processes if living and living[-1].name == "supervisor"}
    lags = [
        living[-1].at - died[looks[0].parent]
        for looks, living in processes
        if living and living[-1].name in ("trainer", "spare") and died.get(looks[0].parent, end) < end
    ]
    return [max(0.0, lag) for lag in lags if lag > -LOOK_SECONDS]


def _cause(story: Story, attempt: int) -> str | None:
    """How an attempt ended: in words how its trainer died, or the name of the state that followed."""
    return next((row["cause"] for row in story.attempts if row["number"] == attempt), None)


def _is_death(attempt: Row) -> bool:
    """Whether an attempt ended as its trainer died, which its cause then tells in words."""
    return bool(attempt["cause"]) and attempt["cause"] not in (*RESTS, "queued", "lost")


def _word_on(story: Story, attempt: int) -> Row | None:
    """The event that tells how an attempt's trainer died: the line of the log with the cause. Of one that was lost with its host
    it is the state that followed."""
    cause = _cause(story, attempt) or ""
    for event in story.events:
        if (
            cause != "lost"
            and event["kind"] == "log"
            and event["attempt"] == attempt
            and cause in event["data"]["text"]
        ):
            return event
        if cause == "lost" and _state(event) and event["attempt"] > attempt:
            return event
    return None


def _was_well(history: History, trainer: Trainer, shown: float) -> bool:
    """Whether a trainer's supervisor lived on, and neither it nor Postgres nor the way between them was struck about then."""
    died = trainer.ended
    looks = [look for look in history.samples if look.pid == trainer.parent and died - 1 <= look.at <= shown + 2]
    lived = bool(looks) and all(look.status == "alive" for look in looks) and looks[-1].at >= shown - 1
    needed = {f"supervisor-{trainer.host}", f"{trainer.host}-postgres"}
    about = [strike for strike in history.struck if died - WOUND_SECONDS < strike.at < shown]
    return lived and not any(strike.target in needed or strike.kind.startswith("postgres.") for strike in about)

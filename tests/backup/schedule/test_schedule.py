"""The calendar on odd days, the plan after odd nights, and two hosts at one slot."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup import status
from backup.repository import leases
from backup.repository.leases import End
from backup.repository.repository import Repository
from backup.run import run_files
from backup.schedule import calendar, model, plan, state
from backup.schedule.execute import Outcome, perform
from backup.schedule.model import Job
from backup.schedule.plan import State, due, failed, finished, held
from backup.schedule.service import Ended, Event, Handle, Service
from backup.schedule.slot import FACT, Slot, SlotTaken, committed, fence
from backup.writer.writer import Writer
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Busy, Damage, Usage
from zaibei.kernel.progress import Silent

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CHANGES = "/proc/version"  # its size is said to be 0 and is not: never read as it was
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def nightly(**more: Any) -> Job:
    told: dict[str, Any] = {"name": "nightly", "created": START, "cron": "30 2 * * *"} | more
    return Job(**told)


def hourly(**more: Any) -> Job:
    return Job(**({"name": "hourly", "created": START, "every": HOUR} | more))


# ── the calendar ────────────────────────────────────────────────────────────────────────────────


def test_an_hour_that_is_left_out_in_spring_is_made_good_and_one_that_comes_twice_counts_once() -> (
    None
):
    job = nightly(zone="Europe/Berlin")
    spring = calendar.slots(job, after=at("2026-03-28"), until=at("2026-03-31"))
    assert spring == (at("2026-03-28T01:30"), at("2026-03-29T01:30"), at("2026-03-30T00:30"))
    autumn = calendar.slots(job, after=at("2026-10-24"), until=at("2026-10-27"))
    assert autumn == (at("2026-10-24T00:30"), at("2026-10-25T00:30"), at("2026-10-26T01:30"))


def test_a_line_that_runs_every_hour_runs_in_both_of_the_doubled_hours() -> None:
    job = nightly(cron="0 * * * *", zone="Europe/Berlin")
    night = calendar.slots(job, after=at("2026-10-24T23:30"), until=at("2026-10-25T03:30"))
    assert night == tuple(at(f"2026-10-25T0{h}:00") for h in range(4))


@given(
    st.integers(1, 3000).map(lambda m: timedelta(minutes=m)),
    st.integers(0, 10**6),
    st.integers(1, calendar.SLOTS_MAX),
)
def test_slots_of_an_interval_are_the_same_on_every_host(
    every: timedelta, begin: int, length: int
) -> None:
    job = hourly(every=every)
    after = START + timedelta(minutes=begin)
    until = after + timedelta(minutes=length)
    found = calendar.slots(job, after=after, until=until)
    assert all(after < s <= until for s in found)
    later = calendar.slots(replace(job, created=after), after=after + every / 2, until=until)
    assert set(later) <= set(found)
    assert calendar.following(job, after) == (found[0] if found else calendar.following(job, until))


def test_years_of_minutes_are_not_looked_at_one_by_one() -> None:
    job = nightly(cron="* * * * *", catch_up=HOUR)
    found = calendar.slots(job, after=at("2020-01-01"), until=at("2026-01-01"))
    assert found[-1] == at("2026-01-01")
    assert len(found) <= calendar.SLOTS_MAX


@given(st.integers(0, 10**5))
def test_the_jitter_stays_below_its_bound_and_is_the_same_when_it_is_asked_again(n: int) -> None:
    job = hourly(jitter=timedelta(minutes=20))
    slot = START + n * HOUR
    assert timedelta(0) <= calendar.offset(job, slot) < job.jitter
    assert calendar.offset(job, slot) == calendar.offset(job, slot)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cron": None},
        {"every": HOUR},
        {"name": "../x"},
        {"name": ""},
        {"files": ("/a",), "postgres": "host=x"},
        {"timeout": timedelta(0)},
        {"catch_up": timedelta(0)},
        {"cron": None, "every": timedelta(seconds=5)},
        {"cron": None, "every": HOUR, "jitter": HOUR},
        {"keep": {"dayly": 3}},
    ],
)
def test_a_job_that_nobody_could_follow_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Usage):
        nightly(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cron": "61 * * * *"},
        {"cron": "every day"},
        {"zone": "Mars/Olympus"},
        {"cron": "0 2 30 2 *"},
        {"cron": "0 2 31 4,6 *", "zone": "Asia/Shanghai"},
    ],
)
def test_a_cron_line_that_nobody_could_follow_is_refused_when_it_is_added(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(Usage):
        state.add(nightly(**wrong))
    assert state.jobs() == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": {"daily": -1, "weekly": 8}},
        {"repos": ("xxx",), "password_file": "/pw"},
        {"repos": ("file:///a/b", "file:///a/./b/"), "password_file": "/pw"},
        {"postgres": "host=x password=sekret"},
    ],
)
def test_a_job_of_nonsense_is_refused_when_it_is_added_and_one_that_is_there_stops_no_other(
    wrong: dict[str, Any],
) -> None:
    """Taken once, when nobody looked: it must be possible to list, to replace and to remove it."""
    with pytest.raises(Usage) as refused:
        state.add(nightly(**wrong))
    assert "sekret" not in str(refused.value)
    assert state.jobs() == ()
    state.folder().mkdir(parents=True, exist_ok=True)
    told = {"format": 1, "jobs": [model.to_json(nightly(**wrong))]}
    (state.folder() / "jobs.json").write_text(json.dumps(told))
    state.add(nightly(name="sound"))
    assert len(state.jobs()) == 2
    state.remove(nightly().name)
    assert [j.name for j in state.jobs()] == ["sound"]


def test_a_job_of_a_name_that_is_no_text_comes_back_as_it_was_written() -> None:
    odd = os.fsdecode("/data/人".encode("gbk"))
    state.add(nightly(files=(odd,)))
    assert state.jobs()[0].files == (odd,)
    noted = failed(State(), at("2026-03-02T02:30"), f"{odd}: gone", now=at("2026-03-02T02:31"))
    state.save(state.jobs(), {nightly().name: noted}, now=at("2026-03-02T02:31"))
    assert state.states()[nightly().name] == noted


def test_a_line_that_fires_in_leap_years_alone_is_a_line() -> None:
    calendar.check(nightly(cron="0 2 29 2 *"))


# ── the plan ────────────────────────────────────────────────────────────────────────────────────


def one(job: Job, before: State, now: datetime) -> tuple[State, plan.Due | None]:
    found = due([job], {job.name: before}, now)
    return found.states[job.name], found.runs[0] if found.runs else None


def test_after_three_days_without_power_one_run_is_made_and_the_others_are_told_as_missed() -> None:
    job = nightly()
    told, run = one(job, State(settled=at("2026-03-02T02:30")), at("2026-03-05T09:00"))
    assert run is not None and run.slot == at("2026-03-05T02:30")
    assert told.missed == 2
    assert [n.slot.day for n in told.notes if n.outcome == "missed"] == [3, 4]
    told = finished(told, run.slot, now=at("2026-03-05T09:10"))
    assert one(job, told, at("2026-03-05T09:11")) == (told, None)


def test_a_slot_past_its_catch_up_is_missed_and_not_run_at_noon() -> None:
    told, run = one(
        nightly(catch_up=4 * HOUR), State(settled=at("2026-03-04T02:30")), at("2026-03-05T09:00")
    )
    assert run is None and told.missed == 1 and told.settled == at("2026-03-05T02:30")


def test_a_clock_that_goes_back_an_hour_repeats_nothing() -> None:
    job, told = hourly(), State(settled=at("2026-03-05T10:00"))
    assert one(job, told, at("2026-03-05T09:05")) == (told, None)
    assert due([job], {job.name: told}, at("2026-03-05T09:05")).wake == at("2026-03-05T11:00")


def test_a_clock_that_was_a_year_ahead_does_not_stop_backups_for_a_year() -> None:
    job = nightly()
    ahead, run = one(job, State(settled=at("2026-03-04T02:30")), at("2027-03-05T09:00"))
    assert run is not None and ahead.missed == 365
    ahead = finished(ahead, run.slot, now=at("2027-03-05T09:10"))
    back, run = one(job, ahead, at("2026-03-05T01:00"))
    assert run is None and back.notes[-1].outcome == "clock"
    _, run = one(job, back, at("2026-03-05T02:31"))
    assert run is not None and run.slot == at("2026-03-05T02:30")


def test_what_was_done_under_a_wrong_clock_is_forgotten_and_the_job_can_be_overdue_again() -> None:
    job, year = nightly(), at("2027-03-05T02:30")
    told = State(
        settled=year,
        done=year,
        done_at=year,
        notes=(plan.Note(slot=year, outcome="done", at=year),),
    )
    told, _ = one(job, told, at("2026-03-05T01:00"))
    assert (told.done, told.done_at) == (None, None)
    assert "done until 2027-03-05" in told.notes[-1].why
    begins = at("2026-03-05T02:30") + job.timeout + plan.GRACE
    assert plan.due_by(job, told, now=at("2026-03-20")) == begins, "it starts from then"
    again, _ = one(job, replace(told, settled=year), at("2026-03-08T01:00"))
    assert plan.due_by(job, again) == begins, "another jump puts nothing off"
    slot = at("2026-03-08T02:30")
    mended = finished(again, slot, now=slot)
    assert (mended.done, mended.done_at) == (slot, slot)
    assert plan.due_by(job, mended) == slot + DAY + job.timeout + plan.GRACE


def test_a_state_whose_settled_was_mended_already_is_mended_in_done_too() -> None:
    before = State(settled=at("2026-03-04T02:30"), done=at("2027-03-05T02:30"), done_at=None)
    told, _ = one(nightly(), before, at("2026-03-05T01:00"))
    assert told.done is None and told.settled == before.settled
    slot = at("2026-03-05T02:30")
    assert finished(before, slot, now=slot).done == slot, "also by a run that began before"
    late = replace(before, done=before.settled, done_at=at("2027-03-05T02:40"))
    told, _ = one(nightly(), late, at("2026-03-05T01:00"))
    assert (told.done, told.done_at) == (before.settled, None), "the slot is as true as it was"


def test_a_done_in_the_future_does_not_say_when_the_next_is_due() -> None:
    job, now = hourly(timeout=HOUR), at("2026-03-05T09:00")
    far, near = State(done=at("2027-01-01")), State(done=at("2026-03-05T15:00"))
    assert plan.due_by(job, far, now=now) == START + 2 * HOUR + plan.GRACE
    assert plan.due_by(job, near, now=now) == now + 2 * HOUR + plan.GRACE
    state.save((job,), {job.name: near}, now=now)
    shown = status.read()["schedule"]["jobs"][job.name]["due_by"]
    assert datetime.fromisoformat(shown) == now + 2 * HOUR + plan.GRACE, "what monitors read"


def test_a_failed_slot_is_tried_again_later_and_given_up_after_three() -> None:
    job, told, now = nightly(), State(), at("2026-03-02T02:30")
    begun = []
    for _ in range(200):
        told, run = one(job, told, now)
        if run is not None:
            begun.append((now - at("2026-03-02T02:30"), run.attempt))
            told = failed(told, run.slot, "vault down", now=now)
        now += timedelta(minutes=1)
    minutes = [int(after.total_seconds() // 60) for after, _ in begun]
    assert minutes == [0, 5, 15]
    assert [attempt for _, attempt in begun] == [1, 2, 3]
    assert told.missed == 1 and told.settled == at("2026-03-02T02:30")


def test_a_slot_that_another_host_holds_is_looked_at_again_and_costs_no_attempt() -> None:
    job, now = nightly(), at("2026-03-02T02:30")
    told = held(State(), now, now=now)
    assert one(job, told, now)[1] is None
    _, run = one(job, told, now + plan.LOOK_AGAIN)
    assert run is not None and run.attempt == 1


def test_a_job_is_ok_only_while_its_last_slot_has_or_can_still_get_its_backup() -> None:
    """`due_by` waits for the next slot and its time-out of half a day: a job whose every slot failed was ok until
    then, last done never."""
    job, slot = hourly(created=at("2026-03-01T23:30")), at("2026-03-02")
    minute = timedelta(minutes=1)

    def stands(told: State, now: datetime) -> str:
        return plan.standing(job, told, now).name

    assert stands(State(), slot - minute) == "OK", "its first slot is still to come"
    assert stands(State(), slot + minute) == "NEVER_DONE"
    told = failed(State(), slot, "vault down", now=slot)
    assert stands(told, slot + minute) == "NEVER_DONE"
    for _ in range(plan.ATTEMPTS_MAX - 1):
        told = failed(told, slot, "vault down", now=slot)
    assert stands(told, slot + minute) == "FAILED"

    good = plan.finished(told, slot + HOUR, now=slot + HOUR)
    assert stands(good, slot + HOUR) == "OK"
    again = failed(good, slot + 2 * HOUR, "vault down", now=slot + 2 * HOUR)
    assert stands(again, slot + 2 * HOUR) == "RETRYING"
    incomplete = failed(good, slot + 2 * HOUR, "x: denied", now=slot + 2 * HOUR, again=False)
    assert stands(incomplete, slot + 2 * HOUR) == "FAILED"
    outlived, _ = one(job, again, slot + 3 * HOUR)
    assert outlived.notes[-1].why == "given up" and stands(outlived, slot + 3 * HOUR) == "FAILED"
    assert stands(good, slot + timedelta(days=2)) == "OVERDUE"
    assert plan.standing(replace(job, enabled=False), told, slot).sound


def test_a_job_that_is_off_is_never_due_and_never_overdue() -> None:
    off = nightly(enabled=False)
    assert due([off], {}, at("2026-04-01")).runs == ()
    assert plan.due_by(off, State()) is None


def test_a_job_is_overdue_by_its_own_word_when_nobody_runs_it() -> None:
    job = nightly(timeout=2 * HOUR, jitter=timedelta(minutes=30))
    by = plan.due_by(job, State(done=at("2026-03-05T02:30")))
    assert by == at("2026-03-06T02:30") + 2.5 * HOUR + plan.GRACE


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-180, 3000), st.sampled_from(["ok", "fail", "busy", "sleep", "sleep"])
        ),
        max_size=40,
    )
)
def test_whatever_the_clock_does_no_slot_is_done_twice_and_none_is_forgotten(
    steps: list[tuple[int, str]],
) -> None:
    job, told, now = hourly(jitter=timedelta(minutes=7)), State(), START
    done: list[datetime] = []
    latest = START
    for minutes, what in steps:
        now += timedelta(minutes=minutes)
        latest = max(latest, now)
        before = told
        told, run = one(job, told, now)
        assert told.settled is None or before.settled is None or told.settled >= before.settled
        if run is None or what == "sleep":
            continue
        assert run.slot not in done and run.slot <= now
        if what == "ok":
            told = finished(told, run.slot, now=now)
            done.append(run.slot)
        elif what == "fail":
            told = failed(told, run.slot, "x", now=now)
        else:
            told = held(told, run.slot, now=now)
    assert done == sorted(done)
    if told.settled is not None:
        passed = calendar.slots(job, after=START, until=told.settled)
        assert len(done) + told.missed == len(passed), "every slot is done or told as missed"


# ── on disk ─────────────────────────────────────────────────────────────────────────────────────


def test_jobs_and_states_come_back_as_they_were_written() -> None:
    job = nightly(files=("/srv",), repos=("file:///v",), password_file="/p", retain=30 * DAY)
    state.add(job)
    state.add(hourly())
    told = failed(finished(State(), START, now=START), START + DAY, "why", now=START + DAY)
    state.save(state.jobs(), {"nightly": told}, now=START + DAY)
    assert state.jobs() == (hourly(), job)
    assert state.states() == {"nightly": told}
    assert status.read()["schedule"]["jobs"]["nightly"]["last"]["outcome"] == "failed"
    with pytest.raises(Usage, match="already"):
        state.add(job)
    state.remove("nightly")
    assert state.jobs() == (hourly(),)


@pytest.mark.parametrize(
    "garbled", ["", "[]", '{"format": 9}', '{"format": 1, "states": {"a": {}}}']
)
def test_a_garbled_state_is_damage_with_a_way_out(garbled: str) -> None:
    state.folder().mkdir(parents=True)
    (state.folder() / "states.json").write_text(garbled)
    with pytest.raises(Damage) as bad:
        state.states()
    assert "move the file away" in str(bad.value)


def test_a_field_that_no_job_has_is_refused_by_its_name() -> None:
    told = model.to_json(nightly()) | {"everry": "6h"}
    with pytest.raises(Usage, match="everry"):
        model.from_json(told)


# ── two hosts ───────────────────────────────────────────────────────────────────────────────────

SLOT = Slot(job="nightly", at=datetime(2026, 1, 1, tzinfo=UTC))


def test_of_two_hosts_one_gets_the_lease_and_the_name_of_the_job_is_not_in_the_vault(
    repo: Repository,
) -> None:
    first = leases.take(repo, SLOT.name, holds=HOUR, holder="host-a")
    with pytest.raises(Busy, match="host-a"):
        leases.take(repo, SLOT.name, holds=HOUR, holder="host-b")
    assert first.token == 1
    assert not [s.key for s in repo.store.list() if "nightly" in s.key]


def test_a_lease_is_taken_over_when_it_was_ended_or_has_run_out_by_the_stores_clock(
    repo: Repository, clock: SimClock
) -> None:
    leases.take(repo, SLOT.name, holds=HOUR, holder="host-a").end(End.HANDED_OVER)
    assert leases.take(repo, SLOT.name, holds=HOUR, holder="host-b").token == 2
    clock.sleep(HOUR - timedelta(seconds=1))
    with pytest.raises(Busy):
        leases.take(repo, SLOT.name, holds=HOUR, holder="host-c")
    clock.sleep(timedelta(seconds=2))
    assert leases.take(repo, SLOT.name, holds=HOUR, holder="host-c").token == 3


def test_a_lease_that_nobody_signed_holds_nothing_up(repo: Repository) -> None:
    mine = leases.take(repo, SLOT.name, holds=HOUR, holder="host-a")
    mine.end(End.FAILED)
    folder = mine.key.rpartition("/")[0]
    repo.store.create(f"{folder}/0002", b'{"body":{"holds_s":999999},"signature":""}')
    assert leases.take(repo, SLOT.name, holds=HOUR, holder="host-b").token == 3


def test_sixteen_hosts_at_once_get_one_lease(repo: Repository) -> None:
    won: list[int] = []

    def host(name: str) -> None:
        with suppress(Busy):
            won.append(leases.take(repo, SLOT.name, holds=HOUR, holder=name).token)

    hosts = [threading.Thread(target=host, args=(f"host-{n}",)) for n in range(16)]
    for h in hosts:
        h.start()
    for h in hosts:
        h.join()
    assert won == [1]


def test_two_runs_of_one_slot_that_both_believe_they_hold_it_end_with_one_snapshot(
    repo: Repository, clock: SimClock, some_files: Path
) -> None:
    """The second began before the first committed: a lease that ran out, a worker thought dead."""
    late = Writer(repo, fence=fence(SLOT))
    early = run_files(
        [some_files],
        [repo],
        clock,
        random.Random(1),
        Silent(),
        facts={FACT: SLOT.as_fact()},
        fence=fence(SLOT),
    )
    assert early.complete
    made = early.outcomes[0].snapshot
    assert made is not None and made.content.facts[FACT]["job"] == "nightly"
    with pytest.raises(SlotTaken):
        late.commit(made.content)
    late.close()
    assert len(repo.sequences()) == 1
    other = replace(SLOT, at=SLOT.at + DAY)
    assert run_files(
        [some_files],
        [repo],
        clock,
        random.Random(1),
        Silent(),
        facts={FACT: other.as_fact()},
        fence=fence(other),
    ).complete
    assert committed(repo, SLOT) is not None and len(repo.sequences()) == 2


def doing(job: Job, repos: list[Repository], clock: SimClock, lost: list[str] | None = None) -> Any:
    def nobody() -> tuple[str, str]:
        raise AssertionError("a job of files asks for no database")

    return perform(
        job, SLOT, (repos, list(lost or [])), standby=nobody, clock=clock, progress=Silent()
    )


def test_a_slot_is_performed_once_and_said_to_be_done_after_that(
    make: Callable[..., Repository], clock: SimClock, some_files: Path
) -> None:
    repos = [make("site-b"), make("site-c")]
    job = nightly(files=(str(some_files),))
    first = doing(job, repos, clock)
    assert (first.outcome, first.token) == (Outcome.DONE, 1)
    assert first.snapshots == {"site-b": 1, "site-c": 1}
    again = doing(job, repos, clock)
    assert again.outcome is Outcome.ALREADY and again.snapshots == first.snapshots


def test_a_job_of_a_bucket_takes_all_its_versions_and_the_next_slot_sends_only_what_is_new(
    make: Callable[..., Repository], clock: SimClock
) -> None:
    business = MemoryStore(clock=clock, name="site-a/images")
    business.create("map", b"map one")
    business.remove("map")
    business.create("map", b"map two")
    repo, job = make("site-b"), nightly(bucket="site-a/images")

    def night(slot: Slot) -> Any:
        return perform(
            job,
            slot,
            ([repo], []),
            standby=lambda: pytest.fail("a job of a bucket asks for no database"),
            clock=clock,
            progress=Silent(),
            bucket=lambda where: (business, where),
        )

    assert night(SLOT).outcome is Outcome.DONE
    first = repo.find("latest").content
    assert (first.kind, first.label, first.entries) == ("bucket", "nightly", 3)
    assert night(SLOT).outcome is Outcome.ALREADY
    business.create("new", b"new")
    packs = len(list(repo.store.list("packs/")))
    assert night(replace(SLOT, at=SLOT.at + DAY)).outcome is Outcome.DONE
    assert repo.find("latest").content.entries == 4
    # One of the new object and one of the listing.
    assert len(list(repo.store.list("packs/"))) == packs + 2


def test_a_job_leaves_out_what_its_rules_say(
    repo: Repository, clock: SimClock, tmp_path: Path
) -> None:
    (tmp_path / "source" / "cache").mkdir(parents=True)
    (tmp_path / "source" / "kept").write_text("kept")
    (tmp_path / "source" / "cache" / "left").write_text("left out")
    job = nightly(files=(str(tmp_path / "source"),), exclude=("cache/",))
    assert doing(model.from_json(model.to_json(job)), [repo], clock).outcome is Outcome.DONE
    made = repo.find("latest").content
    assert (made.entries, made.facts["excluded"]) == (2, 1)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"files": ("/srv",), "bucket": "site-a/images"}, "one source a job"),
        ({"postgres": "host=a", "bucket": "site-a/images"}, "one source a job"),
        ({"exclude": ("*.tmp",)}, "rules are for files"),
    ],
)
def test_a_job_of_two_sources_or_of_rules_for_nothing_is_refused(
    more: dict[str, Any], why: str
) -> None:
    with pytest.raises(Usage, match=why):
        nightly(**more)


def test_a_vault_that_was_down_is_made_good_by_the_next_attempt_and_the_other_left_alone(
    make: Callable[..., Repository], clock: SimClock, some_files: Path
) -> None:
    b, c = make("site-b"), make("site-c")
    job = nightly(files=(str(some_files),))
    half = doing(job, [b], clock, lost=["site-c: did not answer"])
    assert half.outcome is Outcome.FAILED and half.snapshots == {"site-b": 1}
    whole = doing(job, [b, c], clock)
    assert whole.outcome is Outcome.DONE
    assert (b.sequences(), c.sequences()) == ([1], [1])


def test_a_job_forgets_by_its_own_policy_and_leaves_the_snapshots_of_others(
    repo: Repository, clock: SimClock, some_files: Path
) -> None:
    run_files([some_files], [repo], clock, random.Random(1), Silent(), label="other")
    job = nightly(files=(str(some_files),), keep={"last": 2})

    def nobody() -> tuple[str, str]:
        raise AssertionError

    for n in range(4):
        slot = replace(SLOT, at=SLOT.at + n * DAY)
        told = perform(job, slot, ([repo], []), standby=nobody, clock=clock, progress=Silent())
        assert told.outcome is Outcome.DONE and not told.problems
        clock.sleep(DAY)
    assert repo.sequences() == [1, 4, 5]


def test_a_night_that_missed_a_part_of_the_source_ages_no_other_night_out(
    repo: Repository, clock: SimClock, some_files: Path
) -> None:
    for _ in range(3):
        run_files([some_files], [repo], clock, random.Random(1), Silent(), label="nightly")
        clock.sleep(DAY)
    job = nightly(files=(str(some_files), CHANGES), keep={"last": 1})
    assert doing(job, [repo], clock).outcome is Outcome.INCOMPLETE
    assert repo.sequences() == [1, 2, 3, 4]
    whole = replace(job, files=(str(some_files),))
    assert doing(whole, [repo], clock).outcome is Outcome.DONE
    assert repo.sequences() == [5], "and the whole one makes good what was left"


def test_a_slot_that_another_host_is_at_is_busy_and_nothing_is_read(
    repo: Repository, clock: SimClock
) -> None:
    leases.take(repo, SLOT.name, holds=HOUR, holder="host-a")
    told = doing(nightly(files=("/nowhere/at/all",)), [repo], clock)
    assert told.outcome is Outcome.BUSY


def test_a_run_that_fails_ends_its_lease_so_that_another_host_may_try(
    repo: Repository, clock: SimClock
) -> None:
    told = doing(nightly(files=("/nowhere/at/all",)), [repo], clock)
    assert told.outcome is Outcome.FAILED and "/nowhere" in told.problems[0]
    assert leases.take(repo, SLOT.name, holds=HOUR, holder="host-b").token == 2


# ── the loop ────────────────────────────────────────────────────────────────────────────────────


class Rigged:
    """A runner whose runs take as long as they are told and end as they are told."""

    def __init__(self, clock: SimClock, takes: timedelta, *ends: Outcome) -> None:
        self.clock, self.takes, self.ends = clock, takes, list(ends)
        self.begun: list[tuple[str, datetime, datetime]] = []
        self.stopped: list[str] = []
        self.most = self.alive = 0

    def start(self, due: plan.Due) -> Handle:
        self.begun.append((due.job.name, due.slot, self.clock.now()))
        self.alive += 1
        self.most = max(self.most, self.alive)
        outcome = self.ends.pop(0) if self.ends else Outcome.DONE
        rigged, until = self, self.clock.monotonic() + self.takes.total_seconds()

        class One:
            def poll(self) -> Ended | None:
                if due.job.name in rigged.stopped or rigged.clock.monotonic() >= until:
                    rigged.alive -= 1
                    return Ended(
                        outcome=Outcome.FAILED if due.job.name in rigged.stopped else outcome
                    )
                return None

            def stop(self) -> None:
                rigged.stopped.append(due.job.name)

            def kill(self) -> None:
                raise AssertionError("it ended when it was asked to")

        return One()


class Until(threading.Event):
    """Set when the clock has come so far."""

    def __init__(self, clock: SimClock, end: datetime) -> None:
        super().__init__()
        self._clock, self._end = clock, end

    def is_set(self) -> bool:
        return self._clock.now() >= self._end


def serve(clock: SimClock, runner: Rigged, lasting: timedelta, **more: Any) -> int:
    said: list[Event] = []
    return Service(runner, clock, said.append, **more).run(Until(clock, clock.now() + lasting))


def test_a_day_of_an_hourly_job_is_twenty_four_runs_at_their_time(clock: SimClock) -> None:
    state.add(hourly(created=clock.now()))
    runner = Rigged(clock, timedelta(minutes=3))
    assert serve(clock, runner, DAY + HOUR / 2) == 0
    assert len(runner.begun) == 24
    assert max(began - slot for _, slot, began in runner.begun) <= timedelta(seconds=15)
    assert state.states()["hourly"].missed == 0


def test_a_run_that_outlasts_its_interval_is_not_doubled_and_what_it_covered_is_missed(
    clock: SimClock,
) -> None:
    state.add(hourly(created=clock.now(), every=timedelta(minutes=2)))
    runner = Rigged(clock, timedelta(minutes=5))
    serve(clock, runner, timedelta(minutes=21))
    assert runner.most == 1
    told = state.states()["hourly"]
    assert told.missed > 0
    assert len([n for n in told.notes if n.outcome == "done"]) >= 3


def test_a_run_past_its_time_out_is_asked_to_end_and_tried_again(clock: SimClock) -> None:
    state.add(hourly(created=clock.now(), timeout=timedelta(minutes=3)))
    runner = Rigged(clock, HOUR)
    serve(clock, runner, timedelta(hours=1, minutes=4))
    assert runner.stopped == ["hourly"]
    assert state.states()["hourly"].attempts == 1


def test_what_runs_when_the_service_ends_is_handed_over_and_still_due(clock: SimClock) -> None:
    state.add(hourly(created=clock.now()))
    runner = Rigged(clock, HOUR)
    serve(clock, runner, timedelta(hours=1, minutes=5))
    told = state.states().get("hourly", State())
    assert runner.stopped == ["hourly"] and told.attempts == 0 and told.settled is None
    found = due(state.jobs(), {"hourly": told}, clock.now())
    assert [r.slot for r in found.runs] == [runner.begun[0][1]]


def test_only_so_many_jobs_run_at_once_and_none_starves(clock: SimClock) -> None:
    for n in range(5):
        state.add(hourly(name=f"job-{n}", created=clock.now()))
    runner = Rigged(clock, timedelta(minutes=5))
    serve(clock, runner, timedelta(hours=1, minutes=40), at_once=2)
    assert runner.most == 2
    assert {name for name, _, _ in runner.begun} == {f"job-{n}" for n in range(5)}


def test_a_second_service_on_a_host_is_refused(clock: SimClock) -> None:
    class Second(Rigged):
        def start(self, due: plan.Due) -> Handle:
            with pytest.raises(Busy):
                serve(clock, self, HOUR)
            return super().start(due)

    state.add(hourly(created=clock.now()))
    runner = Second(clock, HOUR)
    serve(clock, runner, timedelta(hours=1, minutes=5))
    assert runner.begun


# ── as a person types it ────────────────────────────────────────────────────────────────────────


def zaibei(*words: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-P", "-m", "zaibei.cli.main", "backup", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **more)


@pytest.fixture
def opened(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "pw").write_text("correct horse\n")
    where = ("--repo", f"file://{tmp_path}/vault", "--password-file", str(tmp_path / "pw"))
    assert zaibei("init", *where).returncode == 0
    return where


def stored(**fields: str) -> None:
    """The one job, changed where it is stored: as if it had been added at another time."""
    file = state.folder() / "jobs.json"
    told = json.loads(file.read_text())
    told["jobs"][0] |= fields
    file.write_text(json.dumps(told))


@pytest.mark.integration
def test_a_slot_that_fails_says_why_in_the_words_of_the_error(
    opened: tuple[str, ...], some_files: Path
) -> None:
    added = zaibei("schedule", "add", "etc", "--every", "1h", "--files", str(some_files), *opened)
    assert added.returncode == 0, added.stderr
    stored(created=(datetime.now(UTC) - 2 * HOUR).isoformat())
    Path(opened[-1]).unlink()
    ran = zaibei("schedule", "run", "--once")
    assert ran.returncode == 1
    assert "etc: failed: " in ran.stderr and "pw" in ran.stderr.partition("etc: failed: ")[2]
    shown = zaibei("schedule", "status")
    assert shown.returncode == 1 and "etc: NEVER DONE, last done never" in shown.stdout


def test_a_job_whose_password_file_is_not_there_is_refused_and_absent_files_are_told(
    opened: tuple[str, ...], tmp_path: Path
) -> None:
    absent = str(tmp_path / "mounted-later")
    job = ("schedule", "add", "etc", "--every", "1h", "--files", absent)
    refused = zaibei(*job, *opened[:3], str(tmp_path / "nowhere"))
    assert refused.returncode == 2 and "no such password file" in refused.stderr
    assert "init makes one" not in refused.stderr
    added = zaibei(*job, *opened, "--json")
    assert added.returncode == 0 and f"note: {absent} is not there now" in added.stderr
    assert json.loads(added.stdout)["notes"] == [f"{absent} is not there now"]


@pytest.mark.parametrize(
    ("said", "why"), [("900d", "longer than 400d"), ("0s", "locks nothing"), ("1d", "cannot lock")]
)
def test_a_lock_that_no_run_could_have_is_refused_when_the_job_is_added(
    opened: tuple[str, ...], some_files: Path, said: str, why: str
) -> None:
    job = ("schedule", "add", "etc", "--every", "1h", "--files", str(some_files), *opened)
    refused = zaibei(*job, "--retain", said)
    assert refused.returncode == 2 and why in refused.stderr
    assert state.jobs() == ()


def test_a_policy_that_counts_one_period_twice_is_refused(
    opened: tuple[str, ...], some_files: Path
) -> None:
    """Which of the two is meant decides what is forgotten."""
    job = ("schedule", "add", "etc", "--every", "1h", "--files", str(some_files), *opened)
    refused = zaibei(*job, "--keep", "daily=14", "--keep", "daily=1")
    assert refused.returncode == 2 and "one of them twice" in refused.stderr
    assert state.jobs() == ()


def test_a_password_in_the_url_of_a_bucket_is_not_stored(opened: tuple[str, ...]) -> None:
    job = ("schedule", "add", "b", "--every", "1h", *opened)
    refused = zaibei(*job, "--bucket", "s3+https://u:hunter2@127.0.0.1:1/b")
    assert refused.returncode == 2 and "hunter2" not in refused.stderr + refused.stdout
    assert state.jobs() == ()


def test_a_zone_is_of_a_cron_line(opened: tuple[str, ...], some_files: Path) -> None:
    job = ("schedule", "add", "etc", "--every", "1h", "--files", str(some_files), *opened)
    refused = zaibei(*job, "--zone", "Asia/Shanghai")
    assert refused.returncode == 2 and "--zone Asia/Shanghai without --cron" in refused.stderr


@pytest.mark.integration
def test_a_job_runs_once_from_the_command_line_and_the_next_look_finds_nothing_to_do(
    opened: tuple[str, ...], some_files: Path
) -> None:
    added = zaibei("schedule", "add", "etc", "--every", "1min", "--files", str(some_files), *opened)
    assert added.returncode == 0, added.stderr
    stored(created=(datetime.now(UTC) - HOUR).isoformat(), every="1h")
    ran = zaibei("schedule", "run", "--once", "--json")
    assert ran.returncode == 0, ran.stderr
    begun, ended = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (begun["job"], begun["event"], begun["attempt_count"]) == ("etc", "begun", 1)
    assert (ended["event"], ended["outcome"], ended["slot"]) == ("ended", "done", begun["slot"])
    assert list(ended["snapshots"].values()) == [1]
    shown = json.loads(zaibei("schedule", "status", "--json").stdout)["jobs"][0]
    assert shown["notes"][-1]["outcome"] == "done" and not shown["overdue"]
    assert due(state.jobs(), state.states(), datetime.now(UTC)).runs == ()
    made = json.loads((state.folder().parent / "status.json").read_text())
    assert made["schedule"]["jobs"]["etc"]["last"]["outcome"] == "done"
    assert (shown["standing"], shown["sound"]) == ("ok", True)
    assert made["schedule"]["jobs"]["etc"]["standing"] == "ok"
    refused = zaibei("schedule", "remove", "etc")
    assert refused.returncode == 2 and "--confirm etc" in refused.stderr


@pytest.mark.parametrize("jobs", ["0", "null", "[0]", "[{}]", '"x"', '[{"name": 5}]'])
def test_a_list_of_jobs_that_is_none_is_refused_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    state.folder().mkdir(parents=True)
    (state.folder() / "jobs.json").write_text(f'{{"format": 1, "jobs": {jobs}}}')
    with pytest.raises((Damage, Usage)):
        state.jobs()

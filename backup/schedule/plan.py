"""Decides what is due from jobs, past decisions and the time. Pure.

Of the slots that passed while the scheduler was down one run is made, for the newest; the others
are recorded as missed. A clock that went back repeats nothing; a clock that was far ahead and came
back is not waited for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from backup.schedule import calendar
from backup.schedule.model import Job

ATTEMPTS_MAX: Final = 3
BACKOFF: Final = timedelta(minutes=5)  # then 10, then the slot is given up
LOOK_AGAIN: Final = timedelta(minutes=1)  # while another host holds the slot
BACK_MAX: Final = timedelta(hours=26)  # the future beyond it was a wrong clock: a day, and a zone
GRACE: Final = timedelta(minutes=10)
NOTES_MAX: Final = 20
_CLOCK: Final = "clock"
_GIVEN_UP: Final = "given up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One slot and what became of it: done, elsewhere, failed, missed; clock: a time that was not believed."""

    slot: datetime
    outcome: str
    at: datetime
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What was decided of one job. `settled`: every slot up to here has its answer."""

    settled: datetime | None = None
    done: datetime | None = None  # the newest slot that has a backup
    done_at: datetime | None = None
    missed: int = 0  # slots without a backup, ever
    trying: datetime | None = None  # a slot that failed and is tried again
    attempts: int = 0
    retry_at: datetime | None = None
    notes: tuple[Note, ...] = ()  # newest last


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    job: Job
    slot: datetime
    attempt: int  # from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    runs: tuple[Due, ...]
    states: Mapping[str, State]  # with what is missed already written down
    wake: datetime | None  # nothing changes before


def due(jobs: Sequence[Job], states: Mapping[str, State], now: datetime) -> Plan:
    runs: list[Due] = []
    after: dict[str, State] = {}
    wakes: list[datetime] = []
    for job in jobs:
        state = states.get(job.name, State())
        if job.enabled:
            state, run, wake = _of_one(job, state, now)
            runs += [run] if run else []
            wakes += [wake] if wake else []
        after[job.name] = state
    # The longest overdue first: with one at a time it must not starve.
    runs.sort(key=lambda r: (r.slot, r.job.name))
    return Plan(runs=tuple(runs), states=after, wake=min(wakes, default=None))


def _of_one(job: Job, state: State, now: datetime) -> tuple[State, Due | None, datetime | None]:
    state = _disbelieved(job, state, now)
    since = state.settled or job.created
    passed = calendar.slots(job, after=since, until=now)
    nxt = calendar.following(job, max(now, since))
    upcoming = nxt + calendar.offset(job, nxt) if nxt else None
    if not passed:
        return state, None, upcoming
    newest = passed[-1]
    if earlier := passed[:-1]:
        state = _missed(state, earlier, now)
    if state.trying is not None and state.trying != newest:
        state = replace(state, trying=None, attempts=0, retry_at=None)
    if now > newest + job.jitter + job.catch_up:
        return _missed(state, (newest,), now), None, upcoming
    begin = newest + calendar.offset(job, newest)
    if state.trying == newest and state.retry_at is not None:
        # A clock that went back must not make a retry wait for longer than its back-off.
        begin = min(state.retry_at, now + BACKOFF * 2**ATTEMPTS_MAX)
    if now < begin:
        return state, None, min(begin, upcoming or begin)
    return state, Due(job=job, slot=newest, attempt=state.attempts + 1), upcoming


def _ahead(at: datetime | None, now: datetime) -> bool:
    return at is not None and at > now + BACK_MAX


def _disbelieved(job: Job, state: State, now: datetime) -> State:
    """Without what a clock that was far ahead left behind: the job starts from now. When it was last done is
    not known any more, and a `done` in the future would never let it be overdue."""
    why: list[str] = []
    if _ahead(since := state.settled or job.created, now):
        why.append(f"settled until {since}")
        state = replace(state, settled=now)
    if _ahead(state.done, now):
        why.append(f"done until {state.done}")
        state = replace(state, done=None, done_at=None)
    elif _ahead(state.done_at, now):
        why.append(f"done at {state.done_at}")
        state = replace(state, done_at=None)
    return _noted(state, now, _CLOCK, now, ", ".join(why)) if why else state


def _missed(state: State, slots: Sequence[datetime], now: datetime) -> State:
    for slot in slots[-NOTES_MAX:]:
        why = _GIVEN_UP if slot == state.trying else "nobody ran it in time"
        state = _noted(state, slot, "missed", now, why)
    return replace(
        state,
        settled=slots[-1],
        missed=state.missed + len(slots),
        trying=None,
        attempts=0,
        retry_at=None,
    )


def finished(state: State, slot: datetime, *, now: datetime, elsewhere: bool = False) -> State:
    state = _noted(state, slot, "elsewhere" if elsewhere else "done", now)
    return replace(
        state,
        settled=max(slot, state.settled or slot),
        # A run that began before the clock came back: the wrong time must not outlive this success either.
        done=max(slot, slot if _ahead(state.done, now) else state.done or slot),
        done_at=now,
        trying=None,
        attempts=0,
        retry_at=None,
    )


def held(state: State, slot: datetime, *, now: datetime) -> State:
    """Another host is at it: look again, it may die."""
    return replace(state, trying=slot, retry_at=now + LOOK_AGAIN)


def failed(state: State, slot: datetime, why: str, *, now: datetime, again: bool = True) -> State:
    """`again` False: another attempt would end as this one did."""
    tried = (state.attempts if state.trying == slot else 0) + 1
    state = _noted(state, slot, "failed", now, why)
    if tried >= ATTEMPTS_MAX or not again:
        return replace(
            state,
            settled=max(slot, state.settled or slot),
            missed=state.missed + 1,
            trying=None,
            attempts=0,
            retry_at=None,
        )
    return replace(state, trying=slot, attempts=tried, retry_at=now + BACKOFF * 2 ** (tried - 1))


class Standing(StrEnum):
    """What a person is told of a job. Only the first three are sound."""

    OK = "ok"
    OFF = "off"
    RETRYING = "RETRYING"  # its last slot failed and is tried again; an earlier one has its backup
    FAILED = "FAILED"  # its last slot was given up
    NEVER_DONE = "NEVER DONE"  # a slot is past, and no backup was ever made
    OVERDUE = "OVERDUE"

    @property
    def sound(self) -> bool:
        return self in (Standing.OK, Standing.OFF, Standing.RETRYING)


def standing(job: Job, state: State, now: datetime) -> Standing:
    """`due_by` alone waits for the next slot and its time-out: half a day in which every slot may have failed."""
    if not job.enabled:
        return Standing.OFF
    last = next((n for n in reversed(state.notes) if n.outcome != _CLOCK), None)
    by = due_by(job, state, now=now)
    if by is not None and by < now:
        return Standing.OVERDUE
    settled = last is not None and state.settled is not None and last.slot <= state.settled
    if last is not None and settled and (last.outcome == "failed" or last.why == _GIVEN_UP):
        return Standing.FAILED
    # After a clock that was far ahead it is not known whether there was a success: `due_by` says when one must be.
    if state.done is None and all(n.outcome != _CLOCK for n in state.notes):
        first = calendar.following(job, job.created)
        past = first is not None and first + calendar.offset(job, first) <= now
        return Standing.NEVER_DONE if past else Standing.OK
    return Standing.RETRYING if state.trying is not None and state.attempts else Standing.OK


def due_by(job: Job, state: State, *, now: datetime | None = None) -> datetime | None:
    """When a success must be there at the latest; a reader with a later clock calls the job overdue. With `now`
    a `done` in the future is not believed: up to BACK_MAX it counts as now, beyond it as unknown."""
    if not job.enabled:
        return None
    done = state.done
    if now is not None and done is not None:
        done = None if _ahead(done, now) else min(done, now)
    if done is None:
        # The first time that the job had to start from: clocks that jump again and again put nothing off.
        done = min((n.at for n in state.notes if n.outcome == _CLOCK), default=job.created)
    nxt = calendar.following(job, done)
    return None if nxt is None else nxt + job.jitter + job.timeout + GRACE


def _noted(state: State, slot: datetime, outcome: str, at: datetime, why: str = "") -> State:
    note = Note(slot=slot, outcome=outcome, at=at, why=why)
    return replace(state, notes=(*state.notes, note)[-NOTES_MAX:])

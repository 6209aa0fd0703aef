"""The scheduler's loop: plan, start what is due, supervise what runs, record how it ended.

Each run is a process of its own, so that a time-out can end it and its death does not end the
scheduler. Nothing here knows how to back up: `Runner` starts a slot and reports how it ended.
"""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import IO, Any, Final, Literal, Protocol

from backup.schedule import plan, state
from backup.schedule.execute import Outcome
from backup.schedule.plan import Due, State
from zaibei.kernel import environment, process
from zaibei.kernel.clock import Clock
from zaibei.kernel.state import sole

STEP: Final = timedelta(seconds=1)  # between two looks while something runs
IDLE: Final = timedelta(seconds=15)  # and while nothing does: jobs may be added, clocks be set
RUNNING_MAX: Final = 2
CLOSING: Final = timedelta(seconds=30)  # for a run that was told to end to hand over
_WHY_CHARS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a service says of a slot, as it happens."""

    at: datetime
    job: str
    slot: datetime
    attempt_count: int
    event: Literal["begun", "overtime", "ended", "handed over"]
    outcome: Outcome | None = None  # of "ended"
    why: str = ""
    snapshots: Mapping[str, int] = field(default_factory=dict)  # of "ended": per repository

    def __str__(self) -> str:
        match self.event:
            case "begun":
                return f"{self.job}: {self.slot.isoformat()}, attempt {self.attempt_count}"
            case "overtime":
                return f"{self.job}: not done in time, ending it"
            case "handed over":
                return f"{self.job}: handed over"
        assert self.outcome is not None
        return f"{self.job}: {self.outcome.value}{f': {self.why}' if self.why else ''}"


Told = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    outcome: Outcome
    why: str = ""
    snapshots: Mapping[str, int] = field(default_factory=dict)


class Handle(Protocol):
    def poll(self) -> Ended | None: ...

    def stop(self) -> None:
        """Ask it to end: it hands its lease over."""

    def kill(self) -> None: ...


class Runner(Protocol):
    def start(self, due: Due) -> Handle: ...


@dataclass(slots=True, kw_only=True)
class _Running:
    due: Due
    handle: Handle
    begun_s: float
    stopped_s: float | None = None


class Service:
    """One per host: a second one is refused."""

    def __init__(
        self, runner: Runner, clock: Clock, told: Told, *, at_once: int = RUNNING_MAX
    ) -> None:
        self._runner, self._clock, self._told = runner, clock, told
        self._at_once = at_once
        self._running: dict[str, _Running] = {}

    def run(self, stop: threading.Event, *, once: bool = False) -> int:
        """Until `stop`, or with `once` until nothing is due. How many slots did not end well."""
        failures = 0
        with sole(state.folder() / "service.lock", what="the backup schedule"):
            while True:
                failures += self._look()
                if stop.is_set():
                    return failures + self._close()
                wake = self._begin()
                if once and not self._running:
                    return failures
                self._clock.sleep(self._pause(wake))

    def _begin(self) -> datetime | None:
        """Start what is due; a job that runs is not planned: its later slots are looked at when it ended."""
        all_jobs, states = state.jobs(), state.states()
        now = self._clock.now()
        found = plan.due([j for j in all_jobs if j.name not in self._running], states, now)
        after = {**states, **found.states}
        if after != states:
            state.save(all_jobs, _of(all_jobs, after), now=now)
        for due in found.runs[: max(0, self._at_once - len(self._running))]:
            self._say(due, "begun")
            self._running[due.job.name] = _Running(
                due=due, handle=self._runner.start(due), begun_s=self._clock.monotonic()
            )
        return found.wake

    def _look(self) -> int:
        failures = 0
        for name, one in list(self._running.items()):
            ended = one.handle.poll()
            if ended is None:
                self._hurry(one)
                continue
            del self._running[name]
            failures += self._settle(one.due, ended)
        return failures

    def _hurry(self, one: _Running) -> None:
        """By the monotonic clock: a run is not ended because somebody set the time."""
        now = self._clock.monotonic()
        if one.stopped_s is None and now - one.begun_s > one.due.job.timeout.total_seconds():
            self._say(one.due, "overtime")
            one.handle.stop()
            one.stopped_s = now
        elif one.stopped_s is not None and now - one.stopped_s > CLOSING.total_seconds():
            one.handle.kill()

    def _settle(self, due: Due, ended: Ended) -> int:
        now, name = self._clock.now(), due.job.name
        all_jobs, states = state.jobs(), state.states()
        before = states.get(name, State())
        match ended.outcome:
            case Outcome.DONE | Outcome.ALREADY:
                elsewhere = ended.outcome is Outcome.ALREADY
                after = plan.finished(before, due.slot, now=now, elsewhere=elsewhere)
            case Outcome.BUSY:
                after = plan.held(before, due.slot, now=now)
            case _:
                again = ended.outcome is Outcome.FAILED
                after = plan.failed(before, due.slot, ended.why, now=now, again=again)
        self._say(
            due, "ended", outcome=ended.outcome, why=ended.why, snapshots=dict(ended.snapshots)
        )
        state.save(all_jobs, _of(all_jobs, {**states, name: after}), now=now)
        return ended.outcome in (Outcome.FAILED, Outcome.INCOMPLETE)

    def _close(self) -> int:
        """Hand over: every run is asked to end, and its slot stays due for whoever comes next."""
        for one in self._running.values():
            one.handle.stop()
        until = self._clock.monotonic() + CLOSING.total_seconds()
        failures = 0
        while self._running and self._clock.monotonic() < until:
            for name, one in list(self._running.items()):
                if (ended := one.handle.poll()) is not None:
                    del self._running[name]
                    # What was ended by us is no failure of the slot.
                    if ended.outcome in (Outcome.DONE, Outcome.ALREADY, Outcome.INCOMPLETE):
                        failures += self._settle(one.due, ended)
                    else:
                        self._say(one.due, "handed over")
            if self._running:
                self._clock.sleep(timedelta(milliseconds=200))
        for one in self._running.values():
            one.handle.kill()
        return failures

    def _say(
        self, due: Due, event: Literal["begun", "overtime", "ended", "handed over"], **more: Any
    ) -> None:
        self._told(
            Event(
                at=self._clock.now(),
                job=due.job.name,
                slot=due.slot,
                attempt_count=due.attempt,
                event=event,
                **more,
            )
        )

    def _pause(self, wake: datetime | None) -> timedelta:
        if self._running:
            return STEP
        if wake is None:
            return IDLE
        return max(timedelta(milliseconds=50), min(IDLE, wake - self._clock.now()))


def _of(all_jobs: tuple[Any, ...], states: dict[str, State]) -> dict[str, State]:
    """A job that was removed takes its state along."""
    names = {j.name for j in all_jobs}
    return {name: one for name, one in states.items() if name in names}


class Children:
    """Runs a slot as `zaibei backup schedule perform` in a process group of its own."""

    def start(self, due: Due) -> "Handle":
        said = tempfile.TemporaryFile()  # noqa: SIM115 — read when the child has ended
        argv = [
            *(sys.executable, "-P", "-m", "zaibei.cli.main", "backup", "schedule", "perform"),
            *(due.job.name, "--slot", due.slot.isoformat(), "--json"),
        ]
        child = process.start(argv, stdout=said, env=environment.of_our_own())
        return _Child(child, said)


class _Child:
    def __init__(self, child: "subprocess.Popen[bytes]", said: IO[bytes]) -> None:
        self._child, self._said = child, said

    def poll(self) -> Ended | None:
        code = self._child.poll()
        if code is None:
            return None
        self._said.seek(0)
        text = self._said.read()
        self._said.close()
        try:
            told = json.loads(text)
            if "error" in told:
                return Ended(outcome=Outcome.FAILED, why=told["error"]["message"][:_WHY_CHARS])
            why = "; ".join(told["problems"])[:_WHY_CHARS]
            found = told["result"]["snapshots"]
            return Ended(outcome=Outcome(told["outcome"]), why=why, snapshots=found)
        except (ValueError, KeyError, TypeError):
            return Ended(outcome=Outcome.FAILED, why=f"the run ended with {code}")

    def stop(self) -> None:
        self._child.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        # With all below it: pg_basebackup must not go on writing into a pipe that nobody reads.
        process.end(self._child)

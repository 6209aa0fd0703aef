"""Starts the engine, watches it, stops it. The edge: processes, pipes, names resolved once.

The engine is another process (locust patches the standard library of whatever imports it). Its plan is a
file, its results are lines in a file, and its life hangs on a pipe: `beat` every 0.3 s, and when the beats
end, the load ends at once; while the controller lives and hangs, within 5 s.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from infra import sites
from loadtest import guard
from loadtest.plan import BEAT_EVERY_S, ENV_CONTROL, ENV_PLAN, Plan
from loadtest.results import Live, Reader, SurgeResult, Tally, live, summarise
from loadtest.scenario import SurgeScenario
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing, ToolFailed, Unreachable, Usage
from zaibei.kernel.priority import measure_first
from zaibei.kernel.state import write_atomic
from zaibei.kernel.wait import wait_until

LOCUSTFILES = Path(__file__).parent / "locustfiles"
_ROOT = Path(__file__).parents[1]  # what `import loadtest` needs on the path
_BOOT = timedelta(seconds=60)  # two seconds alone; a drill on two cores has company
_LEAD_S = 0.25  # between "go" and the first arrival: every worker has read it by then
_GRACE = timedelta(seconds=15)  # after the last citizen: write, print, exit
_KILLED = timedelta(seconds=5)
_LAST_WORDS = 1500


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: int
    reader: Reader
    tally: Tally
    log: Path

    def say(self, word: str) -> None:
        try:
            os.write(self.pipe, word.encode() + b"\n")
        except OSError:
            return  # it has ended, or hangs: its results will show which

    def read(self) -> Tally:
        for line in self.reader.lines():
            self.tally.take(line)
        return self.tally


class Surge:
    """A running surge. Use as a context: leaving it ends the engine, whatever happened."""

    def __init__(self, plan: Plan, workers: list[_Worker], *, start_s: float, clock: Clock) -> None:
        self.plan = plan
        self.start_s = start_s  # monotonic; second 0 of the result
        self._workers = workers
        self._clock = clock
        self._stopped_s: float | None = None
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="surge-heart", daemon=True)
        self._heart.start()

    def live(self) -> Live:
        return live([w.read() for w in self._workers])

    def running(self) -> bool:
        return any(w.process.poll() is None for w in self._workers)

    def died_after(self) -> timedelta | None:
        """How long the load lasted when an engine has ended before the shape did and was not told to; None: it goes
        on, or it has come to its end.
        """
        now_s = self._clock.monotonic() - self.start_s
        ended = any(w.process.poll() is not None for w in self._workers)
        if not ended or self._stopped_s is not None or now_s >= self.plan.shape.duration_s:
            return None
        return self.live().elapsed

    def wait(self) -> SurgeResult:
        """Until the shape has ended and the last citizen has left. Never raises for a bad run: that is
        an INVALID result, with its reasons.
        """
        left_s = self.start_s + self.plan.shape.duration_s - self._clock.monotonic()
        return self._finish(timedelta(seconds=max(0.0, left_s) + self.plan.drain_s))

    def stop(self, *, drain: timedelta = timedelta(seconds=5)) -> SurgeResult:
        """No more arrivals; those inside have `drain` to be served."""
        if self._stopped_s is None:
            self._stopped_s = max(0.0, self._clock.monotonic() - self.start_s)
            for worker in self._workers:
                worker.say(f"stop {drain.total_seconds():.3f}")
        return self._finish(drain)

    def _finish(self, limit: timedelta) -> SurgeResult:
        try:
            wait_until(
                lambda: "the engine is running" if self.running() else None,
                what="the surge to end",
                deadline=limit + _GRACE,
                clock=self._clock,
            )
        except Unreachable:
            pass  # killed below; a worker without an `end` line makes the result INVALID
        finally:
            self.close()
        return summarise(
            self.plan,
            [w.read() for w in self._workers],
            asked_to_stop_s=self._stopped_s,
            start_s=self.start_s,
        )

    def close(self) -> None:
        self._over.set()
        self._heart.join()
        for worker in self._workers:
            if worker.pipe >= 0:
                os.close(worker.pipe)
                worker.pipe = -1
        for worker in self._workers:
            process.end(worker.process, within=_KILLED)

    def _beat(self) -> None:
        # A thread and not a timer of the caller: a drill that waits 30 s for a promotion must not
        # lose its load over it. The thread dies with the process, which is the point.
        while not self._over.wait(BEAT_EVERY_S):
            for worker in self._workers:
                worker.say("beat")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None:
        self.close()


def start(
    scenario: SurgeScenario,
    *,
    doors: Sequence[str],
    ca_file: Path | None,
    run_dir: Path,
    seed: int,
    clock: Clock,
    workers: int = 1,
    length: timedelta | None = None,
    declared: Collection[str] | None = None,
    session_key: Path | None = None,
) -> Surge:
    """Load the service behind `doors` (https base URLs, in the order a citizen would try them).

    Returns when the first arrival is due. `length` tells the scenario's curve faster or slower.
    `session_key`: of the service's identity service, where the scenario's citizens are logged in.
    `declared`: lab addresses that may be loaded; without it, those of the provisioned stack.
    Raises NotOurs for any other target, before a byte is sent.
    """
    if not doors:
        raise Usage("no door to knock at", hint="give the https base URL of the service's entry")
    owned = declared_addresses() if declared is None else frozenset(declared)
    admitted = tuple(guard.door(url, addresses=_resolve(url), declared=owned) for url in doors)
    plan = scenario.plan(
        doors=admitted,
        declared=sorted(owned),
        ca_file=ca_file,
        seed=seed,
        workers=workers,
        length=length,
        session_key=session_key,
    )
    _empty(run_dir)
    started: list[_Worker] = []
    try:
        # One by one and not a list: those already running must be in `started` when one fails.
        for worker in range(workers):
            started.append(_spawn(plan.slice(worker), run_dir))  # noqa: PERF401
        # Beats start with the engine's ears, not with its first arrival: booting takes seconds.
        surge = Surge(plan, started, start_s=clock.monotonic(), clock=clock)
    except BaseException:
        for running in started:
            os.close(running.pipe)
            process.end(running.process, within=_KILLED)
        raise
    try:
        wait_until(
            lambda: _why_not_ready(started),
            what="the load engine",
            deadline=_BOOT,
            clock=clock,
            interval=timedelta(milliseconds=50),
            hint=f"its log: {run_dir}/engine-0.log",
        )
        surge.start_s = clock.monotonic() + _LEAD_S
        for running in started:
            running.say(f"go {surge.start_s!r}")
    except BaseException:
        surge.close()
        raise
    return surge


def declared_addresses() -> frozenset[str]:
    """Addresses of the provisioned stack; none when nothing is provisioned."""
    try:
        access = sites.load()
    except Missing:
        return frozenset()
    return frozenset(s.address for s in access.sites)


def locust_argv(locustfile: str, *options: str) -> list[str]:
    """`-P`: the run directory must not be able to shadow a module of ours."""
    return [
        sys.executable,
        *("-P", "-m", "locust", "-f", str(LOCUSTFILES / locustfile)),
        *("--headless", "--only-summary", "--skip-log-setup", "--exit-code-on-error", "0"),
        *options,
    ]


def locust_env(home: Path, **extra: str) -> dict[str, str]:
    """A clean environment: no `LOCUST_*`, no `*_PROXY`, no ~/.locust.conf of whoever runs the drill."""
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_ROOT),
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def _spawn(plan: Plan, run_dir: Path) -> _Worker:
    home = run_dir / f"home-{plan.worker}"  # empty: locust puts its cwd first on sys.path
    home.mkdir()
    path = run_dir / f"plan-{plan.worker}.json"
    write_atomic(path, plan.to_json())
    log = run_dir / f"engine-{plan.worker}.log"
    ours, theirs = os.pipe()
    try:
        with log.open("wb") as out:
            engine = process.start(
                locust_argv("open_loop.py", "-u", "1"),
                cwd=home,
                env=locust_env(home, **{ENV_PLAN: str(path.resolve()), ENV_CONTROL: str(ours)}),
                stdout=out,
                stderr=out,
                pass_fds=(ours,),
                ends_itself=True,
            )
        measure_first(engine.pid)
    except BaseException:
        os.close(theirs)
        raise
    finally:
        os.close(ours)
    os.set_blocking(theirs, False)
    results = run_dir / f"results-{plan.worker}.jsonl"
    return _Worker(process=engine, pipe=theirs, reader=Reader(results), tally=Tally(), log=log)


def _why_not_ready(workers: Iterable[_Worker]) -> str | None:
    for worker in workers:
        if not worker.read().ready:
            if (code := worker.process.poll()) is not None:
                said = worker.log.read_text(errors="replace").strip()[-_LAST_WORDS:]
                raise ToolFailed(f"the load engine ended with exit {code}: {said}")
            return "it has not said that it is ready"
    return None


def _resolve(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        found = socket.getaddrinfo(parts.hostname, parts.port or 0, type=socket.SOCK_STREAM)
    except (OSError, ValueError, UnicodeError):
        return []  # refused by the guard, with its hint
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def _empty(run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    if any(run_dir.iterdir()):
        raise Usage(
            f"{run_dir} is not empty: results of two runs would be added up",
            hint="give a new directory",
        )

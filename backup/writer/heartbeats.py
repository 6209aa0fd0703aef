"""Heartbeats of running writers, by the store's clock: `runs/<random>/<beat>`, tiny objects that no
backup needs.

Garbage collection marks nothing that was uploaded since the oldest live run began, and sweeps
nothing while a run lives that began before the mark. A run that died falls silent. One that lives
too long is not waited for; its own check before the commit (`backup.writer.session`) protects it.
"""

import secrets
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from backup.repository.repository import Repository
from backup.repository.vault import retry
from infra.objectstore.contract import Stat
from zaibei.kernel.errors import ZaibeiError

PREFIX: Final = "runs/"
BEAT_EVERY: Final = timedelta(minutes=30)
SILENT: Final = timedelta(hours=3)  # without a beat for so long: dead
LONGEST: Final = timedelta(
    days=7
)  # nobody waits longer for a run, nor for somebody who pretends to be one
_END = "end"
BODY = b"zaibei run\n"

_BEAT_S: Final = BEAT_EVERY.total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    name: str
    started: datetime


@dataclass(slots=True, eq=False)
class Heartbeat:
    """One's own. Thread-safe."""

    repository: Repository
    name: str
    started: datetime  # the store's time before anything was read or written
    _beats: int = 0
    _last_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def begin(cls, repository: Repository) -> "Heartbeat":
        started = retry(repository.clock, repository.store.now)
        one = cls(repository, secrets.token_hex(16), started)
        repository.create(one._key(0), BODY)
        one._beats, one._last_s = 1, repository.clock.monotonic()
        return one

    def beat(self) -> None:
        """Cheap; to be called often. A beat that fails is not the run's failure: the next one tells."""
        now_s = self.repository.clock.monotonic()
        if now_s - self._last_s < _BEAT_S:  # each file of a backup asks
            return
        with self._lock:
            if now_s - self._last_s < _BEAT_S:
                return
            self._last_s = now_s
            self._beats += 1
            with suppress(ZaibeiError):
                self.repository.store.create(self._key(self._beats - 1), BODY)

    def end(self) -> None:
        """Well or badly, but over: nobody has to wait. Not said, it is found out by silence."""
        with suppress(ZaibeiError):
            self.repository.store.create(f"{PREFIX}{self.name}/{_END}", BODY)

    def _key(self, beat: int) -> str:
        return f"{PREFIX}{self.name}/{beat:06d}"


def live(repo: Repository, now: datetime, *, but: str | None = None) -> list[Live]:
    """The runs that may still write, but for one's own."""
    return [
        Live(name=name, started=min(s.modified for s in stats))
        for name, stats in _by_run(repo).items()
        if name != but and not _over(stats, now)
    ]


def over(repo: Repository, now: datetime, *, since: timedelta) -> list[str]:
    """Keys of runs that have been over for so long that nobody asks for them."""
    return [
        s.key
        for stats in _by_run(repo).values()
        if _over(stats, now) and now - max(s.modified for s in stats) >= since
        for s in stats
    ]


def _by_run(repo: Repository) -> dict[str, list[Stat]]:
    found: dict[str, list[Stat]] = defaultdict(list)
    for stat in repo.listed(PREFIX):
        found[stat.key.removeprefix(PREFIX).partition("/")[0]].append(stat)
    return found


def _over(stats: list[Stat], now: datetime) -> bool:
    times = [s.modified for s in stats]
    ended = any(s.key.endswith(f"/{_END}") for s in stats)
    return ended or now - max(times) > SILENT or now - min(times) > LONGEST

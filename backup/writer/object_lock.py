"""Locks what a snapshot needs for as long as the snapshot, and little else and little longer.

Retention is COMPLIANCE and per object: what a run writes is locked from its first byte; what older
runs wrote is extended only when this snapshot relies on it and its lock ends earlier. Locks end at
the borders of generations, so that a daily backup extends a shared pack once a generation and not
every day.

A lock ends by the store's clock, so it begins by it: a host whose clock is an hour behind would
otherwise lock an hour too short, and nobody would know before the day it matters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from backup.format import layout
from backup.format.config import CONFIG
from backup.repository.repository import Repository
from backup.repository.vault import retry
from infra.objectstore.contract import LockableStore, NotThere, ObjectStore, Stat
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused, Usage
from zaibei.kernel.units import say_duration

GENERATION_MAX: Final = timedelta(days=10)
GENERATIONS_MIN: Final = 3  # in one retention: rounding adds at most a third of it
RETAIN_MAX: Final = timedelta(days=400)  # a COMPLIANCE lock cannot be taken back: 30000d is a slip
SKEW_MAX: Final = timedelta(minutes=5)
CALLS_AT_ONCE: Final = 8
_LOST_NOW: Final = (
    "nothing was committed; run again: what is lost is stored again, as far as its source still has it",
    "older snapshots: zaibei backup verify tells what they lost, heal and repair mend them",
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A retention as one vault will keep it. `skew`: by how much its clock is ahead of ours."""

    asked: timedelta
    until: datetime
    skew: timedelta

    def as_fact(self) -> dict[str, str | int]:
        """What the snapshot says of itself: `zaibei backup locks` holds the store to it."""
        return {
            "until": self.until.isoformat(),
            "retain_s": int(self.asked.total_seconds()),
            "skew_s": round(self.skew.total_seconds()),
        }

    @property
    def warning(self) -> str | None:
        if abs(self.skew) <= SKEW_MAX:
            return None
        seconds = abs(self.skew).total_seconds()
        way = "behind" if self.skew > timedelta(0) else "ahead of"
        return (
            f"this clock is {seconds:.0f} s {way} the store's; locks are counted by the store's."
            " Look at the time service of both"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """What was asked of the store before a commit, and what came of it."""

    checked: int
    extended: int


def until(now: datetime, retain: timedelta) -> datetime:
    """Where a lock of `retain` ends: the next border of a generation. Pure."""
    assert retain > timedelta(0), "a lock of nothing is no lock"
    generation = max(_SECOND, min(GENERATION_MAX, retain // GENERATIONS_MIN) // _SECOND * _SECOND)
    asked = now + retain
    end = _EPOCH - ((_EPOCH - asked) // generation) * generation
    assert asked <= end < asked + generation, "never shorter than asked, and not a generation more"
    return end


def lock(
    store: ObjectStore, retain: timedelta, *, clock: Clock, longest: timedelta = RETAIN_MAX
) -> Lock:
    """The lock of a run that begins now. Asks the store for its time. Raises what `may_be` raises, and Usage for a
    store that cannot lock."""
    may_be(retain, longest=longest)
    if isinstance(store, LockableStore) and (why := retry(clock, store.why_no_lock)):
        raise Usage(
            f"{store.name}: --retain cannot be kept: {why}",
            hint="make a bucket with Object Lock and `zaibei backup init` there, or leave --retain away",
        )
    theirs = retry(clock, store.now)
    return Lock(asked=retain, until=until(theirs, retain), skew=theirs - clock.now())


def may_be(retain: timedelta, *, longest: timedelta = RETAIN_MAX) -> None:
    """Raises Usage when `retain` is beyond `longest`: nobody, the administrator included, shortens it later."""
    if retain <= timedelta(0):
        raise Usage(f"--retain {say_duration(retain)} locks nothing", hint="for example 30d")
    if retain > longest:
        raise Usage(
            f"--retain {say_duration(retain)} is longer than {say_duration(longest)}",
            hint=(
                "a COMPLIANCE lock cannot be shortened by anybody: the vault pays for it to the end",
                "if it is meant: --retain-max",
            ),
        )


def too_short(found: Iterable[Stat], end: datetime) -> list[Stat]:
    """Which of these must be extended to live until `end`. Pure."""
    return [s for s in found if s.retain_until is None or s.retain_until < end]


def confirm(
    repo: Repository, needed: Mapping[str, int | None], *, end: datetime | None
) -> Confirmed:
    """Before a commit: what the snapshot relies on is there in its size and, with `end`, locked until then.

    Raises Damage and commits nothing when the vault has lost what its own index names: a snapshot over a
    hole would be called a backup until somebody needs it.
    """
    if end is None:
        _present(repo, needed)
        return Confirmed(checked=len(needed), extended=0)
    always = {s.key: None for prefix in layout.ALWAYS for s in repo.listed(prefix)}
    every = {CONFIG: None, **always, **needed}
    found = many(lambda key: _stat(repo, key, every[key]), sorted(every))
    short = too_short(found, end)
    many(lambda s: _extend(repo, s.key, end), short)
    return Confirmed(checked=len(every), extended=len(short))


def _extend(repo: Repository, key: str, end: datetime) -> None:
    retry(repo.clock, lambda: repo.store.retain(key, until=end))
    # Once a generation, so it costs little to ask; a lock that was only acknowledged is none.
    if too_short([retry(repo.clock, lambda: repo.store.stat(key))], end):
        raise Refused(
            f"{repo.name}: the lock of {key} was acknowledged and is not there",
            hint="this store does not keep its locks: zaibei store probe --role vault",
        )


def _present(repo: Repository, needed: Mapping[str, int | None]) -> None:
    """By asking for each, or by one walk over the listing: whichever takes fewer calls."""
    if not needed:
        return
    if len(needed) <= CALLS_AT_ONCE:
        many(lambda key: _stat(repo, key, needed[key]), sorted(needed))
        return
    left = dict(needed)
    for seen in repo.store.list(_common(left)):
        if seen.key in left and left[seen.key] in (None, seen.size_bytes):
            del left[seen.key]
    # A listing may lag behind: what it does not show is asked for by name before it is called lost.
    many(lambda key: _stat(repo, key, left[key]), sorted(left))


def _common(keys: Iterable[str]) -> str:
    folders = {k.partition("/")[0] for k in keys}
    return f"{folders.pop()}/" if len(folders) == 1 else ""


def _stat(repo: Repository, key: str, size_bytes: int | None) -> Stat:
    try:
        found = retry(repo.clock, lambda: repo.store.stat(key))
    except NotThere as gone:
        raise Damage(
            f"{repo.name}: {key} is in the index and not in the vault",
            hint=_LOST_NOW,
        ) from gone
    if size_bytes not in (None, found.size_bytes):
        raise Damage(
            f"{repo.name}: {key} has {found.size_bytes} bytes and should have {size_bytes}",
            hint=_LOST_NOW,
        )
    return found


def many(call: Callable[[T], R], on: Sequence[T]) -> list[R]:
    if len(on) <= 1:
        return [call(one) for one in on]
    with ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="lock") as pool:
        return list(pool.map(call, on))

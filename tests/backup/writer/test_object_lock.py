"""Locks: as long as asked, on what is needed, seldom extended, counted by the store's clock."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.run import run_files
from backup.writer import object_lock
from infra.objectstore.contract import Locked, Stat
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Usage, ZaibeiError
from zaibei.kernel.progress import Progress, Silent

DAY = timedelta(days=1)
MOMENTS = st.datetimes(
    min_value=datetime(1990, 1, 1),  # noqa: DTZ001 — hypothesis adds the zone
    max_value=datetime(2090, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


class Telling(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, what: str) -> None:
        self.notes.append(what)


def memory(repo: Repository) -> MemoryStore:
    assert isinstance(repo.store, MemoryStore)
    return repo.store


class AtTheEnd(Silent):
    """Something happens to the vault while a run is on its way, after it looked what is there."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self._happens = happens

    def step(self, what: str) -> None:
        if what == "committing":
            self._happens()


def run(
    repo: Repository,
    source: Path,
    clock: SimClock,
    *,
    seed: int = 1,
    progress: Progress | None = None,
    **more: object,
) -> None:
    rng = random.Random(seed)
    done = run_files([source], [repo], clock, rng, progress or Silent(), **more)  # type: ignore[arg-type]
    assert done.complete, done.problems


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    base.mkdir()
    (base / "constant").write_bytes(random.Random(1).randbytes(200_000))
    return base


@given(now=MOMENTS, retain=st.timedeltas(timedelta(seconds=1), timedelta(days=4000)))
def test_a_lock_is_never_shorter_than_asked_and_at_most_a_generation_longer(
    now: datetime, retain: timedelta
) -> None:
    over = object_lock.until(now, retain) - (now + retain)

    assert timedelta(0) <= over < object_lock.GENERATION_MAX
    assert over <= max(retain / object_lock.GENERATIONS_MIN, timedelta(seconds=1))


@given(
    held=st.lists(st.none() | MOMENTS, max_size=8),
    end=MOMENTS,
)
def test_exactly_what_would_end_too_early_is_extended(
    held: list[datetime | None], end: datetime
) -> None:
    found = [
        Stat(key=str(n), size_bytes=0, version=None, modified=end, retain_until=h)
        for n, h in enumerate(held)
    ]
    chosen = {s.key for s in object_lock.too_short(found, end)}

    assert chosen == {str(n) for n, h in enumerate(held) if h is None or h < end}


def test_every_object_of_a_locked_run_is_locked_from_its_first_byte(
    repo: Repository, source: Path, clock: SimClock
) -> None:
    run(repo, source, clock, retain=30 * DAY)
    store = memory(repo)

    for stat in store.list():
        if stat.key.startswith("runs/"):  # says that somebody writes, and is worth nothing after
            continue
        held = store.stat(stat.key).retain_until
        assert held is not None and held >= clock.now() + 30 * DAY, stat.key
        with pytest.raises(Locked):
            store.remove(stat.key, version=stat.version)
    created_unlocked = {"config", *(s.key for s in store.list("keys/"))}
    assert {key for method, key in store.log if method == "retain"} == created_unlocked


def test_thirty_daily_backups_extend_a_shared_pack_three_times_not_thirty(
    repo: Repository, source: Path, clock: SimClock
) -> None:
    store = memory(repo)
    run(repo, source, clock, retain=30 * DAY)
    (shared,) = {s.key for s in store.list("packs/") if s.size_bytes > 100_000}
    store.log.clear()
    for day in range(1, 31):
        clock.sleep(DAY)
        (source / "daily").write_bytes(random.Random(day).randbytes(5000))
        run(repo, source, clock, seed=day, retain=30 * DAY)
        held = store.stat(shared).retain_until
        assert held is not None and held >= clock.now() + 30 * DAY, day
    calls = Counter(key for method, key in store.log if method == "retain")

    assert calls[shared] == 3
    # config, the key, the shared pack, its segment; what is new each day is born locked.
    assert sum(calls.values()) <= 4 * 3 + 3


def test_what_only_forgotten_snapshots_needed_is_left_to_run_out(
    repo: Repository, source: Path, clock: SimClock
) -> None:
    store = memory(repo)
    (source / "gone").write_bytes(random.Random(2).randbytes(200_000))
    run(repo, source, clock, retain=30 * DAY)
    (source / "gone").unlink()
    (source / "constant").unlink()
    (source / "new").write_bytes(b"new" * 1000)
    first = {s.key: store.stat(s.key).retain_until for s in store.list()}
    clock.sleep(25 * DAY)
    run(repo, source, clock, seed=2, retain=30 * DAY)

    for key, ended in first.items():
        grown = store.stat(key).retain_until != ended
        assert grown == key.startswith(("config", "keys/")), key


def test_an_absurd_retention_is_refused_before_anything_is_written(
    repo: Repository, source: Path, clock: SimClock
) -> None:
    before = memory(repo)._made
    with pytest.raises(Usage, match="400d") as refused:
        run(repo, source, clock, retain=3000 * DAY)

    assert "--retain-max" in str(refused.value)
    assert memory(repo)._made == before
    run(repo, source, clock, retain=500 * DAY, retain_max=500 * DAY)


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=400)])
def test_a_wrong_clock_of_the_host_is_said_and_shortens_no_lock(
    source: Path, clock: SimClock, off: timedelta, make: Callable[..., Repository]
) -> None:
    repo = make()
    host = SimClock(wall=clock.now() + off)
    telling = Telling()
    done = run_files([source], [repo], host, random.Random(1), telling, retain=30 * DAY)

    assert done.complete
    assert any("this clock is" in n for n in telling.notes)
    for stat in memory(repo).list():
        if stat.key.startswith("runs/"):
            continue
        held = memory(repo).stat(stat.key).retain_until
        assert held is not None and clock.now() + 30 * DAY <= held < clock.now() + 41 * DAY
    assert repo.snapshot(1).content.facts["lock"]["skew_s"] == -off.total_seconds()


def test_clocks_five_minutes_apart_are_nobodys_trouble(
    repo: Repository, source: Path, clock: SimClock
) -> None:
    telling = Telling()
    host = SimClock(wall=clock.now() + timedelta(minutes=4))
    run_files([source], [repo], host, random.Random(1), telling, retain=30 * DAY)

    assert not [n for n in telling.notes if "clock" in n]


@pytest.mark.parametrize("retain", [None, 30 * DAY])
def test_no_snapshot_is_committed_over_a_pack_that_the_vault_has_lost(
    repo: Repository, source: Path, clock: SimClock, retain: timedelta | None
) -> None:
    run(repo, source, clock)
    store = memory(repo)

    def lose() -> None:
        for stat in list(store.list("packs/")):
            store.remove(stat.key, version=stat.version)

    with pytest.raises(ZaibeiError, match="not in the vault"):
        run(repo, source, clock, seed=2, progress=AtTheEnd(lose), retain=retain)
    assert repo.sequences() == [1]

    run(repo, source, clock, seed=3, retain=retain)  # what was lost before it began is stored again
    assert repo.sequences() == [1, 2]


def test_a_store_that_cannot_lock_says_so_and_holds_no_snapshot_that_claims_to_be_locked(
    tmp_path: Path, source: Path, clock: SimClock
) -> None:
    store = DirectoryStore(tmp_path / "vault")
    repo = create_repository(store, "correct horse", clock=clock)
    with pytest.raises(ZaibeiError, match="cannot lock"):
        run(repo, source, SimClock(wall=store.now()), retain=30 * DAY)

    assert repo.sequences() == []


def test_confirming_costs_a_call_an_object_and_one_walk_for_what_is_shared(
    repo: Repository, tmp_path: Path, clock: SimClock
) -> None:
    base = tmp_path / "many"
    base.mkdir()
    for n in range(30):
        (base / f"f{n}").write_bytes(random.Random(n).randbytes(50_000))
        run(repo, base, clock, seed=n)  # a pack or two a run
    store = memory(repo)
    packs = len(list(store.list("packs/")))
    assert packs > 30
    store.log.clear()
    run(repo, base, clock, seed=99)
    calls = Counter((m, k.partition("/")[0]) for m, k in store.log)

    assert calls["list", "packs"] == 2, "one before the run, one after it"
    assert calls["stat", "packs"] == calls["create", "packs"]


def test_a_pack_of_another_size_than_the_index_says_stops_the_commit(
    repo: Repository, source: Path, clock: SimClock
) -> None:
    run(repo, source, clock)
    store = memory(repo)

    def tear() -> None:
        for stat in list(store.list("packs/")):
            store.corrupt(stat.key, store.read(stat.key)[:-1])

    with pytest.raises(ZaibeiError, match="should have"):
        run(repo, source, clock, seed=2, progress=AtTheEnd(tear))

"""Until when each snapshot is locked with all that it needs, held against the store; and what looks like an attack."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.crypto.keyring import Kdf
from backup.keys import recipients, rotation
from backup.keys.reseal import reseal_all
from backup.lifecycle.forget import forget
from backup.lifecycle.lock_forecast import Forecast, curve, forecast, locked_at, weakest
from backup.repository.repository import Repository
from backup.run import run_files
from backup.writer.object_lock import RETAIN_MAX
from infra.objectstore.contract import Stat
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

DAY = timedelta(days=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = st.none() | st.integers(-5, 50).map(lambda days: NOW + days * DAY)


def stat(key: str, size: int, end: datetime | None) -> Stat:
    return Stat(key=key, size_bytes=size, version=None, modified=NOW, retain_until=end)


@given(st.lists(st.tuples(st.integers(0, 1000), ENDS), max_size=10), st.integers(0, 60))
def test_the_curve_says_for_each_day_how_much_is_still_locked(
    objects: list[tuple[int, datetime | None]], days: int
) -> None:
    found = [stat(str(n), size, end) for n, (size, end) in enumerate(objects)]
    moment = NOW + days * DAY
    told = [size for at, size in curve(found, NOW) if at <= moment][-1]

    assert told == sum(s.size_bytes for s in found if locked_at(s, moment))


@given(st.dictionaries(st.text(min_size=1), ENDS, min_size=1), st.sets(st.text(min_size=1)))
def test_the_weakest_is_the_first_to_end_of_what_is_in_no_other_object(
    ends: dict[str, datetime | None], covered: set[str]
) -> None:
    first, until = weakest(ends, lambda key: key in covered)
    counted = {k: e for k, e in ends.items() if k not in covered} or {first: until}

    assert ends[first] == until
    if None in counted.values():
        assert until is None
    else:
        assert until == min(e for e in counted.values() if e is not None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    base.mkdir()
    (base / "constant").write_bytes(random.Random(1).randbytes(100_000))
    return base


@pytest.fixture
def back_up(
    repo: Repository, source: Path, clock: SimClock
) -> Callable[[timedelta | None], MemoryStore]:
    def once(retain: timedelta | None) -> MemoryStore:
        seed = len(repo.sequences())
        (source / "daily").write_bytes(random.Random(seed).randbytes(3000))
        done = run_files([source], [repo], clock, random.Random(seed), Silent(), retain=retain)
        assert done.complete, done.problems
        assert isinstance(repo.store, MemoryStore)
        return repo.store

    return once


def look(repo: Repository) -> Forecast:
    return forecast(repo, progress=Silent())


BackUp = Callable[[timedelta | None], MemoryStore]


def test_each_snapshot_is_locked_with_all_that_it_needs_as_long_as_its_run_asked(
    repo: Repository, back_up: BackUp, clock: SimClock
) -> None:
    for _ in range(3):
        back_up(30 * DAY)
        clock.sleep(7 * DAY)
    found = look(repo)

    assert not found.warnings
    assert [s.sequence for s in found.snapshots] == [1, 2, 3]
    for s in found.snapshots:
        assert s.asked is not None and s.until is not None and s.until >= s.asked
        assert s.objects >= 5  # config, key, packs, segment, itself
    assert found.unlocked.objects == 0
    assert found.locked.size_bytes == found.curve[0][1]
    assert found.curve[-1][1] == 0


def test_what_no_run_locked_is_said_to_be_not_locked_and_is_no_warning(
    repo: Repository, back_up: BackUp
) -> None:
    back_up(None)
    found = look(repo)

    assert found.snapshots[0].asked is found.snapshots[0].until is None
    assert found.locked.objects == 0 and found.unlocked.objects >= 5
    assert not found.warnings


def test_a_pack_that_lost_its_lock_is_named_for_each_snapshot_that_needs_it(
    repo: Repository, back_up: BackUp, clock: SimClock
) -> None:
    store = back_up(30 * DAY)
    back_up(30 * DAY)
    (shared,) = {s.key for s in store.list("packs/") if s.size_bytes > 90_000}
    body = store.read(shared)
    store.remove(shared)  # hidden, and put there again by hand, without a lock
    store.create(shared, body)
    found = look(repo)

    assert [s.first for s in found.snapshots] == [shared, shared]
    assert all(s.until is None for s in found.snapshots)
    assert sum(shared in w for w in found.warnings) == 2
    assert found.covered.objects == 1 and found.covered_since == clock.now()


def test_a_statement_that_comes_after_a_locked_run_is_locked_as_its_config_is(
    repo: Repository, back_up: BackUp
) -> None:
    """A policy forgets after each run: what explains the chain must not be what anybody can take away."""
    back_up(30 * DAY)
    store = back_up(30 * DAY)
    forget(repo, [1], why="x")
    recipients.add_passphrase(
        repo, "another", name="wang", kdf=Kdf(memory_kib=64, iterations=1, lanes=1)
    )
    rotation.begin(repo, why="x")
    ends = {s.key: s.retain_until for s in store.list("")}
    later = [k for k in ends if k.startswith(("forgets/", "epochs/", "keys/"))]
    assert len(later) == 1 + 1 + 2 + 2
    assert all(ends[k] == ends["config"] is not None for k in later)


def test_what_a_rotation_sealed_anew_is_looked_at_when_the_original_is_gone(
    repo: Repository, back_up: BackUp, clock: SimClock
) -> None:
    store = back_up(30 * DAY)
    opened = rotation.begin(repo, why="test").repository
    assert reseal_all(opened, Silent()).done
    store.remove("snapshots/0000000001")  # hidden
    (held,) = look(opened).snapshots
    assert held.asked is not None and held.until is not None and held.until >= held.asked

    copy = "resealed/0000000002/snapshots/0000000001"
    body = store.read(copy)
    store.remove(copy)
    store.create(copy, body)  # by hand, without a lock
    (held,) = look(opened).snapshots
    assert (held.first, held.until) == (copy, None)


def test_an_expired_lock_whose_time_is_over_is_no_warning(
    repo: Repository, back_up: BackUp, clock: SimClock
) -> None:
    back_up(DAY)
    clock.sleep(3 * DAY)

    assert not look(repo).warnings
    assert look(repo).locked.objects == 0


def test_what_runs_out_within_the_horizon_is_counted(
    repo: Repository, back_up: BackUp, clock: SimClock
) -> None:
    back_up(90 * DAY)
    assert look(repo).expiring.objects == 0
    clock.sleep(75 * DAY)

    assert look(repo).expiring == look(repo).locked


def test_a_lock_longer_than_any_run_may_ask_for_is_somebody_running_up_the_bill(
    repo: Repository, back_up: BackUp, clock: SimClock
) -> None:
    store = back_up(30 * DAY)
    store.retain("config", until=clock.now() + 10 * RETAIN_MAX)

    assert look(repo).endless == ("config",)
    assert any("config" in w for w in look(repo).warnings)


def test_names_that_were_covered_are_told_with_the_moment_before_which_to_look(
    repo: Repository, back_up: BackUp, clock: SimClock
) -> None:
    store = back_up(30 * DAY)
    clock.sleep(DAY)
    began = clock.now()
    pack = next(s.key for s in store.list("packs/"))
    body = store.read(pack)
    store.overwrite(pack, body)
    clock.sleep(DAY)
    found = look(repo)

    assert found.covered_since == began
    assert found.covered.objects == 1 and found.covered.size_bytes == len(body)
    assert any("--as-of" in w for w in found.warnings)

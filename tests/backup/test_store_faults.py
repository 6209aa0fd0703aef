"""A store that fails in every way we know, by lot: what says complete restores, or verify says why not."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backup.crypto.keyring import Kdf
from backup.format.snapshot import key_of
from backup.integrity.verify import verify
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.writer.pack_health import Level
from infra.objectstore.contract import Locked, NotThere
from infra.objectstore.memory import LATE_CALLS, Fault, MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused, Unreachable, ZaibeiError
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
DAY = timedelta(days=1)
CALLS = 150  # two runs, a verify and a restore make about as many
SCHEDULES = st.dictionaries(st.integers(1, CALLS), st.sampled_from(Fault), max_size=12)
BURSTS = st.builds(
    lambda start, length, fault: dict.fromkeys(range(start, start + length), fault),
    st.integers(1, CALLS),
    st.integers(2, 12),
    st.sampled_from(Fault),
)
Tree = dict[str, bytes]


def tree(base: Path) -> Tree:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A tree, and the same tree after a day of work."""
    made = []
    for day in (1, 2):
        base = tmp_path_factory.mktemp(f"day{day}") / "source"
        base.mkdir()
        (base / "constant").write_bytes(random.Random(0).randbytes(9000))
        (base / "daily").write_bytes(random.Random(day).randbytes(5000))
        made.append(base)
    return made


def restored(repo: Repository, sequence: int, target: Path) -> Tree:
    shutil.rmtree(target, ignore_errors=True)
    with Reader(repo, damaged=lambda _key, _bad: None) as reader:
        restore_files(reader, repo.snapshot(sequence), target, progress=Silent())
    return tree(target / "source")


@settings(
    max_examples=int(os.environ.get("ZAIBEI_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(schedule=dict.fromkeys(range(1, CALLS), Fault.LOST), retain=None, skew=timedelta(0))
@example(schedule=dict.fromkeys(range(1, CALLS), Fault.TORN), retain=30 * DAY, skew=timedelta(0))
@example(schedule=dict.fromkeys(range(1, CALLS), Fault.STALE), retain=None, skew=timedelta(0))
@example(schedule={}, retain=30 * DAY, skew=timedelta(hours=-1))
@given(
    schedule=st.one_of(SCHEDULES, BURSTS),
    retain=st.sampled_from([None, 30 * DAY]),
    skew=st.sampled_from([timedelta(0), timedelta(hours=1), timedelta(hours=-1)]),
)
def test_what_a_run_calls_complete_restores_bit_by_bit_or_verify_says_damage(
    versions: list[Path],
    tmp_path: Path,
    schedule: dict[int, Fault],
    retain: timedelta | None,
    skew: timedelta,
) -> None:
    clock = SimClock()
    store = MemoryStore(clock=clock, skew=skew)
    repo = create_repository(store, "correct horse", clock=clock, kdf=FAST)
    store.calls, store.faults = 0, schedule
    promised: dict[int, Tree] = {}
    for day, source in enumerate(versions):
        try:
            done = run_files([source], [repo], clock, random.Random(day), Silent(), retain=retain)
        except ZaibeiError:
            continue
        if done.complete:
            (outcome,) = done.outcomes
            assert outcome.snapshot is not None
            promised[outcome.snapshot.sequence] = tree(source)
    for sequence, truth in promised.items():
        with suppress(ZaibeiError):  # it may say that it cannot
            assert restored(repo, sequence, tmp_path / "t") == truth, "wrong bytes came back"

    store.faults = {}
    clock.sleep(timedelta(hours=1))
    assert len(promised) == len(set(promised)), "two runs were given one number"
    for sequence, truth in promised.items():
        assert restored(repo, sequence, tmp_path / "t") == truth, "a promise was not kept"
    if retain is not None and promised:
        until = clock.now() - timedelta(hours=1) + retain
        for key in ("config", *(x.key for x in store.list("keys/")), *map(key_of, promised)):
            held = store.stat(key).retain_until
            assert held is not None and held >= until - timedelta(hours=1), f"{key} is not locked"
    torn = Fault.TORN in schedule.values()
    found = verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())
    assert torn or not found.damage, "only a torn object is left as damage"


@pytest.fixture
def walk(
    make: Callable[..., Repository], versions: list[Path], clock: SimClock
) -> Callable[..., Iterator[tuple[Repository, MemoryStore, bool, str]]]:
    """A backup that meets `fault` at its first call, a backup that meets it at its second, and so on, each
    into a vault of its own: was it complete, and what was said?"""

    def each(fault: Fault, **more: object) -> Iterator[tuple[Repository, MemoryStore, bool, str]]:
        for call in range(1, CALLS):
            repo = make(f"v{call}")
            store = repo.store
            assert isinstance(store, MemoryStore)
            store.calls, store.faults = 0, {call: fault}
            store.log.clear()
            try:
                done = run_files([versions[0]], [repo], clock, random.Random(1), Silent(), **more)  # type: ignore[arg-type]
                complete, said = done.complete, "; ".join(done.problems)
            except ZaibeiError as bad:
                complete, said = False, str(bad)
            if len(store.log) < call:
                return
            met = store.log[call - 1]
            store.log[:] = [met]
            yield repo, store, complete, said
        pytest.fail("the run has more calls than this walk")

    return each


Walk = Callable[..., Iterator[tuple[Repository, MemoryStore, bool, str]]]


def test_a_lost_put_is_noticed_while_its_bytes_are_at_hand_and_put_again(
    walk: Walk, versions: list[Path], tmp_path: Path
) -> None:
    met = set()
    for repo, store, complete, said in walk(Fault.LOST):
        ((method, key),) = store.log
        met.add((method, key.partition("/")[0]))
        assert complete, said
        assert restored(repo, 1, tmp_path / "t") == tree(versions[0])
    assert {("create", "packs"), ("create", "index"), ("create", "snapshots")} <= met


def test_a_torn_object_is_never_taken_for_one_and_verify_finds_it(walk: Walk) -> None:
    met = set()
    for repo, store, complete, said in walk(Fault.TORN):
        ((method, key),) = store.log
        if method != "create" or key.startswith("runs/"):
            continue
        met.add(key.partition("/")[0])
        assert not complete, key
        store.faults = {}
        found = verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())
        name = key.rpartition("/")[2]
        assert any(name[:16] in d for d in found.damage), (key, said, found.damage)
    assert met >= {"packs", "index", "snapshots"}


def test_a_lock_that_is_only_acknowledged_stops_the_commit(walk: Walk) -> None:
    met = set()
    for repo, store, complete, said in walk(Fault.LOST, retain=DAY):
        ((method, key),) = store.log
        if method == "retain":
            met.add(key.partition("/")[0])
            assert not complete
            assert "acknowledged and is not there" in said
            assert repo.sequences() == []
    assert met == {"config", "keys"}


def test_a_torn_segment_of_a_run_that_failed_stops_neither_a_restore_nor_the_next_backup(
    walk: Walk, versions: list[Path], clock: SimClock, tmp_path: Path
) -> None:
    met = 0
    for repo, store, _, _ in walk(Fault.TORN):
        ((method, key),) = store.log
        if method == "create" and key.startswith("index/"):
            met += 1
            store.faults = {}
            done = run_files([versions[1]], [repo], clock, random.Random(2), Silent())
            assert done.complete, done.problems
            assert restored(repo, 1, tmp_path / "t") == tree(versions[1])
            with pytest.raises(Damage):  # who deletes by the index takes no such liberty
                repo.catalogue()
    assert met


# The faults themselves: a schedule proves nothing when its faults do not happen.


def test_each_fault_does_what_its_name_says(clock: SimClock) -> None:
    def store(fault: Fault, call: int = 1) -> MemoryStore:
        return MemoryStore(clock=clock, faults={call: fault})

    torn = store(Fault.TORN)
    with pytest.raises(Unreachable):
        torn.create("k", b"12345678")
    assert torn.read("k") == b"1234"

    lost = store(Fault.LOST)
    lost.create("k", b"x")
    with pytest.raises(NotThere):
        lost.read("k")

    stale = store(Fault.STALE, 5)
    for key in "abcd":
        stale.create(key, b"")
    assert [s.key for s in stale.list()] == ["a"]
    assert [s.key for s in stale.list()] == ["a", "b", "c", "d"]

    denied = store(Fault.DENIED)
    with pytest.raises(Refused):
        denied.create("k", b"x")

    locked = store(Fault.LOCKED, 2)
    version = locked.create("k", b"x")
    with pytest.raises(Locked):
        locked.remove("k", version=version)


@pytest.mark.parametrize("fault", [Fault.LATE, Fault.TWICE])
def test_a_delete_that_comes_late_takes_what_was_created_meanwhile(
    clock: SimClock, fault: Fault
) -> None:
    store = MemoryStore(clock=clock, faults={2: fault})
    store.create("k", b"one")
    if fault is Fault.LATE:
        with pytest.raises(Unreachable):
            store.remove("k")
        assert store.read("k") == b"one"
    else:
        store.remove("k")
        store.create("k", b"two")
    for _ in range(LATE_CALLS):
        store.now()
    with pytest.raises(NotThere):
        store.read("k")


def test_a_late_delete_of_one_version_harms_no_other(clock: SimClock) -> None:
    store = MemoryStore(clock=clock, faults={2: Fault.TWICE})
    version = store.create("k", b"one")
    store.remove("k", version=version)
    store.create("k", b"two")
    for _ in range(LATE_CALLS + 1):
        store.now()
    assert store.read("k") == b"two"


def test_a_store_with_a_clock_of_its_own_dates_by_it(clock: SimClock) -> None:
    store = MemoryStore(clock=clock, skew=timedelta(hours=1))
    version = store.create("k", b"x", retain_until=clock.now() + timedelta(minutes=30))

    assert store.now() - clock.now() == timedelta(hours=1)
    assert store.stat("k").modified == store.now()
    store.remove("k", version=version)  # by its own clock the lock is over

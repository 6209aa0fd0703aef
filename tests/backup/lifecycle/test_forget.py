"""Forgetting: a signed statement, a hole that it explains, and no hole that it does not."""

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backup import status
from backup.errors import RolledBack
from backup.format import forget_statement
from backup.format.chain_link import Link
from backup.format.forget_statement import Statement
from backup.format.snapshot import key_of
from backup.integrity.verify import verify
from backup.lifecycle.forget import by_policy, decide, forget
from backup.lifecycle.retention import Policy
from backup.repository import rollback
from backup.repository.repository import Repository
from backup.run import run_files
from backup.writer.pack_health import Level
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused, Usage
from zaibei.kernel.progress import Silent

Backup = Callable[[], int]


@pytest.fixture
def store(repo: Repository) -> MemoryStore:
    assert isinstance(repo.store, MemoryStore)
    return repo.store


@pytest.fixture
def backup(repo: Repository, clock: SimClock, tmp_path: Path) -> Backup:
    """A day passes, something is written, it is backed up."""
    source = tmp_path / "source"
    source.mkdir()
    numbers = iter(range(1000))

    def run() -> int:
        clock.sleep(timedelta(days=1))
        (source / "a").write_bytes(random.Random(next(numbers)).randbytes(3000))
        run_files([source], [repo], clock, random.Random(1), Silent())
        return repo.sequences()[-1]

    return run


def sound(repo: Repository) -> bool:
    return not verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage


def test_what_is_forgotten_is_not_listed_and_the_chain_still_holds(
    repo: Repository, backup: Backup, store: MemoryStore
) -> None:
    for _ in range(5):
        backup()
    forget(repo, [1, 3], why="by hand")
    assert [s.sequence for s in repo.snapshots()] == [2, 4, 5]
    for gone in (1, 3):
        store.remove(key_of(gone), version=store.stat(key_of(gone)).version)
    assert [s.sequence for s in repo.snapshots()] == [2, 4, 5]
    assert sound(repo)
    with pytest.raises(Usage):
        repo.find("3")


def test_a_hole_that_no_statement_explains_is_damage(
    repo: Repository, backup: Backup, store: MemoryStore
) -> None:
    for _ in range(4):
        backup()
    forget(repo, [1], why="by hand")
    store.remove(key_of(2), version=store.stat(key_of(2)).version)
    with pytest.raises(Damage, match="snapshot 2 is missing"):
        repo.snapshots()
    assert not sound(repo)


def test_a_snapshot_swapped_beside_a_hole_is_seen(repo: Repository, backup: Backup) -> None:
    for _ in range(3):
        backup()
    links = [one.link for one in repo.snapshots()]
    false = Link(sequence=2, digest="00" * 32, previous=links[1].previous)
    said = Statement(number=1, snapshots=(false,), kept=(), why="x", at="x")
    repo.create(forget_statement.key_of(1), forget_statement.encode(repo.keys, said))
    with pytest.raises(Damage, match="does not follow"):
        repo.snapshots()


def test_the_next_backup_follows_the_forgotten_end_of_the_chain(
    repo: Repository, backup: Backup, store: MemoryStore
) -> None:
    backup(), backup()
    end = repo.snapshot(2)
    forget(repo, [1, 2], why="this source is no more", even_the_last=True)
    for gone in (1, 2):
        store.remove(key_of(gone), version=store.stat(key_of(gone)).version)
    assert backup() == 3
    assert repo.snapshot(3).previous == end.digest
    assert [s.sequence for s in repo.snapshots()] == [3]


def test_a_statement_of_somebody_else_forgets_nothing(
    repo: Repository, make: Callable[..., Repository], backup: Backup
) -> None:
    backup()
    link = repo.snapshot(1).link
    said = Statement(number=1, snapshots=(link,), kept=(), why="x", at="x")
    repo.create(forget_statement.key_of(1), forget_statement.encode(make("site-c").keys, said))
    assert [s.sequence for s in repo.snapshots()] == [1]
    with pytest.raises(Damage, match="signature"):
        repo.forgotten()
    assert not sound(repo)


def test_the_last_complete_one_goes_only_when_that_is_said(
    repo: Repository, backup: Backup
) -> None:
    backup(), backup()
    with pytest.raises(Refused, match="newest complete"):
        forget(repo, [2], why="by hand")
    assert repo.sequences() == [1, 2]
    with pytest.raises(Usage):
        forget(repo, [7], why="by hand")


def test_the_memory_of_heads_takes_a_statement_for_an_answer(
    repo: Repository, backup: Backup, store: MemoryStore
) -> None:
    backup(), backup()
    rollback.check(repo, repo.sequences())
    forget(repo, [2], why="by hand", even_the_last=True)
    rollback.check(repo, repo.sequences())
    store.remove(forget_statement.key_of(1), version=store.stat(forget_statement.key_of(1)).version)
    store.remove(key_of(2), version=store.stat(key_of(2)).version)
    with pytest.raises(RolledBack):
        rollback.check(repo, repo.sequences())


def test_the_policy_is_stated_once_and_asked_again_has_nothing_to_say(
    repo: Repository, backup: Backup, clock: SimClock
) -> None:
    for _ in range(6):
        backup()
    status.restore_verified(repo.name, sequence=2, at=clock.now(), took_s=1.0)
    decisions, said = by_policy(repo, Policy(last=2))
    assert [d.entry.sequence for d in decisions if not d.keep] == [1, 3, 4]
    assert said is not None and said.number == 1
    assert by_policy(repo, Policy(last=2))[1] is None
    assert [s.sequence for s in repo.snapshots()] == [2, 5, 6]


def test_a_host_whose_clock_runs_ahead_is_told_and_ages_nobody_out(
    repo: Repository, backup: Backup, tmp_path: Path, clock: SimClock
) -> None:
    for _ in range(3):
        backup()
    ahead = SimClock(wall=clock.wall + timedelta(days=900), elapsed_s=clock.elapsed_s)
    run_files([tmp_path / "source"], [repo], ahead, random.Random(1), Silent())
    decisions = decide(repo, Policy(last=1, within=timedelta(days=1)))
    # The odd one is within the time of all, and the sound ones are judged as if it were not there.
    assert [d.entry.sequence for d in decisions if d.keep] == [2, 3, 4]
    assert "ahead of the store's" in decisions[3].notes[0]

"""A vault that was rolled back is seen from its sibling, though the machine that remembered is gone."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backup.format import forget_statement
from backup.format.snapshot import key_of
from backup.repository import rollback
from backup.repository.repository import Repository
from backup.run import run_files
from infra.objectstore.memory import Fault, MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    base.mkdir()
    (base / "f").write_bytes(b"f" * 1000)
    return base


@pytest.fixture
def two(
    make: Callable[..., Repository], source: Path, clock: SimClock, state: Path
) -> list[Repository]:
    """Two vaults with three snapshots each, and a machine that has forgotten their heads."""
    repos = [make("site-b"), make("site-c")]
    for seed in range(3):
        assert run_files([source], repos, clock, random.Random(seed), Silent()).complete
    shutil.rmtree(state / "backup" / "heads")
    return repos


def drop(repo: Repository, sequence: int) -> None:
    assert isinstance(repo.store, MemoryStore)
    stat = repo.store.stat(key_of(sequence))
    repo.store.remove(stat.key, version=stat.version)


def test_two_sound_vaults_agree(two: list[Repository]) -> None:
    assert rollback.rolled_back(two) == []
    assert rollback.rolled_back(two[:1]) == [], "one alone has nobody to ask"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_vault_without_its_newest_snapshots_is_named_by_its_sibling(
    two: list[Repository], victim: int
) -> None:
    drop(two[victim], 3)
    assert rollback.rolled_back(two) == [], "of its own run nobody can speak"
    drop(two[victim], 2)
    (line,) = rollback.rolled_back(two)

    assert f"{two[victim].name}: snapshot 2 was there and is not any more" in line
    assert two[1 - victim].name in line


def test_another_snapshot_in_the_place_of_the_one_that_was_seen_is_named(
    two: list[Repository],
) -> None:
    victim = two[0]
    assert isinstance(victim.store, MemoryStore)
    victim.store.corrupt(key_of(2), victim.store.read(key_of(1)))
    (line,) = rollback.rolled_back(two)

    assert "is not the one that was written" in line


def test_a_forgotten_snapshot_is_no_roll_back(two: list[Repository]) -> None:
    victim = two[0]
    link = victim.snapshot(2).link
    statement = forget_statement.Statement(
        number=1, snapshots=(link,), kept=(), why="old", at="2026-01-01"
    )
    victim.create(forget_statement.key_of(1), forget_statement.encode(victim.keys, statement))
    drop(victim, 2)

    assert rollback.rolled_back(two) == []


def test_a_snapshot_says_nothing_of_its_own_vault_and_a_single_vault_says_nothing(
    two: list[Repository], source: Path, clock: SimClock
) -> None:
    (told,) = two[0].snapshot(3).content.facts[rollback.FACT]
    assert told == {
        "repository": two[1].config.repository.hex(),
        "sequence": 2,
        "digest": two[1].snapshot(2).digest,
    }
    assert run_files([source], two[:1], clock, random.Random(9), Silent()).complete
    assert rollback.FACT not in two[0].snapshot(4).content.facts
    assert rollback.rolled_back(two) == [], "an older statement is still there"


def test_a_vault_that_is_away_keeps_nobody_from_backing_up(
    two: list[Repository], source: Path, clock: SimClock
) -> None:
    dead = MemoryStore(
        clock=clock, name="site-c", faults=dict.fromkeys(range(1, 500), Fault.BEFORE)
    )
    away = replace(two[1], store=dead)
    done = run_files([source], [two[0], away], clock, random.Random(9), Silent())

    assert not done.complete
    assert two[0].sequences() == [1, 2, 3, 4]
    assert rollback.FACT not in two[0].snapshot(4).content.facts

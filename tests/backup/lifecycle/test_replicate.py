"""Snapshots move between repositories of other keys and other suites, once, and say where they came from."""

import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backup.integrity.verify import verify
from backup.lifecycle.forget import decide, forget
from backup.lifecycle.replicate import replicate
from backup.lifecycle.retention import Policy
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.wal.archive import Archive
from backup.writer.pack_health import Level
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Silent

Make = Callable[..., Repository]


def contents(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


def restored(repo: Repository, sequence: int, target: Path) -> dict[str, bytes]:
    shutil.rmtree(target, ignore_errors=True)
    with Reader(repo) as reader:
        restore_files(reader, repo.snapshot(sequence), target, progress=Silent())
    return contents(target / "source")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    base.mkdir()
    for n in range(4):
        (base / f"f{n}").write_bytes(random.Random(n).randbytes(4000 + n))
    (base / "large").write_bytes(random.Random(9).randbytes(3 << 20))
    return base


def sound(repo: Repository) -> bool:
    return not verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage


def test_a_copy_under_another_suite_restores_bit_by_bit(
    make: Make, source: Path, tmp_path: Path, clock: SimClock
) -> None:
    near, far = make("near", "intl"), make("far", "sm")
    run_files([source], [near], clock, random.Random(1), Silent())
    first = contents(source)
    (source / "f1").write_bytes(b"changed")
    clock.sleep(timedelta(days=1))
    run_files([source], [near], clock, random.Random(1), Silent())
    Archive(near, 1).put(b"\1" * 5000, epoch=1, timeline=1, segment=3)

    done = replicate(near, far, Silent())
    assert done.complete and done.snapshots == {1: 1, 2: 2} and done.wal_objects == 1
    assert restored(far, 1, tmp_path / "t") == first
    assert restored(far, 2, tmp_path / "t") == contents(source)
    origin = far.snapshot(2).content.facts["copied_from"]
    assert origin["digest"] == near.snapshot(2).digest
    assert sound(far)


def test_what_was_copied_is_neither_read_nor_written_again(
    make: Make, source: Path, clock: SimClock
) -> None:
    near, far = make("near"), make("far")
    run_files([source], [near], clock, random.Random(1), Silent())
    assert replicate(near, far, Silent()).blobs_read > 4
    (source / "f1").write_bytes(b"changed")
    clock.sleep(timedelta(days=1))
    run_files([source], [near], clock, random.Random(1), Silent())
    again = replicate(near, far, Silent())
    assert again.snapshots == {2: 2} and again.already == 1
    assert again.blobs_read == 1
    nothing = replicate(near, far, Silent())
    assert not nothing.snapshots and nothing.already == 2 and not nothing.blobs_read


def test_a_damaged_snapshot_is_left_out_told_and_can_be_copied_later(
    make: Make, source: Path, clock: SimClock, tmp_path: Path
) -> None:
    near, far = make("near"), make("far")
    assert isinstance(near.store, MemoryStore)
    run_files([source], [near], clock, random.Random(1), Silent())
    old = {s.key for s in near.store.list("packs/")}
    (source / "f1").write_bytes(b"changed")
    run_files([source], [near], clock, random.Random(1), Silent())
    key = min(
        (s for s in near.store.list("packs/") if s.key not in old), key=lambda s: s.size_bytes
    ).key
    kept = near.store.read(key)
    near.store.corrupt(key, kept[:-50] + bytes(50))
    near.store.corrupt(key, bytes(len(kept)))
    done = replicate(near, far, Silent())
    assert done.snapshots == {1: 1} and list(done.failed) == [2] and not done.complete
    assert far.sequences() == [1]
    near.store.corrupt(key, kept)
    assert replicate(near, far, Silent(), sequences=[2]).complete
    assert restored(far, 2, tmp_path / "t") == contents(source)


def test_a_copy_keeps_its_age_and_what_is_forgotten_does_not_come_back(
    make: Make, source: Path, clock: SimClock
) -> None:
    near, far = make("near"), make("far")
    for n in range(5):
        (source / "f1").write_bytes(b"%d" % n)
        run_files([source], [near], clock, random.Random(1), Silent())
        clock.sleep(timedelta(days=1))
    replicate(near, far, Silent())
    keep = [d.entry.sequence for d in decide(far, Policy(daily=3)) if d.keep]
    assert keep == [3, 4, 5], "all of them came in one minute, and were made on five days"
    forget(far, [1, 2], why="policy")
    assert not replicate(near, far, Silent()).snapshots


def test_a_repository_is_not_copied_into_itself(repo: Repository) -> None:
    with pytest.raises(Usage):
        replicate(repo, repo, Silent())


def test_what_failed_is_owed_by_every_later_copy_until_it_is_there(
    make: Callable[..., Repository], clock: SimClock, tmp_path: Path
) -> None:
    ours, into = make("site-b"), make("site-c")
    assert isinstance(ours.store, MemoryStore)
    source = tmp_path / "source"
    source.mkdir()
    for n in range(3):
        for old in source.iterdir():
            old.unlink()
        (source / f"only{n}").write_bytes(random.Random(n).randbytes(3000))
        run_files([source], [ours], clock, random.Random(n), Silent())
    with Reader(ours) as reader:
        (node,) = [n for n in reader.nodes(ours.snapshot(2)) if n.path.endswith(b"only1")]
        place = reader.catalogue.locations(node.blobs[0])[0]
    key = f"packs/{place.pack[:2]}/{place.pack}"
    whole = ours.store.read(key)
    spoilt = bytearray(whole)
    spoilt[place.entry.offset + 5] ^= 1
    ours.store.corrupt(key, bytes(spoilt))

    first = replicate(ours, into, Silent())
    assert set(first.failed) == {2} and set(first.snapshots) == {1, 3}
    again = replicate(ours, into, Silent())
    assert set(again.failed) == {2} and not again.complete, "still owed, still told"
    ours.store.corrupt(key, whole)
    mended = replicate(ours, into, Silent())
    assert mended.complete and set(mended.snapshots) == {2}
    done = replicate(ours, into, Silent())
    assert done.complete and not done.snapshots and done.already == 3


def test_a_copy_of_a_copy_is_known_the_next_time(
    make: Callable[..., Repository], clock: SimClock, tmp_path: Path
) -> None:
    first, second, third = make("a"), make("b"), make("c")
    (tmp_path / "f").write_bytes(b"one")
    run_files([tmp_path / "f"], [first], clock, random.Random(1), Silent())
    replicate(first, second, Silent())
    assert set(replicate(second, third, Silent()).snapshots) == {1}
    again = replicate(second, third, Silent())
    assert not again.snapshots and again.already == 1

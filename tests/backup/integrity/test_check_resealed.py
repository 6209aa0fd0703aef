"""What a copy of a rotation still holds is not lost: it is read, kept by the collection, and never stated as lost."""

import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backup.crypto import signed
from backup.format import snapshot
from backup.integrity.heal import heal
from backup.integrity.repair import repair
from backup.integrity.report import Report
from backup.integrity.verify import verify
from backup.keys import recipients, reseal, rotation
from backup.lifecycle import gc_mark
from backup.lifecycle.gc_sweep import sweep
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.wal.archive import Archive
from backup.writer.pack_health import Level
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Silent

LOG = b"log" * 100


def back_up(repo: Repository, source: Path, seed: int = 1) -> None:
    assert run_files([source], [repo], repo.clock, random.Random(seed), Silent()).complete


def turned(repo: Repository) -> Repository:
    opened = rotation.begin(repo, why="test").repository
    assert reseal.reseal_all(opened, Silent(), rng=random.Random(3)).done
    return opened


@pytest.fixture
def rotated(repo: Repository, some_files: Path) -> Repository:
    """Two snapshots of different files and a piece of log, sealed anew in epochs 2 and 3."""
    back_up(repo, some_files)
    (some_files / "later").write_bytes(random.Random(7).randbytes(9000))
    back_up(repo, some_files, seed=2)
    Archive(repo, 1).put(LOG, epoch=1, timeline=1, segment=3)
    return turned(turned(repo))


def flip(repo: Repository, key: str) -> None:
    assert isinstance(repo.store, MemoryStore)
    raw = bytearray(repo.store.read(key))
    raw[-1] ^= 1
    repo.store.corrupt(key, bytes(raw))


def remove(repo: Repository, key: str) -> None:
    repo.store.remove(key, version=repo.store.stat(key).version)


def checked(repo: Repository) -> Report:
    return verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())


def collected(repo: Repository, clock: SimClock) -> None:
    for _ in range(3):
        assert sweep(repo, repo.store, Silent()).complete
        gc_mark.mark(repo, Silent(), rng=random.Random(1))
        clock.sleep(timedelta(hours=26))


def read_back(repo: Repository, sequence: int, target: Path) -> bytes:
    shutil.rmtree(target, ignore_errors=True)
    with Reader(repo) as reader:
        restore_files(reader, repo.snapshot(sequence), target, progress=Silent())
    (later,) = target.rglob("later")
    return later.read_bytes()


def names_of(repo: Repository, sequence: int) -> tuple[str, list[str]]:
    """Original and copies, the newest first."""
    key = snapshot.key_of(sequence)
    return key, [snapshot.resealed_key(e, key) for e in (3, 2)]


@pytest.mark.parametrize("gone", [False, True], ids=["original damaged", "original gone"])
@pytest.mark.parametrize("copies_damaged", [0, 1])
@pytest.mark.parametrize("sequence", [1, 2])
def test_a_snapshot_that_any_copy_holds_is_not_stated_lost_and_not_collected(
    rotated: Repository,
    some_files: Path,
    clock: SimClock,
    tmp_path: Path,
    sequence: int,
    copies_damaged: int,
    gone: bool,
) -> None:
    digests = [one.digest for one in rotated.snapshots()]
    key, copies = names_of(rotated, sequence)
    bad = copies[:copies_damaged]
    for one in bad:
        flip(rotated, one)
    if gone:
        remove(rotated, key)
    else:
        flip(rotated, key)
        bad = [key, *bad]

    assert [one.digest for one in rotated.snapshots()] == digests
    assert read_back(rotated, 2, tmp_path / "t") == (some_files / "later").read_bytes()
    found = checked(rotated)
    assert sorted(f.object for f in found.findings) == sorted(bad), "a copy hides no damage"
    assert all(f.lost.startswith("nothing while ") for f in found.findings)
    assert all("backup repair" in f.mend for f in found.findings)

    plan = repair(rotated, Silent(), write=False)
    assert sorted(plan.wounds.copies) == sorted(bad) and not plan.wounds.snapshots
    assert plan.wounds.none == (not bad)
    without = repair(rotated, Silent())
    assert (without.losses, sorted(without.stay)) == ([], sorted(bad))
    assert without.complete == (not bad), "damage that stays is told by the exit code"
    done = repair(rotated, Silent(), deleter=rotated.store)
    assert done.complete and not done.losses and not done.stay
    assert rotated.forgotten() == {}
    assert checked(rotated).damage == []
    assert repair(rotated, Silent(), deleter=rotated.store).wounds.none

    collected(rotated, clock)
    assert [one.digest for one in rotated.snapshots()] == digests
    assert read_back(rotated, 2, tmp_path / "t") == (some_files / "later").read_bytes()
    assert reseal.reseal_all(rotated, Silent(), rng=random.Random(4)).done
    assert checked(rotated).damage == []
    back_up(rotated, some_files, seed=5)


def test_heal_takes_nothing_from_elsewhere_for_what_a_copy_holds(
    rotated: Repository, make: Callable[..., Repository]
) -> None:
    sibling = make("site-c")
    Archive(sibling, 1).put(LOG, epoch=1, timeline=1, segment=3)
    key, _ = names_of(rotated, 1)
    flip(rotated, key)
    done = heal(rotated, sibling, Silent(), deleter=rotated.store)
    assert done.complete and not done.copied and rotated.forgotten() == {}
    assert checked(rotated).damage == []


def test_what_no_copy_holds_is_lost_as_before_and_the_rest_goes_on(
    rotated: Repository, some_files: Path
) -> None:
    key, copies = names_of(rotated, 2)
    for one in copies:
        flip(rotated, one)
    remove(rotated, key)
    with pytest.raises(Damage):
        rotated.snapshot(2)
    assert repair(rotated, Silent(), write=False).wounds.snapshots.keys() == {2}
    done = repair(rotated, Silent(), deleter=rotated.store)
    assert [loss.snapshot for loss in done.losses] == [2] and not done.complete
    back_up(rotated, some_files, seed=5)
    assert rotated.sequences() == [1, 3], "whoever writes next has something to follow"


@pytest.mark.parametrize("gone", [False, True], ids=["original damaged", "original gone"])
def test_log_is_read_through_any_copy_and_told(rotated: Repository, gone: bool) -> None:
    (item,) = Archive(rotated, 1).items()
    newest = snapshot.resealed_key(3, item.key)
    bad = [newest] if gone else [item.key, newest]
    for key in bad:
        flip(rotated, key)
    if gone:
        remove(rotated, item.key)
    assert Archive(rotated, 1).open(item) == LOG
    found = checked(rotated)
    assert sorted(f.object for f in found.findings) == sorted(bad)
    assert all(f.lost.startswith("nothing while ") for f in found.findings)
    done = repair(rotated, Silent(), deleter=rotated.store)
    assert done.complete and sorted(done.wounds.copies) == sorted(bad)
    assert Archive(rotated, 1).open(item) == LOG
    assert reseal.reseal_all(rotated, Silent(), rng=random.Random(4)).done
    assert checked(rotated).damage == []


def test_the_next_rotation_carries_on_what_only_an_older_copy_holds(
    rotated: Repository, some_files: Path, tmp_path: Path
) -> None:
    key, copies = names_of(rotated, 2)
    for one in (key, copies[0]):
        flip(rotated, one)
    digest = rotated.snapshot(2).digest
    fourth = turned(rotated)
    remove(fourth, copies[1])
    assert fourth.snapshot(2).digest == digest
    assert read_back(fourth, 2, tmp_path / "t") == (some_files / "later").read_bytes()


@pytest.mark.parametrize("who", ["a root that was retired", "a host"])
def test_nobody_but_its_own_root_speaks_through_a_copy(
    repo: Repository, some_files: Path, clock: SimClock, who: str
) -> None:
    """The one place where a snapshot has no second witness: the original is damaged, the copy says what it was."""
    back_up(repo, some_files)
    new = rotation.begin(repo, why="stolen").repository
    true = repo.store.read(snapshot.key_of(1))
    host = recipients.add_host(new, name="web-1")
    new = open_repository(new.store, "correct horse", clock=clock)
    body, _ = signed.parse(snapshot.reseal(new.keys, true, sequence=1), what="copy")
    if who == "a host":
        body["writer"] = host.public.hex()
    own = Ed25519PrivateKey.from_private_bytes(host.sign)
    forged = signed.sign("resealed", body, own if who == "a host" else repo.keys.signer)
    new.store.create(snapshot.resealed_key(2, snapshot.key_of(1)), forged)
    flip(new, snapshot.key_of(1))
    with pytest.raises(Damage, match="snapshots/0000000001"):
        new.snapshot(1)
    remove(new, snapshot.key_of(1))
    with pytest.raises(Damage, match="resealed/0000000002/"):
        new.snapshot(1)

"""A new root at any moment: who comes along, what the old keys may still say, and a death at every call."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backup.crypto import signed
from backup.crypto.host_key import HostKey
from backup.crypto.identity import Identity
from backup.crypto.keyring import Kdf
from backup.crypto.seal import epoch_of
from backup.errors import Incomplete, Retired, RolledBack, WrongKey
from backup.format import recipient, snapshot
from backup.integrity.heal import heal
from backup.integrity.repair import repair
from backup.integrity.verify import verify
from backup.keys import recipients as members
from backup.keys import reseal, rotation
from backup.lifecycle import gc_mark
from backup.lifecycle.forget import forget
from backup.lifecycle.gc_sweep import sweep
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.repository.write_only import open_write_only
from backup.restore.files import restore_files
from backup.run import run_files
from backup.wal.archive import Archive
from backup.writer.pack_health import Level
from infra.objectstore.contract import Stat
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.memory import MemoryStore
from infra.objectstore.mortal import Died, Mortal
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Busy, Refused
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = "correct horse"
GOLDEN = Path(__file__).parents[2] / "golden" / "repository" / "v1"
EVERY_DEATH = bool(os.environ.get("ZAIBEI_EVERY_DEATH"))  # else one in five, for the daily run
each_suite = pytest.mark.parametrize("suite", ["intl", "sm"])


def contents(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


def read_back(repo: Repository, sequence: int, target: Path) -> dict[str, bytes]:
    shutil.rmtree(target, ignore_errors=True)
    with Reader(repo) as reader:
        restore_files(reader, repo.snapshot(sequence), target, progress=Silent())
    return contents(target / "source")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    base.mkdir()
    for n in range(4):
        (base / f"f{n}").write_bytes(random.Random(n).randbytes(3000 + n))
    return base


def back_up(repo: Repository, source: Path, seed: int = 1) -> None:
    assert run_files([source], [repo], repo.clock, random.Random(seed), Silent()).complete


def sound(repo: Repository) -> list[str]:
    return verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage


@each_suite
def test_a_rotation_brings_everybody_and_everything_along(
    make: Callable[..., Repository], clock: SimClock, source: Path, tmp_path: Path, suite: str
) -> None:
    repo = make(suite=suite)
    mine = Identity.new("x25519")
    members.add_key(repo, curve="x25519", public=mine.public, name="li")
    back_up(repo, source)
    first = contents(source)
    archive = Archive(repo, 1)
    archive.put(b"log" * 100, epoch=1, timeline=1, segment=3)

    begun = rotation.begin(repo, why="the laptop was stolen")
    assert (begun.epoch, begun.carried, begun.dropped) == (2, 2, ())
    for secret in (PASSPHRASE, mine):
        opened = open_repository(repo.store, secret, clock=clock)
        assert opened.keys.epoch == 2
        assert read_back(opened, 1, tmp_path / "t") == first

    (source / "new").write_bytes(b"new" * 1000)
    back_up(opened, source, seed=2)
    assert reseal.progress_of(opened).left > 0
    done = reseal.reseal_all(opened, Silent(), rng=random.Random(3))
    assert done.done
    assert (done.snapshots, done.wal) == (1, 1)
    assert done.packs >= 1
    assert reseal.progress_of(opened).left == 0
    again = reseal.reseal_all(opened, Silent(), rng=random.Random(3))
    assert (again.snapshots, again.wal, again.packs, again.left) == (0, 0, 0, 0)

    assert sound(opened) == []
    assert read_back(opened, 1, tmp_path / "t") == first
    assert read_back(opened, 2, tmp_path / "t") == contents(source)
    clock.sleep(timedelta(hours=25))
    back_up(opened, source, seed=4)
    assert sweep(opened, repo.store, Silent()).complete
    for prefix in ("packs/", "index/"):
        for stat in repo.store.list(prefix):
            assert epoch_of(repo.store.read(stat.key)) == 2, "nothing of the old epoch is left"
    assert sound(opened) == []
    assert read_back(opened, 1, tmp_path / "t") == first


@each_suite
def test_with_the_originals_gone_the_new_seals_are_enough(
    make: Callable[..., Repository], clock: SimClock, source: Path, tmp_path: Path, suite: str
) -> None:
    repo = make(suite=suite)
    back_up(repo, source)
    archive = Archive(repo, 1)
    item = archive.put(b"log" * 100, epoch=1, timeline=1, segment=3)
    opened = rotation.begin(repo, why="test").repository
    assert reseal.reseal_all(opened, Silent()).done
    digest = repo.snapshot(1).digest
    for key in (snapshot.key_of(1), item.key):
        repo.store.remove(key)

    back_up(opened, source)
    assert opened.snapshot(1).digest == digest
    assert [s.sequence for s in opened.snapshots()] == [1, 2]
    (held,) = Archive(opened, 1).items()
    assert Archive(opened, 1).open(held) == b"log" * 100
    assert read_back(opened, 1, tmp_path / "t") == contents(source)
    third = rotation.begin(opened, why="again").repository
    assert third.keys.epoch == 3
    assert third.snapshot(1).digest == digest
    assert read_back(third, 1, tmp_path / "t") == contents(source)


@pytest.mark.parametrize("after", [False, True])
def test_a_death_at_any_call_of_a_rotation_loses_nothing_and_it_goes_on(
    source: Path, tmp_path: Path, clock: SimClock, after: bool
) -> None:
    truth = contents(source)
    deaths = 0
    for last in range(2 if after else 1, 300, 1 if EVERY_DEATH else 5):
        inner = MemoryStore(clock=clock, name=f"v{last}")
        whole = create_repository(inner, PASSPHRASE, clock=clock, kdf=FAST)
        back_up(whole, source)
        Archive(whole, 1).put(b"log" * 100, epoch=1, timeline=1, segment=3)
        mortal = Mortal(inner, last, after=after)
        try:
            dying = replace(whole, store=mortal)  # type: ignore[arg-type]
            begun = rotation.begin(dying, why="test")
            reseal.reseal_all(begun.repository, Silent(), rng=random.Random(2))
            survived = True
        except Died:
            survived = False
            deaths += 1

        opened = open_repository(inner, PASSPHRASE, clock=clock)
        assert read_back(opened, 1, tmp_path / "t") == truth, f"death at call {last}"
        if opened.keys.epoch == 1:
            opened = rotation.begin(opened, why="again").repository
        assert opened.keys.epoch == 2
        assert reseal.reseal_all(opened, Silent(), rng=random.Random(3)).done
        assert reseal.progress_of(opened).left == 0
        assert sound(opened) == []
        assert read_back(opened, 1, tmp_path / "t") == truth
        back_up(opened, source)
        if survived:
            break
    else:
        pytest.fail("the rotation never lived: the bound of this test is too small")
    assert deaths >= (60 if EVERY_DEATH else 12), "the walk was through a whole rotation"


@pytest.fixture
def rotated(repo: Repository, source: Path) -> Repository:
    """Two snapshots and a piece of log, sealed anew in epoch 2, with their originals beside them."""
    back_up(repo, source)
    back_up(repo, source, seed=2)
    Archive(repo, 1).put(b"log" * 100, epoch=1, timeline=1, segment=3)
    opened = rotation.begin(repo, why="test").repository
    assert reseal.reseal_all(opened, Silent(), rng=random.Random(3)).done
    return opened


def copied(repo: Repository) -> list[str]:
    return [s.key for s in repo.store.list("resealed/")]


def flip(repo: Repository, key: str) -> None:
    assert isinstance(repo.store, MemoryStore)
    raw = bytearray(repo.store.read(key))
    raw[-1] ^= 1
    repo.store.corrupt(key, bytes(raw))


def lose_originals(repo: Repository) -> None:
    for prefix in ("snapshots/", "wal/"):
        for stat in list(repo.store.list(prefix)):
            repo.store.remove(stat.key, version=stat.version)


def test_a_copy_that_a_rotation_left_is_found_damaged_while_its_original_is_there(
    rotated: Repository,
) -> None:
    assert len(copied(rotated)) == 3
    for key in copied(rotated):
        flip(rotated, key)
    found = verify(rotated, Level.FULL, rng=random.Random(1), progress=Silent())
    assert [f.object for f in found.findings] == copied(rotated)
    for one in found.findings:
        assert one.lost.startswith("nothing while ")
        assert "key rotate --resume" in one.mend
    quick = verify(rotated, Level.STRUCTURE, rng=random.Random(1), progress=Silent())
    assert [f.object for f in quick.findings] == copied(rotated)[:2], "log is read at full"


def test_a_copy_of_another_chain_is_found_though_it_opens(rotated: Repository) -> None:
    assert isinstance(rotated.store, MemoryStore)
    first, key = rotated.snapshot(1), copied(rotated)[1]
    other = replace(rotated.snapshot(2).content, label="another")
    forged = snapshot.encode(rotated.keys, other, sequence=2, previous=first.digest)
    rotated.store.corrupt(key, snapshot.reseal(rotated.keys, forged, sequence=2))
    found = verify(rotated, Level.STRUCTURE, rng=random.Random(1), progress=Silent())
    assert [f.object for f in found.findings] == [key]


def test_a_damaged_copy_of_an_original_that_is_gone_is_told_once_and_by_its_own_name(
    rotated: Repository,
) -> None:
    lose_originals(rotated)
    assert sound(rotated) == []
    (_, newest, log) = copied(rotated)
    for key in (newest, log):
        flip(rotated, key)
    found = verify(rotated, Level.FULL, rng=random.Random(1), progress=Silent())
    told = [f.object for f in found.findings if f.object.startswith("resealed/")]
    assert sorted(told) == [newest, log]


def test_a_copy_is_done_when_it_opens_and_not_when_its_name_is_there(rotated: Repository) -> None:
    keys = copied(rotated)
    for key in keys:
        flip(rotated, key)
    assert reseal.progress_of(rotated).left == 3
    done = reseal.reseal_all(rotated, Silent(), rng=random.Random(4))
    assert not done.done
    for key in keys:
        (why,) = [p for p in done.problems if p.startswith(key)]
        assert "backup repair" in why and "--resume" in why, "nothing can be overwritten"

    for key in keys:
        rotated.store.remove(key, version=rotated.store.stat(key).version)
    assert reseal.reseal_all(rotated, Silent(), rng=random.Random(4)).done
    assert reseal.progress_of(rotated).left == 0
    assert copied(rotated) == keys
    assert sound(rotated) == []


def test_repair_removes_damaged_copies_whose_originals_open_and_the_rotation_makes_them_again(
    rotated: Repository, source: Path, tmp_path: Path
) -> None:
    keys = copied(rotated)
    for key in keys:
        flip(rotated, key)
    plan = repair(rotated, Silent(), write=False)
    assert sorted(plan.wounds.copies) == keys and not plan.wounds.none
    assert all("nothing is lost" in why for why in plan.wounds.copies.values())
    assert all(line.startswith("would be removed: ") for line in plan.copies_told(done=False))
    assert copied(rotated) == keys

    without = repair(rotated, Silent())
    assert not without.complete and sorted(without.stay) == keys
    assert all("deleter" in why for why in without.stay.values())
    assert copied(rotated) == keys

    done = repair(rotated, Silent(), deleter=rotated.store)
    assert done.complete and not done.stay and not done.losses
    assert all("rotate --resume" in line for line in done.copies_told(done=True))
    assert copied(rotated) == []
    assert sound(rotated) == []
    assert reseal.reseal_all(rotated, Silent(), rng=random.Random(4)).done
    assert reseal.progress_of(rotated).left == 0
    assert copied(rotated) == keys
    lose_originals(rotated)
    assert sound(rotated) == []
    assert read_back(rotated, 2, tmp_path / "t") == contents(source)
    assert repair(rotated, Silent(), deleter=rotated.store).wounds.none


def test_repair_leaves_a_damaged_copy_that_nothing_else_stands_for_and_calls_it_loss(
    rotated: Repository,
) -> None:
    keys = copied(rotated)
    lose_originals(rotated)
    for key in keys[1:]:  # the newest snapshot and the log
        flip(rotated, key)
    done = repair(rotated, Silent(), deleter=rotated.store)
    assert not done.complete and not done.wounds.copies
    assert [loss.snapshot for loss in done.losses] == [2]
    assert [snapshot.resealed_key(2, key) for key in done.wounds.wal] == keys[2:]
    assert copied(rotated) == keys


def test_repair_leaves_a_damaged_copy_of_log_whose_original_is_damaged_too(
    rotated: Repository,
) -> None:
    *_, log = copied(rotated)
    (item,) = Archive(rotated, 1).items()
    for key in (log, item.key):
        flip(rotated, key)
    done = repair(rotated, Silent(), deleter=rotated.store)
    assert not done.complete and item.key in done.wounds.wal
    assert log in copied(rotated)


def test_repair_removes_an_older_copy_when_a_newer_one_is_what_is_read(rotated: Repository) -> None:
    old = copied(rotated)
    lose_originals(rotated)
    third = rotation.begin(rotated, why="again").repository
    assert reseal.reseal_all(third, Silent(), rng=random.Random(5)).done
    for key in old:
        flip(third, key)
    done = repair(third, Silent(), deleter=third.store)
    assert done.complete and sorted(done.wounds.copies) == old
    assert sound(third) == [] and [s.sequence for s in third.snapshots()] == [1, 2]


def test_repair_removes_a_copy_that_opens_and_says_something_else(rotated: Repository) -> None:
    assert isinstance(rotated.store, MemoryStore)
    key = copied(rotated)[1]
    other = replace(rotated.snapshot(2).content, label="another")
    forged = snapshot.encode(rotated.keys, other, sequence=2, previous=rotated.snapshot(1).digest)
    rotated.store.corrupt(key, snapshot.reseal(rotated.keys, forged, sequence=2))
    done = repair(rotated, Silent(), deleter=rotated.store)
    assert done.complete and list(done.wounds.copies) == [key]
    assert key not in copied(rotated) and sound(rotated) == []


def test_repair_finds_the_whole_copy_below_one_that_was_written_over_it(
    rotated: Repository,
) -> None:
    assert isinstance(rotated.store, MemoryStore)
    keys = copied(rotated)
    for key in keys:
        rotated.store.overwrite(key, b"not ours")
        rotated.store.overwrite(key, b"not ours either")
    done = repair(rotated, Silent(), deleter=rotated.store)
    assert done.complete and sorted(done.wounds.copies) == keys
    assert copied(rotated) == keys and sound(rotated) == []


def test_a_damaged_copy_under_a_lock_stays_and_is_told(
    rotated: Repository, clock: SimClock
) -> None:
    key = copied(rotated)[0]
    rotated.store.retain(key, until=clock.now() + timedelta(days=9))
    flip(rotated, key)
    done = repair(rotated, Silent(), deleter=rotated.store)
    assert not done.complete and list(done.stay) == [key]
    assert done.copies_told(done=True) == [f"NOT REMOVED: {key}: {done.stay[key]}"]
    clock.sleep(timedelta(days=10))
    assert repair(rotated, Silent(), deleter=rotated.store).complete
    assert key not in copied(rotated)


def test_heal_removes_damaged_copies_too(
    rotated: Repository, make: Callable[..., Repository]
) -> None:
    keys = copied(rotated)
    for key in keys:
        flip(rotated, key)
    sibling = make("site-c")
    Archive(sibling, 1).put(b"log" * 100, epoch=1, timeline=1, segment=3)
    without = heal(rotated, sibling, Silent())
    assert without.unhealed_count == 3 and copied(rotated) == keys
    assert heal(rotated, sibling, Silent(), deleter=rotated.store).complete
    assert copied(rotated) == [] and sound(rotated) == []


def test_a_damaged_original_is_told_and_the_others_are_sealed_anew(
    repo: Repository, source: Path
) -> None:
    back_up(repo, source)
    back_up(repo, source, seed=2)
    opened = rotation.begin(repo, why="test").repository
    flip(opened, snapshot.key_of(1))
    assert reseal.progress_of(opened).left > 0
    done = reseal.reseal_all(opened, Silent(), rng=random.Random(3))
    assert not done.done and any("snapshots/0000000001" in p for p in done.problems)
    assert copied(opened) == [snapshot.resealed_key(2, snapshot.key_of(2))]


def test_what_only_a_copy_holds_goes_along_with_the_next_rotation(
    rotated: Repository, source: Path, tmp_path: Path
) -> None:
    digests = [one.digest for one in rotated.snapshots()]
    lose_originals(rotated)
    third = rotation.begin(rotated, why="again").repository
    assert reseal.reseal_all(third, Silent(), rng=random.Random(5)).done
    assert reseal.progress_of(third).left == 0
    for key in copied(third):
        if key.startswith("resealed/0000000002/"):
            third.store.remove(key, version=third.store.stat(key).version)
    assert [one.digest for one in third.snapshots()] == digests
    (held,) = Archive(third, 1).items()
    assert Archive(third, 1).open(held) == b"log" * 100
    assert sound(third) == []
    assert read_back(third, 2, tmp_path / "t") == contents(source)


def test_log_that_nobody_needs_goes_with_its_copy(repo: Repository, clock: SimClock) -> None:
    archive = Archive(repo, 1)
    archive.put(b"lo", epoch=1, timeline=1, segment=3, part=1)
    whole = archive.put(b"log", epoch=1, timeline=1, segment=3)
    opened = rotation.begin(repo, why="test").repository
    assert reseal.reseal_all(opened, Silent()).done
    assert len(copied(opened)) == 2
    clock.sleep(timedelta(days=2))
    assert sweep(opened, opened.store, Silent()).removed["wal"] == 2
    assert [i.key for i in Archive(opened, 1).items()] == [whole.key]
    assert copied(opened) == [snapshot.resealed_key(2, whole.key)]
    assert sound(opened) == []


def test_damaged_log_of_which_only_a_copy_is_there_is_healed_in_its_place(
    make: Callable[..., Repository], source: Path
) -> None:
    repo, sibling = make("site-b"), make("site-c")
    for one in (repo, sibling):
        Archive(one, 1).put(b"log" * 100, epoch=1, timeline=1, segment=3)
    opened = rotation.begin(repo, why="test").repository
    assert reseal.reseal_all(opened, Silent()).done
    lose_originals(opened)
    (copy,) = copied(opened)
    flip(opened, copy)

    without = heal(opened, sibling, Silent())
    assert not without.complete and any("deleter" in why for why in without.unhealed)
    done = heal(opened, sibling, Silent(), deleter=opened.store)
    assert done.complete and done.wal_objects == 1
    assert copied(opened) == [], "the copy that was damaged was in the way, not the original"
    assert sound(opened) == []


def test_damaged_log_under_a_lock_is_told_as_unhealed(
    make: Callable[..., Repository], clock: SimClock
) -> None:
    repo, sibling = make("site-b"), make("site-c")
    until = clock.now() + timedelta(days=9)
    for one in (repo, sibling):
        Archive(one, 1).put(b"log", epoch=1, timeline=1, segment=3, retain_until=until)
    (item,) = Archive(repo, 1).items()
    flip(repo, item.key)
    done = heal(repo, sibling, Silent(), deleter=repo.store)
    assert not done.complete
    assert any(item.key in why and "lock" in why for why in done.unhealed)


def test_a_revoked_recipient_does_not_get_the_next_epoch(
    repo: Repository, clock: SimClock, source: Path
) -> None:
    mine = Identity.new("x25519")
    body = members.add_key(repo, curve="x25519", public=mine.public, name="li")
    back_up(repo, source)
    members.revoke(repo, body["public"][:16], why="left")
    assert open_repository(repo.store, mine, clock=clock).keys.epoch == 1

    rotation.begin(repo, why="li left")
    with pytest.raises(WrongKey, match="revoked"):
        open_repository(repo.store, mine, clock=clock)
    assert open_repository(repo.store, PASSPHRASE, clock=clock).keys.epoch == 2


@each_suite
def test_a_passphrase_of_the_first_zaibei_comes_along_when_it_is_given(
    tmp_path: Path, clock: SimClock, suite: str
) -> None:
    held = tmp_path / "repository"
    shutil.copytree(GOLDEN / suite, held)
    old = open_repository(DirectoryStore(held), "zaibei golden", clock=clock)
    with pytest.raises(Refused):
        rotation.begin(old, why="nobody could open it")
    begun = rotation.begin(old, why="test", passphrases=["not it", "zaibei golden"], kdf=FAST)
    assert begun.dropped == ()
    assert reseal.reseal_all(begun.repository, Silent()).done

    opened = open_repository(DirectoryStore(held), "zaibei golden", clock=clock)
    assert opened.keys.epoch == 2
    assert sound(opened) == []
    assert rotation.begin(opened, why="now it carries itself").dropped == ()


def test_a_passphrase_without_a_public_half_that_is_not_given_is_told(
    tmp_path: Path, clock: SimClock
) -> None:
    held = tmp_path / "repository"
    shutil.copytree(GOLDEN / "intl", held)
    old = open_repository(DirectoryStore(held), "zaibei golden", clock=clock)
    members.add_passphrase(old, "another", name="wang", kdf=FAST)

    begun = rotation.begin(old, why="test")
    assert len(begun.dropped) == 1
    assert open_repository(DirectoryStore(held), "another", clock=clock).keys.epoch == 2
    with pytest.raises(WrongKey, match="not carried"):
        open_repository(DirectoryStore(held), "zaibei golden", clock=clock)


def test_what_the_old_keys_say_after_the_rotation_is_not_believed(
    repo: Repository, clock: SimClock, source: Path
) -> None:
    """The thief has the old root and may write to the vault."""
    back_up(repo, source)
    back_up(repo, source)
    thief = repo
    new = rotation.begin(repo, why="stolen").repository

    first = thief.snapshot(2)
    forged = snapshot.encode(thief.keys, first.content, sequence=3, previous=first.digest)
    with pytest.raises(Busy):
        thief.ensure_current_keys()
    thief.store.create(snapshot.key_of(3), forged)
    with pytest.raises(Retired):
        new.snapshot(3)
    assert sound(new) != []
    thief.store.remove(snapshot.key_of(3))

    forget(thief, [1], why="gone")
    assert new.sequences() == [1, 2], "the word of a stolen key forgets nothing"
    thief.store.remove("forgets/0000000001")

    mine = Identity.new("x25519")
    who = recipient.keyed("x25519", curve_name="x25519", public=mine.public, name="mallory")
    for epoch in (1, 2):
        body = recipient.wrapped(
            bytes(32), who, suite=new.keys.suite, repository=new.keys.repository, epoch=epoch
        )
        data = signed.sign("key", body, thief.keys.signer)
        thief.store.create(f"keys/{new.keys.suite.digest(data)}", data)
    with pytest.raises(WrongKey):
        open_repository(new.store, mine, clock=clock)
    assert sound(open_repository(new.store, PASSPHRASE, clock=clock)) == []


def test_statements_from_before_the_rotation_stay_in_force(repo: Repository, source: Path) -> None:
    back_up(repo, source)
    back_up(repo, source)
    forget(repo, [1], why="old")
    new = rotation.begin(repo, why="test").repository
    assert new.sequences() == [2]
    back_up(new, source)
    assert [s.sequence for s in new.snapshots()] == [2, 3]
    assert reseal.reseal_all(new, Silent()).done
    gc_mark.mark(new, Silent())
    assert sound(new) == []


def test_of_two_rotations_at_once_one_is_told_to_begin_again(
    repo: Repository, clock: SimClock
) -> None:
    rotation.begin(repo, why="one")
    with pytest.raises(Busy):
        rotation.begin(repo, why="two")
    assert open_repository(repo.store, PASSPHRASE, clock=clock).keys.epoch == 2


def test_a_run_that_began_before_the_rotation_is_told(repo: Repository, source: Path) -> None:
    rotation.begin(repo, why="test")
    with pytest.raises(Incomplete, match="rotated"):
        run_files([source], [repo], repo.clock, random.Random(1), Silent())


def test_a_vault_that_hides_the_rotation_is_found_out(
    repo: Repository, clock: SimClock, source: Path
) -> None:
    new = rotation.begin(repo, why="test").repository
    back_up(new, source)
    new.store.remove("epochs/0000000002")
    new.store.remove(snapshot.key_of(1))
    old = open_repository(new.store, PASSPHRASE, clock=clock)
    with pytest.raises(RolledBack, match="epoch 2"):
        run_files([source], [old], clock, random.Random(1), Silent())


def test_a_damaged_pack_is_told_and_the_rest_goes_on(repo: Repository, source: Path) -> None:
    back_up(repo, source)
    (source / "new").write_bytes(random.Random(9).randbytes(5000))
    back_up(repo, source)
    assert isinstance(repo.store, MemoryStore)
    stats: Iterator[Stat] = repo.store.list("packs/")
    key = next(stats).key
    raw = bytearray(repo.store.read(key))
    raw[300] ^= 1
    whole = repo.store.read(key)
    repo.store.corrupt(key, bytes(raw))
    new = rotation.begin(repo, why="test").repository
    done = reseal.reseal_all(new, Silent())
    assert not done.done
    assert any(key.rpartition("/")[2] in p for p in done.problems)
    assert not list(repo.store.list("marks/")), "nothing is given away while something is missing"
    repo.store.corrupt(key, whole)
    assert reseal.reseal_all(new, Silent()).done


def twice(repo: Repository, source: Path, tmp_path: Path) -> None:
    """The same new data by the root and by a host, which knows no blob but its own."""
    back_up(repo, source)
    file = tmp_path / "web-1.key"
    members.add_host(repo, name="web-1", file=file)
    back_up(open_write_only(repo.store, HostKey.load(file), clock=repo.clock), source, seed=2)


def test_packs_that_hold_the_same_blobs_are_packed_anew_once(
    repo: Repository, source: Path, tmp_path: Path, clock: SimClock
) -> None:
    twice(repo, source, tmp_path)
    new = rotation.begin(repo, why="test").repository
    assert reseal.reseal_all(new, Silent(), rng=random.Random(3), packs_max=0).left > 1
    done = reseal.reseal_all(new, Silent(), rng=random.Random(3))  # as `--resume` does
    assert (done.done, done.problems, reseal.progress_of(new).left) == (True, [], 0)

    opened = open_repository(repo.store, PASSPHRASE, clock=clock)
    assert sound(opened) == []
    for sequence in (1, 2):
        assert read_back(opened, sequence, tmp_path / "t") == contents(source)

"""What others leave in a vault stops nobody, is nobody's damage and is not ours to remove; what bears one of our names
is ours, whatever it holds."""

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backup.crypto.keyring import Kdf
from backup.format import layout
from backup.integrity.heal import heal
from backup.integrity.repair import repair
from backup.integrity.report import Report
from backup.integrity.verify import verify
from backup.keys import recipients, rotation
from backup.keys.reseal import progress_of, reseal_all
from backup.lifecycle import gc_mark
from backup.lifecycle.forget import forget
from backup.lifecycle.gc_sweep import clear, sweep
from backup.lifecycle.lock_forecast import forecast
from backup.repository import leases
from backup.repository.repository import Repository, open_repository
from backup.run import run_files
from backup.schedule.slot import Slot
from backup.wal.archive import Archive
from backup.writer import session
from backup.writer.pack_health import Level
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)
PASSPHRASE = "correct horse"
GOLDEN = Path(__file__).parents[2] / "golden" / "repository"
LEFT = (".DS_Store", "lost+found/x", "README", "0000000000", "0" * 63, "AB" * 32, "x/" + "ab" * 32)
FOREIGN = (
    *(f"{folder}/{name}" for folder in layout.FOLDERS for name in LEFT),
    "wal/system=1/epoch=1/timeline=00000001/.DS_Store",
    "wal/system=1/epoch=1/timeline=00000001/000000010000000000000100",  # of segments that are not of 16 MiB
    "resealed/0000000002/snapshots/.DS_Store",
    "resealed/0000000002/keys/" + "ab" * 32,
    "epochs/0000000001",
    "packs/cd/" + "ab" * 32,
)


def back_up(repo: Repository, source: Path, seed: int = 1) -> None:
    assert run_files([source], [repo], repo.clock, random.Random(seed), Silent()).complete


def checked(repo: Repository) -> Report:
    return verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())


def strew(repo: Repository) -> None:
    for n, key in enumerate(FOREIGN):
        repo.store.create(key, b"" if n % 2 else b"not ours")


def foreign(repo: Repository) -> list[str]:
    return [s.key for s in repo.store.list("") if not layout.ours(s.key)]


def test_every_name_of_the_golden_repositories_is_ours() -> None:
    seen = 0
    for config in GOLDEN.rglob("config"):
        for file in config.parent.rglob("*"):
            if file.is_file() and (key := file.relative_to(config.parent).as_posix()) != "made":
                seen += 1
                assert layout.ours(key), key
    assert seen > 50


@pytest.mark.parametrize("key", FOREIGN)
def test_a_name_that_none_of_us_writes_is_not_ours(key: str) -> None:
    assert not layout.ours(key)


def test_every_name_that_a_host_writes_is_ours(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    back_up(repo, some_files)
    archive = Archive(repo, (1 << 64) - 1)
    archive.put(b"1", epoch=12, timeline=0xA, segment=None)
    archive.put(b"2", epoch=12, timeline=0xA, segment=(1 << 20) - 1)
    archive.put(b"3", epoch=12, timeline=0xA, segment=1 << 20, part=1)
    slot = Slot(job="nightly", at=clock.now())
    leases.take(repo, slot.name, holds=timedelta(hours=1), holder="web-1").end(leases.End.DONE)
    recipients.add_passphrase(repo, "another", name="li", kdf=FAST)
    recipients.revoke(repo, recipients.members(repo)[0].id, why="gone")
    forget(repo, [1], why="by hand", even_the_last=True)
    opened = rotation.begin(repo, why="test").repository
    assert reseal_all(opened, Silent()).done
    assert foreign(opened) == []
    folders = {s.key.partition("/")[0] for s in opened.store.list("")}
    assert folders == {"config", *layout.FOLDERS}, "the table has no folder that nobody writes"


def test_what_others_left_stops_nobody_and_stays(
    make: Callable[..., Repository], clock: SimClock, some_files: Path
) -> None:
    repo, sibling = make("site-b"), make("site-c")
    strew(repo)
    for one in (repo, sibling):
        back_up(open_repository(one.store, PASSPHRASE, clock=clock), some_files)
        Archive(one, 1).put(b"log", epoch=1, timeline=1, segment=3)
    assert repo.rebuilt_catalogue().count() == repo.catalogue().count()
    assert not checked(repo).damage
    assert repair(repo, Silent()).wounds.none
    assert heal(repo, sibling, Silent()).complete
    recipients.add_passphrase(repo, "another", name="li", kdf=FAST)

    opened = rotation.begin(repo, why="test").repository
    assert reseal_all(opened, Silent()).done and progress_of(opened).left == 0
    back_up(opened, some_files, seed=2)
    forget(opened, [1], why="by hand")
    for _ in range(3):
        clock.sleep(timedelta(days=40))
        gc_mark.mark(opened, Silent(), rng=random.Random(1))
        assert sweep(opened, opened.store, Silent()).complete
    assert clear(opened, opened.store).removed == {}
    assert not checked(opened).damage
    assert foreign(opened) == sorted(FOREIGN), "what is not ours is not ours to remove"


def test_verify_names_what_others_left_and_says_what_may_become_of_it(
    repo: Repository, some_files: Path
) -> None:
    back_up(repo, some_files)
    strew(repo)
    repo.store.create("index/\x1b[2J", b"clears a terminal")
    found = checked(repo)
    assert (found.damage, found.damage_count) == ([], 0)
    for folder in layout.FOLDERS:
        (note,) = [n for n in found.notes if n.startswith(f"{folder}/: ")]
        assert "not zaibei's" in note and "may be deleted" in note and ".DS_Store" in note
        assert note.isprintable()


def test_behind_a_mark_that_cannot_be_read_a_foreign_pack_is_no_pack(
    repo: Repository, some_files: Path
) -> None:
    back_up(repo, some_files)
    strew(repo)
    repo.store.create(f"marks/{'ab' * 32}", b"junk")
    held = session.WriteSession(repo)
    held.run.end()
    assert held.packs and all(layout.ours(f"packs/{n[:2]}/{n}") for n in held.packs)
    back_up(repo, some_files, seed=2)


def test_what_others_left_is_not_the_weakest_lock_of_a_snapshot(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    strew(repo)
    ran = run_files(
        [some_files], [repo], clock, random.Random(1), Silent(), retain=timedelta(days=30)
    )
    assert ran.complete
    (held,) = forecast(repo, progress=Silent()).snapshots
    assert held.until is not None and layout.ours(held.first)


@pytest.mark.parametrize(
    "key",
    [
        *(f"{folder}/{'ab' * 32}" for folder in ("keys", "index", "marks", "packs/ab")),
        "snapshots/0000000002",
        "forgets/0000000001",
        f"runs/{'0' * 32}/000000",
        f"leases/{'0' * 32}/0001",
        "wal/system=1/epoch=1/timeline=00000001/000000010000000000000003",
    ],
)
def test_anything_under_a_name_of_ours_is_damage(
    repo: Repository, some_files: Path, key: str
) -> None:
    back_up(repo, some_files)
    repo.store.create(key, b"not ours")
    found = checked(repo)
    assert [f.object for f in found.findings] == [key]

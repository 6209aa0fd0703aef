"""A file that did not change is not read again; one that did is, whatever it looks like."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.run import Run, run_files
from backup.sources.walk import Rules
from infra.objectstore.memory import Fault, MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

Make = Callable[..., Repository]
LATER = timedelta(minutes=1)


@pytest.fixture
def clock() -> SimClock:
    """Now, and a little: the files of the test have their times from the machine."""
    return SimClock(wall=datetime.now(UTC) + LATER)


def backed_up(source: Path, repos: list[Repository], clock: SimClock, **options: object) -> Run:
    clock.sleep(LATER)
    return run_files([source], repos, clock, None, Silent(), **options)  # type: ignore[arg-type]


def unchanged(run: Run) -> list[int]:
    return [o.snapshot.content.facts["unchanged"] for o in run.outcomes if o.snapshot]


def restored(repo: Repository, target: Path) -> Path:
    with Reader(repo) as reader:
        restore_files(reader, repo.find("latest"), target, progress=Silent())
    return target / "source"


def files(base: Path) -> dict[Path, bytes]:
    return {
        p.relative_to(base): p.read_bytes()
        for p in base.rglob("*")
        if p.is_file() and not p.is_symlink()
    }


def test_an_unchanged_tree_is_not_read_and_comes_back_whole(
    make: Make, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    assert unchanged(backed_up(some_files, [b, c], clock)) == [0, 0]

    assert unchanged(backed_up(some_files, [b, c], clock)) == [5, 5]

    for repo in (b, c):
        assert files(restored(repo, tmp_path / repo.name)) == files(some_files)


@pytest.mark.parametrize("change", ["content", "same size and mtime", "mode", "replaced"])
def test_a_file_that_changed_in_any_way_is_read_again(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock, change: str
) -> None:
    backed_up(some_files, [repo], clock)
    file = some_files / "text"
    was = file.stat()
    if change == "content":
        file.write_text("other")
    elif change == "same size and mtime":
        file.write_bytes(b"x" * was.st_size)
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    elif change == "mode":
        file.chmod(0o600)
    else:
        (some_files / "new").write_bytes(b"y" * was.st_size)
        os.utime(some_files / "new", ns=(was.st_atime_ns, was.st_mtime_ns))
        (some_files / "new").rename(file)

    assert unchanged(backed_up(some_files, [repo], clock)) == [4]

    back = restored(repo, tmp_path / "t")
    assert files(back) == files(some_files)
    assert (back / "text").stat().st_mode == file.stat().st_mode


def test_no_skip_reads_everything_again(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    backed_up(some_files, [repo], clock)

    assert unchanged(backed_up(some_files, [repo], clock, skip_unchanged=False)) == [0]


def test_a_file_that_changed_just_before_the_parent_began_is_read_again(
    repo: Repository, some_files: Path
) -> None:
    """Within one tick of the filesystem's clock a file changes twice and shows one time."""
    now = SimClock(wall=datetime.now(UTC))
    run_files([some_files], [repo], now, None, Silent())

    assert unchanged(run_files([some_files], [repo], now, None, Silent())) == [0]


def test_a_vault_that_joined_later_gets_everything(
    make: Make, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    backed_up(some_files, [b], clock)

    assert unchanged(backed_up(some_files, [b, c], clock)) == [0, 0]
    assert files(restored(c, tmp_path / "c")) == files(some_files)
    assert unchanged(backed_up(some_files, [b, c], clock)) == [5, 5]


def test_a_lost_pack_is_not_relied_on(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    """What the index does not know any more is read and stored again, not listed as a hole."""
    backed_up(some_files, [repo], clock)
    trees = repo.find("latest").content.tree
    held = repo.catalogue()
    kept = {p.pack for t in trees for p in held.locations(t)}
    held.close()
    assert isinstance(repo.store, MemoryStore)
    clock.sleep(LATER)
    # The index of the first run is gone but for the listing's own pack.
    from backup.index.segment import PackEntries, encode_segment  # noqa: PLC0415

    for stat in list(repo.store.list("index/")):
        repo.store.remove(stat.key)
    again = repo.rebuilt_catalogue()
    name, sealed = encode_segment(
        repo.keys,
        [PackEntries(n, size, tuple(again.entries(n))) for n, size in again.packs() if n in kept],
    )
    again.close()
    repo.store.create(f"index/{name}", sealed)

    # Only the empty file needs nothing of what is gone.
    assert unchanged(backed_up(some_files, [repo], clock)) == [1]
    assert files(restored(repo, tmp_path / "t")) == files(some_files)


def test_a_parent_that_cannot_be_read_costs_reading_and_no_backup(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    backed_up(some_files, [repo], clock)
    tree = repo.find("latest").content.tree[0]
    held = repo.catalogue()
    pack = held.locations(tree)[0].pack
    held.close()
    assert isinstance(repo.store, MemoryStore)
    key = f"packs/{pack[:2]}/{pack}"
    repo.store.corrupt(key, b"\0" * len(repo.store.read(key)))

    assert unchanged(backed_up(some_files, [repo], clock)) == [0]


def test_a_store_that_loses_answers_does_not_change_what_is_skipped(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    backed_up(some_files, [repo], clock)
    assert isinstance(repo.store, MemoryStore)
    repo.store.faults = dict.fromkeys(range(repo.store.calls + 3, 3000, 3), Fault.AFTER)

    assert unchanged(backed_up(some_files, [repo], clock)) == [5]
    assert files(restored(repo, tmp_path / "t")) == files(some_files)


def test_other_rules_do_not_bring_back_what_they_leave_out(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    backed_up(some_files, [repo], clock)
    backed_up(some_files, [repo], clock, rules=Rules.of(["/deep/"]))

    back = files(restored(repo, tmp_path / "t"))

    assert back == {p: d for p, d in files(some_files).items() if p.parts[0] != "deep"}

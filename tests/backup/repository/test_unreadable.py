"""A mark or a forget statement that cannot be read stops nobody who stores or reads, and everybody who removes."""

import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backup.errors import RolledBack
from backup.format import forget_statement
from backup.format import mark as mark_format
from backup.format.snapshot import key_of
from backup.integrity.verify import verify
from backup.lifecycle.forget import forget
from backup.lifecycle.gc_mark import mark
from backup.lifecycle.gc_sweep import clear, sweep
from backup.repository import marks
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.writer.pack_health import Level
from backup.writer.session import WriteSession
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Silent
from zaibei.kernel.state import ENV

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


class Host:
    """Two files, one that stays and one that changes every day."""

    def __init__(self, repo: Repository, clock: SimClock, base: Path) -> None:
        assert isinstance(repo.store, MemoryStore)
        self.repo, self.store, self.clock, self.base = repo, repo.store, clock, base
        self.source = base / "source"
        self.source.mkdir()
        (self.source / "stays").write_bytes(random.Random(0).randbytes(5000))
        self.day = 0

    def backup(self) -> int:
        """The blobs that were stored, and not found."""
        self.clock.sleep(DAY)
        self.day += 1
        (self.source / "changes").write_bytes(random.Random(self.day).randbytes(5000))
        done = run_files([self.source], [self.repo], self.clock, random.Random(1), Silent())
        written = done.outcomes[0].written
        assert written is not None, done.outcomes[0].error
        return written.blobs_new

    def restores(self) -> list[bytes]:
        target = self.base / "target"
        shutil.rmtree(target, ignore_errors=True)
        with Reader(self.repo) as reader:
            restore_files(reader, self.repo.find("latest"), target, progress=Silent())
        return [(target / "source" / n).read_bytes() for n in ("stays", "changes")]

    def truth(self) -> list[bytes]:
        return [random.Random(n).randbytes(5000) for n in (0, self.day)]

    def rot(self, prefix: str) -> str:
        key = next(iter(self.store.list(prefix))).key
        data = self.store.read(key)
        self.store.corrupt(key, data[:-1] + bytes([data[-1] ^ 1]))
        return key

    def damage(self) -> list[str]:
        report = verify(self.repo, Level.FULL, rng=random.Random(1), progress=Silent())
        return [f.object for f in report.findings]

    def gc(self) -> None:
        self.clock.sleep(DAY)
        mark(self.repo, Silent(), rng=random.Random(1))
        self.clock.sleep(DAY)
        sweep(self.repo, self.store, Silent())


@pytest.fixture
def host(
    make: Callable[..., Repository],
    clock: SimClock,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Host:
    # What cannot be read is told once a process: each test has a vault of its own name.
    return Host(make(request.node.name), clock, tmp_path)


@pytest.fixture
def marked(host: Host) -> Host:
    """Something is forgotten, and marked."""
    host.backup(), host.backup()
    forget(host.repo, [1], why="by hand")
    host.clock.sleep(DAY)
    assert mark(host.repo, Silent(), rng=random.Random(1)).marks == 1
    return host


def test_behind_an_unreadable_mark_everything_is_stored_again_once(
    marked: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = marked.backup()
    marked.rot(mark_format.PREFIX)
    (before,) = marks.standing(marked.repo, lambda *_: None) or (None,)
    assert before is None
    again = marked.backup()
    assert again > changed, "what was there before the mark is not relied on"
    assert "backup.unreadable" in capsys.readouterr().err
    assert marked.backup() == changed, "what came after it is"
    assert marked.restores() == marked.truth()


def test_what_a_run_relies_on_behind_an_unreadable_mark_is_younger_than_the_mark(
    marked: Host,
) -> None:
    marked.rot(mark_format.PREFIX)
    old = {s.key.rpartition("/")[2] for s in marked.store.list("packs/")}
    marked.backup()
    lease = WriteSession(marked.repo)
    new = {s.key.rpartition("/")[2] for s in marked.store.list("packs/")} - old
    assert lease.packs >= old
    assert not lease.packs & new
    lease.may_commit(new)


def test_a_mark_that_comes_and_cannot_be_read_may_name_anything(
    marked: Host, clock: SimClock
) -> None:
    lease = WriteSession(marked.repo)
    marked.store.create(f"{mark_format.PREFIX}{'ab' * 32}", b"junk")
    clock.sleep(DAY - 2 * HOUR)
    lease.may_commit({"cd" * 32})
    clock.sleep(2 * HOUR)
    lease.may_commit(set())
    with pytest.raises(Refused, match="took so long"):
        lease.may_commit({"cd" * 32})


@pytest.mark.parametrize("prefix", [mark_format.PREFIX, forget_statement.PREFIX])
def test_nothing_is_removed_beside_what_cannot_be_read(marked: Host, prefix: str) -> None:
    key = marked.rot(prefix)
    marked.clock.sleep(2 * DAY)
    before = {s.key for s in marked.store.list()}
    with pytest.raises(Damage, match=key) as why:
        sweep(marked.repo, marked.store, Silent())
    assert "--clear-damaged" in str(why.value)
    with pytest.raises(Damage, match=key):
        mark(marked.repo, Silent())
    assert before <= {s.key for s in marked.store.list()}
    assert not [k for k in marked.store.list(mark_format.PREFIX) if k.key not in before]
    assert key in marked.damage()


@pytest.mark.parametrize("prefix", [mark_format.PREFIX, forget_statement.PREFIX])
def test_the_deleter_clears_it_and_collection_goes_on(marked: Host, prefix: str) -> None:
    key = marked.rot(prefix)
    assert clear(marked.repo, marked.store, dry_run=True).removed == {"unreadable": 1}
    assert marked.damage() == [key]
    assert clear(marked.repo, marked.store).removed == {"unreadable": 1}
    assert clear(marked.repo, marked.store).removed == {}
    forget(marked.repo, [1], why="by hand")
    marked.clock.sleep(DAY)
    marked.gc()
    assert marked.repo.present() == [2]
    marked.backup()
    assert marked.restores() == marked.truth()
    assert not marked.damage()


def test_a_mark_cleared_after_its_packs_were_removed_is_made_again(marked: Host) -> None:
    (one,) = marks.standing(marked.repo)
    for pack in one.packs:  # the sweep that died before it removed the mark
        marked.store.remove(f"packs/{pack[:2]}/{pack}")
    marked.rot(mark_format.PREFIX)
    clear(marked.repo, marked.store)
    marked.gc()
    marked.backup()
    assert marked.restores() == marked.truth()
    assert not marked.damage()


def test_an_unreadable_statement_forgets_nothing_and_stops_no_backup(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        host.backup()
    forget(host.repo, [1], why="by hand")
    key = host.rot(forget_statement.PREFIX)
    assert [s.sequence for s in host.repo.snapshots()] == [1, 2, 3]
    host.backup()
    assert host.repo.sequences() == [1, 2, 3, 4]
    assert host.restores() == host.truth()
    assert key in capsys.readouterr().err
    assert host.damage() == [key]


def test_the_hole_that_it_explained_is_told_and_no_backup_stops(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(4):
        host.backup()
    forget(host.repo, [1, 3], why="by hand")
    for gone in (1, 3):
        host.store.remove(key_of(gone))
    key = host.rot(forget_statement.PREFIX)
    host.backup()
    assert [s.sequence for s in host.repo.snapshots()] == [2, 4, 5]
    assert host.restores() == host.truth()
    told = capsys.readouterr().err
    assert "snapshot 1" in told
    assert "snapshot 3" in told
    assert key in host.damage()
    assert "snapshots/" in host.damage()


def test_the_newest_one_gone_behind_an_unreadable_statement_is_a_rollback_until_it_is_read(
    host: Host,
) -> None:
    """Its number must not be given again: read later, the statement would forget the new one."""
    for _ in range(3):
        host.backup()
    last = host.repo.snapshot(3)
    forget(host.repo, [3], why="by hand", even_the_last=True)
    host.store.remove(key_of(3))
    host.rot(forget_statement.PREFIX)
    with pytest.raises(RolledBack):
        host.backup()
    host.rot(forget_statement.PREFIX)  # the same bit once more
    host.backup()
    assert host.repo.sequences() == [1, 2, 4]
    assert host.repo.snapshot(4).previous == last.digest
    assert not host.damage()


def test_a_host_without_memory_that_gave_the_number_again_is_told_by_verify(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.backup(), host.backup()
    forget(host.repo, [2], why="by hand", even_the_last=True)
    host.store.remove(key_of(2))
    host.rot(forget_statement.PREFIX)
    monkeypatch.setenv(ENV, str(tmp_path / "another-host"))
    host.backup()
    assert host.repo.sequences() == [1, 2]
    host.rot(forget_statement.PREFIX)
    assert key_of(2) in host.damage()


def test_junk_in_the_place_of_statements_takes_no_number(host: Host) -> None:
    host.backup(), host.backup()
    host.store.create(f"{forget_statement.PREFIX}junk", b"junk")
    assert host.repo.sequences() == [1, 2]
    forget(host.repo, [1], why="by hand")
    assert host.repo.sequences() == [2]
    assert clear(host.repo, host.store).removed == {}, "what is not ours is not ours to remove"
    assert host.repo.forgotten().keys() == {1}


@pytest.mark.parametrize("name", [".nfs0001", ".DS_Store", "0000000001.bak", "99"])
def test_a_foreign_name_among_the_snapshots_stops_nobody(
    repo: Repository, clock: SimClock, some_files: Path, name: str
) -> None:
    assert run_files([some_files], [repo], clock, random.Random(1), Silent()).complete
    repo.store.create(f"snapshots/{name}", b"not ours")
    assert repo.sequences() == [1] and len(repo.snapshots()) == 1
    assert run_files([some_files], [repo], clock, random.Random(2), Silent()).complete
    report = verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())
    assert not report.damage
    assert any("snapshots" in note for note in report.notes), "it is told"

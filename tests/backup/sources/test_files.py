"""Files there and back, and what happens when they do not come back."""

# Names are bytes here.
# ruff: noqa: PTH113, PTH114, PTH115, PTH118, PTH123

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.errors import Incomplete, NotEmpty
from backup.format import tree
from backup.format.snapshot import Content
from backup.format.tree import Node, Type
from backup.integrity.verify import verify
from backup.repository import rollback
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.restore.files import restore_files
from backup.run import latest, run_files
from backup.sources.fanout import Fanout
from backup.sources.walk import Rules
from backup.writer.pack_health import Level
from backup.writer.writer import Writer
from infra.lab import disk
from infra.lab.plan import Host
from infra.objectstore.memory import Fault, MemoryStore
from zaibei.config.model import Role
from zaibei.kernel.clock import SimClock, SystemClock
from zaibei.kernel.errors import Damage, NoSpace, Usage
from zaibei.kernel.progress import Silent

Make = Callable[..., Repository]


def told(base: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything a restore must bring back."""
    out: dict[bytes, tuple[object, ...]] = {}
    root = os.fsencode(base)
    for here, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(here, name)
            info = os.lstat(path)
            if os.path.islink(path):
                said: object = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as source:
                    said = source.read()
            else:
                said = None
            mtime = None if os.path.islink(path) else info.st_mtime_ns
            out[os.path.relpath(path, root)] = (info.st_mode, mtime, said)
    return out


def back_up(repos: list[Repository], source: Path, clock: SimClock) -> None:
    assert run_files([source], repos, clock, random.Random(7), Silent()).complete


def bring_back(repo: Repository, target: Path) -> Path:
    with Reader(repo) as reader:
        restore_files(reader, repo.find("latest"), target, progress=Silent())
    return target


@pytest.mark.parametrize("suite", ["intl", "sm"])
def test_what_was_backed_up_comes_back_bit_by_bit(
    make: Make, some_files: Path, tmp_path: Path, clock: SimClock, suite: str
) -> None:
    repo = make(suite=suite)
    back_up([repo], some_files, clock)

    again = open_repository(repo.store, "correct horse", clock=clock)
    target = bring_back(again, tmp_path / "target")

    assert told(target / "source") == told(some_files)


def test_an_unchanged_tree_stores_no_data_again(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    first = run_files([some_files], [repo], clock, None, Silent()).outcomes[0].written
    second = run_files([some_files], [repo], clock, None, Silent()).outcomes[0].written

    assert first is not None and second is not None
    assert first.blobs_new > 0
    assert second.blobs_new == 0
    assert second.packs == 0


def test_one_reading_fills_two_vaults_that_share_nothing_readable(
    make: Make, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    back_up([b, c], some_files, clock)

    for repo in (b, c):
        assert told(bring_back(repo, tmp_path / repo.name) / "source") == told(some_files)
    ours = {s.key for s in b.store.list("packs/")}
    assert ours and not ours & {s.key for s in c.store.list("packs/")}


def test_a_vault_that_fails_makes_the_run_incomplete_and_the_other_has_its_snapshot(
    make: Make, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    assert isinstance(c.store, MemoryStore)
    c.store.faults = dict.fromkeys(range(c.store.calls + 4, c.store.calls + 1000), Fault.BEFORE)

    run = run_files([some_files], [b, c], clock, None, Silent())

    assert not run.complete
    assert any("site-c" in p for p in run.problems), run.problems
    assert latest([b])[1].sequence == 1
    assert told(bring_back(b, tmp_path / "t") / "source") == told(some_files)
    c.store.faults = {}
    assert c.sequences() == []


def test_when_no_vault_answers_the_run_raises(
    make: Make, some_files: Path, clock: SimClock
) -> None:
    b = make("site-b")
    assert isinstance(b.store, MemoryStore)
    b.store.faults = dict.fromkeys(range(b.store.calls + 8, b.store.calls + 1000), Fault.BEFORE)

    with pytest.raises(Incomplete):
        run_files([some_files], [b], clock, None, Silent())


def test_a_store_that_loses_answers_is_asked_again(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    assert isinstance(repo.store, MemoryStore)
    # Every third call happened, and nobody was told.
    repo.store.faults = dict.fromkeys(range(3, 3000, 3), Fault.AFTER)

    back_up([repo], some_files, clock)

    assert told(bring_back(repo, tmp_path / "t") / "source") == told(some_files)


def test_a_restore_does_not_mix_with_what_is_there(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    back_up([repo], some_files, clock)
    (tmp_path / "mine").write_text("mine")

    with pytest.raises(NotEmpty):
        bring_back(repo, tmp_path)

    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "name", [b"../out", b"/etc/passwd", b"a/../../out", b"", b"a//b", b"./a", b"a\0b"]
)
def test_a_name_that_leads_out_is_damage(
    repo: Repository, tmp_path: Path, clock: SimClock, name: bytes
) -> None:
    """Whoever holds the key of a compromised host can sign such a listing."""
    node = Node(path=name, type=Type.FILE, mode=0o644, mtime_ns=0)
    forge(repo, [(node, b"owned")], clock)

    with pytest.raises(Damage):
        bring_back(repo, tmp_path / "t")

    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    assert list((tmp_path / "t").iterdir()) == []


def test_a_link_cannot_carry_a_file_out(repo: Repository, tmp_path: Path, clock: SimClock) -> None:
    (tmp_path / "outside").mkdir()
    plain = Node(path=b"x", type=Type.LINK, mode=0o777, mtime_ns=0, target=b"../outside")
    below = Node(path=b"x/owned", type=Type.FILE, mode=0o644, mtime_ns=0)
    forge(repo, [(plain, b""), (below, b"owned")], clock)

    with pytest.raises(Damage):
        bring_back(repo, tmp_path / "t")

    assert list((tmp_path / "outside").iterdir()) == []


def forge(repo: Repository, entries: list[tuple[Node, bytes]], clock: SimClock) -> None:
    content = Content(
        kind="files",
        label="",
        host="evil",
        started=clock.now(),
        finished=clock.now(),
        tree=(),
        entries=0,
        size_bytes=0,
        complete=True,
    )
    with Fanout([Writer(repo)], Silent()) as out:
        for node, data in entries:
            out.add(node, [data] if data else [])
        assert out.commit(content)[0].snapshot is not None


def test_a_full_disk_is_said_as_such(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    back_up([repo], some_files, clock)

    def full(path: bytes) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Reader(repo) as reader, pytest.raises(NoSpace):
        restore_files(reader, repo.find("latest"), tmp_path / "t", progress=Silent(), wanted=full)


def test_a_file_that_cannot_be_read_is_a_problem_of_the_run(
    repo: Repository, tmp_path: Path, clock: SimClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that vanishes between the walk and the reading stands for every unreadable one."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "kept").write_text("kept")

    class Vanishing:
        def cut(self, stream: object) -> object:
            raise OSError(5, "Input/output error")
            yield b""

    from backup.sources.files import backup_files  # noqa: PLC0415

    outcome = backup_files(
        [source],
        [Writer(repo)],
        clock=clock,
        progress=Silent(),
        cutter=Vanishing(),  # type: ignore[arg-type]
    )[0]

    assert outcome.snapshot is not None
    assert not outcome.snapshot.content.complete
    assert "Input/output error" in outcome.snapshot.content.problems[0]


def test_a_vault_that_forgets_its_newest_snapshot_is_seen(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    back_up([repo], some_files, clock)
    back_up([repo], some_files, clock)
    repo.store.remove("snapshots/0000000002")

    with pytest.raises(Damage, match="was there and is not any more"):
        rollback.check(repo, repo.sequences())
    found = verify(repo, Level.STRUCTURE, rng=random.Random(1), progress=Silent())
    assert found.damage


def test_a_snapshot_missing_from_the_middle_breaks_the_chain(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    for _ in range(3):
        back_up([repo], some_files, clock)
    repo.store.remove("snapshots/0000000002")

    with pytest.raises(Damage, match="missing from the chain"):
        repo.snapshots()


def test_the_index_can_be_rebuilt_from_the_packs(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    back_up([repo], some_files, clock)
    for stat in list(repo.store.list("index/")):
        repo.store.remove(stat.key)

    with pytest.raises(Damage):
        bring_back(repo, tmp_path / "without")
    with Reader(repo, repo.rebuilt_catalogue()) as reader:
        restore_files(reader, repo.find("latest"), tmp_path / "t", progress=Silent())

    assert told(tmp_path / "t" / "source") == told(some_files)


def test_a_listing_of_very_many_blobs_goes_over_several_lines() -> None:
    ids = tuple(n.to_bytes(32) for n in range(tree.LINE_BLOBS_MAX * 2 + 1))
    node = Node(path=b"big", type=Type.FILE, mode=0o600, mtime_ns=1, blobs=ids, size_bytes=9)
    lines = list(tree.encode(node))

    assert len(lines) == 3
    assert list(tree.decode(lines)) == [node]


def test_a_file_whose_size_says_nothing_is_read_to_its_end(
    make: Make, clock: SimClock, tmp_path: Path
) -> None:
    # As under /proc: stat says 0, and there are bytes. It is told, because it is not what stat promised.
    here = Path("/proc/self/mounts")
    repo = make()
    done = run_files([here], [repo], clock, random.Random(7), Silent())
    with Reader(repo) as reader:
        restore_files(reader, repo.find("latest"), tmp_path / "back", progress=Silent())
    assert (tmp_path / "back" / "mounts").read_bytes() == here.read_bytes() != b""
    assert any("changed while it was read" in p for p in done.problems)


@pytest.mark.parametrize("size", [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1])
def test_files_around_the_size_that_is_read_at_once(
    make: Make, clock: SimClock, tmp_path: Path, size: int
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_bytes(random.Random(size).randbytes(size))
    repo = make()
    back_up([repo], source, clock)
    assert told(bring_back(repo, tmp_path / "back") / "source") == told(source)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk and takes its power")
def test_a_power_loss_after_a_restore_that_ended_well_takes_nothing(
    repo: Repository, some_files: Path, tmp_path: Path, clock: SimClock
) -> None:
    """Without the flush before the mark goes, names were there and their bytes were not."""
    back_up([repo], some_files, clock)
    host = Host(name="any", role=Role.PRODUCTION, address="127.0.0.1", folder=tmp_path / "host")
    disk.make(host)
    disk.attach(host, SystemClock())
    try:
        target = bring_back(repo, host.disk / "target")
        disk.cut_power(host)
        disk.detach(host, SystemClock())
        disk.attach(host, SystemClock())
        assert told(target / "source") == told(some_files)
        assert [p.name for p in target.iterdir()] == ["source"]
    finally:
        disk.detach(host, SystemClock())


@pytest.mark.parametrize("rule", ["!", "[\\\\-\0]", "p*\n]\b[\\\\-\0\0]"])
def test_a_rule_that_is_none_is_told_with_its_line(rule: str) -> None:
    with pytest.raises(Usage, match="not a rule"):
        Rules.of(["*.tmp", rule])

"""Everything that hangs on a file comes back: attributes, links, holes, special files, odd names."""

# Names are bytes here.
# ruff: noqa: PTH118, PTH123

import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.format.tree import Type
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import Restored, restore_files
from backup.run import run_files
from backup.sources.walk import Rules
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Silent

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
Round = Callable[..., tuple[Path, Restored]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


@pytest.fixture
def there_and_back(repo: Repository, source: Path, tmp_path: Path, clock: SimClock) -> Round:
    def run(
        rules: Rules | None = None, wanted: Callable[[bytes], bool] = lambda _: True
    ) -> tuple[Path, Restored]:
        done = run_files([source], [repo], clock, None, Silent(), rules=rules)
        assert done.complete, done.problems
        target = tmp_path / "target"
        with Reader(repo) as reader:
            restored = restore_files(
                reader, repo.find("latest"), target, progress=Silent(), wanted=wanted
            )
        return target / "source", restored

    return run


def names(base: Path) -> list[str]:
    return sorted(str(p.relative_to(base)) for p in base.rglob("*"))


def test_extended_attributes_come_back_on_files_and_directories(
    there_and_back: Round, source: Path
) -> None:
    (source / "file").write_text("x")
    (source / "dir").mkdir()
    for name in ("file", "dir"):
        os.setxattr(source / name, "user.数据分级", "核心".encode())
        os.setxattr(source / name, "user.empty", b"")

    back, _ = there_and_back()

    for name in ("file", "dir"):
        assert os.getxattr(back / name, "user.数据分级") == "核心".encode()
        assert os.getxattr(back / name, "user.empty") == b""


def acl(*entries: tuple[int, int, int]) -> bytes:
    """As the kernel holds it: version 2, then (tag, permission, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def test_access_control_lists_come_back_and_the_mode_with_them(
    there_and_back: Round, source: Path
) -> None:
    (source / "file").write_text("x")
    none = 0xFFFFFFFF
    # user::rw- user:1234:r-- group::--- mask::r-- other::---
    wanted = acl((1, 6, none), (2, 4, 1234), (4, 0, none), (16, 4, none), (32, 0, none))
    os.setxattr(source / "file", "system.posix_acl_access", wanted)

    back, _ = there_and_back()

    assert os.getxattr(back / "file", "system.posix_acl_access") == wanted
    assert (back / "file").stat().st_mode == (source / "file").stat().st_mode


def test_two_names_of_one_file_are_one_file_again(there_and_back: Round, source: Path) -> None:
    (source / "first").write_text("one file")
    (source / "sub").mkdir()
    os.link(source / "first", source / "sub" / "second")
    os.link(source / "first", source / "third")

    back, _ = there_and_back()

    inodes = {(back / n).stat().st_ino for n in ("first", "sub/second", "third")}
    assert len(inodes) == 1
    assert (back / "sub" / "second").read_text() == "one file"


def test_a_hard_link_comes_back_when_its_first_name_is_not_wanted(
    there_and_back: Round, source: Path
) -> None:
    (source / "first").write_text("one file")
    os.link(source / "first", source / "second")

    back, _ = there_and_back(wanted=lambda path: path != b"source/first")

    assert names(back) == ["second"]
    assert (back / "second").read_text() == "one file"


def test_holes_stay_holes_and_what_is_between_them_comes_back(
    there_and_back: Round, source: Path
) -> None:
    with (source / "disk.img").open("wb") as image:
        image.truncate(256 << 20)
        for at in (0, 3 << 20, (200 << 20) + 777):
            image.seek(at)
            image.write(b"superblock" * 100)
    with (source / "all-hole").open("wb") as image:
        image.truncate(1 << 30)

    back, _ = there_and_back()

    for name in ("disk.img", "all-hole"):
        before, after = (source / name).stat(), (back / name).stat()
        assert after.st_size == before.st_size
        assert after.st_blocks <= before.st_blocks + 16
    with (back / "disk.img").open("rb") as image:
        for at in (0, 3 << 20, (200 << 20) + 777):
            image.seek(at)
            assert image.read(1000) == b"superblock" * 100
        image.seek(1 << 20)
        assert not any(image.read(1 << 20))


def test_a_hole_costs_no_data_in_the_vault(repo: Repository, source: Path, clock: SimClock) -> None:
    with (source / "huge").open("wb") as image:
        image.truncate(1 << 40)

    outcome = run_files([source], [repo], clock, None, Silent()).outcomes[0]

    assert outcome.snapshot is not None and outcome.written is not None
    assert outcome.snapshot.content.size_bytes == 1 << 40
    assert outcome.written.stored_bytes < 64 << 10


def test_names_that_are_no_text_and_names_of_every_length_come_back(
    there_and_back: Round, source: Path
) -> None:
    odd = [b"\xff\xfe", b"new\nline", b'quo"te\\', b" ", "灾备".encode(), b"n" * 255, b"%2e"]
    for name in odd:
        with open(os.path.join(os.fsencode(source), name), "wb") as out:
            out.write(name)
    deep = source
    for _ in range(12):
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    (deep / "leaf").write_text("leaf")

    back, _ = there_and_back()

    for name in odd:
        with open(os.path.join(os.fsencode(back), name), "rb") as read:
            assert read.read() == name
    assert (back / deep.relative_to(source) / "leaf").read_text() == "leaf"


def test_pipes_and_sockets_are_recorded_and_made_again(
    there_and_back: Round, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(source / "pipe", 0o620)
    monkeypatch.chdir(source)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("sock")

    back, restored = there_and_back()

    assert stat.S_ISFIFO((back / "pipe").lstat().st_mode)
    assert stat.S_ISSOCK((back / "sock").lstat().st_mode)
    assert (back / "pipe").lstat().st_mtime_ns == (source / "pipe").lstat().st_mtime_ns
    assert restored.special == 2 and not restored.unset


@root_only
def test_devices_come_back_with_their_numbers(there_and_back: Round, source: Path) -> None:
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(source / "disk", 0o660 | stat.S_IFBLK, os.makedev(253, 300))

    back, _ = there_and_back()

    for name, kind in (("null", stat.S_ISCHR), ("disk", stat.S_ISBLK)):
        made = (back / name).lstat()
        assert kind(made.st_mode)
        assert made.st_rdev == (source / name).lstat().st_rdev


def test_owners_modes_and_times_come_back(there_and_back: Round, source: Path) -> None:
    (source / "suid").write_text("x")
    (source / "locked").mkdir()
    (source / "locked" / "inside").write_text("y")
    if os.geteuid() == 0:
        os.chown(source / "suid", 1234, 4321)
    (source / "suid").chmod(0o4755)
    (source / "link").symlink_to("suid")
    os.utime(source / "link", ns=(1, 1_000_000_001), follow_symlinks=False)
    os.utime(source / "suid", ns=(5, 7_000_000_123))
    (source / "locked").chmod(0o500)
    os.utime(source / "locked", ns=(5, 9_000_000_999))

    back, _ = there_and_back()

    for name in ("suid", "locked", "link"):
        was, now = (source / name).lstat(), (back / name).lstat()
        assert (now.st_mode, now.st_uid, now.st_gid) == (was.st_mode, was.st_uid, was.st_gid)
        assert now.st_mtime_ns == was.st_mtime_ns


def test_rules_leave_out_what_they_say_and_the_snapshot_says_so(
    there_and_back: Round, source: Path, repo: Repository, tmp_path: Path
) -> None:
    for name in ("keep.txt", "a.tmp", "sub/b.tmp", "sub/keep.tmp", "cache/x", "sub/cache/y"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(name)
    file = tmp_path / "rules"
    file.write_text("# of the operator\n\n/cache/\n")

    back, _ = there_and_back(rules=Rules.of(["*.tmp", "!keep.tmp"], files=[file]))

    assert names(back) == ["keep.txt", "sub", "sub/cache", "sub/cache/y", "sub/keep.tmp"]
    facts = repo.find("latest").content.facts
    assert facts["excluded"] == 3
    assert facts["rules"] == ["*.tmp", "!keep.tmp", "/cache/"]


def test_a_rule_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("fine\n!\n")

    with pytest.raises(Usage, match=r"rules:2: not a rule"):
        Rules.of(files=[file])
    with pytest.raises(Usage, match="no exclude rules can be read"):
        Rules.of(files=[tmp_path / "nowhere"])


def test_a_file_of_rules_in_the_data_excludes_nothing(there_and_back: Round, source: Path) -> None:
    """Whoever may write into the data must not decide what of it is backed up."""
    for name in (".gitignore", ".zaibeiignore"):
        (source / name).write_text("*\n")
    (source / "precious").write_text("x")

    back, _ = there_and_back()

    assert "precious" in names(back)


def test_one_file_system_keeps_the_mount_point_and_not_what_is_mounted(
    there_and_back: Round, source: Path, small_disk: Callable[[Path, int], Path]
) -> None:
    (source / "mnt").mkdir()
    small_disk(source / "mnt", 64 << 10)
    (source / "mnt" / "elsewhere").write_text("x")
    (source / "zz").write_text("after")

    back, _ = there_and_back(rules=Rules.of(one_file_system=True))

    assert names(back) == ["mnt", "zz"]


def test_the_walk_meets_the_same_entries_in_the_same_order(
    repo: Repository, source: Path, clock: SimClock
) -> None:
    for name in ("b", "a-b", "a/x", "a/-", "a b", "a/x y", "ab"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("")
    for _ in range(2):
        run_files([source], [repo], clock, None, Silent())
    listings = []
    for sequence in repo.sequences():
        with Reader(repo) as reader:
            listings.append([n.path for n in reader.nodes(repo.snapshot(sequence))])

    assert listings[0] == listings[1]
    parts = [path.split(b"/") for path in listings[0]]
    assert parts == sorted(parts)


def test_every_entry_is_listed_with_its_type(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    os.mkfifo(some_files / "pipe")
    run_files([some_files], [repo], clock, None, Silent())
    with Reader(repo) as reader:
        types = {n.path: n.type for n in reader.nodes(repo.find("latest"))}

    assert types[b"source/pipe"] is Type.FIFO
    assert types[b"source/link"] is Type.LINK

"""What a directory can hold that is no object, and what the system says when it is no directory."""

import errno
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.errors import Damage, Refused, Usage


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    made = DirectoryStore(tmp_path / "r")
    made.create("packs/ab/one", b"1")
    return made


@pytest.mark.timeout(20)
@pytest.mark.parametrize("put", [fifo, link, a_link_to_itself, a_socket])
def test_what_is_no_file_hangs_nobody_and_is_told_by_its_name(
    store: DirectoryStore, tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path / "r" / "packs" / "ab" / "two")
    with pytest.raises(Damage, match=r"packs/ab/two is a .* and not a file") as told:
        store.read("packs/ab/two")
    assert str(tmp_path / "r/packs/ab/two") in told.value.hints[0]
    # In the listing too: what is left out there nobody reads, and nobody tells of it.
    sizes = {s.key: s.size_bytes for s in store.list()}
    assert sizes == {"packs/ab/one": 1, "packs/ab/two": 0}
    assert store.stat("packs/ab/two").size_bytes == 0


def test_a_directory_in_the_place_of_an_object_is_damage_as_a_fifo_is(
    store: DirectoryStore,
) -> None:
    for use in (store.read, store.stat, lambda key: store.create(key, b"")):
        with pytest.raises(Damage, match="packs/ab is a directory and not a file") as told:
            use("packs/ab")
        assert told.value.hints


@pytest.mark.parametrize("where", ["file/x", "file", "/proc/x"])
def test_a_place_where_no_directory_can_be_is_a_wrong_request(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Usage, match="no directory can be made there"):
        DirectoryStore(tmp_path / where).create("config", b"{}")


def test_a_store_that_became_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"")
    with pytest.raises(Refused, match="Not a directory") as told:
        list(DirectoryStore(tmp_path / "r").list())
    assert told.value.hints


def test_a_read_only_disk_is_no_store_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)

    def read_only(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "x")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(Refused, match="Read-only") as told:
        store.create("k", b"1")
    assert "mounted read-only" in told.value.hints[0]


def test_what_a_killed_writer_left_goes_when_it_is_old(
    store: DirectoryStore, tmp_path: Path
) -> None:
    left = tmp_path / "r/packs/ab/.tmp-0123456789abcdef"
    foreign = tmp_path / "r/packs/ab/.tmp-of somebody else"
    for path in (left, foreign):
        path.write_bytes(b"half")
    now = store.now()
    assert store.unfinished(now - timedelta(hours=1), remove=True) == 0
    os.utime(left, times=(0, 0))
    os.utime(foreign, times=(0, 0))
    assert store.unfinished(now - timedelta(hours=1), remove=False) == 1
    assert left.exists()
    assert store.unfinished(now - timedelta(hours=1), remove=True) == 1
    assert not left.exists()
    assert foreign.exists(), "not of our making"
    assert store.read("packs/ab/one") == b"1"


@pytest.mark.attack
def test_a_link_that_a_writer_planted_in_a_vault_leads_nobody_out(
    store: DirectoryStore, tmp_path: Path
) -> None:
    """Whoever may write in the vault's directory chooses what a key's directory is; gc and heal remove by key."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("one", ".tmp-0123456789abcdef", "sub/two"):
        (outside / name).write_bytes(b"theirs")
        os.utime(outside / name, times=(0, 0))
    (tmp_path / "r" / "packs" / "ab").rename(tmp_path / "r" / "packs" / "was")
    (tmp_path / "r" / "packs" / "ab").symlink_to(outside)
    again = DirectoryStore(tmp_path / "r")  # one that has not seen the directory before
    was = {p: (p.lstat(), p.is_file() and p.read_bytes()) for p in sorted(outside.rglob("*"))}

    for one in (store, again):
        for key in ("packs/ab/one", "packs/ab/sub/two"):
            for use in (one.read, one.stat, one.remove, lambda k, one=one: one.create(k, b"x")):
                with pytest.raises(Damage, match="leads through a symbolic link") as told:
                    use(key)
                assert str(tmp_path / "r" / "packs") in told.value.hints[0]
        with pytest.raises(Damage, match="leads through a symbolic link"):
            one.create("packs/ab/new", b"x")
        assert one.unfinished(one.now(), remove=True) == 0
        assert {s.key for s in one.list()} == {"packs/ab", "packs/was/one"}
        assert list(one.list("packs/ab/")) == []
    now = {p: (p.lstat(), p.is_file() and p.read_bytes()) for p in sorted(outside.rglob("*"))}
    assert [(p, s[0].st_ctime_ns, s[1]) for p, s in now.items()] == [
        (p, s[0].st_ctime_ns, s[1]) for p, s in was.items()
    ]


@pytest.mark.attack
def test_a_directory_that_becomes_a_link_between_listing_and_removing_leads_nobody_out(
    store: DirectoryStore, tmp_path: Path
) -> None:
    store.create("packs/cd/two", b"2")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "two").write_bytes(b"theirs")

    found = [s.key for s in store.list("packs/")]
    (tmp_path / "r" / "packs" / "cd").rename(tmp_path / "was")
    (tmp_path / "r" / "packs" / "cd").symlink_to(outside)
    store.remove(found[0])
    with pytest.raises(Damage):
        store.remove(found[1])

    assert found == ["packs/ab/one", "packs/cd/two"]
    assert (outside / "two").read_bytes() == b"theirs"

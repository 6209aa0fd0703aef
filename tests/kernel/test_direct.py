"""Large writes past the page cache: the same bytes as any other write makes, on whatever filesystem."""

import fcntl
import itertools
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zaibei.kernel.direct import BLOCK_BYTES, LEAST_BYTES, STEP_BYTES, pwrite

MIB = 1 << 20


@pytest.fixture
def ramfs(tmp_path: Path) -> Iterator[Path]:
    """A filesystem that has no direct writes. Only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a filesystem")
    subprocess.run(["mount", "-t", "ramfs", "none", str(tmp_path)], check=True, timeout=10)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)


def _written(file: Path, pieces: list[tuple[int, bytes]]) -> bytes:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        before = fcntl.fcntl(fd, fcntl.F_GETFL)
        for offset, data in pieces:
            pwrite(fd, data, offset)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) == before
    finally:
        os.close(fd)
    return file.read_bytes()


SIZES = (
    0,
    1,
    BLOCK_BYTES,
    LEAST_BYTES - 1,
    LEAST_BYTES,
    LEAST_BYTES + BLOCK_BYTES + 1,
    3 * STEP_BYTES + 5000,
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 70_001])
def test_it_writes_what_it_was_given_where_it_was_told(
    tmp_path: Path, size: int, offset: int
) -> None:
    data = random.Random(size).randbytes(size)
    held = _written(tmp_path / "x", [(offset, data)])
    assert held == (bytes(offset) + data if size else b"")


def test_a_filesystem_that_will_not_have_it_gets_the_bytes_all_the_same(ramfs: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        os.open(ramfs / "x", os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    data = random.Random(1).randbytes(3 * MIB + 17)
    assert _written(ramfs / "x", [(5, data)]) == bytes(5) + data


def test_pieces_of_one_file_in_any_order_from_several_threads(tmp_path: Path) -> None:
    """Their ends meet within blocks, as the pieces of a restored file do."""
    rng = random.Random(7)
    whole = rng.randbytes(24 * MIB + 321)
    cuts = sorted({0, len(whole), *(rng.randrange(len(whole)) for _ in range(60))})
    pieces = [(a, whole[a:b]) for a, b in itertools.pairwise(cuts)]
    rng.shuffle(pieces)
    parts = [pieces[n::3] for n in range(3)]
    threads = [threading.Thread(target=_written, args=(tmp_path / "x", part)) for part in parts]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (tmp_path / "x").read_bytes() == whole


def test_nothing_of_a_large_write_stays_in_the_page_cache(tmp_path: Path) -> None:
    """That is what it is for: the host's own services keep theirs."""
    fd = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        except OSError:
            pytest.skip("this filesystem has no direct writes")
        finally:
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        pwrite(fd, bytes(16 * MIB + 1), 0)
    finally:
        os.close(fd)
    told = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(tmp_path / "x")],
        capture_output=True,
        check=True,
        text=True,
        timeout=10,
    )
    assert int(told.stdout) <= 4 * BLOCK_BYTES


def test_a_full_disk_is_told(tmp_path: Path, small_disk: Callable[[Path, int], Path]) -> None:
    disk = small_disk(tmp_path, 2 * MIB)
    with pytest.raises(OSError, match="No space left"):
        _written(disk / "x", [(0, bytes(8 * MIB))])

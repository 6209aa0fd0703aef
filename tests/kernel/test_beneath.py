"""A directory below an open one is reached through no link and never above it, with openat2 and without."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zaibei.kernel.beneath import AT_ONCE, DIRECTORY, LINKED, open_below, open_by_steps

each_way = pytest.mark.parametrize("opened", [open_below, open_by_steps])


@pytest.fixture
def base(tmp_path: Path) -> int:
    (tmp_path / "base" / "a" / "b").mkdir(parents=True)
    (tmp_path / "base" / "file").touch()
    (tmp_path / "base" / "link").symlink_to("a")
    (tmp_path / "base" / "out").symlink_to("/etc")
    return os.open(tmp_path / "base", DIRECTORY)


@each_way
def test_a_directory_is_opened_by_its_whole_path(
    base: int, tmp_path: Path, opened: Callable[[int, bytes], int]
) -> None:
    fd = opened(base, b"a/b")

    assert os.path.samestat(os.fstat(fd), (tmp_path / "base" / "a" / "b").stat())
    os.close(fd)


@each_way
@pytest.mark.parametrize(
    ("path", "code"),
    [
        (b"link", errno.ELOOP),
        (b"link/b", errno.ELOOP),
        (b"out", errno.ELOOP),
        (b"out/cron.d", errno.ELOOP),
        (b"file", errno.ENOTDIR),
        (b"file/x", errno.ENOTDIR),
        (b"..", errno.EXDEV),
        (b"a/../../x", errno.EXDEV),
    ],
)
def test_a_link_a_file_and_a_way_up_are_refused_and_told_apart(
    base: int, path: bytes, code: int, opened: Callable[[int, bytes], int]
) -> None:
    with pytest.raises(OSError) as refused:
        opened(base, path)

    assert refused.value.errno == code and code in LINKED


def test_a_path_longer_than_the_system_takes_is_gone_down_in_portions(base: int) -> None:
    held, names = os.dup(base), [b"%03d" % n + b"n" * 200 for n in range(40)]
    for name in names:
        os.mkdir(name, dir_fd=held)
        below = os.open(name, DIRECTORY, dir_fd=held)
        os.close(held)
        held = below
    path = b"/".join(names)
    assert len(path) > 2 * AT_ONCE - 500

    fd = open_below(base, path)

    assert os.path.samestat(os.fstat(fd), os.fstat(held))
    os.close(fd)
    os.close(held)

"""Open directories below one that is open already, through no symbolic link and never above it.

A path that is checked and then used can be another thing by then: whoever may write in one of its directories
exchanges it in between. A descriptor cannot be exchanged. openat2 resolves the whole path in one call; a kernel or a
container that lacks it gets the same step by step. A path may be longer than the system takes at once.
"""

import ctypes
import errno
import os
import stat
from typing import Final

from zaibei.kernel.syscalls import bound

AT_ONCE: Final = 4000  # bytes of a path that the system takes in one call: PATH_MAX is 4096
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENAT2 = 437  # the same number on every architecture but alpha
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_TRIES = 16  # of a call that a rename elsewhere made useless
LINKED: Final = (
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EXDEV,
)  # the path leads through what is no directory


class Directory:
    """An open directory, closed when its last holder lets go: another thread may still work in it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_syscall = bound(
    "syscall", ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_How), ctypes.c_size_t
)
# Without O_NOFOLLOW: with it a link at the end would be ENOTDIR, as a file is.
_how = _How(DIRECTORY & ~os.O_NOFOLLOW, 0, _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)


def open_below(at: int, path: bytes) -> int:
    """A descriptor of the directory at `path` below the open directory `at`. Raises OSError: one of LINKED where the path leads
    through a symbolic link (ELOOP) or a file (ENOTDIR)."""
    held: int | None = None
    try:
        for part in _portions(path):
            below = _one_call(at if held is None else held, part)
            if held is not None:
                os.close(held)
            held = below
    except BaseException:
        if held is not None:
            os.close(held)
        raise
    assert held is not None, "there is at least one portion"
    return held


def open_by_steps(at: int, path: bytes) -> int:
    """The same by one call for each directory."""
    held = os.dup(at)
    try:
        for part in path.split(b"/"):
            if part == b"..":
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
            below = _step(held, part)
            os.close(held)
            held = below
    except BaseException:
        os.close(held)
        raise
    return held


def _step(at: int, name: bytes) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=at)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
        raise


def _one_call(at: int, path: bytes) -> int:
    if _syscall is None:
        return open_by_steps(at, path)
    for _ in range(_TRIES):
        fd = _syscall(_OPENAT2, at, path, ctypes.byref(_how), ctypes.sizeof(_how))
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EPERM, errno.E2BIG):
            return open_by_steps(at, path)  # a filter that knows no openat2 says EPERM
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


def _portions(path: bytes) -> list[bytes]:
    """The path in pieces that the system takes."""
    found: list[bytes] = []
    while len(path) > AT_ONCE and (cut := path.rfind(b"/", 0, AT_ONCE)) > 0:
        found.append(path[:cut])
        path = path[cut + 1 :]
    return [*found, path]

"""Call what Linux has and Python does not: rename without replacing, flush one filesystem, begin to write out."""

import ctypes
import errno
import os
from typing import Any, Final, cast

CANNOT: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_NOREPLACE = 1  # renameat2
_WRITE = 2  # sync_file_range: begin, and do not wait


def begin_writing(fd: int, offset: int, length: int) -> None:
    """These bytes go to the disk beside what comes next, and `finish` does not wait for all of them at once."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, length, _WRITE)


def flush(fd: int, *, all_: bool = True) -> None:
    """The filesystem of an open directory, or only its names. Raises OSError for bytes that the disk did not take."""
    if not all_:
        os.fsync(fd)
    elif _syncfs is None:
        os.sync()
    elif _syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def rename_new(old_at: int, old: bytes, new_at: int, new: bytes) -> None:
    """Never over something that is there: it would be a second entry of one name, or another account's."""
    if _renameat2 is not None:
        if _renameat2(old_at, old, new_at, new, _NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in CANNOT:
            raise OSError(code, os.strerror(code), old, None, new)
    os.link(old, new, src_dir_fd=old_at, dst_dir_fd=new_at, follow_symlinks=False)
    os.unlink(old, dir_fd=old_at)


def bound(name: str, *arguments: Any) -> "ctypes._NamedFuncPointer | None":
    try:
        found = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    found.argtypes = arguments
    return cast("ctypes._NamedFuncPointer", found)


_int, _text = ctypes.c_int, ctypes.c_char_p
_renameat2 = bound("renameat2", _int, _text, _int, _text, ctypes.c_uint)
_syncfs = bound("syncfs", _int)
_sync_file_range = bound("sync_file_range", _int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

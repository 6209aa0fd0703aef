"""The directory that a restore fills. Nothing outside it is touched, and no name in it means a file that is not whole.

A file grows in a folder of the restore's own and gets its name when its last byte is there. That folder is
what tells an interrupted restore: it is removed at the end, when everything is on the disk, and `--resume` goes on only
where it lies and was made for the same snapshot. Until the end every directory is this account's alone (0700) and no symbolic link
is made, so no name in a listing, however it was forged, leads out.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH118, PTH120, PTH123, PTH208, PTH211

import ctypes
import errno
import itertools
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from backup.errors import NotEmpty
from backup.tree import Node, Type, why_unsafe
from zaibei.kernel.errors import Damage, Refused, Usage

STAGE: Final = b".zaibei-restoring"
_MARK: Final = b"of"
UNSET_MAX: Final = 1000  # listed; the count is exact
DIRECTORIES_MAX: Final = 100_000  # remembered as made; beyond that they are asked for again
_OWN: Final = 0o700
_NOREPLACE = 1  # renameat2
_AT_FDCWD = -100
_WRITE = 2  # sync_file_range: begin, and do not wait
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
# What a filesystem says to a name or a size that it cannot hold.
UNFIT: Final = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EFBIG, errno.EOVERFLOW)
# And to a link or a special file: of a kind that it does not have, one more than it counts, a target that is empty.
_UNMADE = (*UNFIT, *_CANNOT, errno.EMLINK, errno.EPERM, errno.ENOENT)
SPECIAL: Final = {
    Type.FIFO: stat.S_IFIFO,
    Type.SOCKET: stat.S_IFSOCK,
    Type.CHAR: stat.S_IFCHR,
    Type.BLOCK: stat.S_IFBLK,
}


def told(path: bytes) -> str:
    """A name for people, on one line whatever is in it."""
    return f"{os.fsdecode(path)!a}"


class Unfit(Exception):
    """This filesystem does not take the entry: its loss alone, and not the restore's end."""


class Ground:
    """Thread-safe but for `begin`, `finish` and `give_up`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.resumed = False
        self._base = os.fsencode(target.absolute())
        self._stage = os.path.join(self._base, STAGE)
        self._numbers = itertools.count()
        self._made: set[bytes] = set()
        self._root = os.geteuid() == 0
        self._me = (os.geteuid(), os.getegid())
        self.unset: list[str] = []
        self.unset_count = 0

    def begin(self, mark: str, *, resume: bool) -> None:
        """Raises NotEmpty, Usage, Refused. `mark` names what is restored."""
        try:
            self.target.mkdir(parents=True, exist_ok=True)
            there = set(os.listdir(self._base))
        except (FileExistsError, NotADirectoryError) as other:
            raise Usage(f"{self.target} is not a directory") from other
        with suppress(OSError):
            if b"lost+found" in there and not os.listdir(os.path.join(self._base, b"lost+found")):
                there.discard(b"lost+found")  # a new filesystem has one, and it is empty
        if STAGE in there and resume:
            self._go_on(mark)
            return
        if there:
            hint = (
                "an interrupted restore lies there: --resume goes on with it"
                if STAGE in there
                else "restore into a new directory"
            )
            raise NotEmpty(f"{self.target} is not empty", hint=hint)
        os.mkdir(self._stage, _OWN)
        self._sign(mark)

    def _go_on(self, mark: str) -> None:
        try:
            with open(os.path.join(self._stage, _MARK), "rb") as source:
                of = source.read().decode(errors="replace")
        except FileNotFoundError:
            of = ""  # it died before it wrote anything
        if of not in ("", mark):
            raise Refused(
                f"{self.target}: an interrupted restore of another snapshot lies there",
                hint="go on with that one, or restore into a new directory",
            )
        self._sweep()
        self.resumed = True
        self._sign(mark)

    def _sign(self, mark: str) -> None:
        with open(os.path.join(self._stage, _MARK), "wb") as out:
            out.write(mark.encode())

    def finish(self) -> None:
        """All that was asked for is there: the mark goes last."""
        self._sweep()
        # Names reach the disk before bytes do. A machine that loses its power after a restore that ended well
        # would come back with empty files under whole names, and without the mark that says so.
        _flush(self._base)
        os.unlink(os.path.join(self._stage, _MARK))
        os.rmdir(self._stage)
        _flush(self._base, all_=False)

    def give_up(self) -> None:
        """After an error. What is there stays, for after a disaster a part may be all there is; a target in
        which nothing was restored is left as it was found."""
        with suppress(OSError):
            self._sweep()  # halves of files only fill a disk that is full
            if set(os.listdir(self._base)) <= {STAGE, b"lost+found"}:
                self.finish()

    def _sweep(self) -> None:
        """Everything in our folder but the mark."""
        for name in os.listdir(self._stage):
            if name != _MARK:
                os.unlink(os.path.join(self._stage, name))

    def check(self, path: bytes) -> None:
        """Raises Damage for a name that a restore must not touch."""
        why = why_unsafe(path)
        if why is None and path.split(b"/", 1)[0] == STAGE:
            why = "the restore's own folder"
        if why is not None:
            raise Damage(f"a listing names {told(path)}: {why}")

    def real(self, path: bytes) -> bytes:
        return os.path.join(self._base, path)

    def temporary(self) -> bytes:
        return os.path.join(self._stage, b"%d" % next(self._numbers))

    def directory(self, path: bytes) -> None:
        """Make it and all above it. One that is there must be a directory, and no link to one."""
        if not path or path in self._made:
            return
        self.directory(os.path.dirname(path))
        real = self.real(path)
        try:
            os.mkdir(real, _OWN)
        except FileExistsError as there:
            if not stat.S_ISDIR(os.lstat(real).st_mode):
                raise twice(path) from there
        if len(self._made) >= DIRECTORIES_MAX:
            self._made.clear()
        self._made.add(path)

    def publish(self, temporary: bytes, path: bytes) -> None:
        """Raises Damage when the name is taken: by another entry of the same listing."""
        try:
            _rename(temporary, self.real(path))
        except FileExistsError as there:
            raise twice(path) from there

    def dress(self, of: bytes | int, node: Node) -> None:
        """Owner, mode, attributes, times: in an order in which none undoes another."""
        # Only root may give files away; for anybody else what is restored is theirs.
        follow = isinstance(of, int)
        if self._root and (node.uid, node.gid) != self._me:
            os.chown(of, node.uid, node.gid, follow_symlinks=follow)
        if node.type is not Type.LINK:
            os.chmod(of, node.mode)
        for name, value in node.xattrs:
            try:
                os.setxattr(of, name, value, follow_symlinks=follow)
            except OSError as refused:
                self.not_set(node.path, f"{os.fsdecode(name)!a}: {refused.strerror}")
        os.utime(of, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=follow)

    def not_set(self, path: bytes, why: str) -> None:
        self.unset_count += 1
        if len(self.unset) < UNSET_MAX:
            self.unset.append(f"{told(path)}: {why}")

    def link(self, node: Node) -> bool:
        """One more name of a file that is there. False: its first name is not. Raises Unfit."""
        first, real = self.real(node.hard), self.real(node.path)
        if (was := self._there(first)) is None:
            return False
        self.directory(os.path.dirname(node.hard))  # no link on the way, were it forged
        if not stat.S_ISREG(was.st_mode):
            raise Damage(f"a listing links {told(node.path)} to what is no file")
        if self.resumed and self._there(real) is not None:
            os.unlink(real)
        try:
            os.link(first, real, follow_symlinks=False)
        except FileExistsError as there:
            raise twice(node.path) from there
        except OSError as unfit:
            if unfit.errno not in _UNMADE:
                raise
            raise Unfit(unfit.strerror) from unfit
        return True

    def make(self, node: Node) -> bool:
        """A symbolic link, pipe, socket or device. False: this account may not. Raises Unfit."""
        real = self.real(node.path)
        if (
            self.resumed
            and (was := self._there(real)) is not None
            and not stat.S_ISDIR(was.st_mode)
        ):
            os.unlink(real)
        try:
            if node.type is Type.LINK:
                os.symlink(node.target, real)
            else:
                os.mknod(real, SPECIAL[node.type] | 0o600, os.makedev(*node.rdev))
        except FileExistsError as there:
            raise twice(node.path) from there
        except PermissionError as refused:
            self.not_set(node.path, f"{node.type} not made: {refused.strerror}")
            return False
        except OSError as unfit:
            if unfit.errno not in _UNMADE:
                raise
            raise Unfit(unfit.strerror) from unfit
        self.dress(real, node)
        return True

    def _there(self, real: bytes) -> os.stat_result | None:
        try:
            return os.lstat(real)
        except OSError as none:
            if none.errno not in (errno.ENOENT, *UNFIT):
                raise
            return None


def begin_writing(fd: int, offset: int, length: int) -> None:
    """These bytes go to the disk beside what comes next, and `finish` does not wait for all of them at once."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, length, _WRITE)


def _flush(top: bytes, *, all_: bool = True) -> None:
    """The filesystem of `top`, or only its names. Raises OSError for bytes that the disk did not take."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not all_:
            os.fsync(fd)
        elif _syncfs is None:
            os.sync()
        elif _syncfs(fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), top)
    finally:
        os.close(fd)


def twice(path: bytes) -> Damage:
    return Damage(f"a listing names {told(path)} twice")


def _rename(old: bytes, new: bytes) -> None:
    """Never over something that is there: it would be a second entry of one name, or somebody else's."""
    if _renameat2 is not None:
        if _renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in _CANNOT:
            raise OSError(code, os.strerror(code), old, None, new)
    os.link(old, new, follow_symlinks=False)
    os.unlink(old)


def _bound(name: str, *arguments: Any) -> "ctypes._NamedFuncPointer | None":
    try:
        found = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    found.argtypes = arguments
    return cast("ctypes._NamedFuncPointer", found)


_int, _text = ctypes.c_int, ctypes.c_char_p
_renameat2 = _bound("renameat2", _int, _text, _int, _text, ctypes.c_uint)
_syncfs = _bound("syncfs", _int)
_sync_file_range = _bound("sync_file_range", _int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

"""The directory that a restore fills. Nothing outside it is touched, and no name in it means a file that is not whole.

A file grows in a folder of the restore's own and gets its name when its last byte is there. That folder is
what tells an interrupted restore: it is removed at the end, when everything is on the disk, and `--resume` goes on only
where it lies and was made for the same snapshot.

Whatever a listing says, and whoever else may write beside the target, three things hold. Every effect goes to a
descriptor: of the target, of a directory below it that was reached through no symbolic link (`beneath`), or of a file
that this restore made. Until the end every directory is this account's alone (0700), the target too where others could
write in it. Directories are dressed last and deepest first, so no other account can reach into one that is still
worked in.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH123, PTH208

import errno
import itertools
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from backup.errors import NotEmpty
from backup.format.tree import Node, Type, why_unsafe
from backup.restore.below import OWN, Below, twice
from backup.restore.dresser import Dresser
from zaibei.kernel.beneath import DIRECTORY, LINKED, Directory, open_below
from zaibei.kernel.errors import Damage, Refused, Usage
from zaibei.kernel.printable import quoted
from zaibei.kernel.syscalls import CANNOT, flush, rename_new

STAGE: Final = b".zaibei-restoring"
_MARK: Final = b"of"
_WAS: Final = b"was"  # owner and mode of a target that others could write in
_OTHERS_WRITE: Final = 0o022
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# What a filesystem says to a name or a size that it cannot hold.
UNFIT: Final = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EFBIG, errno.EOVERFLOW)
# And to a link or a special file: of a kind that it does not have, one more than it counts, a target that is empty.
_UNMADE = (*UNFIT, *CANNOT, errno.EMLINK, errno.EPERM, errno.ENOENT)
SPECIAL: Final = {
    Type.FIFO: stat.S_IFIFO,
    Type.SOCKET: stat.S_IFSOCK,
    Type.CHAR: stat.S_IFCHR,
    Type.BLOCK: stat.S_IFBLK,
}
_FORMAT: Final = {Type.FILE: stat.S_IFREG, Type.LINK: stat.S_IFLNK, **SPECIAL}
_DEVICES: Final = (Type.CHAR, Type.BLOCK)


class Unfit(Exception):
    """This filesystem does not take the entry: its loss alone, and not the restore's end."""


class TargetDirectory:
    """Thread-safe but for `begin`, `finish` and `give_up`."""

    def __init__(self, target: Path, *, special: bool = True) -> None:
        """`special` false: nothing that could give rights on this machine is made."""
        self.target = target
        self.resumed = False
        self._numbers = itertools.count()
        self._base = self._stage = Directory(-1)
        self._below = Below(self._base)
        self._root = os.geteuid() == 0
        self._me = (os.geteuid(), os.getegid())
        self.dresser = Dresser(special=special)

    def close(self) -> None:
        """Let go of the target, whatever an error that is still looked at holds."""
        for one in (self._below, self._stage, self._base):
            one.close()

    def begin(self, mark: str, *, resume: bool) -> None:
        """Raises NotEmpty, Usage, Refused. `mark` names what is restored."""
        self._base = Directory(self._opened_target())
        self._below = Below(self._base)
        there = self._there_at_first()
        if STAGE in there and resume:
            self._go_on(mark)
            return
        self._demand_empty(there)
        found = os.fstat(self._base.fd)
        foreign = self._take(self._base.fd)
        if foreign:
            self._demand_empty(self._there_at_first())
        os.mkdir(STAGE, OWN, dir_fd=self._base.fd)
        self._open_stage()
        if foreign:
            was = f"{found.st_uid} {found.st_gid} {stat.S_IMODE(found.st_mode):o}"
            self._note(_WAS, was)
        self._note(_MARK, mark)

    def _opened_target(self) -> int:
        path = self.target.absolute()
        flags = DIRECTORY & ~os.O_NOFOLLOW  # a link that the operator names is meant
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                path.mkdir()
                flags = DIRECTORY
            return os.open(path, flags)
        except OSError as other:
            if other.errno in (*LINKED, errno.EEXIST):
                raise Usage(f"{self.target} is not a directory") from other
            raise

    def _there_at_first(self) -> set[bytes]:
        there = set(map(os.fsencode, os.listdir(self._base.fd)))
        with suppress(OSError):
            # A new filesystem has one, and it is empty.
            lost = Directory(open_below(self._base.fd, b"lost+found"))
            if not os.listdir(lost.fd):
                there.discard(b"lost+found")
        return there

    def _demand_empty(self, there: set[bytes]) -> None:
        if there:
            hint = (
                "an interrupted restore lies there: --resume goes on with it"
                if STAGE in there
                else "restore into a new directory"
            )
            raise NotEmpty(f"{self.target} is not empty", hint=hint)

    def _take(self, fd: int) -> bool:
        """Make a directory this account's alone until the restore ends: whoever owns it, or may write in it, could
        otherwise exchange what was made there. False: it is so already."""
        found = os.fstat(fd)
        if found.st_uid == self._me[0] and not found.st_mode & _OTHERS_WRITE:
            return False
        with suppress(PermissionError):  # some filesystems have one owner; and only root takes
            if self._root:
                os.fchown(fd, *self._me)
            os.fchmod(fd, OWN)
        return True

    def _give_back(self) -> None:
        with suppress(FileNotFoundError):
            uid, gid, mode = self._read(_WAS).split()
            with suppress(PermissionError):
                if self._root:
                    os.fchown(self._base.fd, int(uid), int(gid))
                os.fchmod(self._base.fd, int(mode, 8))

    def _go_on(self, mark: str) -> None:
        try:
            self._open_stage()
        except OSError as strange:
            raise Refused(
                f"{self.target}: {quoted(STAGE)} is not a directory", hint="restore into a new one"
            ) from strange
        self._take(self._stage.fd)
        try:
            of = self._read(_MARK)
        except FileNotFoundError:
            of = ""  # it died before it wrote anything
        if of not in ("", mark):
            raise Refused(
                f"{self.target}: an interrupted restore of another snapshot lies there",
                hint="go on with that one, or restore into a new directory",
            )
        found = os.fstat(self._base.fd)
        if self._take(self._base.fd):
            was = f"{found.st_uid} {found.st_gid} {stat.S_IMODE(found.st_mode):o}"
            self._note(_WAS, was)
        self._sweep()
        self.resumed = True
        self._note(_MARK, mark)

    def _open_stage(self) -> None:
        self._stage = Directory(open_below(self._base.fd, STAGE))

    def _note(self, name: bytes, text: str) -> None:
        fd = os.open(name, _CREATE | os.O_TRUNC, 0o600, dir_fd=self._stage.fd)
        with open(fd, "wb") as out:
            out.write(text.encode())

    def _read(self, name: bytes) -> str:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._stage.fd)
        with open(fd, "rb") as source:
            return source.read().decode(errors="replace")

    def finish(self) -> None:
        """All that was asked for is there: the mark goes last."""
        self._sweep()
        # Names reach the disk before bytes do. A machine that loses its power after a restore that ended well
        # would come back with empty files under whole names, and without the mark that says so.
        flush(self._base.fd)
        self._give_back()
        for name in (_WAS, _MARK):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._stage.fd)
        os.rmdir(STAGE, dir_fd=self._base.fd)
        flush(self._base.fd, all_=False)

    def give_up(self) -> None:
        """After an error. What is there stays, for after a disaster a part may be all there is; a target in
        which nothing was restored is left as it was found."""
        with suppress(OSError):
            self._sweep()  # halves of files only fill a disk that is full
            if set(os.listdir(self._base.fd)) <= {os.fsdecode(STAGE), "lost+found"}:
                self.finish()
            else:
                self._give_back()

    def _sweep(self) -> None:
        """Everything in our folder but the marks."""
        for name in map(os.fsencode, os.listdir(self._stage.fd)):
            if name not in (_MARK, _WAS):
                os.unlink(name, dir_fd=self._stage.fd)

    def check(self, path: bytes) -> None:
        """Raises Damage for a name that a restore must not touch."""
        why = why_unsafe(path)
        if why is None and path.split(b"/", 1)[0] == STAGE:
            why = "the restore's own folder"
        if why is not None:
            raise Damage(f"a listing names {quoted(path)}: {why}")

    def own(self, name: bytes) -> BinaryIO:
        """A new file in the restore's own folder, for as long as it runs."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return open(os.open(name, flags, 0o600, dir_fd=self._stage.fd), "w+b")

    def temporary(self) -> bytes:
        return b"%d" % next(self._numbers)

    def growing(self, temporary: bytes) -> int:
        """A descriptor of a file that is not whole yet."""
        return os.open(temporary, _CREATE, 0o600, dir_fd=self._stage.fd)

    def drop(self, temporary: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._stage.fd)

    def directory(self, path: bytes) -> None:
        """Make it and all above it. One that is there must be a directory, and no link to one."""
        self._below.make(path, found=self._take if self.resumed else None)

    def there(self, path: bytes) -> os.stat_result | None:
        """What has that name in the target; None when nothing has."""
        try:
            held, name = self._below.name(path)
            return os.stat(name, dir_fd=held.fd, follow_symlinks=False)
        except OSError as none:
            if none.errno not in (errno.ENOENT, *UNFIT):
                raise
            return None

    def reopened(self, path: bytes) -> int:
        """A file that is there, to read it. Raises OSError."""
        held, name = self._below.name(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=held.fd)

    def remove(self, path: bytes) -> None:
        held, name = self._below.name(path)
        os.unlink(name, dir_fd=held.fd)

    def mine(self, found: os.stat_result, node: Node) -> bool:
        """Whether a file that an earlier run left can be one that it made: owned as it left it. Another account that
        could write there may have put its own in place, and hold it open."""
        owner = node.uid if self._root else self._me[0]
        return stat.S_ISREG(found.st_mode) and found.st_uid == owner

    def publish(self, temporary: bytes, path: bytes) -> None:
        """Raises Damage when the name is taken: by another entry of the same listing."""
        held, name = self._below.name(path)
        try:
            rename_new(self._stage.fd, temporary, held.fd, name)
        except FileExistsError as there:
            raise twice(path) from there

    def dress_directory(self, node: Node) -> bool:
        """False: this restore did not make it. Raises Damage when something else has its name."""
        try:
            held = self._below.at(node.path)
        except OSError as none:
            if none.errno not in (errno.ENOENT, *UNFIT):
                raise
            return False
        self.dresser.dress(held.fd, node)
        return True

    def link(self, node: Node) -> bool:
        """One more name of what is there. False: its first name is not. Raises Unfit."""
        was = self.there(node.hard)
        if was is None:
            return False
        if stat.S_IFMT(was.st_mode) != _FORMAT[node.type]:
            raise Damage(f"a listing links {quoted(node.path)} to what is no {node.type}")
        if self.resumed and self.there(node.path) is not None:
            self.remove(node.path)
        held, first = self._below.name(node.hard)
        self._make(
            node,
            lambda at, name: os.link(
                first,
                name,
                src_dir_fd=held.fd,
                dst_dir_fd=at,
                follow_symlinks=False,
            ),
        )
        return True

    def make(self, node: Node) -> bool:
        """A symbolic link, pipe, socket or device. False: this account may not, or shall not. Raises Unfit."""
        if node.type in _DEVICES and not self.dresser.device(node):
            return False
        if (
            self.resumed
            and (was := self.there(node.path)) is not None
            and not stat.S_ISDIR(was.st_mode)
        ):
            self.remove(node.path)

        def one(at: int, name: bytes) -> None:
            if node.type is Type.LINK:
                os.symlink(node.target, name, dir_fd=at)
            else:
                device = os.makedev(*node.rdev)
                os.mknod(name, SPECIAL[node.type] | 0o600, device, dir_fd=at)

        try:
            self._make(node, one)
        except PermissionError as refused:
            self.dresser.not_set(node.path, f"{node.type} not made: {refused.strerror}")
            return False
        held, name = self._below.name(node.path)
        fd = os.open(name, _LOOK, dir_fd=held.fd)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != _FORMAT[node.type]:
                raise twice(node.path)
            self.dresser.dress(f"/proc/self/fd/{fd}", node)
        except FileNotFoundError:
            self.dresser.not_set(node.path, "owner, mode and times: /proc is not mounted")
        finally:
            os.close(fd)
        return True

    def _make(self, node: Node, one: Callable[[int, bytes], None]) -> None:
        try:
            held, name = self._below.name(node.path)
            one(held.fd, name)
        except FileExistsError as there:
            raise twice(node.path) from there
        except OSError as unfit:
            if isinstance(unfit, PermissionError) and node.type is not Type.FILE:
                raise
            if unfit.errno not in _UNMADE:
                raise
            raise Unfit(unfit.strerror) from unfit

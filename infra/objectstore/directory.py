"""A store that is a directory: `file:///srv/repository`, for a disk that is carried away.

A directory cannot hold an attacker off: there is no retention and there are no versions. `create` is still
crash-safe and has one winner: the bytes are flushed under a temporary name, then linked to the real one.

Others may write in it, and a link that they plant must lead nobody out: below the root, which the operator names,
everything is opened and removed through descriptors that were reached through no symbolic link.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from infra.objectstore.contract import AlreadyThere, NotThere, Stat
from zaibei.kernel import direct
from zaibei.kernel.beneath import DIRECTORY, LINKED, Directory, open_below
from zaibei.kernel.errors import Damage, NoSpace, Refused, Unreachable, Usage

_TEMPORARY = ".tmp-"  # names of files that are not objects yet
_UNFINISHED = re.compile(r"\.tmp-[0-9a-f]{16}")  # as we name them, to the last character
_NO_SPACE = (28, 122)  # ENOSPC, EDQUOT
# A FIFO in the place of an object would hang whoever opens it, and a link would lead out of the directory.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryStore:
    def __init__(self, root: Path, *, lock: bool = True) -> None:
        """`lock=False`: the caller knows that nothing here is protected, and asks for it."""
        self.root = self._root = root
        self._lock = lock
        self._flushed: set[str] = set()  # directories whose own names are known to be on the disk

    @property
    def name(self) -> str:
        return self._root.absolute().as_uri()

    def now(self) -> datetime:
        """Of the file system, which may be another machine's."""
        with _told(self.name):
            self._make_root()
            root = self._opened("")
            temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
            try:
                fd = os.open(temporary, _CREATE, 0o600, dir_fd=root.fd)
                try:
                    return _modified(os.fstat(fd))
                finally:
                    os.close(fd)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=root.fd)

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        if retain_until is not None:
            self._no_lock()
        above, name = _split(key)
        with _told(self.name):
            held = self._made(above)
            temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
            try:
                fd = os.open(temporary, _CREATE, 0o600, dir_fd=held.fd)
                try:
                    direct.pwrite(fd, data, 0)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                # link, not rename: rename would replace what another writer has put there.
                os.link(
                    temporary, name, src_dir_fd=held.fd, dst_dir_fd=held.fd, follow_symlinks=False
                )
            except FileExistsError as there:
                with suppress(FileNotFoundError):
                    # Not there to be read either: who lost to another writer would ask for what that one wrote.
                    if stat.S_ISDIR(mode := _look(held, name).st_mode):
                        raise self._strange(key, mode) from there
                raise AlreadyThere(f"{self.name}: {key} is already there") from there
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=held.fd)
            os.fsync(held.fd)
        return None

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        above, name = _split(key)
        with _told(self.name, key):
            held = self._opened(above)
            try:
                fd = os.open(name, _READ, dir_fd=held.fd)
            except OSError as bad:
                # ELOOP is O_NOFOLLOW's answer, ENXIO a socket's.
                if bad.errno in (errno.ELOOP, errno.ENXIO):
                    raise self._strange(key, _look(held, name).st_mode) from bad
                raise
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                os.close(fd)
                raise self._strange(key, mode)
            with os.fdopen(fd, "rb") as source:
                source.seek(start)
                return source.read(-1 if length is None else length)

    def stat(self, key: str) -> Stat:
        above, name = _split(key)
        with _told(self.name, key):
            found = _look(self._opened(above), name)
            if stat.S_ISDIR(found.st_mode):
                raise self._strange(key, found.st_mode)
            return _stat(key, found)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        yield from self._walk("", prefix)

    def remove(self, key: str, *, version: str | None = None) -> None:
        above, name = _split(key)
        with _told(self.name), suppress(FileNotFoundError):
            held = self._opened(above)
            os.unlink(name, dir_fd=held.fd)
            os.fsync(held.fd)

    def retain(self, key: str, *, until: datetime, version: str | None = None) -> None:
        self._no_lock()
        self.stat(key)

    def unfinished(self, before: datetime, *, remove: bool) -> int:
        """Files that writers who were killed left, none younger than `before`: how many."""
        count = 0
        with _told(self.name), suppress(FileNotFoundError):
            root = self._opened("")
            for _, _, names, at in os.fwalk(".", dir_fd=root.fd):
                for name in filter(_UNFINISHED.fullmatch, names):
                    with suppress(FileNotFoundError):
                        found = os.stat(name, dir_fd=at, follow_symlinks=False)
                        if not stat.S_ISREG(found.st_mode) or _modified(found) >= before:
                            continue
                        if remove:
                            os.unlink(name, dir_fd=at)
                        count += 1
        return count

    def _walk(self, above: str, prefix: str) -> Iterator[Stat]:
        with _told(self.name):
            try:
                held = self._opened(above)
                entries = [(e.name, e.is_dir(follow_symlinks=False)) for e in os.scandir(held.fd)]
            except FileNotFoundError:
                return
        # A directory sorts as `name/`: `a-b` comes before `a/b`, as the keys do.
        entries.sort(key=lambda e: os.fsencode(e[0] + "/" if e[1] else e[0]))
        for name, is_directory in entries:
            key = above + name
            if is_directory:
                below = f"{key}/"
                if below.startswith(prefix) or prefix.startswith(below):
                    yield from self._walk(below, prefix)
            elif not name.startswith(_TEMPORARY) and key.startswith(prefix):
                with _told(self.name), suppress(FileNotFoundError):  # removed while we walk
                    yield _stat(key, _look(held, name))

    def _strange(self, key: str, mode: int) -> Damage:
        what = {
            stat.S_IFIFO: "a FIFO",
            stat.S_IFDIR: "a directory",
            stat.S_IFLNK: "a symbolic link",
            stat.S_IFSOCK: "a socket",
        }
        return Damage(
            f"{self.name}: {key} is {what.get(stat.S_IFMT(mode), 'a device')} and not a file",
            hint=f"somebody put it there: look at it, and remove it: {self._root / key}",
        )

    def _opened(self, above: str) -> Directory:
        """The directory of a key: `above` is empty or ends with a slash. Raises Damage for a link on the way."""
        root = Directory(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        if not above:
            return root
        try:
            return Directory(open_below(root.fd, os.fsencode(above.rstrip("/"))))
        except OSError as bad:
            if bad.errno == errno.ELOOP:
                raise self._linked(above) from bad
            raise

    def _linked(self, above: str) -> Damage:
        return Damage(
            f"{self.name}: {above} leads through a symbolic link",
            hint=f"somebody put it there: look at it, and remove it: {self._root / above}",
        )

    def _made(self, above: str) -> Directory:
        """mkdir -p whose names survive a power loss.

        Also a directory that is already there is flushed once: the writer who made it may not have
        come to that yet, and our object would vanish with the name.
        """
        if above in self._flushed:
            return self._opened(above)
        self._make_root()
        held, at = self._opened(""), ""
        for part in above.split("/")[:-1]:
            at = f"{at}{part}/"
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=held.fd)
            try:
                below = Directory(os.open(part, DIRECTORY, dir_fd=held.fd))
            except OSError as other:
                if other.errno not in LINKED:
                    raise
                if stat.S_ISLNK(_look(held, part).st_mode):
                    raise self._linked(at) from other
                raise Usage(
                    f"{self._root / at} is an object: a directory cannot hold `k` and `k/sub` both"
                ) from other
            os.fsync(held.fd)
            self._flushed.add(at)
            held = below
        return held

    def _make_root(self) -> None:
        if "" in self._flushed:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError) as bad:
            raise Usage(
                f"{self.name}: no directory can be made there: {bad.strerror}",
                hint="file:///DIR is a directory on a disk that is mounted",
            ) from bad
        _flush_directory(self._root.parent)
        self._flushed.add("")

    def _no_lock(self) -> None:
        if self._lock:
            raise Refused(
                f"{self.name}: a directory cannot lock objects: root can remove them at any time",
                hint="use an S3 store that `zaibei store probe --role vault` admits, or ask for a "
                "repository without lock",
            )


class _told:  # noqa: N801 — reads as a verb at its place
    """The system's errors in the words of the contract."""

    def __init__(self, store: str, key: str | None = None) -> None:
        self._store, self._key = store, key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        gone = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if gone and self._key is not None:
            raise NotThere(f"{self._store}: {self._key} is not there") from error
        what = f"{self._store}: {error.strerror}: {error.filename}"
        if gone or isinstance(error, FileExistsError) or error.errno == errno.ELOOP:
            raise Refused(what, hint="is it a directory, and is its disk mounted?") from error
        if error.errno == errno.EROFS:
            raise Refused(
                what, hint="it is mounted read-only: what writes needs it mounted for writing"
            ) from error
        if isinstance(error, PermissionError):
            raise Refused(what, hint="run as an account that may, or change who owns it") from error
        if error.errno in _NO_SPACE:
            raise NoSpace(f"{self._store}: {error.strerror}") from error
        raise Unreachable(what) from error


def _modified(found: os.stat_result) -> datetime:
    return datetime.fromtimestamp(found.st_mtime, UTC)


def _flush_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _split(key: str) -> tuple[str, str]:
    """The directory of a key, empty or with its slash, and the name in it."""
    parts = key.split("/")
    if any(p in ("", ".", "..") or p.startswith(_TEMPORARY) or "\0" in p for p in parts):
        raise Usage(f"not a key for a directory: {key!r}")
    return key[: -len(parts[-1])], parts[-1]


def _look(held: Directory, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=held.fd, follow_symlinks=False)


def _stat(key: str, found: os.stat_result) -> Stat:
    """What is no file has a name and no bytes: left out of the listing, nobody would be told of it."""
    return Stat(
        key=key,
        size_bytes=found.st_size if stat.S_ISREG(found.st_mode) else 0,
        version=None,
        modified=_modified(found),
    )

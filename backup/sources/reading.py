"""Read one entry of a tree into a run: its data, its attributes, its holes, and the other names that it has.

A file that changes while it is read is read again, because half of one write and half of another is no copy. One that
changes every time is kept as it came, and marked.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH115

import errno
import io
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from backup.format.tree import HOLES_MAX, XATTR_BYTES_MAX, Extent, Node, Type, segments
from backup.sources.chunker import Cutter, Source
from backup.sources.fanout import Fanout
from backup.sources.parent import Parents
from backup.sources.walk import Entry, Rules

PROBLEMS_MAX: Final = 1000  # listed in the snapshot; the count is always exact
AGAIN_MAX: Final = 2  # times that a file is read again which changed meanwhile
AGAIN_BYTES_MAX: Final = 64 << 20  # a larger one once: it may change in every night
TORN: Final = "changed while it was read"
_BLOCK = 512  # what st_blocks counts
_AT_ONCE = 256 << 10  # a file up to here is read by one call
_OF = {
    stat.S_IFREG: Type.FILE,
    stat.S_IFDIR: Type.DIRECTORY,
    stat.S_IFLNK: Type.LINK,
    stat.S_IFIFO: Type.FIFO,
    stat.S_IFSOCK: Type.SOCKET,
    stat.S_IFCHR: Type.CHAR,
    stat.S_IFBLK: Type.BLOCK,
}


@dataclass(slots=True)
class Problems:
    """What could not be read. What the operator allowed to fail is told, and makes no run incomplete."""

    allow: Rules
    lines: list[str] = field(default_factory=list)
    count: int = 0
    allowed: list[str] = field(default_factory=list)
    allowed_count: int = 0

    def add(self, path: bytes, why: str) -> None:
        line = f"{os.fsdecode(path)!a}: {why}"
        below = path.partition(b"/")[2]
        if self.allow.match(below, directory=False) or self.allow.match(below, directory=True):
            self.allowed_count += 1
            self.allowed += [line] * (len(self.allowed) < PROBLEMS_MAX)
            return
        self.count += 1
        self.lines += [line] * (len(self.lines) < PROBLEMS_MAX)

    def os(self, path: bytes, bad: OSError) -> None:
        self.add(path, bad.strerror or str(bad))


@dataclass(slots=True, kw_only=True)
class Reading:
    """What the entries of one run share."""

    out: Fanout
    cutter: Cutter
    parents: Parents
    problems: Problems
    # The first name of each file that has several, and how many of its names are still to come.
    links: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)
    excluded: int = 0
    skipped: int = 0
    things: int = 0  # all but directories

    def leave_out(self) -> None:
        self.excluded += 1


def add(run: Reading, entry: Entry) -> None:
    type_ = _OF[stat.S_IFMT(entry.info.st_mode)]
    try:
        if type_ is Type.FILE:
            _add_file(run, entry)
            return
        hard = b"" if type_ is Type.DIRECTORY else _first_name(run, entry.path, entry.info)
        node = _node(run, entry, type_, entry.info, entry.real, hard=hard)
        if type_ is Type.LINK:
            node = replace(node, target=os.readlink(entry.real))
        elif type_ in (Type.CHAR, Type.BLOCK):
            node = replace(node, rdev=(os.major(entry.info.st_rdev), os.minor(entry.info.st_rdev)))
        run.out.add(node)
        if type_ is not Type.DIRECTORY:
            _remember_name(run, entry.path, entry.info)
    except OSError as bad:
        run.problems.os(entry.path, bad)


class _Torn(Exception):
    """The file changed while it was read, and may be read again."""


def _add_file(run: Reading, entry: Entry) -> None:
    if (known := run.parents.unchanged(entry.path, entry.info)) is not None:
        node, first = known[0], _first_name(run, entry.path, entry.info)
        if node.hard != first:
            node = replace(node, hard=first)
        if run.out.reuse(node, [n.blobs for n in known]):
            run.skipped += 1
            _remember_name(run, entry.path, entry.info)
            return
    # O_NOFOLLOW and the second look: between the walk and here somebody may have put a link or a pipe.
    fd = os.open(entry.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            run.problems.add(entry.path, "became something else while it was read")
            return
        again = AGAIN_MAX if before.st_size <= AGAIN_BYTES_MAX else 1
        for left in range(again, -1, -1):
            try:
                torn = _read_file(run, entry, fd, last=not left)
            except _Torn:
                continue
            break
    finally:
        os.close(fd)
    if torn:
        run.problems.add(entry.path, TORN)
    _remember_name(run, entry.path, before)


def _read_file(run: Reading, entry: Entry, fd: int, *, last: bool) -> bool:
    """Whether what was read is torn: half of one write and half of another. Raises _Torn instead, and adds nothing, while
    it may be read once more."""
    before = os.fstat(fd)
    hard = _first_name(run, entry.path, before)
    node = _node(run, entry, Type.FILE, before, fd, hard=hard)
    source: Source
    if before.st_blocks * _BLOCK < before.st_size and (holes := _holes(fd, before.st_size)):
        node = replace(node, holes=holes)
        source = _Dense(fd, segments(node))
    else:
        source = _source(fd, before.st_size)

    def whole(read: Node) -> Node:
        after = os.fstat(fd)
        if (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size) and (
            read.size_bytes == after.st_size
        ):
            return read
        if not last:
            raise _Torn
        return replace(read, torn=True)

    return run.out.add(node, run.cutter.cut(source), look=whole).torn


def _source(fd: int, size: int) -> Source:
    """The file from its first byte. A small one in hand: a read that gave less than it was asked for was all."""
    if size <= _AT_ONCE:
        data = os.pread(fd, size + 1, 0)
        if len(data) <= size:
            return io.BytesIO(data)
        # Else it grows, or its size says nothing, as under /proc.
    os.lseek(fd, 0, os.SEEK_SET)  # whoever looked for holes has moved
    return open(fd, "rb", buffering=0, closefd=False)


def _node(
    run: Reading,
    entry: Entry,
    type_: Type,
    now: os.stat_result,
    of: bytes | int,
    *,
    hard: bytes = b"",
) -> Node:
    return Node(
        path=entry.path,
        type=type_,
        size_bytes=now.st_size if type_ is Type.FILE else 0,
        hard=hard,
        mode=stat.S_IMODE(now.st_mode),
        mtime_ns=now.st_mtime_ns,
        uid=now.st_uid,
        gid=now.st_gid,
        xattrs=_attributes(of, lambda why: run.problems.add(entry.path, why)),
        ctime_ns=now.st_ctime_ns,
        device=now.st_dev,
        inode=now.st_ino,
    )


def _attributes(of: bytes | int, problem: Callable[[str], None]) -> tuple[tuple[bytes, bytes], ...]:
    """Sorted. One that vanishes between the two calls was not there."""
    follow = isinstance(of, int)
    found, size = [], 0
    try:
        for name in os.listxattr(of, follow_symlinks=follow):
            value = os.getxattr(of, name, follow_symlinks=follow)
            found.append((os.fsencode(name), value))
            size += len(name) + len(value)
    except OSError as bad:
        if bad.errno == errno.ENOTSUP:
            return ()
        if bad.errno != errno.ENODATA:
            problem(f"its attributes: {bad.strerror}")
    if size > XATTR_BYTES_MAX:
        problem(f"its attributes of {size} bytes are not kept; {XATTR_BYTES_MAX} is the limit")
        return ()
    return tuple(sorted(found))


def _first_name(run: Reading, path: bytes, info: os.stat_result) -> bytes:
    first, _ = run.links.get((info.st_dev, info.st_ino), (b"", 0))
    return first if first != path else b""


def _remember_name(run: Reading, path: bytes, info: os.stat_result) -> None:
    """Forgotten with the last name, so that what is held is bounded by the links that are open."""
    if info.st_nlink < 2:
        return
    key = (info.st_dev, info.st_ino)
    first, left = run.links.get(key, (path, info.st_nlink))
    if left > 1:
        run.links[key] = (first, left - 1)
    else:
        del run.links[key]


def _holes(fd: int, size: int) -> tuple[Extent, ...]:
    """Where nothing was ever written; empty when the filesystem does not say or there are too many."""
    found: list[Extent] = []
    at = 0
    while at < size:
        try:
            data = min(os.lseek(fd, at, os.SEEK_DATA), size)
        except OSError as end:
            if end.errno != errno.ENXIO:
                return ()
            data = size
        if data > at:
            found.append((at, data - at))
        if len(found) > HOLES_MAX:
            return ()
        at = os.lseek(fd, data, os.SEEK_HOLE) if data < size else size
    return tuple(found)


class _Dense:
    """A file's data one after the other, as if it had no holes."""

    def __init__(self, fd: int, where: Sequence[Extent]) -> None:
        self._fd = fd
        self._left = list(reversed(where))

    def read(self, size: int, /) -> bytes:
        while self._left:
            offset, length = self._left.pop()
            got = os.pread(self._fd, min(size, length), offset)
            if not got:  # it became shorter; the look afterwards tells
                self._left.clear()
            elif len(got) < length:
                self._left.append((offset + len(got), length - len(got)))
            if got:
                return got
        return b""

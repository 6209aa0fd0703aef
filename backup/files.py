"""A tree of files as a source. Names are bytes; what cannot be read is a problem of the run, never a hole
that nobody sees. Kept: extended attributes (ACLs are some), hard links, holes, pipes, sockets and devices.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH114, PTH115, PTH116, PTH119

import errno
import io
import os
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from backup.cut import Content as ByContent
from backup.cut import Cutter, Source
from backup.fanout import Fanout, Outcome
from backup.parent import Parents, parents
from backup.snapshot import Content
from backup.tree import HOLES_MAX, XATTR_BYTES_MAX, Extent, Node, Type, segments
from backup.walk import Entry, Rules, order, walk
from backup.writer import Writer
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Progress

PROBLEMS_MAX: Final = 1000  # listed in the snapshot; the count is always exact
SEED: Final = "cut_seed"  # a fact of the snapshot, which is sealed
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
class _Problems:
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, path: bytes, why: str) -> None:
        self.count += 1
        if len(self.lines) < PROBLEMS_MAX:
            self.lines.append(f"{os.fsdecode(path)!a}: {why}")

    def os(self, path: bytes, bad: OSError) -> None:
        self.add(path, bad.strerror or str(bad))


@dataclass(slots=True, kw_only=True)
class _Run:
    """What the entries of one run share."""

    out: Fanout
    cutter: Cutter
    parents: Parents
    problems: _Problems = field(default_factory=_Problems)
    # The first name of each file that has several, and how many of its names are still to come.
    links: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)
    excluded: int = 0
    skipped: int = 0

    def leave_out(self) -> None:
        self.excluded += 1


def backup_files(
    paths: Sequence[Path],
    writers: Sequence[Writer],
    *,
    clock: Clock,
    progress: Progress,
    label: str = "",
    cutter: Cutter | None = None,
    rules: Rules | None = None,
    skip_unchanged: bool = True,
) -> tuple[Outcome, ...]:
    """Each path under its own name; one that is a link itself is followed, and that is told. Raises Usage for one
    that is not there or two of one name."""
    rules = rules or Rules()
    roots = _roots(paths)
    shown = [_text(r) for r in roots.values()]
    followed = {r: os.path.realpath(r) for r in roots.values() if os.path.islink(r)}
    for link, real in followed.items():
        progress.note(f"{_text(link)} is a link: what it leads to is backed up, {_text(real)}")
    host, started = socket.gethostname(), clock.now()
    progress.step(f"reading {', '.join(shown)}")
    with Fanout(writers, progress) as out:
        known = Parents([], progress.note)
        if skip_unchanged:
            known = parents(
                writers,
                kind="files",
                host=host,
                facts={"roots": shown},
                order=order,
                note=progress.note,
            )
        out.expect(known.size_bytes())
        seed = _seed(writers, known)
        run = _Run(out=out, cutter=cutter or ByContent(seed), parents=known)
        try:
            for name, root in roots.items():
                for entry in walk(
                    followed.get(root, root),
                    name,
                    rules,
                    problem=run.problems.os,
                    excluded=run.leave_out,
                ):
                    _add(run, entry)
        finally:
            known.close()
        progress.step("committing")
        return out.commit(
            Content(
                kind="files",
                label=label,
                host=host,
                started=started,
                finished=clock.now(),
                tree=(),
                entries=0,
                size_bytes=0,
                complete=run.problems.count == 0,
                problems=tuple(run.problems.lines),
                facts={
                    "roots": shown,
                    "problems": run.problems.count,
                    "unchanged": run.skipped,
                    "excluded": run.excluded,
                    "rules": rules.told(),
                    "one_file_system": rules.one_file_system,
                    SEED: f"{seed:016x}",
                }
                | (
                    {"followed": {_text(a): _text(b) for a, b in followed.items()}}
                    if followed
                    else {}
                ),
            )
        )


def _seed(writers: Sequence[Writer], known: Parents) -> int:
    """The seed of the last run, while there is one: the source is read once and cut alike for all vaults, and
    a run that one vault misses must not cut the others' blobs anew."""
    said = known.fact(SEED)
    if isinstance(said, str):
        return int(said, 16) % 2**63
    return min((w.repository.config.repository, w.repository.keys.chunk) for w in writers)[1]


def _roots(paths: Sequence[Path]) -> dict[bytes, bytes]:
    """Name in the listing to path, in the order of the names."""
    named: dict[bytes, bytes] = {}
    for root in (os.fsencode(p.absolute()) for p in paths):
        name = os.path.basename(os.path.normpath(root)) or b"root"
        if name in named:
            raise Usage(
                f"two of the paths end in the same name: {_text(named[name])} and {_text(root)}",
                hint="back up the directory above both",
            )
        named[name] = root
        # A link that leads nowhere is a disk that is not mounted, more often than it is meant: backing up the link
        # alone would be a backup of nothing that says it is complete.
        try:
            os.stat(root)
        except OSError as bad:
            why = (bad.strerror or str(bad)).lower()
            to = f" (a link to {_text(os.readlink(root))})" if os.path.islink(root) else ""
            raise Usage(f"{_text(root)}{to}: {why}") from bad
    return dict(sorted(named.items()))


def _text(path: bytes) -> str:
    """For people and JSON; in any locale the same, because the next run finds this one by it."""
    return path.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()


def _add(run: _Run, entry: Entry) -> None:
    type_ = _OF[stat.S_IFMT(entry.info.st_mode)]
    try:
        if type_ is Type.FILE:
            _add_file(run, entry)
            return
        node = _node(run, entry, type_, entry.info, entry.real)
        if type_ is Type.LINK:
            node = replace(node, target=os.readlink(entry.real))
        elif type_ in (Type.CHAR, Type.BLOCK):
            node = replace(node, rdev=(os.major(entry.info.st_rdev), os.minor(entry.info.st_rdev)))
        run.out.add(node)
    except OSError as bad:
        run.problems.os(entry.path, bad)


def _add_file(run: _Run, entry: Entry) -> None:
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
        hard = _first_name(run, entry.path, before)
        node = _node(run, entry, Type.FILE, before, fd, hard=hard)
        if before.st_blocks * _BLOCK < before.st_size and (holes := _holes(fd, before.st_size)):
            node = replace(node, holes=holes)
            read = run.out.add(node, run.cutter.cut(_Dense(fd, segments(node))))
        else:
            read = run.out.add(node, run.cutter.cut(_source(fd, before.st_size)))
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size) or (
        read.size_bytes != after.st_size
    ):
        # The copy may hold half of one write and half of another.
        run.problems.add(entry.path, "changed while it was read")
    _remember_name(run, entry.path, before)


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
    run: _Run, entry: Entry, type_: Type, now: os.stat_result, of: bytes | int, *, hard: bytes = b""
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


def _first_name(run: _Run, path: bytes, info: os.stat_result) -> bytes:
    first, _ = run.links.get((info.st_dev, info.st_ino), (b"", 0))
    return first if first != path else b""


def _remember_name(run: _Run, path: bytes, info: os.stat_result) -> None:
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

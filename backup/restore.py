"""Files back from a snapshot, into a directory that is empty. Nothing outside it is ever touched.

Links are made last: until then every directory on every path was made by this restore, so no name in a
listing, however it was forged, leads out. What was written was authenticated blob by blob; it was not read
back from the disk, so the result is `restored`, not `verified`.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH101, PTH103, PTH118, PTH120, PTH211

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backup.errors import NotEmpty
from backup.reader import Reader
from backup.snapshot import Snapshot
from backup.tree import Node, Type, segments, why_unsafe
from zaibei.kernel.errors import Damage, NoSpace
from zaibei.kernel.progress import Progress

_SPECIAL = {
    Type.FIFO: stat.S_IFIFO,
    Type.SOCKET: stat.S_IFSOCK,
    Type.CHAR: stat.S_IFCHR,
    Type.BLOCK: stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    files: int
    directories: int
    links: int
    size_bytes: int
    special: int = 0
    unset: tuple[str, ...] = ()  # what this account or filesystem would not have


def restore_files(
    reader: Reader,
    snapshot: Snapshot,
    target: Path,
    *,
    progress: Progress,
    wanted: Callable[[bytes], bool] = lambda _: True,
) -> Restored:
    """Raises NotEmpty, NoSpace, Damage. After an error the target holds a part; it is not cleaned away,
    because after a disaster a part may be all there is."""
    with _disk(target):
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise NotEmpty(f"{target} is not empty", hint="restore into a new directory")
        return _restore(reader, snapshot, target, progress=progress, wanted=wanted)


def _restore(
    reader: Reader,
    snapshot: Snapshot,
    target: Path,
    *,
    progress: Progress,
    wanted: Callable[[bytes], bool],
) -> Restored:
    base = os.fsencode(target.resolve())
    late: list[tuple[bytes, Node]] = []  # links, and directories whose times and modes come last
    files = size = 0
    progress.step(f"restoring snapshot {snapshot.sequence} of {reader.repository.name}")
    for node in reader.nodes(snapshot):
        for name in (node.path, node.hard or node.path):
            if (why := why_unsafe(name)) is not None:
                raise Damage(f"a listing names {os.fsdecode(name)!a}: {why}")
        if not wanted(node.path):
            continue
        real = os.path.join(base, node.path)
        try:
            os.makedirs(os.path.dirname(real), mode=0o700, exist_ok=True)
            if node.type is Type.FILE and not (node.hard and wanted(node.hard)):
                _write(reader, node, real)
                files += 1
                size += node.size_bytes
                progress.done(size, snapshot.content.size_bytes, unit="B")
            elif node.type is Type.DIRECTORY:
                os.makedirs(real, mode=0o700, exist_ok=True)
                late.append((real, node))
            else:
                late.append((real, node))
        except (FileExistsError, NotADirectoryError) as twice:
            raise Damage(f"a listing names {os.fsdecode(node.path)!a} twice") from twice
    unset: list[str] = []
    # Hard links before symbolic ones: no name that is linked to may lead through one.
    for real, node in sorted(late, key=lambda one: one[1].type is Type.LINK):
        if node.type is Type.DIRECTORY:
            continue
        try:
            made = _late(real, node, base, unset)
        except FileExistsError as twice:
            raise Damage(f"a listing names {os.fsdecode(node.path)!a} twice") from twice
        if made:
            _own(real, node)
            _attributes(real, node, unset)
            if node.type is not Type.LINK:
                os.chmod(real, node.mode)
            os.utime(real, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)
    for real, node in reversed(late):
        if node.type is Type.DIRECTORY:
            _own(real, node)
            os.chmod(real, node.mode)
            _attributes(real, node, unset)
            os.utime(real, ns=(node.mtime_ns, node.mtime_ns))
    count = Counter(n.type for _, n in late)
    return Restored(
        files=files + count[Type.FILE],
        directories=count[Type.DIRECTORY],
        links=count[Type.LINK],
        special=sum(count[t] for t in _SPECIAL),
        size_bytes=size,
        unset=tuple(unset),
    )


def _late(real: bytes, node: Node, base: bytes, unset: list[str]) -> bool:
    """A link or special file. False: it shares its attributes with another name, or could not be made."""
    if node.hard:
        try:
            os.link(os.path.join(base, node.hard), real, follow_symlinks=False)
        except FileNotFoundError as none:
            raise Damage(
                f"a listing links {os.fsdecode(node.path)!a} to what is not there"
            ) from none
        return False
    if node.type is Type.LINK:
        os.symlink(node.target, real)
        return True
    try:
        os.mknod(real, _SPECIAL[node.type] | 0o600, os.makedev(*node.rdev))
    except PermissionError as refused:
        unset.append(f"{os.fsdecode(node.path)!a}: {node.type}: {refused.strerror}")
        return False
    return True


def _write(reader: Reader, node: Node, real: bytes) -> None:
    fd = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        size = 0
        where = iter(segments(node))
        left = 0
        for data in reader.read_all(node.blobs):
            size += len(data)
            rest = memoryview(data)
            while rest:
                if not left:
                    offset, left = next(where, (None, len(rest)))
                    if offset is not None:
                        out.seek(offset)
                out.write(rest[:left])
                rest, left = rest[left:], max(0, left - len(rest))
        if size != node.data_bytes:
            raise Damage(f"{os.fsdecode(node.path)!a}: {size} bytes of {node.data_bytes}")
        out.truncate(node.size_bytes)
        out.flush()
        _own(real, node)
        os.fchmod(fd, node.mode)
        _attributes(real, node, [])
    os.utime(real, ns=(node.mtime_ns, node.mtime_ns))


def _attributes(real: bytes, node: Node, unset: list[str]) -> None:
    for name, value in node.xattrs:
        try:
            os.setxattr(real, name, value, follow_symlinks=False)
        except OSError as refused:
            unset.append(f"{os.fsdecode(node.path)!a}: {os.fsdecode(name)}: {refused.strerror}")


def _own(real: bytes, node: Node) -> None:
    # Only root may give files away; for anybody else what is restored is theirs.
    if os.geteuid() == 0:
        os.chown(real, node.uid, node.gid, follow_symlinks=False)


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        if bad.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"{target}: the disk is full",
                hint="restore to a larger disk; what is there now is a part",
            ) from bad
        raise

"""A tree of files as a source. Names are bytes; what cannot be read is a problem of the run, never a hole
that nobody sees. Sockets, pipes and devices hold no data and are skipped; extended attributes are not kept.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH115, PTH118, PTH119, PTH208

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from backup.cut import OTHER, Cutter
from backup.fanout import Fanout, Outcome
from backup.snapshot import Content
from backup.tree import Node, Type
from backup.writer import Writer
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Progress

PROBLEMS_MAX: Final = 1000  # listed in the snapshot; the count is always exact
_OF = {
    stat.S_IFREG: Type.FILE,
    stat.S_IFDIR: Type.DIRECTORY,
    stat.S_IFLNK: Type.LINK,
}


class _MakeNode(Protocol):
    def __call__(self, now: os.stat_result, target: bytes = b"") -> Node: ...


@dataclass(slots=True)
class _Problems:
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, path: bytes, why: str) -> None:
        self.count += 1
        if len(self.lines) < PROBLEMS_MAX:
            self.lines.append(f"{os.fsdecode(path)!a}: {why}")


def backup_files(
    paths: Sequence[Path],
    writers: Sequence[Writer],
    *,
    clock: Clock,
    progress: Progress,
    label: str = "",
    cutter: Cutter = OTHER,
) -> tuple[Outcome, ...]:
    """Each path under its own name. Raises Usage for one that is not there or two of one name."""
    roots = [os.fsencode(p.absolute()) for p in paths]
    names = [os.path.basename(os.path.normpath(r)) or b"root" for r in roots]
    if len(set(names)) != len(names):
        raise Usage(
            "two of the paths end in the same name", hint="back up the directory above both"
        )
    for root in roots:
        if not os.path.lexists(root):
            raise Usage(f"{os.fsdecode(root)}: no such file or directory")
    started, problems, skipped = clock.now(), _Problems(), 0
    progress.step(f"reading {', '.join(os.fsdecode(r) for r in roots)}")
    with Fanout(writers, progress) as out:
        for root, name in zip(roots, names, strict=True):
            for real, path, info in _walk(root, name, problems):
                type_ = _OF.get(stat.S_IFMT(info.st_mode))
                if type_ is None:
                    skipped += 1
                    continue
                _add(out, real, path, info, type_, cutter, problems)
        progress.step("committing")
        return out.commit(
            Content(
                kind="files",
                label=label,
                host=socket.gethostname(),
                started=started,
                finished=clock.now(),
                tree=(),
                entries=0,
                size_bytes=0,
                complete=problems.count == 0,
                problems=tuple(problems.lines),
                facts={
                    "roots": [os.fsdecode(r).encode(errors="replace").decode() for r in roots],
                    "problems": problems.count,
                    "special_files_skipped": skipped,
                },
            )
        )


def _walk(
    root: bytes, name: bytes, problems: _Problems
) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Depth first, names sorted, a directory before what is in it. Links are not followed."""
    waiting = [(root, name)]
    while waiting:
        real, path = waiting.pop()
        try:
            info = os.lstat(real)
            yield real, path, info
            if stat.S_ISDIR(info.st_mode):
                below = sorted(os.listdir(real), reverse=True)
                waiting += [(os.path.join(real, b), path + b"/" + b) for b in below]
        except OSError as bad:
            problems.add(path, bad.strerror or str(bad))


def _add(
    out: Fanout,
    real: bytes,
    path: bytes,
    info: os.stat_result,
    type_: Type,
    cutter: Cutter,
    problems: _Problems,
) -> None:
    def node(now: os.stat_result, target: bytes = b"") -> Node:
        return Node(
            path=path,
            type=type_,
            mode=stat.S_IMODE(now.st_mode),
            mtime_ns=now.st_mtime_ns,
            uid=now.st_uid,
            gid=now.st_gid,
            target=target,
        )

    try:
        if type_ is Type.LINK:
            out.add(node(info, os.readlink(real)))
        elif type_ is Type.DIRECTORY:
            out.add(node(info))
        else:
            _add_file(out, real, path, node, cutter, problems)
    except OSError as bad:
        problems.add(path, bad.strerror or str(bad))


def _add_file(
    out: Fanout,
    real: bytes,
    path: bytes,
    node: _MakeNode,
    cutter: Cutter,
    problems: _Problems,
) -> None:
    # O_NOFOLLOW and the second look: between the walk and here somebody may have put a link or a pipe.
    fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as source:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            problems.add(path, "became something else while it was read")
            return
        read = out.add(node(before), cutter.cut(source))
        after = os.fstat(fd)
    if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size) or (
        read.size_bytes != after.st_size
    ):
        # The copy may hold half of one write and half of another.
        problems.add(path, "changed while it was read")

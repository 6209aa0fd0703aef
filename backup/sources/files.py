"""A tree of files as a source. Names are bytes; what cannot be read is a problem of the run, never a hole
that nobody sees. Kept: extended attributes (ACLs are some), hard links, holes, pipes, sockets and devices.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH114

import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from backup.format.snapshot import Content
from backup.format.tree import Node, Type, why_unsafe
from backup.sources.chunker import Content as ByContent
from backup.sources.chunker import Cutter
from backup.sources.fanout import Fanout, Judge, Outcome
from backup.sources.parent import Parents, parents
from backup.sources.reading import PROBLEMS_MAX, Problems, Reading, add
from backup.sources.roots import Root, roots, shown
from backup.sources.walk import Rules, order, walk
from backup.writer.writer import Writer
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Progress

IDLE_TOLD: Final = 20  # rules that matched nothing, while it runs; the snapshot has them all
SEED: Final = "cut_seed"  # a fact of the snapshot, which is sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of a tree is wanted, and what may be missing."""

    rules: Rules = field(default_factory=Rules)
    unreadable: Rules = field(default_factory=Rules)  # these may fail
    allow_empty: bool = False
    skip_unchanged: bool = True
    host: str = ""  # whose files they are; empty: this machine's


def backup_files(
    paths: Sequence[Path | Root],
    writers: Sequence[Writer],
    *,
    clock: Clock,
    progress: Progress,
    label: str = "",
    cutter: Cutter | None = None,
    asked: Asked | None = None,
    judge: Judge | None = None,
) -> tuple[Outcome, ...]:
    """Each path under its own name; one that is a link itself is followed, and that is told. Raises Usage for one
    that is not there or two of one name."""
    asked = asked or Asked()
    rules = asked.rules
    given = [p if isinstance(p, Root) else Root(p) for p in paths]
    named = roots(given)
    told = [shown(r) for r in named.values()]
    names = {str(r.path.absolute()): r.name for r in given if r.name}
    followed = {r: os.path.realpath(r) for r in named.values() if os.path.islink(r)}
    for link, real in followed.items():
        progress.note(f"{shown(link)} is a link: what it leads to is backed up, {shown(real)}")
    host, started = asked.host or socket.gethostname(), clock.now()
    vaults = _own_directories(writers)
    progress.step(f"reading {', '.join(told)}")
    with Fanout(writers, progress, judge=judge) as out:
        known = Parents([], progress.note)
        if asked.skip_unchanged:
            known = parents(
                writers,
                kind="files",
                host=host,
                facts={"roots": told, "names": names or None},
                order=order,
                note=progress.note,
            )
        out.expect(known.size_bytes())
        seed = _seed(writers, known)
        run = Reading(
            out=out,
            cutter=cutter or ByContent(seed),
            parents=known,
            problems=Problems(asked.unreadable),
        )
        own: list[str] = []

        def leave(path: bytes, info: os.stat_result) -> bool:
            if (info.st_dev, info.st_ino) not in vaults:
                return False
            own.append(shown(path))
            progress.note(f"{shown(path)} is a repository of this run: left out")
            return True

        try:
            for name, root in named.items():
                real = followed.get(root, root)
                for entry in walk(
                    real,
                    name,
                    rules.at([(root, b""), (real, b"")]),
                    problem=run.problems.os,
                    excluded=run.leave_out,
                    leave=leave,
                ):
                    run.things += not stat.S_ISDIR(entry.info.st_mode)
                    add(run, entry)
            had = known.size_bytes() is not None
        finally:
            known.close()
        if not (run.things or had or asked.allow_empty or run.problems.count):
            run.problems.lines.append(f"0 files in {', '.join(told)}: is a disk not mounted?")
            run.problems.count += 1
        for idle in (*rules.idle()[:IDLE_TOLD], *asked.unreadable.idle()[:IDLE_TOLD]):
            progress.note(f"{idle}: matched nothing; rules are relative to each --files path")
        progress.step("committing")
        more: dict[str, Any] = {
            "names": names,
            "own_repositories": own,
            "idle_rules": [*rules.idle(), *asked.unreadable.idle()][:PROBLEMS_MAX],
            "allowed": run.problems.allowed_count,
            "allowed_problems": run.problems.allowed,
            "allow_unreadable": asked.unreadable.told(),
            "followed": {shown(a): shown(b) for a, b in followed.items()},
        }
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
                    "roots": told,
                    "problems": run.problems.count,
                    "unchanged": run.skipped,
                    "excluded": run.excluded,
                    "rules": rules.told(),
                    "one_file_system": rules.one_file_system,
                    SEED: f"{seed:016x}",
                }
                | {name: said for name, said in more.items() if said},
            )
        )


def backup_stream(
    stream: BinaryIO,
    name: str,
    writers: Sequence[Writer],
    *,
    clock: Clock,
    progress: Progress,
    label: str = "",
    asked: Asked | None = None,
    judge: Judge | None = None,
) -> tuple[Outcome, ...]:
    """One file of what a program writes, as it comes. Whether that program ended well cannot be seen from here; that it
    wrote nothing can, and makes the run incomplete unless that is allowed."""
    asked = asked or Asked()
    path = os.fsencode(name)
    if why_unsafe(path) is not None or b"/" in path:
        raise Usage(f"--stdin {name!a}: not a name of one part")
    started = clock.now()
    seed = _seed(writers, Parents([], progress.note))
    progress.step(f"reading standard input as {name}")
    with Fanout(writers, progress, judge=judge) as out:
        node = Node(
            path=path,
            type=Type.FILE,
            mode=0o600,
            mtime_ns=int(started.timestamp()) * 1_000_000_000,
            uid=os.geteuid(),
            gid=os.getegid(),
        )
        read = out.add(node, ByContent(seed).cut(stream))
        empty = not read.size_bytes and not asked.allow_empty
        return out.commit(
            Content(
                kind="files",
                label=label,
                host=asked.host or socket.gethostname(),
                started=started,
                finished=clock.now(),
                tree=(),
                entries=0,
                size_bytes=0,
                complete=not empty,
                problems=(f"{name!a}: standard input was empty",) if empty else (),
                facts={"roots": [f"stdin:{name}"], "problems": int(empty), SEED: f"{seed:016x}"},
            )
        )


def _own_directories(writers: Sequence[Writer]) -> set[tuple[int, int]]:
    """Where the vaults of this run lie on this machine: in a backup of themselves they would grow with each run."""
    found = set()
    for w in writers:
        root = getattr(w.repository.store, "root", None)
        if isinstance(root, Path) and root.is_dir():
            info = root.stat()
            found.add((info.st_dev, info.st_ino))
    return found


def _seed(writers: Sequence[Writer], known: Parents) -> int:
    """The seed of the last run, while there is one: the source is read once and cut alike for all vaults, and
    a run that one vault misses must not cut the others' blobs anew."""
    said = known.fact(SEED)
    if isinstance(said, str):
        return int(said, 16) % 2**63
    return min((w.repository.config.repository, w.repository.keys.chunk) for w in writers)[1]

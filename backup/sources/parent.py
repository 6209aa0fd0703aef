"""Skips unchanged files: reads what the last backup of the same tree listed beside this run.

A file whose size, times and inode are those of the listing is not read again. Each vault has its
own listing, because ids differ. A file counts as unchanged only when its last change lies clearly
before the listing was begun: within one tick of the filesystem's clock a file can change twice and
show one time.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from backup.format.snapshot import Snapshot
from backup.format.tree import Node, Type
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.writer.writer import Writer
from zaibei.kernel.errors import ZaibeiError

LOOK_BACK: Final = 64  # snapshots; an older parent is not looked for
FILES: Final = "files"  # a source whose every entry is compared with what is there
MARGIN: Final = timedelta(seconds=1)
Order = Callable[[bytes], bytes]


class Parent:
    """One vault's listing, read once from front to back. Used by one thread."""

    def __init__(self, reader: Reader, snapshot: Snapshot, order: Order) -> None:
        self._reader, self._order = reader, order
        self.snapshot = snapshot
        settled = snapshot.content.started - MARGIN
        self.settled_ns = int(settled.timestamp()) * 1_000_000_000
        self._nodes: Iterator[Node] = reader.nodes(snapshot)
        self._next = next(self._nodes, None)

    def at(self, path: bytes) -> list[Node]:
        """The entries of that path. Paths are asked for in rising order."""
        # Mostly it is the one that comes next.
        if self._next is not None and self._next.path != path:
            wanted = self._order(path)
            while self._next is not None and self._order(self._next.path) < wanted:
                self._next = next(self._nodes, None)
        found = []
        while self._next is not None and self._next.path == path:
            found.append(self._next)
            self._next = next(self._nodes, None)
        return found

    def close(self) -> None:
        self._reader.close()


class Parents:
    """The parents of one run, a vault each; a vault without one has None."""

    def __init__(self, parents: Sequence[Parent | None], note: Callable[[str], None]) -> None:
        self._parents = list(parents)
        self._note = note

    def size_bytes(self) -> int | None:
        """How large the source was then: the best guess of what it is now."""
        said = [p.snapshot.content.size_bytes for p in self._parents if p is not None]
        return max(said, default=None)

    def fact(self, name: str) -> Any:
        """What the first vault that has a parent says about it; None when none does."""
        said = [p.snapshot.content.facts.get(name) for p in self._parents if p is not None]
        return next((s for s in said if s is not None), None)

    def at(self, path: bytes) -> list[list[Node]] | None:
        """What every vault listed there; None when one of them cannot say: then the source is read."""
        if not self._parents or None in self._parents:
            return None
        try:
            return [p.at(path) for p in self._parents if p is not None]
        except ZaibeiError as bad:
            # A damaged listing costs reading everything again, and no backup.
            self._note(f"unchanged files cannot be told any more: {bad.message}")
            self.close()
            return None

    def unchanged(self, path: bytes, info: os.stat_result) -> list[Node] | None:
        """The file as each vault listed it, when it is still that file."""
        listed = self.at(path)
        if listed is None or not all(listed):
            return None
        found = [nodes[0] for nodes in listed]
        settled = min(p.settled_ns for p in self._parents if p is not None)
        return found if all(_same(n, info, settled) for n in found) else None

    def close(self) -> None:
        for p in self._parents:
            if p is not None:
                p.close()
        self._parents = [None] * len(self._parents)


def parents(
    writers: Sequence[Writer],
    *,
    kind: str,
    host: str | None,
    facts: Mapping[str, Any],
    order: Order,
    note: Callable[[str], None],
) -> Parents:
    """The newest snapshot of the same source in each vault: same kind and `facts`; and `host`, where the source is a
    host's own. Also an incomplete one: what it lists was read, and what it lacks is looked for and read."""
    found: list[Parent | None] = []
    for writer in writers:
        one: Parent | None = None
        repo = writer.repository
        try:
            snapshot = _newest(repo, kind=kind, host=host, facts=facts)
            if snapshot is not None:
                one = Parent(Reader(repo, writer.catalogue), snapshot, order)
        except ZaibeiError as bad:
            note(f"{repo.name}: the last listing cannot be read, so all is read: {bad.message}")
        found.append(one)
    return Parents(found, note)


def _newest(
    repo: Repository, *, kind: str, host: str | None, facts: Mapping[str, Any]
) -> Snapshot | None:
    for sequence in sorted(repo.sequences(), reverse=True)[:LOOK_BACK]:
        one = repo.snapshot(sequence)
        c = one.content
        same = c.kind == kind and host in (None, c.host)
        if (
            same
            and (c.complete or kind == FILES)
            and all(c.facts.get(k) == v for k, v in facts.items())
        ):
            return one
    return None


def _same(node: Node, info: os.stat_result, settled_ns: int) -> bool:
    return (
        node.type is Type.FILE
        and not node.torn
        and node.inode == info.st_ino
        and node.ctime_ns == info.st_ctime_ns < settled_ns
        and node.mtime_ns == info.st_mtime_ns
        and node.size_bytes == info.st_size
    )

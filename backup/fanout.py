"""Read once, write to every vault. A vault that fails is left behind and said; the others go on.

Memory is bounded: at most PIECES_IN_FLIGHT chunks are between the source and the packs, and at most
ENTRIES_OPEN files wait for their blobs' ids.
"""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, Self

from backup import tree
from backup.blob import Chunk, Kind
from backup.errors import Incomplete
from backup.guard.heads import Heads
from backup.snapshot import Content, Snapshot
from backup.tree import TREE_BYTES, Node
from backup.writer import Writer, Written
from zaibei.kernel.errors import ZaibeiError
from zaibei.kernel.progress import Progress

WORKERS: Final = 3
PIECES_IN_FLIGHT: Final = 32
ENTRIES_OPEN: Final = 512
_Ids = tuple[bytes | None, ...]  # one a vault; None where the vault has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a run in one vault."""

    vault: str
    snapshot: Snapshot | None
    written: Written | None
    error: str | None


@dataclass(slots=True)
class _Open:
    node: Node
    ids: list[_Ids] = field(default_factory=list)
    pending: deque[Future[_Ids]] = field(default_factory=deque)
    known: Sequence[tuple[bytes, ...]] | None = None  # one a vault: it holds them already


class Fanout:
    """One run into N vaults. Used by one thread; its workers are its own.

    >>> with Fanout(writers, progress) as out:      # doctest: +SKIP
    ...     out.add(node, pieces)
    ...     outcomes = out.commit(content)
    """

    def __init__(self, writers: Sequence[Writer], progress: Progress) -> None:
        assert writers, "a backup has at least one vault"
        self._writers = tuple(writers)
        self._failed: dict[int, str] = {}
        self._progress = progress
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="backup")
        self._room = threading.Semaphore(PIECES_IN_FLIGHT)
        self._open: deque[_Open] = deque()
        self._lines: list[list[bytes]] = [[] for _ in writers]
        self._line_bytes = [0 for _ in writers]
        self._trees: list[list[bytes]] = [[] for _ in writers]
        self._heads = Heads()
        self._committed = False
        self.entries = 0
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for w in self._writers:
            w.close()

    def add(self, node: Node, pieces: Iterable[bytes] = ()) -> Node:
        """An entry and its bytes. Raises what `pieces` raises, and then forgets the entry; raises
        Incomplete when no vault is left. Returns the node with the size that was read."""
        one = _Open(node)
        size = 0
        for piece in pieces:
            if not size:
                self._heads.look(node.path, piece)
            self._room.acquire()
            one.pending.append(self._pool.submit(self._put, Chunk(piece)))
            size += len(piece)
            while len(one.pending) > PIECES_IN_FLIGHT:
                one.ids.append(one.pending.popleft().result())
        one.node = replace(node, size_bytes=size + sum(length for _, length in node.holes))
        self._take(one)
        return one.node

    def reuse(self, node: Node, blobs: Sequence[tuple[bytes, ...]]) -> bool:
        """An entry whose blobs each vault already holds, as its own listing of the parent says. False, and
        nothing is added, when a vault lacks one of them: then the source must be read."""
        for at, writer in enumerate(self._writers):
            if at not in self._failed and not writer.holds(blobs[at]):
                return False
        self._take(_Open(node, known=blobs))
        return True

    def _take(self, one: _Open) -> None:
        self._open.append(one)
        self.entries += 1
        self.size_bytes += one.node.size_bytes
        self._progress.done(self.size_bytes, unit="B")
        while self._open and (len(self._open) > ENTRIES_OPEN or _ready(self._open[0])):
            self._close(self._open.popleft())

    def commit(self, content: Content) -> tuple[Outcome, ...]:
        """Snapshots where it went well, reasons where not. `content.tree` and the counts are filled in."""
        assert not self._committed, "a run commits once"
        self._committed = True
        while self._open:
            self._close(self._open.popleft())
        for at in range(len(self._writers)):
            self._flush_lines(at)
        outcomes = tuple(self._finish(at, content) for at in range(len(self._writers)))
        self._somebody_left()
        return outcomes

    def _put(self, chunk: Chunk) -> _Ids:
        try:
            return tuple(self._put_one(at, chunk, Kind.DATA) for at in range(len(self._writers)))
        finally:
            self._room.release()

    def _put_one(self, at: int, chunk: Chunk, kind: Kind) -> bytes | None:
        if at in self._failed:
            return None
        try:
            return self._writers[at].put(chunk, kind)
        except (ZaibeiError, OSError) as bad:
            self._fail(at, bad)
            return None

    def _fail(self, at: int, bad: Exception) -> None:
        name = self._writers[at].repository.name
        self._failed.setdefault(at, str(bad))
        self._progress.note(f"{name}: given up: {bad}")

    def _close(self, one: _Open) -> None:
        """Write an entry's lines once its blobs have ids."""
        one.ids += [f.result() for f in one.pending]
        for at in range(len(self._writers)):
            ids = [i[at] for i in one.ids] if one.known is None else list(one.known[at])
            if at in self._failed or None in ids:
                continue
            node = replace(one.node, blobs=tuple(i for i in ids if i is not None))
            for line in tree.encode(node):
                self._lines[at].append(line)
                self._line_bytes[at] += len(line)
                if self._line_bytes[at] >= TREE_BYTES:
                    self._flush_lines(at)
        self._somebody_left()

    def _somebody_left(self) -> None:
        if len(self._failed) == len(self._writers):
            raise Incomplete(
                "no vault is left: " + "; ".join(self._failed.values()),
                hint="nothing was committed by this run; run again when a vault answers",
            )

    def _flush_lines(self, at: int) -> None:
        raw = b"".join(self._lines[at])
        self._lines[at], self._line_bytes[at] = [], 0
        if raw and (id_ := self._put_one(at, Chunk(raw), Kind.TREE)) is not None:
            self._trees[at].append(id_)

    def _finish(self, at: int, content: Content) -> Outcome:
        writer, name = self._writers[at], self._writers[at].repository.name
        if at not in self._failed:
            try:
                written = writer.finish()
                whole = replace(
                    content,
                    tree=tuple(self._trees[at]),
                    entries=self.entries,
                    size_bytes=self.size_bytes,
                )
                made = writer.commit(writer.judged(whole, self._heads))
                return Outcome(vault=name, snapshot=made, written=written, error=None)
            except (ZaibeiError, OSError) as bad:
                self._fail(at, bad)
        return Outcome(vault=name, snapshot=None, written=None, error=self._failed[at])


def _ready(one: _Open) -> bool:
    return all(f.done() for f in one.pending)

"""Reads a source once and writes it to every vault. A vault that fails is reported; the others go
on.

Memory is bounded by bytes: at most IN_FLIGHT_BYTES are between the source and the packs, and at
most ENTRIES_OPEN files wait for their blobs' ids. Small pieces travel together: a task each would
cost more than the work on them.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, Self

from backup.errors import Incomplete
from backup.format import tree
from backup.format.blob import Chunk, Kind
from backup.format.snapshot import Content, Snapshot
from backup.format.tree import TREE_BYTES, Node
from backup.guard.magic import MagicCheck
from backup.index.blob_index import BlobIndex
from backup.repository.repository import Repository
from backup.writer.writer import Writer, Written
from zaibei.kernel.errors import ZaibeiError, in_a_line
from zaibei.kernel.progress import Progress

# What a run says about itself is completed by whoever judges it (`guard.judge`), after its blobs are in.
Judge = Callable[[Repository, BlobIndex, Content, MagicCheck], Content]
WORKERS_MAX: Final = 8
IN_FLIGHT_BYTES: Final = 16 << 20
ENTRIES_OPEN: Final = 1024
SMALL_BYTES: Final = 128 << 10  # a piece below this waits for others
BATCH_BYTES: Final = 512 << 10
BATCH_PIECES: Final = 64
PARTS_OPEN: Final = 64  # pieces of one file whose ids are not collected yet
_Ids = tuple[bytes | None, ...]  # one a vault; None where the vault has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a run in one vault."""

    vault: str
    snapshot: Snapshot | None
    written: Written | None
    error: str | None


@dataclass(slots=True, eq=False)
class _Batch:
    """Pieces that are worked on together, in one task."""

    pieces: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    ids: Future[list[_Ids]] | None = None  # None: not handed out yet


@dataclass(slots=True)
class _Open:
    node: Node
    ids: list[_Ids] = field(default_factory=list)
    pending: deque[tuple[_Batch, int]] = field(default_factory=deque)
    known: Sequence[tuple[bytes, ...]] | None = None  # one a vault: it holds them already


class Fanout:
    """One run into N vaults. Used by one thread; its workers are its own.

    >>> with Fanout(writers, progress) as out:      # doctest: +SKIP
    ...     out.add(node, pieces)
    ...     outcomes = out.commit(content)
    """

    def __init__(
        self, writers: Sequence[Writer], progress: Progress, *, judge: Judge | None = None
    ) -> None:
        self._judge = judge
        assert writers, "a backup has at least one vault"
        self._writers = tuple(writers)
        self._failed: dict[int, str] = {}
        self._progress = progress
        # The work is hashing and compressing, outside the interpreter's lock: a thread a core.
        workers = min(WORKERS_MAX, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="backup")
        self._room = threading.Condition()
        self._in_flight_bytes = 0
        self._batch = _Batch()
        self._open: deque[_Open] = deque()
        self._lines: list[list[bytes]] = [[] for _ in writers]
        self._line_bytes = [0 for _ in writers]
        self._trees: list[list[bytes]] = [[] for _ in writers]
        self._heads = MagicCheck()
        self._committed = False
        self._expected: int | None = None
        self.entries = 0
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for w in self._writers:
            w.close()

    def expect(self, size_bytes: int | None) -> None:
        """About how much will come, for whoever waits; None when nobody knows."""
        self._expected = size_bytes

    def add(
        self,
        node: Node,
        pieces: Iterable[bytes] = (),
        *,
        look: Callable[[Node], Node] = lambda node: node,
    ) -> Node:
        """An entry and its bytes. Raises what `pieces` and `look` raise, and then forgets the entry; raises
        Incomplete when no vault is left. Returns the node with the size that was read, as `look` leaves it."""
        one = _Open(node)
        size = 0
        for piece in pieces:
            if not size:
                self._heads.look(node.path, piece)
            size += len(piece)
            one.pending.append(self._hand_over(piece))
            while len(one.pending) > PARTS_OPEN:
                one.ids.append(self._result(*one.pending.popleft()))
        size += sum(length for _, length in node.holes)
        if size != node.size_bytes or node.blobs:
            one.node = replace(node, size_bytes=size, blobs=())
        one.node = look(one.node)
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
        total = None if self._expected is None else max(self._expected, self.size_bytes)
        self._progress.done(self.size_bytes, total, unit="B")
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

    def _hand_over(self, piece: bytes) -> tuple[_Batch, int]:
        """The task that the piece is part of, and its place there."""
        if len(piece) >= SMALL_BYTES:
            alone = _Batch([piece], len(piece))
            self._submit(alone)
            return alone, 0
        batch = self._batch
        batch.pieces.append(piece)
        batch.size_bytes += len(piece)
        at = len(batch.pieces) - 1
        if batch.size_bytes >= BATCH_BYTES or len(batch.pieces) >= BATCH_PIECES:
            self._batch = _Batch()
            self._submit(batch)
        return batch, at

    def _submit(self, batch: _Batch) -> None:
        size = batch.size_bytes
        with self._room:
            self._room.wait_for(
                lambda: not self._in_flight_bytes or self._in_flight_bytes + size <= IN_FLIGHT_BYTES
            )
            self._in_flight_bytes += size
        batch.ids = self._pool.submit(self._put, batch)

    def _result(self, batch: _Batch, at: int) -> _Ids:
        if batch.ids is None:
            assert batch is self._batch, "only the last batch may still be collecting"
            self._batch = _Batch()
            self._submit(batch)
        assert batch.ids is not None
        return batch.ids.result()[at]

    def _put(self, batch: _Batch) -> list[_Ids]:
        pieces, batch.pieces = batch.pieces, []
        try:
            chunks = [Chunk(piece) for piece in pieces]
            by_vault = [self._put_in(at, chunks, Kind.DATA) for at in range(len(self._writers))]
            return list(zip(*by_vault, strict=True))
        finally:
            with self._room:
                self._in_flight_bytes -= batch.size_bytes
                self._room.notify_all()

    def _put_in(self, at: int, chunks: Sequence[Chunk], kind: Kind) -> Sequence[bytes | None]:
        """Their ids in one vault; None for each where it has failed."""
        if at not in self._failed:
            try:
                return self._writers[at].put_all(chunks, kind)
            except (ZaibeiError, OSError) as bad:
                self._fail(at, bad)
        return [None] * len(chunks)

    def _fail(self, at: int, bad: Exception) -> None:
        name = self._writers[at].repository.name
        self._failed.setdefault(at, in_a_line(bad))
        self._progress.note(f"{name}: given up: {in_a_line(bad)}")

    def _close(self, one: _Open) -> None:
        """Write an entry's lines once its blobs have ids."""
        one.ids += [self._result(*part) for part in one.pending]
        for at in range(len(self._writers)):
            if at in self._failed:
                continue
            node = one.node
            if one.known is None:
                ids = [i[at] for i in one.ids]
                if None in ids:
                    continue
                blobs = [i for i in ids if i is not None]
            else:
                blobs = list(one.known[at])
            for line in tree.encode(node, blobs):
                self._lines[at].append(line)
                self._line_bytes[at] += len(line)
                if self._line_bytes[at] >= TREE_BYTES:
                    self._flush_lines(at)
        self._somebody_left()

    def _somebody_left(self) -> None:
        if len(self._failed) == len(self._writers):
            raise Incomplete(
                "no vault is left: " + "; ".join(self._failed.values()),
                hint="nothing was committed by this run; run it again when that is mended",
            )

    def _flush_lines(self, at: int) -> None:
        raw = b"".join(self._lines[at])
        self._lines[at], self._line_bytes[at] = [], 0
        if raw and (id_ := self._put_in(at, [Chunk(raw)], Kind.TREE)[0]) is not None:
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
                if self._judge is not None:
                    repo, known = writer.repository, writer.catalogue
                    whole = self._judge(repo, known, whole, self._heads)
                made = writer.commit(whole)
                return Outcome(vault=name, snapshot=made, written=written, error=None)
            except (ZaibeiError, OSError) as bad:
                self._fail(at, bad)
        return Outcome(vault=name, snapshot=None, written=None, error=self._failed[at])


def _ready(one: _Open) -> bool:
    return not one.pending or all(
        batch.ids is not None and batch.ids.done() for batch, _ in one.pending
    )

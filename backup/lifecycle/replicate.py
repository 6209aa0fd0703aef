"""Copies snapshots from one repository to another, which may have other keys and another suite.

Incremental: what an earlier copy brought is neither read nor written again. Safe to repeat and to
die in: a copy exists when its snapshot does.
"""

import random
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from backup.format import snapshot, tree
from backup.format.blob import Chunk, Kind
from backup.format.snapshot import Content, Snapshot
from backup.format.tree import TREE_BYTES
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.wal import archive
from backup.wal.archive import Archive
from backup.writer.pack_health import known_damaged
from backup.writer.writer import Writer
from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.progress import Progress

WORKERS: Final = 3
AHEAD: Final = 16  # blobs on their way: 8 MiB each at most


@dataclass(slots=True, kw_only=True)
class Copied:
    """`snapshots`: source's number -> the new one. `failed`: number -> why."""

    snapshots: dict[int, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    already: int = 0
    blobs_read: int = 0
    wal_objects: int = 0

    @property
    def complete(self) -> bool:
        return not self.failed


def replicate(
    source: Repository,
    into: Repository,
    progress: Progress,
    *,
    sequences: Iterable[int] | None = None,
    with_wal: bool = True,
    facts: dict[str, Any] | None = None,
    rng: random.Random | None = None,
) -> Copied:
    """Without `sequences`: all after the newest that was copied, so that what the policy of the target has
    forgotten does not come back, and those before it that failed then. Damage in the source leaves that snapshot
    out and is told, by every copy until it is there. `facts`: for each copy to carry beside its own."""
    if source.config.repository == into.config.repository:
        raise Usage(f"{source.name} and {into.name} are one repository")
    out = Copied()
    theirs = {one.sequence: one for one in source.snapshots()}
    modified = {s.key: s.modified for s in source.listed(snapshot.PREFIX)}
    copies = copies_of(source, into)
    newest = max(copies, default=0)
    if sequences is None:
        owed = _owed(copies[newest]) if copies else frozenset()
        wanted = [s for s in theirs if s > newest or (s in owed and s not in copies)]
        out.already = len(theirs) - len(wanted)
    else:
        wanted = sorted(set(sequences))
        if unknown := [s for s in wanted if s not in theirs]:
            raise Usage(f"{source.name}: no snapshot {unknown[0]}")
        out.already = sum(s in copies for s in wanted)
        wanted = [s for s in wanted if s not in copies]
    if wanted:
        with Reader(source) as reader, Reader(into) as own:
            hand = _Hand(reader, Writer(into, rng=rng, doubted=known_damaged(into)), out)
            try:
                for one, copy in _parents(theirs, copies, wanted):
                    hand.learn(one, copy, own)
                for sequence in wanted:
                    one = theirs[sequence]
                    progress.step(f"copying snapshot {sequence} of {source.name} to {into.name}")
                    try:
                        told = _origin(source, one, modified)
                        # The next copy begins after this one: what failed before it must not be passed by for ever.
                        owing = sorted(
                            {*out.failed, *(s for s in wanted if s < newest)} - {sequence}
                        )
                        if owing := [s for s in owing if s not in out.snapshots]:
                            told |= {"owed": owing}
                        made = hand.copy(one, {**(facts or {}), "copied_from": told}, progress)
                        out.snapshots[sequence] = made.sequence
                    except Damage as bad:
                        out.failed[sequence] = bad.message
            finally:
                hand.close()
    if with_wal:
        _wal(source, into, out, progress)
    return out


def _origin(source: Repository, one: Snapshot, modified: dict[str, Any]) -> dict[str, Any]:
    taken_in = modified.get(one.key)
    if (first := one.content.facts.get("copied_from")) is not None:
        return {k: v for k, v in first.items() if k != "owed"}
    return {
        "repository": source.config.repository.hex(),
        "sequence": one.sequence,
        "digest": one.digest,
        "modified": (taken_in or one.content.finished).isoformat(),
    }


def _owed(copy: Snapshot) -> frozenset[int]:
    return frozenset(map(int, copy.content.facts["copied_from"].get("owed", ())))


def copies_of(source: Repository, into: Repository) -> dict[int, Snapshot]:
    """What of `source` is in `into`, by the number it has there; also where `source` has it as a copy."""
    own = source.config.repository.hex()
    second_hand = {
        (told["repository"], told["digest"]): one.sequence
        for one in source.snapshots()
        if (told := one.content.facts.get("copied_from"))
    }
    found = {}
    for one in into.snapshots():
        if not (told := one.content.facts.get("copied_from")):
            continue
        if told["repository"] == own:
            found[int(told["sequence"])] = one
        elif (at := second_hand.get((told["repository"], told["digest"]))) is not None:
            found[at] = one
    return found


def _parents(
    theirs: dict[int, Snapshot], copies: dict[int, Snapshot], wanted: list[int]
) -> Iterator[tuple[Snapshot, Snapshot]]:
    """The newest pair of each group that is to be copied: their listings tell which id became which."""
    seen = set()
    groups = {_group(theirs[s].content) for s in wanted}
    for sequence in sorted(copies, reverse=True):
        one = theirs.get(sequence)
        if one is not None and (group := _group(one.content)) in groups and group not in seen:
            seen.add(group)
            yield one, copies[sequence]


def _group(content: Content) -> tuple[str, str, str]:
    return content.kind, content.label, content.host


class _Hand:
    """Carries blobs. Which id became which is held in a private file: it may be millions."""

    def __init__(self, reader: Reader, writer: Writer, out: Copied) -> None:
        self._reader, self._writer, self._out = reader, writer, out
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="copy")
        self._lock = threading.Lock()
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE became (theirs BLOB PRIMARY KEY, ours BLOB) WITHOUT ROWID")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._writer.close()
        self._db.close()

    def learn(self, one: Snapshot, copy: Snapshot, own: Reader) -> None:
        """A pair that does not fit teaches nothing: then blobs are read once more."""
        try:
            for a, b in zip(self._reader.nodes(one), own.nodes(copy), strict=True):
                if a.path != b.path or len(a.blobs) != len(b.blobs):
                    return
                self._remember(zip(a.blobs, b.blobs, strict=True))
        except (Damage, ValueError):
            return

    def copy(self, one: Snapshot, more: dict[str, Any], progress: Progress) -> Snapshot:
        lines: list[bytes] = []
        size = done = 0
        ids: list[bytes] = []
        for node in self._reader.nodes(one):
            blobs = tuple(self._carried(node.blobs))
            for line in tree.encode(replace(node, blobs=blobs)):
                lines.append(line)
                size += len(line)
                if size >= TREE_BYTES:
                    ids.append(self._writer.put(Chunk(b"".join(lines)), Kind.TREE))
                    lines, size = [], 0
            done += node.size_bytes
            progress.done(done, one.content.size_bytes, unit="B")
        if lines:
            ids.append(self._writer.put(Chunk(b"".join(lines)), Kind.TREE))
        self._writer.finish()
        # A lock is the promise of one vault, not of its copy.
        facts = {k: v for k, v in one.content.facts.items() if k != "lock"}
        return self._writer.commit(replace(one.content, tree=tuple(ids), facts={**facts, **more}))

    def _carried(self, blobs: Iterable[bytes]) -> Iterator[bytes]:
        waiting: deque[Future[bytes]] = deque()
        for id_ in blobs:
            waiting.append(self._pool.submit(self._carry, id_))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _carry(self, id_: bytes) -> bytes:
        with self._lock:
            row = self._db.execute("SELECT ours FROM became WHERE theirs = ?", (id_,)).fetchone()
        if row is not None and self._writer.holds([row[0]]):
            return bytes(row[0])
        ours = self._writer.put(Chunk(self._reader.read(id_)), Kind.DATA)
        with self._lock:
            self._out.blobs_read += 1
        self._remember([(id_, ours)])
        return ours

    def _remember(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        with self._lock:
            self._db.executemany("INSERT OR REPLACE INTO became VALUES (?, ?)", pairs)


def _wal(source: Repository, into: Repository, out: Copied, progress: Progress) -> None:
    for system in archive.systems(source):
        theirs, ours = Archive(source, system), Archive(into, system)
        held = {i.key for i in ours.items()}
        for item in theirs.items():
            if item.key in held:
                continue
            progress.step(f"copying {item.key}")
            try:
                offset, data = theirs.read(item)
            except Damage as bad:
                out.failed[0] = bad.message
                continue
            ours.put(
                data,
                epoch=item.epoch,
                timeline=item.timeline,
                segment=item.segment,
                part=item.part,
                offset=offset,
            )
            out.wal_objects += 1

"""Writes one run into one vault: deduplicate, pack, upload, index, and last the snapshot that makes
it true.

Every object is created, never overwritten. A run that dies leaves packs that no snapshot names; the
index segments it wrote let the next run find them again, and what is not even indexed is swept
later.
"""

import os
import random
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from backup.format import snapshot
from backup.format.blob import Chunk, Kind, encode_all
from backup.format.pack import PACK_BYTES, Builder, Pack, key_of
from backup.format.snapshot import Content, Snapshot
from backup.index.blob_index import BlobIndex
from backup.index.segment import SEGMENT_PACKS, PackEntries
from backup.repository.repository import Repository
from backup.writer import object_lock, pack_health
from backup.writer.object_lock import Lock
from backup.writer.pack_health import PackHealth
from backup.writer.session import WriteSession
from backup.writer.uploads import Uploads
from zaibei.kernel.errors import Busy, Damage, ZaibeiError

_OPEN_PACKS: Final = 2  # data blobs go to one of these at random: a store cannot tell neighbours
_COMMIT_ATTEMPTS: Final = 16
_RANDOM_BYTES: Final = 1 << 10
_SEGMENT_S: Final = 30.0  # a segment is written at the latest after so long, when packs come
# Raises when this run must not commit after the snapshot of that number (`schedule.slot.fence`). Asked at each attempt: the
# snapshot's number is created once, so nobody can commit between the answer and our own commit.
Fence = Callable[[Repository, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a run added to one vault."""

    blobs_new: int
    blobs_known: int
    packs: int
    stored_bytes: int


class Writer:
    """Thread-safe. After any exception of `put` the run into this vault is over: a blob that was
    promised may be in no pack. `commit` of such a run is refused by its caller (`fanout`)."""

    def __init__(
        self,
        repository: Repository,
        *,
        lock: Lock | None = None,
        rng: random.Random | None = None,
        pack_bytes: int = PACK_BYTES,
        fence: Fence | None = None,
        says: Mapping[str, Any] | None = None,
        doubted: frozenset[str] = frozenset(),
    ) -> None:
        """`says`: facts that the snapshot in this vault states beside the source's own. `doubted`: packs that are
        known to be damaged; what they hold is stored again."""
        self.repository = repository
        self._lock_asked = lock
        self._retain = lock.until if lock else None
        self._fence, self._says = fence, dict(says or {})
        # Placement hides which blobs are neighbours, so the default is not a guessable generator.
        self._rng = rng or _Unguessable()
        self._pack_bytes = pack_bytes
        self._lease = WriteSession(repository)  # before the index is read
        # What a segment that cannot be read names is stored again. Else one torn segment, or junk of somebody
        # who may write, would stop every backup from now on; `verify` is who tells of it.
        self.catalogue = self._load(self._lease.packs | doubted)
        self._lock = threading.Lock()
        self._open = _builders()
        self._uploads = Uploads(self._deliver)
        self._unindexed: list[PackEntries] = []
        self._indexed_at = repository.clock.monotonic()
        self._own: set[str] = set()  # packs of this run
        self._reused: dict[str, int] = {}  # packs of earlier runs that this one relies on: size
        self._new = self._known = self._packs = self._stored = 0

    def _load(self, without: frozenset[str]) -> BlobIndex:
        held = self.repository.catalogue(without=without, damaged=lambda _key, _bad: None)
        # After the index: what it names was there before it. One lost pack would else stop every run from now on.
        if gone := pack_health.absent(self.repository, held.packs()):
            held.close()
            held = self.repository.catalogue(
                without=without | gone, damaged=lambda _key, _bad: None
            )
        return held

    def put(self, chunk: Chunk, kind: Kind) -> bytes:
        """The blob's id. It is in the vault at the latest when `finish` returned."""
        return self.put_all([chunk], kind)[0]

    def put_all(self, chunks: Sequence[Chunk], kind: Kind) -> list[bytes]:
        """The same for several that travel together."""
        domain = kind.domain
        self._lease.run.beat()
        ids = [self.repository.keys.blob_id(domain, chunk.data) for chunk in chunks]
        new: list[tuple[bytes, Chunk]] = []
        for id_, chunk in zip(ids, chunks, strict=True):
            if self.catalogue.claim(id_):
                new.append((id_, chunk))
            else:
                self._rely(id_)
        encode_all([chunk for _, chunk in new])
        full: list[Builder] = []
        with self._lock:
            for id_, chunk in new:
                full += self._pack(id_, chunk, kind)
        for builder in full:
            self._send(builder)
        return ids

    def _rely(self, id_: bytes) -> None:
        home = self.catalogue.first_pack(id_)
        with self._lock:
            self._known += 1
            if home is not None and home[0] not in self._own:
                self._reused[home[0]] = home[1]

    def _pack(self, id_: bytes, chunk: Chunk, kind: Kind) -> list[Builder]:
        """Into an open pack; what became full by that. Under the lock."""
        encoding, encoded = chunk.encoded()
        full: list[Builder] = []
        self._new += 1
        at = len(self._open) - 1 if kind is Kind.TREE else self._rng.randrange(_OPEN_PACKS)
        if not self._open[at].fits(len(encoded), self._pack_bytes):
            full.append(self._open[at])
            self._open[at] = Builder(kind)
        self._open[at].add(id_, encoding, encoded, len(chunk.data))
        if self._open[at].is_full(self._pack_bytes):
            full.append(self._open[at])
            self._open[at] = Builder(kind)
        return full

    def holds(self, ids: Sequence[bytes]) -> bool:
        """Whether every one of these is in the vault already; then this run relies on it."""
        self._lease.run.beat()
        homes: list[tuple[str, int]] = []
        for id_ in ids:
            home = self.catalogue.first_pack(id_)
            if home is None:
                return False
            homes.append(home)
        with self._lock:
            self._known += len(ids)
            self._reused.update(homes)
        return True

    def finish(self) -> Written:
        """Everything that was put is in the vault and indexed."""
        *data, tree = self._open
        self._open = _builders()
        rest = Builder(Kind.DATA)
        for builder in data:  # the last small packs become one: fewer sizes to see
            rest.parts += builder.parts
            rest.size_bytes += builder.size_bytes
        for builder in (rest, tree):
            if builder.parts:
                self._send(builder)
        self._uploads.settle()
        self._index(self._unindexed)
        self._unindexed = []
        needed: dict[str, int | None] = {key_of(p): size for p, size in self._reused.items()}
        if self._retain is not None:
            segments = self.catalogue.segments_naming(self._reused)
            # What is marked goes: others name the same packs.
            needed |= {f"index/{s}": None for s in segments if s not in self._lease.segments}
        try:
            object_lock.confirm(self.repository, needed, end=self._retain)
        except Damage:
            self._missed()
            raise
        return Written(
            blobs_new=self._new,
            blobs_known=self._known,
            packs=self._packs,
            stored_bytes=self._stored,
        )

    def _missed(self) -> None:
        """Lost while we wrote, or in a vault that is too large to look at first. The next run must know."""
        repo = self.repository
        with suppress(OSError, ValueError, sqlite3.Error, ZaibeiError):  # the damage itself is told
            gone = pack_health.lost(repo, self._reused)
            with PackHealth.of(repo) as ledger:
                ledger.miss(gone, at=repo.clock.now())

    def commit(self, content: Content) -> Snapshot:
        """The one write that makes the backup exist."""
        repo = self.repository
        facts = {**content.facts, **self._says}
        if (lock := self._lock_asked) is not None:
            facts["lock"] = lock.as_fact()
        content = replace(content, facts=facts)
        for _ in range(_COMMIT_ATTEMPTS):
            tip = repo.tip()
            if self._fence is not None:
                self._fence(repo, tip.sequence if tip else 0)
            sequence = tip.sequence + 1 if tip else snapshot.FIRST
            data = snapshot.encode(
                repo.keys, content, sequence=sequence, previous=tip.digest if tip else None
            )
            relied = self._own | self._reused.keys()
            self._lease.may_commit(relied)
            repo.ensure_current_keys()
            if repo.create_if_absent(snapshot.key_of(sequence), data, retain_until=self._retain):
                # Again: of two that happen at once, a rotation may have looked before we wrote, and then
                # nobody believes the old keys any more.
                repo.ensure_current_keys()
                self._lease.committed(sequence, relied)
                return Snapshot(
                    sequence=sequence,
                    digest=repo.keys.suite.digest(data),
                    previous=tip.digest if tip else None,
                    content=content,
                )
        raise Busy(f"{repo.name}: {_COMMIT_ATTEMPTS} other writers committed first")

    def close(self) -> None:
        self._uploads.close()
        self._lease.run.end()
        self.catalogue.close()

    def _send(self, builder: Builder) -> None:
        """Sealed here, in the thread that filled it; uploaded beside."""
        self._uploads.send(builder.seal(self.repository.keys, self._rng))

    def _deliver(self, pack: Pack) -> None:
        self.repository.create(key_of(pack.name), pack.data, retain_until=self._retain)
        with self._lock:
            self._own.add(pack.name)
        self.catalogue.add(pack.name, len(pack.data), pack.entries)
        due: list[PackEntries] = []
        now = self.repository.clock.monotonic()
        with self._lock:
            self._packs += 1
            self._stored += len(pack.data)
            self._unindexed.append(PackEntries(pack.name, len(pack.data), pack.entries))
            # A run that is killed now is found again up to here by the next one.
            if len(self._unindexed) >= SEGMENT_PACKS or now - self._indexed_at >= _SEGMENT_S:
                due, self._unindexed = self._unindexed, []
                self._indexed_at = now
        self._index(due)

    def _index(self, packs: Sequence[PackEntries]) -> None:
        if packs:
            size_bytes = self.repository.write_segment(packs, retain_until=self._retain)
            with self._lock:
                self._stored += size_bytes


class _Unguessable(random.SystemRandom):
    """The system's randomness, fetched by the page: a call of the system for each blob's place cost more than
    placing it. Thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self._own = threading.local()

    def getrandbits(self, k: int, /) -> int:
        size = (k + 7) // 8
        left: bytes = getattr(self._own, "left", b"")
        if len(left) < size:
            left = os.urandom(max(size, _RANDOM_BYTES))
        self._own.left = left[size:]
        return int.from_bytes(left[:size]) >> (size * 8 - k)


def _builders() -> list[Builder]:
    """The packs that are open; the last one is for listings."""
    return [*(Builder(Kind.DATA) for _ in range(_OPEN_PACKS)), Builder(Kind.TREE)]

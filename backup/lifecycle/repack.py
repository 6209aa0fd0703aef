"""Repacks the live blobs of packs that are mostly garbage.

Each blob is opened, checked and sealed again: one that is not whole is never carried on under a
good name.
"""

import random
from collections.abc import Callable, Iterable
from datetime import datetime

from backup.crypto.seal import Kind as Sealed
from backup.crypto.seal import Seal
from backup.format.blob import Kind
from backup.format.pack import PACK_BYTES, Builder, Entry, key_of, open_blob
from backup.index.blob_index import Liveness
from backup.index.id_set import IdSet
from backup.index.segment import SEGMENT_PACKS, PackEntries
from backup.lifecycle.reindex import write_segment
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.repository.vault import retry
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Progress


class Repacker:
    """One run's. What was moved is in the vault and indexed when `finish` returned, not before."""

    def __init__(
        self,
        repo: Repository,
        reader: Reader,
        *,
        needed: IdSet,
        there: Callable[[str], bool],
        gone: set[str],
        now: datetime,
        rng: random.Random,
        progress: Progress,
        write: bool,
    ) -> None:
        self._repo, self._held = repo, reader.catalogue
        self._needed, self._there, self._gone = needed, there, gone
        self._now, self._rng, self._progress, self._write = now, rng, progress, write
        self._moved: set[bytes] = set()
        self._open = {kind: Builder(kind) for kind in Kind}
        self._unindexed: list[PackEntries] = []
        self.moved_bytes = 0

    def never_rely_on(self, packs: Iterable[str]) -> None:
        self._gone.update(packs)

    def move(self, one: Liveness, *, worth: bool) -> bool:
        """Whether nobody needs the pack any more: others hold its living blobs, or new ones do now."""
        rest = [e for e in self._held.entries(one.pack) if self._only_here(e, one.pack)]
        if rest and (not worth or self._locked(one.pack)):
            return False
        if rest and self._write:
            try:
                self._carry(one, rest)
            except Damage as bad:
                self._progress.note(f"left as it is: {bad.message}")
                return False
        self._moved |= {e.id for e in rest}
        self.moved_bytes += sum(e.stored_bytes for e in rest)
        self._gone.add(one.pack)
        return True

    def finish(self) -> None:
        for kind, builder in self._open.items():
            if builder.parts:
                self._upload(kind)
        if self._unindexed:
            write_segment(self._repo, self._unindexed, None)
            self._unindexed = []

    def _only_here(self, e: Entry, pack: str) -> bool:
        if e.id not in self._needed or e.id in self._moved:
            return False
        return not any(
            p.pack != pack and p.pack not in self._gone and self._there(p.pack)
            for p in self._held.locations(e.id)
        )

    def _locked(self, pack: str) -> bool:
        # It cannot be removed before its lock ends: to move its blobs now would only store them twice.
        stat = retry(self._repo.clock, lambda: self._repo.store.stat(key_of(pack)))
        return stat.retain_until is not None and stat.retain_until > self._now

    def _carry(self, one: Liveness, entries: list[Entry]) -> None:
        keys = self._repo.keys
        data = self._repo.read_pack(one.pack, one.size_bytes)
        seal = Seal.of(keys, Sealed.PACK, "", data)
        whole = []
        for e in entries:
            sealed = data[e.offset : e.offset + e.stored_bytes]
            open_blob(seal, e, sealed, keys)
            whole.append((e, seal.open(e.slot, sealed)))
        for e, encoded in whole:
            if not self._open[e.kind].fits(len(encoded), PACK_BYTES):
                self._upload(e.kind)
            self._open[e.kind].add(e.id, e.encoding, encoded, e.raw_bytes)
            if self._open[e.kind].is_full(PACK_BYTES):
                self._upload(e.kind)

    def _upload(self, kind: Kind) -> None:
        pack = self._open[kind].seal(self._repo.keys, self._rng)
        self._open[kind] = Builder(kind)
        self._repo.create(key_of(pack.name), pack.data)
        self._unindexed.append(PackEntries(pack.name, len(pack.data), pack.entries))
        if len(self._unindexed) >= SEGMENT_PACKS:
            write_segment(self._repo, self._unindexed, None)
            self._unindexed = []

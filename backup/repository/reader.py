"""Reads blobs from a vault: fetches whole packs, keeps a few, opens each blob and recomputes its
id.

Exact ranges would show the store where blobs begin.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Self

from backup.crypto.seal import Kind, Seal
from backup.format import tree
from backup.format.pack import open_blob
from backup.format.snapshot import Snapshot
from backup.format.tree import Node
from backup.index.blob_index import BlobIndex
from backup.repository import index_loading
from backup.repository.repository import Repository
from zaibei.kernel.errors import Damage

CACHE_BYTES: Final = 64 << 20
AHEAD: Final = 8
INDEX_AGAIN_S: Final = (
    600.0  # a blob that is in no place is looked for in a new index, so often at the most
)
WORKERS: Final = 3
_Opened = tuple[Seal, bytes]


class Reader:
    """Thread-safe. Read order: the snapshot was read first, the index is read here."""

    def __init__(
        self,
        repository: Repository,
        catalogue: BlobIndex | None = None,
        *,
        damaged: Callable[[str, Damage], None] | None = None,
    ) -> None:
        """`damaged`: go on without index segments that cannot be read, and say which. One torn segment must not keep
        a disaster from being restored: what it named is asked of the packs themselves."""
        self.repository = repository
        self._damaged = damaged
        self.catalogue = catalogue or self._load()
        self._own = catalogue is None
        self._newer: BlobIndex | None = None  # beside the first, whose places others rely on
        self._newer_at: float | None = None
        self._looking = threading.Lock()
        self._old: list[BlobIndex] = []
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="restore")
        self._lock = threading.Lock()
        self._packs: OrderedDict[str, tuple[Future[_Opened], int]] = OrderedDict()
        self._held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None:
        self.close()

    def close(self) -> None:
        """A catalogue that was lent is its owner's to close."""
        self._pool.shutdown(cancel_futures=True)
        if self._own:
            self.catalogue.close()
        for one in (self._newer, *self._old):
            if one is not None:
                one.close()

    def read(self, id: bytes) -> bytes:  # noqa: A002
        """Raises Damage when no place holds the blob whole."""
        try:
            return self._read(self.catalogue, id)
        except Damage:
            # A restore may take longer than the grace of a garbage collection: then the pack that the index
            # named when it began was packed anew meanwhile, and the blob is where today's index says.
            newer = self._index_again() if self._own else None
            if newer is None:
                raise
            return self._read(newer, id)

    def _load(self) -> BlobIndex:
        if (told := self._damaged) is None:
            return self.repository.catalogue()
        unread: list[str] = []

        def damaged(key: str, bad: Damage) -> None:
            unread.append(key)
            told(key, bad)

        held = self.repository.catalogue(damaged=damaged)
        if unread:
            index_loading.complete(self.repository, held, told)
        return held

    def _index_again(self) -> BlobIndex | None:
        with self._looking:
            now = self.repository.clock.monotonic()
            if self._newer_at is None or now - self._newer_at >= INDEX_AGAIN_S:
                self._newer_at = now
                if self._newer is not None:
                    self._old.append(self._newer)  # somebody may be asking it
                self._newer = None  # were it not to be had, the old one would be asked in vain
                self._newer = self._load()
            return self._newer

    def _read(self, catalogue: BlobIndex, id: bytes) -> bytes:  # noqa: A002
        why: Damage | None = None
        for place in catalogue.locations(id):
            try:
                one, data = self._pack(place.pack, place.pack_bytes)
                sealed = data[place.entry.offset : place.entry.offset + place.entry.stored_bytes]
                return open_blob(one, place.entry, sealed, self.repository.keys)
            except Damage as bad:
                why = Damage(f"{self.repository.name}: pack {place.pack}: {bad.message}")
        raise why or Damage(
            f"{self.repository.name}: blob {id.hex()[:16]} is in no index segment",
            hint="where the index lost a segment its packs still hold everything: zaibei backup repair",
        )

    def read_all(self, ids: Iterable[bytes]) -> Iterator[bytes]:
        """In order, a few ahead."""
        waiting: deque[Future[bytes]] = deque()
        for id_ in ids:
            waiting.append(self._pool.submit(self.read, id_))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def nodes(self, snapshot: Snapshot) -> Iterator[Node]:
        """Raises Damage at the end when the listing is shorter or longer than the snapshot says."""
        count = 0
        for node in tree.decode(self.read(id_) for id_ in snapshot.content.tree):
            count += 1
            yield node
        if count != snapshot.content.entries:
            raise Damage(
                f"snapshot {snapshot.sequence} lists {count} entries"
                f" and should list {snapshot.content.entries}"
            )

    def _pack(self, name: str, size_bytes: int) -> _Opened:
        with self._lock:
            mine = name not in self._packs
            if mine:
                self._packs[name] = Future(), size_bytes
                self._held_bytes += size_bytes
                while self._held_bytes > CACHE_BYTES and len(self._packs) > 1:
                    _, (_, freed) = self._packs.popitem(last=False)
                    self._held_bytes -= freed
            else:
                self._packs.move_to_end(name)
            future, _ = self._packs[name]
        if mine:
            # One thread fetches; the others that want the same pack wait for it.
            try:
                data = self.repository.read_pack(name, size_bytes)
                seal = Seal.of(self.repository.keys, Kind.PACK, "", data)
                future.set_result((seal, data))
            except BaseException as bad:  # noqa: BLE001 — it is handed to whoever waits
                with self._lock:
                    if self._packs.pop(name, None) is not None:
                        self._held_bytes -= size_bytes
                future.set_exception(bad)
        return future.result()

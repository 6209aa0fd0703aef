"""Which pack holds which blob: immutable sorted segments in the vault, one private table here.

A segment names packs that are already in the vault, never others. Losing all segments loses nothing: every
pack's trailer holds its entries (`rebuild`). The table is a private temporary SQLite file, so memory is
bounded whatever the repository holds; it goes with the process.
"""

import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backup import blob
from backup.blob import Encoding
from backup.keys import Keyring
from backup.pack import Entry
from backup.seal import Kind, open_whole, seal_whole
from backup.suite import ID_BYTES
from zaibei.kernel.errors import Damage

SEGMENT_PACKS: Final = 64  # a segment is written at the latest after this many packs
SEGMENT_BYTES_MAX: Final = 64 << 20
_COUNT = struct.Struct(">I")
_PACK = struct.Struct(">32sQ")
_ENTRY = struct.Struct(
    f">{ID_BYTES}sIBBIIII"
)  # id, pack, kind, encoding, offset, stored, raw, slot
_CACHE_KIB = 32 << 10
_BOUND = "index"  # a segment is named by its digest; this is what its AAD names


@dataclass(frozen=True, slots=True)
class Held:
    """A pack as the index knows it."""

    name: str
    size_bytes: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Place:
    pack: str
    pack_bytes: int
    entry: Entry


def encode_segment(keys: Keyring, packs: Sequence[Held]) -> tuple[str, bytes]:
    """Name and bytes."""
    rows = sorted(
        _ENTRY.pack(e.id, at, e.kind, e.encoding, e.offset, e.stored_bytes, e.raw_bytes, e.slot)
        for at, p in enumerate(packs)
        for e in p.entries
    )
    plain = b"".join(
        [
            _COUNT.pack(len(packs)),
            *(_PACK.pack(bytes.fromhex(p.name), p.size_bytes) for p in packs),
            _COUNT.pack(len(rows)),
            *rows,
        ]
    )
    sealed = seal_whole(keys, Kind.INDEX, _BOUND, plain)
    return keys.suite.digest(sealed), sealed


def decode_segment(keys: Keyring, name: str, sealed: bytes) -> tuple[Held, ...]:
    if keys.suite.digest(sealed) != name:
        raise Damage(f"index {name}: its bytes do not have its name")
    plain = open_whole(keys, Kind.INDEX, _BOUND, sealed)
    try:
        (packs,) = _COUNT.unpack_from(plain)
        at = _COUNT.size + packs * _PACK.size
        names = [(n.hex(), size) for n, size in _PACK.iter_unpack(plain[_COUNT.size : at])]
        (rows,) = _COUNT.unpack_from(plain, at)
        body = plain[at + _COUNT.size :]
        if len(names) != packs or len(body) != rows * _ENTRY.size:
            raise Damage(f"index {name}: counts do not fit")
        held: list[list[Entry]] = [[] for _ in names]
        for id_, pack, kind, encoding, offset, stored, raw, slot in _ENTRY.iter_unpack(body):
            held[pack].append(
                Entry(id_, blob.Kind(kind), Encoding(encoding), offset, stored, raw, slot)
            )
    except (struct.error, ValueError, IndexError) as bad:
        raise Damage(f"index {name}: {bad}") from bad
    return tuple(Held(n, size, tuple(e)) for (n, size), e in zip(names, held, strict=True))


class Catalogue:
    """Every blob of a repository and where it is; and who is packing which now. Thread-safe."""

    def __init__(self) -> None:
        # "" is SQLite's private temporary database: on disk when it outgrows the cache, gone on close.
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        for line in (
            f"PRAGMA cache_size=-{_CACHE_KIB}",
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "CREATE TABLE pack (no INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER)",
            (
                "CREATE TABLE blob (id BLOB, pack INTEGER, kind INTEGER, encoding INTEGER,"
                " offset INTEGER, stored INTEGER, raw INTEGER, slot INTEGER,"
                " PRIMARY KEY (id, pack)) WITHOUT ROWID"
            ),
            "CREATE TABLE claim (id BLOB PRIMARY KEY) WITHOUT ROWID",
        ):
            self._db.execute(line)

    def add(self, name: str, size_bytes: int, entries: Iterable[Entry]) -> None:
        with self._lock:
            self._db.execute("BEGIN")
            self._db.execute(
                "INSERT OR IGNORE INTO pack (name, size) VALUES (?, ?)", (name, size_bytes)
            )
            (no,) = self._db.execute("SELECT no FROM pack WHERE name = ?", (name,)).fetchone()
            self._db.executemany(
                "INSERT OR IGNORE INTO blob VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (e.id, no, e.kind, e.encoding, e.offset, e.stored_bytes, e.raw_bytes, e.slot)
                    for e in entries
                ),
            )
            self._db.execute("COMMIT")

    def claim(self, id: bytes) -> bool:  # noqa: A002
        """Whether the caller is the first who wants to pack this blob in this run."""
        with self._lock:
            done = self._db.execute("INSERT OR IGNORE INTO claim VALUES (?)", (id,))
            return done.rowcount == 1

    def places(self, id: bytes) -> list[Place]:  # noqa: A002
        """Where the blob is; more than one when two writers packed it at the same time."""
        with self._lock:
            rows = self._db.execute(
                "SELECT name, size, kind, encoding, offset, stored, raw, slot FROM blob"
                " JOIN pack ON pack.no = blob.pack WHERE id = ? ORDER BY pack",
                (id,),
            ).fetchall()
        return [
            Place(name, size, Entry(id, blob.Kind(kind), Encoding(enc), off, stored, raw, slot))
            for name, size, kind, enc, off, stored, raw, slot in rows
        ]

    def packs(self) -> Iterator[tuple[str, int]]:
        """Name and size of every pack, in name order, a page at a time."""
        last = ""
        while True:
            with self._lock:
                page = self._db.execute(
                    "SELECT name, size FROM pack WHERE name > ? ORDER BY name LIMIT 1000", (last,)
                ).fetchall()
            if not page:
                return
            yield from page
            last = page[-1][0]

    def entries(self, pack: str) -> set[Entry]:
        with self._lock:
            rows = self._db.execute(
                "SELECT id, kind, encoding, offset, stored, raw, slot FROM blob"
                " WHERE pack = (SELECT no FROM pack WHERE name = ?)",
                (pack,),
            ).fetchall()
        return {
            Entry(id_, blob.Kind(kind), Encoding(enc), off, stored, raw, slot)
            for id_, kind, enc, off, stored, raw, slot in rows
        }

    def count(self) -> tuple[int, int]:
        """Packs and blobs."""
        with self._lock:
            (packs,) = self._db.execute("SELECT count(*) FROM pack").fetchone()
            (blobs,) = self._db.execute("SELECT count(*) FROM blob").fetchone()
        return packs, blobs

    def close(self) -> None:
        with self._lock:
            self._db.close()

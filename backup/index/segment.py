"""Encodes and decodes one index segment: packs, and which blob lies where in them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backup.crypto.keyring import Keyring
from backup.crypto.seal import Kind, open_whole, seal_whole
from backup.crypto.suite import ID_BYTES
from backup.format import blob
from backup.format.blob import Encoding
from backup.format.pack import Entry
from backup.index.sorted_runs import Rows, rows_of
from zaibei.kernel.errors import Damage

SEGMENT_PACKS: Final = 64  # a segment is written at the latest after this many packs
SEGMENT_BYTES_MAX: Final = 64 << 20
_COUNT = struct.Struct(">I")
_PACK = struct.Struct(">32sQ")
_ENTRY = struct.Struct(
    f">{ID_BYTES}sIBBIIII"
)  # id, pack, kind, encoding, offset, stored, raw, slot
_BOUND = "index"  # a segment is named by its digest; this is what its AAD names
ROW = np.dtype(
    [
        ("id", f"V{ID_BYTES}"),
        ("pack", ">u4"),
        ("kind", "u1"),
        ("encoding", "u1"),
        ("offset", ">u4"),
        ("stored", ">u4"),
        ("raw", ">u4"),
        ("slot", ">u4"),
    ]
)
_WIDTH: Final = _ENTRY.size


@dataclass(frozen=True, slots=True)
class PackEntries:
    """A pack as the index knows it."""

    name: str
    size_bytes: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as it lies in the vault: `rows` in its own form, `pack` in them counts `names`."""

    name: str
    names: Rows  # (packs, 32)
    sizes: NDArray[np.uint64]
    rows: Rows


def encode_segment(keys: Keyring, packs: Sequence[PackEntries]) -> tuple[str, bytes]:
    """Name and bytes."""
    return seal_segment(keys, segment_plain(packs))


def segment_plain(packs: Sequence[PackEntries]) -> bytes:
    rows = sorted(_row(e, at) for at, p in enumerate(packs) for e in p.entries)
    named = [_PACK.pack(bytes.fromhex(p.name), p.size_bytes) for p in packs]
    return b"".join([_COUNT.pack(len(packs)), *named, _COUNT.pack(len(rows)), *rows])


def seal_segment(keys: Keyring, plain: bytes) -> tuple[str, bytes]:
    sealed = seal_whole(keys, Kind.INDEX, _BOUND, plain)
    return keys.suite.digest(sealed), sealed


def read_segment(keys: Keyring, name: str, sealed: bytes) -> Segment:
    if keys.suite.digest(sealed) != name:
        raise Damage(f"index {name}: its bytes do not have its name")
    return parse_segment(name, open_whole(keys, Kind.INDEX, _BOUND, sealed))


def parse_segment(name: str, plain: bytes) -> Segment:
    """Every field checked, no loop a row."""
    try:
        (packs,) = _COUNT.unpack_from(plain)
        at = _COUNT.size + packs * _PACK.size
        (count,) = _COUNT.unpack_from(plain, at)
    except struct.error as bad:
        raise Damage(f"index {name}: {bad}") from bad
    if len(plain) != at + _COUNT.size + count * _WIDTH:
        raise Damage(f"index {name}: counts do not fit")
    listed = rows_of(plain[_COUNT.size : at], _PACK.size)
    rows = rows_of(plain[at + _COUNT.size :], _WIDTH)
    fields = rows.view(ROW).reshape(-1)
    if (fields["pack"] >= packs).any():
        raise Damage(f"index {name}: a blob in a pack that it does not name")
    if (fields["kind"] > max(blob.Kind)).any() or (fields["encoding"] > max(Encoding)).any():
        raise Damage(f"index {name}: a blob of unknown kind or encoding")
    sizes = np.ascontiguousarray(listed[:, ID_BYTES:]).view(">u8").ravel().astype(np.uint64)
    return Segment(name, np.ascontiguousarray(listed[:, :ID_BYTES]), sizes, rows)


def decode_segment(keys: Keyring, name: str, sealed: bytes) -> tuple[PackEntries, ...]:
    one = read_segment(keys, name, sealed)
    held: list[list[Entry]] = [[] for _ in one.names]
    for row in _ENTRY.iter_unpack(one.rows.tobytes()):
        held[row[1]].append(_entry(row))
    return tuple(
        PackEntries(n.tobytes().hex(), int(size), tuple(e))
        for n, size, e in zip(one.names, one.sizes, held, strict=True)
    )


def _row(e: Entry, pack: int) -> bytes:
    return _ENTRY.pack(
        e.id, pack, e.kind, e.encoding, e.offset, e.stored_bytes, e.raw_bytes, e.slot
    )


def _entry(row: tuple[bytes, int, int, int, int, int, int, int]) -> Entry:
    id_, _, kind, encoding, offset, stored, raw, slot = row
    return Entry(id_, blob.Kind(kind), Encoding(encoding), offset, stored, raw, slot)

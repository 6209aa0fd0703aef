"""Many blobs in one object, in random order, padded: the store learns neither sizes nor count.

    header 76 │ blob │ blob │ … │ sealed trailer (entries, zero padding) │ sealed footer 20

The name is the digest of the bytes, so a pack can be checked without a key. The trailer lets an index be
rebuilt from packs alone. The footer says how long the trailer is and is itself sealed: in the clear it
would give away how much of the pack is padding.
"""

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from backup.crypto.keyring import Keyring
from backup.crypto.seal import HEADER_BYTES, SLOT_MAX, Kind, Seal
from backup.crypto.suite import ID_BYTES, TAG_BYTES
from backup.format import blob
from backup.format.blob import Encoding
from zaibei.kernel.errors import Damage

TRAILER_SLOT: Final = SLOT_MAX - 1
FOOTER_SLOT: Final = SLOT_MAX
FOOTER_BYTES: Final = 4 + TAG_BYTES
TAIL_BYTES: Final = (
    64 << 10
)  # what is read of a pack's end to find its trailer; nearly always enough
PACK_BYTES: Final = 8 << 20  # a pack is closed before it is larger; not part of the format
_EARLY: Final = 3 / 4  # of that: from here on a pack is closed where its padding is small
_PADDING_RATIO: Final = 0.004  # what is small
_ENTRY = struct.Struct(f">{ID_BYTES}sBBIII")  # id, kind, encoding, offset, stored, raw
_COUNT = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one blob is. `slot` is its place in the pack's sealing order."""

    id: bytes
    kind: blob.Kind
    encoding: Encoding
    offset: int
    stored_bytes: int  # sealed, with the tag
    raw_bytes: int
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    name: str  # digest of data
    data: bytes
    entries: tuple[Entry, ...]


@dataclass(slots=True, eq=False)
class Builder:
    """Blobs waiting for a pack to be full. Not for two threads at once: its writer holds the lock."""

    kind: blob.Kind
    parts: list[tuple[bytes, Encoding, bytes, int]] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, id: bytes, encoding: Encoding, encoded: bytes, raw_bytes: int) -> None:  # noqa: A002
        self.parts.append((id, encoding, encoded, raw_bytes))
        self.size_bytes += len(encoded) + TAG_BYTES

    def fits(self, encoded_bytes: int, target: int) -> bool:
        """Whether one more blob keeps the pack within `target`. An empty one takes anything."""
        return not self.parts or _bare(self, encoded_bytes) <= target

    def is_full(self, target: int) -> bool:
        """Closing where the next size of Padmé is near keeps the padding under one per cent on average;
        a pack that waits for the last byte of `target` pays twice that."""
        bare = _bare(self)
        return bare >= target * _EARLY and (padme(bare) - bare <= bare * _PADDING_RATIO)

    def seal(self, keys: Keyring, rng: random.Random) -> Pack:
        """Once: the blobs are let go one by one as they are sealed, or a pack would be in memory three times."""
        assert self.parts, "an empty pack is never written"
        parts, self.parts = self.parts, []
        rng.shuffle(parts)
        hedge = b"".join(p[0] + len(p[2]).to_bytes(4) for p in parts)
        one = Seal.fresh(keys, Kind.PACK, "", hedge=keys.suite.mac(keys.id, b"hedge", hedge))
        out, entries, offset = [one.header], [], HEADER_BYTES
        for slot in range(len(parts)):
            id_, encoding, encoded, raw = parts.pop()
            sealed = one.seal(slot, encoded)
            # Opened again before it leaves: the source is still there to be read again, later it is not.
            if one.open(slot, sealed) != encoded:
                raise Damage("a blob does not open again; the memory of this machine is suspect")
            out.append(sealed)
            entries.append(Entry(id_, self.kind, encoding, offset, len(sealed), raw, slot))
            offset += len(sealed)
        listed = _COUNT.pack(len(entries)) + b"".join(
            _ENTRY.pack(e.id, e.kind, e.encoding, e.offset, e.stored_bytes, e.raw_bytes)
            for e in entries
        )
        bare = offset + len(listed) + TAG_BYTES + FOOTER_BYTES
        trailer = one.seal(TRAILER_SLOT, listed + bytes(padme(bare) - bare))
        out += [trailer, one.seal(FOOTER_SLOT, len(trailer).to_bytes(4))]
        data = b"".join(out)
        assert len(data) == padme(bare), "a pack's size is one of few"
        return Pack(name=keys.suite.digest(data), data=data, entries=tuple(entries))


def key_of(name: str) -> str:
    return f"packs/{name[:2]}/{name}"


def open_blob(one: Seal, entry: Entry, sealed: bytes, keys: Keyring) -> bytes:
    """Plaintext whose id was recomputed: whatever the index said, these are the bytes that were asked for."""
    if len(sealed) != entry.stored_bytes:
        raise Damage("a pack is truncated")
    plain = blob.decode(entry.encoding, one.open(entry.slot, sealed), raw_bytes=entry.raw_bytes)
    if keys.blob_id(entry.kind.domain, plain) != entry.id:
        raise Damage("a blob is not the one that its index names")
    return plain


def read_trailer(keys: Keyring, name: str, data: bytes) -> tuple[Entry, ...]:
    """The entries of a whole pack, from its own trailer. Raises Damage for any byte that is not as sealed."""
    return fetch_trailer(keys, name, len(data), lambda start, size: data[start : start + size])


def fetch_trailer(
    keys: Keyring, name: str, size_bytes: int, read: Callable[[int, int], bytes]
) -> tuple[Entry, ...]:
    """The same, by reading only the header and the end. Ranges are round, so that a store that sees them
    learns nothing about where the trailer begins and how much of it is padding."""
    return _trailer(keys, name, size_bytes, read)[0]


def _trailer(
    keys: Keyring, name: str, size_bytes: int, read: Callable[[int, int], bytes]
) -> tuple[tuple[Entry, ...], int]:
    """The entries, and where the sealed trailer begins."""
    try:
        one = Seal.of(keys, Kind.PACK, "", read(0, HEADER_BYTES))
        start = max(HEADER_BYTES, size_bytes - TAIL_BYTES)
        tail = read(start, size_bytes - start)
        if len(tail) < FOOTER_BYTES or len(tail) != size_bytes - start:
            raise Damage("truncated")
        length = int.from_bytes(one.open(FOOTER_SLOT, tail[-FOOTER_BYTES:]))
        if not TAG_BYTES <= length <= size_bytes - HEADER_BYTES - FOOTER_BYTES:
            raise Damage("the footer is out of range")
        begin = size_bytes - FOOTER_BYTES - length
        if begin < start:
            start = max(HEADER_BYTES, begin - begin % TAIL_BYTES)
            tail = read(start, size_bytes - start)
        listed = one.open(TRAILER_SLOT, tail[begin - start : -FOOTER_BYTES])
        (count,) = _COUNT.unpack_from(listed)
        if _COUNT.size + count * _ENTRY.size > len(listed):
            raise Damage("the trailer counts more than it holds")
        return tuple(_entries(listed, count)), begin
    except (Damage, struct.error, ValueError) as bad:
        raise Damage(f"pack {name}: {bad}") from bad


def check_whole(keys: Keyring, name: str, data: bytes) -> tuple[Entry, ...]:
    """Every byte of a pack: name, trailer, each blob opened and its id recomputed."""
    check_name(keys, name, data)
    return check_blobs(keys, name, data)[0]


def check_name(keys: Keyring, name: str, data: bytes) -> None:
    if keys.suite.digest(data) != name:
        raise Damage(f"pack {name}: its bytes do not have its name")


def check_blobs(keys: Keyring, name: str, data: bytes) -> tuple[tuple[Entry, ...], bool]:
    """Trailer, each blob opened and its id recomputed; and whether that was every byte. Then these are the
    bytes of one pack as it was sealed; that it is the pack of this name only its digest says, or the index."""
    entries, begin = _trailer(keys, name, len(data), lambda at, size: data[at : at + size])
    one = Seal.of(keys, Kind.PACK, "", data)
    for e in entries:
        try:
            open_blob(one, e, data[e.offset : e.offset + e.stored_bytes], keys)
        except Damage as bad:
            raise Damage(f"pack {name}: {bad.message}") from bad
    at = HEADER_BYTES
    for e in sorted(entries, key=lambda e: e.offset):
        if e.offset != at:
            return entries, False  # a gap or an overlap: no writer of ours makes one
        at += e.stored_bytes
    return entries, at == begin


def padme(size: int) -> int:
    """The size to pad to (Nikitin et al., PoPETs 2019): at most 12 % more, O(log log n) bits leaked."""
    assert size > 1
    exponent = size.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << max(0, low_bits)) - 1
    return (size + mask) & ~mask


def _bare(builder: Builder, more: int | None = None) -> int:
    """The size of the pack before padding, with one more blob of `more` encoded bytes."""
    count, size = len(builder.parts), builder.size_bytes
    if more is not None:
        count, size = count + 1, size + more + TAG_BYTES
    listed = _COUNT.size + count * _ENTRY.size + TAG_BYTES
    return HEADER_BYTES + size + listed + FOOTER_BYTES


def _entries(listed: bytes, count: int) -> Sequence[Entry]:
    return [
        Entry(id_, blob.Kind(kind), Encoding(encoding), offset, stored, raw, slot)
        for slot, (id_, kind, encoding, offset, stored, raw) in enumerate(
            _ENTRY.iter_unpack(listed[_COUNT.size : _COUNT.size + count * _ENTRY.size])
        )
    ]

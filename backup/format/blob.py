"""Encodes and decodes one blob: zstd where it helps, with a checked length and id both ways."""

import threading
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import zstandard

from zaibei.kernel.errors import Damage

BLOB_BYTES_MAX: Final = 8 << 20  # plaintext of one blob; nothing larger is ever allocated for one
# Level 3 takes 2 to 3 % less room on real trees and a third more time, level 1 2 to 3 % more than 2: beside restic
# on the same trees 1.00 to 1.01, 0.97 to 0.98 and 1.03 to 1.06 (docs/backup/performance.md).
_LEVEL = 2
_local = threading.local()


class Kind(IntEnum):
    DATA = 0
    TREE = 1

    @property
    def domain(self) -> bytes:
        return b"blob/data" if self is Kind.DATA else b"blob/tree"


class Encoding(IntEnum):
    RAW = 0
    ZSTD = 1


class Chunk:
    """Plaintext, and its compressed form made once however many vaults ask. Used by one thread at a time."""

    __slots__ = ("_encoded", "data")

    def __init__(self, data: bytes) -> None:
        assert 0 < len(data) <= BLOB_BYTES_MAX
        self.data = data
        self._encoded: tuple[Encoding, bytes] | None = None

    def encoded(self) -> tuple[Encoding, bytes]:
        if self._encoded is None:
            self._encoded = encode(self.data)
        return self._encoded


def encode_all(chunks: Sequence[Chunk]) -> None:
    """What `encoded` would do for each that nobody has asked yet, in one call of the compressor and one of the
    decompressor: with two calls a small piece, threads wait longer for the interpreter's lock than they compress."""
    left = [c for c in chunks if c._encoded is None]
    if len(left) < 2:
        for chunk in left:
            chunk.encoded()
        return
    squeezed = _compressor().multi_compress_to_buffer([c.data for c in left])
    again = _decompressor().multi_decompress_to_buffer(squeezed)
    for at, chunk in enumerate(left):
        if len(squeezed[at]) >= len(chunk.data):
            chunk._encoded = Encoding.RAW, chunk.data
        else:
            _same(again[at].tobytes(), chunk.data)
            chunk._encoded = Encoding.ZSTD, squeezed[at].tobytes()


def encode(data: bytes, *, bound: int = BLOB_BYTES_MAX) -> tuple[Encoding, bytes]:
    squeezed = _compressor().compress(data)
    if len(squeezed) >= len(data):
        return Encoding.RAW, data
    _same(decode(Encoding.ZSTD, squeezed, raw_bytes=len(data), bound=bound), data)
    return Encoding.ZSTD, squeezed


def decode(encoding: int, data: bytes, *, raw_bytes: int, bound: int = BLOB_BYTES_MAX) -> bytes:
    """Raises Damage for anything that is not exactly `raw_bytes` of plaintext; never allocates more."""
    if not 0 < raw_bytes <= bound:
        raise Damage(f"a blob claims {raw_bytes} bytes")
    if encoding == Encoding.RAW:
        plain = data
    elif encoding == Encoding.ZSTD:
        try:
            if zstandard.frame_content_size(data) != raw_bytes:
                raise Damage("a blob's frame claims another size than its index")
            plain = _decompressor().decompress(data, max_output_size=raw_bytes)
        except zstandard.ZstdError as bad:
            raise Damage(f"a blob does not decompress: {bad}") from bad
    else:
        raise Damage(f"a blob of unknown encoding {encoding}")
    if len(plain) != raw_bytes:
        raise Damage(f"a blob has {len(plain)} bytes and should have {raw_bytes}")
    return plain


def _same(again: bytes, data: bytes) -> None:
    # A compressor that garbles is found now, while the source is still there, not at the restore.
    if again != data:
        raise Damage("compression does not round-trip; the memory of this machine is suspect")


def _compressor() -> zstandard.ZstdCompressor:
    # A zstd context is not for two threads at once.
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    one: zstandard.ZstdCompressor = _local.compressor
    return one


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    one: zstandard.ZstdDecompressor = _local.decompressor
    return one

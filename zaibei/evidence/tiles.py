"""The files of a C2SP tlog-tiles log: where a tile lies, and the bytes of a bundle of entries. Pure."""

from collections.abc import Iterator, Sequence

from zaibei.evidence import tree
from zaibei.kernel.errors import Damage

WIDTH = 256  # hashes in a full tile
MAX_ENTRY_BYTES = 65_535  # the length is a uint16


def path(level: int | str, number: int, width: int = WIDTH) -> str:
    """`tile/0/x001/234`, with `.p/7` for a tile that holds 7. `level` "entries" for bundles."""
    assert 0 < width <= WIDTH
    parts = [f"{number % 1000:03d}"]
    while number := number // 1000:
        parts.insert(0, f"x{number % 1000:03d}")
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(parts)}{partial}"


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    assert all(len(e) <= MAX_ENTRY_BYTES for e in entries)
    return b"".join(len(e).to_bytes(2, "big") + e for e in entries)


def decode_bundle(raw: bytes, width: int) -> list[bytes]:
    """Exactly `width` entries. Raises Damage when there are more, fewer, or half of one."""
    entries, at = [], 0
    while at < len(raw):
        end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
        if end > len(raw) or at + 2 > len(raw):
            raise Damage("a bundle of entries is cut off")
        entries.append(raw[at + 2 : end])
        at = end
    if len(entries) != width:
        raise Damage(f"a bundle holds {len(entries)} entries where {width} are due")
    return entries


def hash_tiles(leaves: Sequence[bytes], *, since: int = 0) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each hash tile of a tree; only those that changed after size `since`."""
    level, hashes = 0, list(leaves)
    while hashes:
        first = (since >> (8 * level)) // WIDTH
        for number in range(first, -(-len(hashes) // WIDTH)):
            held = hashes[number * WIDTH : (number + 1) * WIDTH]
            yield path(level, number, len(held)), b"".join(held)
        full = len(hashes) // WIDTH
        hashes = [tree.root(hashes[n * WIDTH : (n + 1) * WIDTH]) for n in range(full)]
        level += 1


def bundles(size: int) -> Iterator[tuple[int, int]]:
    """Number and width of each entry bundle of a log of `size`."""
    for number in range(-(-size // WIDTH)):
        yield number, min(WIDTH, size - number * WIDTH)

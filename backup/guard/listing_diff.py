"""Compares two listings without holding either in memory.

Blobs of lines that both have are not fetched, lines that both have are not parsed, and of very many
differences a sample is kept.
"""

import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backup.format import tree
from backup.format.tree import Node, Type

ENTRIES_MAX: Final = (
    100_000  # differences held of each side; above it one in 2, 4, 8 … is looked at
)
BLOBS_MAX: Final = 1024  # ids held of one file; above it one in 2, 4, 8 … again
_MORE: Final = b'{"more"'
_NAME_ENDS = re.compile(rb'","(?:type|path_hex)"|"type"')
Fetch = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Seen:
    """One file of a listing. `mask`: which ids were kept (those whose first bits are zero)."""

    size_bytes: int
    ids: frozenset[bytes]
    mask: int


@dataclass(slots=True)
class Differences:
    before: dict[bytes, Seen]  # lines that only the older listing has
    after: dict[bytes, Seen]
    sampled: int


def differences(
    old: Sequence[bytes], new: Sequence[bytes], fetch: Fetch, *, entries: int
) -> Differences:
    """`old` and `new`: blob ids of the listings; `entries`: of the longer one."""
    import numpy as np  # noqa: PLC0415 — slow to import, and a first run needs none of it

    common = set(old) & set(new)
    older = [id_ for id_ in old if id_ not in common]
    newer = [id_ for id_ in new if id_ not in common]
    sampled = 1
    while entries > ENTRIES_MAX * sampled:
        sampled *= 2
    there = np.sort(np.frombuffer(_hashes(older, fetch), dtype=np.int64))
    met = np.zeros(len(there), dtype=bool)
    after: dict[bytes, Seen] = {}
    for line in _grouped(newer, fetch):
        at = int(np.searchsorted(there, hash(line))) if len(there) else 0
        if at < len(there) and there[at] == hash(line):
            met[at] = True
        elif _chosen(line, sampled):
            _keep(line, after)
    gone = set(there[~met].tolist())
    before: dict[bytes, Seen] = {}
    for line in _grouped(older, fetch) if gone else ():
        if hash(line) in gone and _chosen(line, sampled):
            _keep(line, before)
    return Differences(before=before, after=after, sampled=sampled)


def kept(ids: Iterable[bytes], mask: int) -> frozenset[bytes]:
    return frozenset(i for i in ids if not int.from_bytes(i[:4]) & mask)


def _hashes(blobs: Sequence[bytes], fetch: Fetch) -> "array[int]":
    return array("q", (hash(line) for line in _grouped(blobs, fetch)))


def _grouped(blobs: Sequence[bytes], fetch: Fetch) -> Iterator[bytes]:
    """An entry's line with the `more` lines that belong to it. What begins in a blob that was left
    out as common is left out on both sides."""
    open_: list[bytes] = []
    for id_ in blobs:
        for line in fetch(id_).splitlines():
            if line.startswith(_MORE):
                if open_:
                    open_.append(line)
                continue
            if open_:
                yield b"\n".join(open_)
            open_ = [line]
    if open_:
        yield b"\n".join(open_)


def _chosen(line: bytes, sampled: int) -> bool:
    """By the name without its extensions, so that `a.doc` and `a.doc.locked` are chosen together."""
    if sampled == 1:
        return True
    found = _NAME_ENDS.search(line)
    name = line[: found.start()] if found else line
    folder, slash, last = name.rpartition(b"/")
    return not zlib.crc32(folder + slash + last.partition(b".")[0]) & (sampled - 1)


def _keep(line: bytes, into: dict[bytes, Seen]) -> None:
    for node in tree.decode([line]):
        # Of a bucket the current version of each key: an attacker overwrites and hides, and what lies below stays.
        if node.type is Type.FILE or _is_current(node):
            into[node.path] = _seen(node)


def _is_current(node: Node) -> bool:
    return node.type is Type.OBJECT and node.object is not None and node.object.latest


def _seen(node: Node) -> Seen:
    mask = 0
    while len(node.blobs) > BLOBS_MAX * (mask + 1):
        mask = mask * 2 + 1
    return Seen(node.size_bytes, kept(node.blobs, mask), mask)

"""Measures one run for the guard: compares two listings, and how well the added and removed bytes
compressed.

A file counts as struck when the bytes that replaced others compress clearly worse than those did,
or when a known format lost its header. Growth does not count: a table that takes in a million
photographs gains noise and loses nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from backup.crypto.suite import TAG_BYTES
from backup.guard.listing_diff import Differences, Seen, kept
from backup.guard.magic import MagicCheck, extension
from backup.guard.rules import DECAY, Features
from backup.index.blob_index import BlobIndex

LOOKUPS_MAX: Final = 200_000  # of blobs in the index, a run
DENSE: Final = 0.9  # stored/raw from here on: noise, or compressed already
JUMP: Final = (
    0.15  # of stored/raw: every sixth block encrypted in a text, every fourth in a database
)
_SMALL: Final = 4096  # below it a ratio moves by itself
_SMALL_FROM, _SMALL_TO = 0.85, 0.98
_GROWTH: Final = 2  # more than so many times what was lost: appended, not overwritten
_SAME_DELTA: Final = 0.8
_NOTE_BYTES: Final = 64 << 10
_NOTES_MIN: Final = 10
_RELATION = re.compile(rb"base/\d+/(\d+)")
_FIRST_USER_OID: Final = 16384


@dataclass(frozen=True, slots=True)
class _Weight:
    raw: int
    stored: int

    @property
    def ratio(self) -> float:
        return self.stored / self.raw if self.raw else 0.0


@dataclass(slots=True)
class _Tally:
    struck: int = 0
    struck_bytes: int = 0
    lost: int = 0
    gained: int = 0
    dense: int = 0
    shifts: list[float] = field(default_factory=list)
    deltas: Counter[int] = field(default_factory=Counter)


class _Scales:
    """Weighs blobs by the index, up to LOOKUPS_MAX of them."""

    def __init__(self, catalogue: BlobIndex, every: int) -> None:
        self._catalogue, self.every = catalogue, every

    def weigh(self, ids: Iterable[bytes]) -> _Weight:
        raw = stored = 0
        for id_ in ids:
            if places := self._catalogue.locations(id_):
                entry = places[0].entry
                raw += entry.raw_bytes
                stored += entry.stored_bytes - TAG_BYTES
        return _Weight(raw, stored)


def features(
    found: Differences,
    catalogue: BlobIndex,
    heads: MagicCheck,
    *,
    entries: int,
    size_bytes: int,
    before: Features | None,
) -> Features:
    """`before`: the features of the run that is compared with; None for the first of its group."""
    pairs = {p: p for p in found.after if p in found.before}
    renames = dict(_renames(found))
    same = {new for new, old in renames.items() if found.after[new].ids == found.before[old].ids}
    changed = [p for p in pairs if found.after[p].ids != found.before[p].ids]
    touched = {p for p in pairs if found.after[p].ids == found.before[p].ids}
    added = [p for p in found.after if p not in pairs and p not in renames]
    deleted = [p for p in found.before if p not in pairs and p not in set(renames.values())]
    moved = [p for p in renames if p not in same]
    wanted = sum(len(s.ids) for p, s in found.after.items() if p not in touched)
    wanted += sum(len(s.ids) for p, s in found.before.items() if p not in touched)
    scales = _Scales(catalogue, 1 + wanted // LOOKUPS_MAX)
    tally = _Tally(lost=sum(found.before[p].size_bytes for p in deleted))
    both = [(p, p) for p in changed] + [(new, renames[new]) for new in moved]
    for new, old in both[:: scales.every]:
        _pair(tally, scales, heads, new, found.after[new], old, found.before[old])
    for path in added[:: scales.every]:
        one = scales.weigh(found.after[path].ids)
        size = found.after[path].size_bytes
        tally.gained += size
        if one.ratio >= DENSE and not heads.vouched(path):
            tally.dense += size
    return _told(
        found, tally, changed, added, deleted, moved, scales.every, entries, size_bytes, before
    )


def _pair(
    tally: _Tally, scales: _Scales, heads: MagicCheck, new: bytes, now: Seen, old: bytes, was: Seen
) -> None:
    mask = max(now.mask, was.mask)
    ids, old_ids = kept(now.ids, mask), kept(was.ids, mask)
    lost, gained = scales.weigh(old_ids - ids), scales.weigh(ids - old_ids)
    scale = mask + 1
    tally.lost += lost.raw * scale
    tally.gained += gained.raw * scale
    noisy = gained.ratio >= DENSE and not heads.vouched(new)
    tally.dense += gained.raw * scale if noisy else 0
    if not lost.raw or not gained.raw or gained.raw > _GROWTH * lost.raw + _SMALL:
        return
    came = _replaced(lost, gained)
    jump = came.ratio - lost.ratio
    # Short texts compress badly: a log that was just begun anew is not noise.
    large = min(lost.raw, gained.raw) >= _SMALL
    if large and lost.ratio < DENSE:
        tally.shifts.append(jump)
    if lost.ratio >= DENSE:
        # Padding to a cipher's block is one length to us.
        delta = now.size_bytes - was.size_bytes
        tally.deltas[1 if 0 < delta <= 16 else delta] += 1
    hit = (
        (jump >= JUMP and lost.ratio < DENSE and not heads.vouched(new))
        if large
        else (lost.ratio <= _SMALL_FROM and came.ratio >= _SMALL_TO)
    )
    headless = heads.is_wrong(new) or (new != old and noisy and extension(old) != extension(new))
    if hit or headless:
        tally.struck += 1
        tally.struck_bytes += min(lost.raw, gained.raw) * scale


def _replaced(lost: _Weight, gained: _Weight) -> _Weight:
    """What came in the place of the lost, if all growth was noise: a database that took in photographs
    in its last block is not struck. Who encrypts and makes longer too is seen the less for it."""
    grown = max(0, gained.raw - lost.raw)
    return _Weight(gained.raw - grown, max(0, gained.stored - grown))


def _renames(found: Differences) -> Iterator[tuple[bytes, bytes]]:
    """New path to old: an extension was added to it or exchanged for another."""
    gone = [p for p in found.before if p not in found.after]
    stems = {p.removesuffix(b"." + extension(p)): p for p in gone if extension(p)}
    left = set(gone)
    for new in found.after:
        if new in found.before or not (last := extension(new)) or last.isdigit():
            continue
        stem = new[: -len(last) - 1]
        for old in (stem, stems.get(stem)):
            if old is not None and old in left:
                left.remove(old)
                yield new, old
                break


def _told(
    found: Differences,
    tally: _Tally,
    changed: list[bytes],
    added: list[bytes],
    deleted: list[bytes],
    moved: list[bytes],
    every: int,
    entries: int,
    size_bytes: int,
    before: Features | None,
) -> Features:
    wide = found.sampled
    struck = tally.struck * wide * every
    lost, gained = tally.lost * wide, tally.gained * wide * every
    dense = tally.dense * wide * every
    level = before.dense_ratio if before else 0.0
    size_before = before.size_bytes if before else 0
    left = max(0.0, level * (size_before - lost))
    gone = _relations(found.before) - _relations(found.after)
    relations = max(0, (before.relations if before else 0) - gone * wide)
    same = max(tally.deltas.values(), default=0)
    regular = same >= _SAME_DELTA * tally.deltas.total()
    return Features(
        entries=entries,
        entries_before=before.entries if before else 0,
        size_bytes=size_bytes,
        size_before_bytes=size_before,
        added=len(added) * wide,
        changed=len(changed) * wide,
        deleted=len(deleted) * wide,
        renamed=len(moved) * wide,
        struck=struck,
        struck_bytes=tally.struck_bytes * wide * every,
        struck_carried=struck + (before.struck_carried * DECAY if before else 0.0),
        shifted_ratio=median(tally.shifts) if tally.shifts else 0.0,
        shifted_of=len(tally.shifts) * wide * every,
        rewritten=same * wide * every if regular else 0,
        lost_bytes=lost,
        gained_bytes=gained,
        gained_dense_bytes=dense,
        dense_ratio=min(1.0, (left + dense) / size_bytes) if size_bytes else 0.0,
        dense_before_ratio=level,
        relations=relations,
        relations_before=before.relations if before else 0,
        notes=_notes(found, added) * wide,
        sampled=wide * every,
    )


def _relations(side: dict[bytes, Seen]) -> int:
    """User relations that hold something. TRUNCATE leaves an empty file; VACUUM FULL another one, as full."""
    return sum(
        1
        for path, one in side.items()
        if one.size_bytes
        and (m := _RELATION.fullmatch(path)) is not None
        and int(m[1]) >= _FIRST_USER_OID
    )


def _notes(found: Differences, added: list[bytes]) -> int:
    told: Counter[tuple[bytes, frozenset[bytes]]] = Counter(
        (path.rpartition(b"/")[2], one.ids)
        for path in added
        if 0 < (one := found.after[path]).size_bytes <= _NOTE_BYTES
    )
    most = max(told.values(), default=0)
    return most if most >= _NOTES_MIN else 0

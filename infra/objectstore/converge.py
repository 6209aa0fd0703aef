"""Do two stores hold the same? Asked of S3 itself, because the engine's own verify misses divergence.

Two sorted listings are merged key by key: memory is one key's versions, whatever the bucket holds. What one
side lacks can be copied; what differs is shown and left alone: there is no telling which side is right.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from infra.objectstore.contract import AlreadyThere, NotThere, Version, VersionedStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Busy, Damage
from zaibei.kernel.log import logger
from zaibei.kernel.progress import Progress, Silent
from zaibei.kernel.state import sole, state_dir, write_atomic

KEPT = 1000  # differences remembered in a report; all are counted
_TOLD_EVERY = 500
_TURNS, _TURN = 100, timedelta(milliseconds=50)  # who publishes at the same moment is done by then
_log = logger("converge")


class Kind(StrEnum):
    ONLY_A = "only-a"  # b has never seen the key
    ONLY_B = "only-b"
    LATEST = "latest"  # both know the key and show different objects, or one shows none
    HISTORY = "history"  # both show the same, and their pasts differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    key: str
    kind: Kind
    a: str  # what each side shows, for people
    b: str


@dataclass(slots=True, kw_only=True)
class Divergence:
    """Counts for metrics, and the first differences for people."""

    a: str
    b: str
    prefix: str = ""  # only keys that begin with it were looked at
    keys: int = 0  # compared, present or not
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    first: list[Difference] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_statement(self) -> dict[str, object]:
        return {
            "a": self.a,
            "b": self.b,
            "prefix": self.prefix,
            "keys": self.keys,
            "differences": self.total,
            "counts": {k.value: n for k, n in self.counts.items()},
            "first": [{"key": d.key, "kind": d.kind.value, "a": d.a, "b": d.b} for d in self.first],
        }


@dataclass(slots=True, kw_only=True)
class Healed:
    """What `heal` did. A conflict is left as it is."""

    copied: dict[str, list[str]]  # store -> keys it was given
    conflicts: list[Difference] = field(default_factory=list)


def differences(
    a: VersionedStore, b: VersionedStore, *, prefix: str = "", same_versions: bool = False
) -> Iterator[Difference | str]:
    """Each key that differs as a Difference, each that does not as its name. Lazy.

    `same_versions`: version ids must be equal too (filer.sync keeps them; two independent writers do not).
    """
    for key, left, right in _merged(a.versions(prefix), b.versions(prefix)):
        found = compare(key, left, right, same_versions=same_versions)
        yield key if found is None else found


def compare(
    key: str, a: list[Version], b: list[Version], *, same_versions: bool = False
) -> Difference | None:
    """Pure. Order within a key is told by `latest` alone: times of two sites do not order anything."""
    assert a or b, "a key that nobody has is not compared"
    if not a or not b:
        kind = Kind.ONLY_A if a else Kind.ONLY_B
    elif _face(_latest(a), same_versions) != _face(_latest(b), same_versions):
        kind = Kind.LATEST
    elif sorted(_face(v, same_versions) for v in a) != sorted(_face(v, same_versions) for v in b):
        kind = Kind.HISTORY
    else:
        return None
    return Difference(key=key, kind=kind, a=_say(a), b=_say(b))


def diff(
    a: VersionedStore,
    b: VersionedStore,
    *,
    prefix: str = "",
    same_versions: bool = False,
    progress: Progress | None = None,
) -> Divergence:
    told = progress or Silent()
    told.step(f"comparing {a.name} and {b.name}")
    found = Divergence(a=a.name, b=b.name, prefix=prefix)
    for one in differences(a, b, prefix=prefix, same_versions=same_versions):
        found.keys += 1
        if isinstance(one, Difference):
            found.counts[one.kind] += 1
            if len(found.first) < KEPT:
                found.first.append(one)
        if found.keys % _TOLD_EVERY == 0:
            told.done(found.keys, unit="keys")
    return found


def heal(
    a: VersionedStore, b: VersionedStore, *, prefix: str = "", progress: Progress | None = None
) -> Healed:
    """Copy what one of two write-once stores lacks, and read it back. Safe to repeat.

    Only a key the other side has never seen is copied, and only when it has one version: a delete
    marker, an overwrite or other bytes are a conflict for people. Raises Damage when what is read
    back is not what was read.
    """
    told = progress or Silent()
    told.step(f"healing {a.name} and {b.name}")
    done = Healed(copied={a.name: [], b.name: []})
    for key, left, right in _merged(a.versions(prefix), b.versions(prefix)):
        found = compare(key, left, right)
        if found is None:
            continue
        whole, lacking, have = (a, b, left) if left else (b, a, right)
        if (left and right) or len(have) != 1 or have[0].marker:
            done.conflicts.append(found)
        elif _copied(whole, lacking, key):
            done.copied[lacking.name].append(key)
            told.done(sum(map(len, done.copied.values())), unit="objects")
        else:
            done.conflicts.append(found)
    return done


def publish(found: Divergence, *, bucket: str, clock: Clock) -> Path:
    """Write what an audit found where the exporter reads it; safe to repeat.

    A bucket has several pairs of sites, and each is remembered: A and B being level again says nothing
    about C. The bucket's figures are the worst pair's count and the oldest pair's time. An audit of a part
    (`prefix`) can only make matters worse: that nothing differs there is no news about the rest.
    """
    file = state_dir() / "store" / "divergence.json"
    pair = " ".join(sorted((found.a, found.b)))
    for turn in range(_TURNS):
        try:
            with sole(file.with_suffix(".lock"), what="publishing an audit of a store"):
                told = _published(file)
                pairs = dict(_mapping(_mapping(told.get(bucket)).get("pairs")))
                now = clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
                known = _mapping(pairs.get(pair))
                if not found.prefix:
                    pairs[pair] = {"divergent": found.total, "checked_at": now}
                elif found.total > _count(known):
                    pairs[pair] = {**known, "divergent": found.total}
                if pairs:
                    told[bucket] = _of_pairs(pairs)
                    write_atomic(file, json.dumps(told, ensure_ascii=False, indent=2))
            return file
        except Busy:
            if turn == _TURNS - 1:
                raise
            clock.sleep(_TURN)
    raise AssertionError("the last turn returns or raises")


def _of_pairs(pairs: dict[str, Any]) -> dict[str, object]:
    times = [_mapping(p).get("checked_at") for p in pairs.values()]
    # RFC 3339 in UTC with one width: the oldest sorts first. A pair that was never audited whole has none.
    oldest = None if None in times else min(str(t) for t in times)
    worst = max(_count(_mapping(p)) for p in pairs.values())
    return {"divergent": worst, "checked_at": oldest, "pairs": pairs}


def _published(file: Path) -> dict[str, Any]:
    """What is there; a file that says nothing is begun anew, and its buckets count as never audited."""
    try:
        return dict(_mapping(json.loads(file.read_bytes())))
    except FileNotFoundError:
        return {}
    except ValueError:
        _log.warning("audit.unreadable", file=str(file))
        return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(pair: dict[str, Any]) -> int:
    count = pair.get("divergent")
    return count if isinstance(count, int) else 0


def _copied(source: VersionedStore, target: VersionedStore, key: str) -> bool:
    """False: while we looked, somebody put other bytes there."""
    try:
        data = source.read(key)
    except NotThere:
        return False
    try:
        target.create(key, data)
    except AlreadyThere:
        return target.read(key) == data
    if sha256(target.read(key)).digest() != sha256(data).digest():
        raise Damage(f"{target.name}: {key} was copied and reads back as something else")
    return True


def _merged(
    a: Iterator[Version], b: Iterator[Version]
) -> Iterator[tuple[str, list[Version], list[Version]]]:
    """Both sides' versions of each key, in key order. Needs both sides sorted; checks it."""
    lefts, rights = _by_key(a), _by_key(b)
    left, right = next(lefts, None), next(rights, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0].encode() < right[0].encode()):
            assert left is not None
            yield left[0], left[1], []
            left = next(lefts, None)
        elif left is None or right[0].encode() < left[0].encode():
            yield right[0], [], right[1]
            right = next(rights, None)
        else:
            yield left[0], left[1], right[1]
            left, right = next(lefts, None), next(rights, None)


def _by_key(versions: Iterator[Version]) -> Iterator[tuple[str, list[Version]]]:
    before: bytes | None = None
    for key, group in groupby(versions, key=lambda v: v.key):
        assert before is None or key.encode() > before, f"{key}: a listing out of order"
        before = key.encode()
        yield key, list(group)


def _latest(versions: list[Version]) -> Version:
    return next((v for v in versions if v.latest), versions[0])


def _face(version: Version, same_versions: bool) -> tuple[Any, ...]:
    """What must be equal on both sides. The etag stands for the bytes; `reread` looks at the bytes."""
    face = (version.marker, version.size_bytes, version.etag)
    return (*face, version.version or "") if same_versions else face


def _say(versions: list[Version]) -> str:
    if not versions:
        return "nothing"
    latest = _latest(versions)
    shows = "a delete marker" if latest.marker else f"{latest.size_bytes} B, etag {latest.etag}"
    return f"{shows}; versions: {len(versions)}"

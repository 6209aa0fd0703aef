"""Encodes and decodes a mark: what a garbage collection may delete, and from when on."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from backup.crypto.keyring import Keyring
from zaibei.kernel.errors import Damage

PREFIX: Final = "marks/"
NAMES_MAX: Final = 20_000  # in one mark: 1.4 MB
_DOCUMENT = "mark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long a mark stands before anything is removed, counted by the store's clock. `margin`: how long
    before the end of the grace a writer stops to believe that it can still commit."""

    grace: timedelta = timedelta(hours=24)
    margin: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        assert timedelta(0) <= self.margin <= self.grace


TERMS: Final = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """`since`: when the store took it in. `observed`: the snapshots that were asked what they need."""

    name: str
    since: datetime
    packs: frozenset[str]
    segments: frozenset[str]
    observed: tuple[int, ...]
    why: str


def key_of(name: str) -> str:
    return f"{PREFIX}{name}"


def packs_of(marks: Iterable[Mark]) -> frozenset[str]:
    return frozenset().union(*(m.packs for m in marks))


def segments_of(marks: Iterable[Mark]) -> frozenset[str]:
    return frozenset().union(*(m.segments for m in marks))


def _shared_out(
    packs: Sequence[str], segments: Sequence[str]
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    for at in range(0, max(len(packs), len(segments)), NAMES_MAX):
        yield packs[at : at + NAMES_MAX], segments[at : at + NAMES_MAX]


def _decode(keys: Keyring, name: str, data: bytes, since: datetime) -> Mark:
    what = key_of(name)
    body = keys.authority.opened(_DOCUMENT, data, key=what, digest=keys.suite.digest(data))
    if body.get("repository") != keys.repository.hex():
        raise Damage(f"{what}: a mark of another repository")
    try:
        return Mark(
            name=name,
            since=since,
            packs=frozenset(str(n) for n in body["packs"]),
            segments=frozenset(str(n) for n in body["segments"]),
            observed=tuple(int(n) for n in body["observed"]),
            why=str(body["why"]),
        )
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"{what}: {bad}") from bad

"""What may not be relied on any more: `marks/<digest>`, signed, readable by whoever reads the vault.

A mark names packs that no snapshot needs, or whose blobs were packed anew, and index segments whose packs
other segments name too. It deletes nothing. From then on no writer relies on a marked pack, and nobody
misses one; after the grace, and after looking again, the sweep removes what is still not needed. A mark is
taken away last: as long as an index segment names a pack that is gone, its mark says why.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from backup import signed, unread
from backup.errors import Retired
from backup.keys import Keyring
from backup.repository import Repository
from infra.objectstore.contract import NotThere, Stat
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


def standing(
    repo: Repository, damaged: Callable[[Stat, Damage], object] | None = None
) -> tuple[Mark, ...]:
    """All of them. One that is taken away while we look is one whose packs are gone. Without `damaged` the first
    that cannot be read raises: for who removes."""
    out = []
    for stat in repo.listed(PREFIX):
        name = stat.key.removeprefix(PREFIX)
        try:
            out.append(_decode(repo.keys, name, repo.read(stat.key), stat.modified))
        except Retired:
            continue  # the word of a key that was retired, maybe because it was stolen, marks nothing
        except Damage as bad:
            if isinstance(bad.__cause__, NotThere):
                continue
            if damaged is None:
                raise unread.with_hint(bad) from bad
            damaged(stat, bad)
    return tuple(out)


def packs_of(marks: Iterable[Mark]) -> frozenset[str]:
    return frozenset().union(*(m.packs for m in marks))


def segments_of(marks: Iterable[Mark]) -> frozenset[str]:
    return frozenset().union(*(m.segments for m in marks))


def write(
    repo: Repository,
    *,
    packs: Iterable[str],
    segments: Iterable[str],
    observed: Sequence[int],
    why: str,
) -> int:
    """How many marks it took. Safe to die in the middle: the next run marks what is not marked yet."""
    repo.keys.demand_root()
    count = 0
    for some, named in _shared_out(sorted(packs), sorted(segments)):
        body: signed.Body = {
            "format": 1,
            "repository": repo.keys.repository.hex(),
            "packs": list(some),
            "segments": list(named),
            "observed": list(observed),
            "why": why,
            "at": repo.clock.now().isoformat(),
        }
        data = signed.sign(_DOCUMENT, body, repo.keys.signer)
        repo.create(key_of(repo.keys.suite.digest(data)), data)
        count += 1
    return count


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

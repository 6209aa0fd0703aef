"""The statement that snapshots are forgotten: signed, write-once, readable by whoever reads the vault.

A forgotten snapshot keeps its number and its place in the chain: the statement carries its digest and the
digest of the one before it, so that a hole is legal exactly where a statement explains it and every link on
either side is still checked. A later statement may take a snapshot back (`kept`) while its data are safe.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backup import signed
from backup.errors import NewerFormat
from backup.keys import Keyring
from zaibei.kernel.errors import Damage

PREFIX: Final = "forgets/"
FIRST: Final = 1
_DOCUMENT = "forget"
# Why, where the snapshot itself is damaged or missing: whoever verifies does not ask for it any more.
LOST: Final = "lost"
HEALED: Final = "lost; taken over from the other vault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the chain needs of a snapshot that is not read any more. `digest` None: it was lost before
    anybody noted it, and the links on both its sides cannot be checked."""

    sequence: int
    digest: str | None
    previous: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    link: Link
    why: str
    statement: int
    since: datetime  # when the store took the statement in


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    number: int
    snapshots: tuple[Link, ...]
    kept: tuple[int, ...]  # taken back
    why: str
    at: str  # what the writer's clock said; for people


def key_of(number: int) -> str:
    return f"{PREFIX}{number:010d}"


def number_of(key: str) -> int:
    tail = key.removeprefix(PREFIX)
    if not (tail.isascii() and tail.isdigit()) or key != key_of(int(tail)):
        raise Damage(f"{key}: not the name of a forget statement")
    return int(tail)


def numbers(keys: Iterable[str]) -> Iterator[int]:
    """What is no statement's name takes no number."""
    for key in keys:
        with suppress(Damage):
            yield number_of(key)


def encode(keys: Keyring, one: Statement) -> bytes:
    assert one.snapshots or one.kept, "a statement says something"
    keys.demand_root()
    return signed.sign(
        _DOCUMENT,
        {
            "format": 1,
            "repository": keys.repository.hex(),
            "number": one.number,
            "snapshots": [
                {"sequence": s.sequence, "digest": s.digest, "previous": s.previous}
                for s in one.snapshots
            ],
            "kept": list(one.kept),
            "why": one.why,
            "at": one.at,
        },
        keys.signer,
    )


def decode(keys: Keyring, data: bytes, *, number: int) -> Statement:
    what = key_of(number)
    body, signature = signed.parse(data, what=what)
    digest = keys.suite.digest(data)
    keys.authority.check(_DOCUMENT, body, signature, key=what, digest=digest)
    if body.get("format") != 1:
        raise NewerFormat(f"{what}: format {body.get('format')}", hint="use a newer zaibei")
    if body.get("repository") != keys.repository.hex() or body.get("number") != number:
        raise Damage(f"{what}: a statement of another repository or place")
    try:
        return Statement(
            number=number,
            snapshots=tuple(
                Link(sequence=int(s["sequence"]), digest=s["digest"], previous=s["previous"])
                for s in body["snapshots"]
            ),
            kept=tuple(int(n) for n in body["kept"]),
            why=str(body["why"]),
            at=str(body["at"]),
        )
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"{what}: {bad}") from bad


def in_force(statements: Iterable[tuple[Statement, datetime]]) -> dict[int, Forgotten]:
    """What is forgotten when all is said, by sequence. The first statement about a snapshot counts its age."""
    held: dict[int, Forgotten] = {}
    for one, since in sorted(statements, key=lambda s: s[0].number):
        for sequence in one.kept:
            held.pop(sequence, None)
        for link in one.snapshots:
            held.setdefault(
                link.sequence,
                Forgotten(link=link, why=one.why, statement=one.number, since=since),
            )
    return held


def check_chain(
    links: Sequence[Link], *, name: str, hole: Callable[[int], None] | None = None
) -> None:
    """`links`: every snapshot, read or forgotten, in order. Raises Damage for a false link, and for a hole
    unless somebody is there to be told: `hole`."""
    last: Link | None = None
    expected = 0
    for link in links:
        expected += 1
        while link.sequence != expected:
            if hole is None or link.sequence < expected:
                raise Damage(
                    f"{name}: snapshot {expected} is missing from the chain",
                    hint="the vault lost or withholds it: compare with the other vault",
                )
            hole(expected)
            last = Link(sequence=expected, digest=None, previous=None)
            expected += 1
        wanted = None if last is None else last.digest
        unknown = link.digest is None or (last is not None and last.digest is None)
        if link.previous != wanted and not unknown:
            raise Damage(f"{name}: snapshot {expected} does not follow the one before it")
        last = link

"""The signed, write-once statement that snapshots are forgotten. Anyone who can read the vault can
read it.

A forgotten snapshot keeps its number and its place in the chain: the statement carries its digest
and the digest of the one before it. So a hole is legal exactly where a statement explains it, and
every link on either side is still checked. A later statement may take a snapshot back (`kept`)
while its data still exist.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backup.crypto import signed
from backup.crypto.keyring import Keyring
from backup.errors import NewerFormat
from backup.format.chain_link import Link
from zaibei.kernel.errors import Damage

PREFIX: Final = "forgets/"
FIRST: Final = 1
_DOCUMENT = "forget"
# Why, where the snapshot itself is damaged or missing: whoever verifies does not ask for it any more.
LOST: Final = "lost"
HEALED: Final = "lost; taken over from the other vault"


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
    keys.require_root()
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

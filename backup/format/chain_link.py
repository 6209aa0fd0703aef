"""Encodes a link of the snapshot chain, and checks that each names the one before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zaibei.kernel.errors import Damage


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the chain needs of a snapshot that is not read any more. `digest` None: it was lost before
    anybody noted it, and the links on both its sides cannot be checked."""

    sequence: int
    digest: str | None
    previous: str | None


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

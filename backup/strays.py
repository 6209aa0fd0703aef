"""Names under `snapshots/` that hold nothing: junk that whoever may write can put under any number.

A number counts as far as something proves that the chain went there: a snapshot that is signed, itself or as a copy of
a rotation, a signed statement, this machine's memory. What follows without a gap counts too, readable or not: it may be
the newest, damaged. Any other is a stray, or one object of four bytes would make the chain ten billion long.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from backup import forgotten, snapshot
from backup.errors import NewerFormat
from backup.forgotten import Link
from backup.versions import remove_damaged
from infra.objectstore.contract import NotThere, ObjectStore
from zaibei.kernel.errors import Damage

if TYPE_CHECKING:
    from backup.findings import Report
    from backup.repository import Repository
    from backup.snapshot import Snapshot

HOLES_MAX: Final = 100_000  # numbers that are not there, stated as lost at once
MEND: Final = "zaibei backup repair --confirm NAME removes it, as who may delete"
BY_HAND: Final = "or look at it, and remove it by hand"
STATES: Final = (
    "zaibei backup repair states that the number is lost, and the next run goes on after it"
)
WHAT: Final = "not a snapshot of this repository: a number that the chain never reached"


def split(repo: "Repository", numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those that are of the chain, and the strays. Reads nothing while there is no gap, and one object while the
    newest is sound."""
    every = sorted(numbers)
    if not every or every[-1] - snapshot.FIRST + 1 == len(every):
        return every, []
    newest = next((s for s in reversed(every) if _signed(repo, s)), snapshot.FIRST - 1)
    if newest < every[-1]:
        from backup import heads  # noqa: PLC0415 - it imports the repository, which imports us

        told = repo.forgotten(lambda _key, _bad: None)
        known = heads.remembered(repo)
        newest = max((newest, *told, *(known[:1] if known else ())))
        follows = frozenset(every)
        while newest + 1 in follows:
            newest += 1
    return [s for s in every if s <= newest], [s for s in every if s > newest]


def of(repo: "Repository") -> list[int]:
    return split(repo, [*snapshot.numbers(repo.named(snapshot.PREFIX))])[1]


def clear(repo: "Repository", deleter: ObjectStore | None, found: Sequence[int]) -> dict[str, str]:
    """Remove what still is no snapshot. What stays, and why. Safe to repeat."""
    stay = {}
    for sequence in found:
        key = snapshot.key_of(sequence)
        why: str | None = "only the deleter can remove it"
        if deleter is not None:
            why = remove_damaged(repo, deleter, key, damaged=partial(_unsigned, repo, sequence))
        if why is not None:
            stay[key] = why
    return stay


def in_the_way(repo: "Repository", newest: int) -> dict[int, str]:
    """What no listing shows and no snapshot can take the place of: a directory under one of the next numbers."""
    out: dict[int, str] = {}
    while True:
        sequence = newest + len(out) + 1
        try:
            repo.store.stat(snapshot.key_of(sequence))
        except NotThere:
            return out
        except Damage as bad:
            out[sequence] = bad.message
        else:
            return out


def check(repo: "Repository", out: "Report", newest: int) -> None:
    """What a verification says of both."""
    for sequence in of(repo):
        key = snapshot.key_of(sequence)
        found = out.found(key, Damage(f"{repo.name}: {key}: {WHAT}"))
        found.lost, found.mend = "nothing: no snapshot was there", MEND
    for sequence, why in in_the_way(repo, newest).items():
        found = out.found(snapshot.key_of(sequence), Damage(why, hint=BY_HAND))
        found.lost, found.mend = "nothing yet: no snapshot can be written there", STATES


def sound(repo: "Repository", damaged: Callable[[int, str], None]) -> "list[Snapshot]":
    """All that open and are not forgotten, oldest first; of the others the number and what is wrong."""
    from backup import unread  # noqa: PLC0415

    present = repo.present()
    lost = unread.Told(repo)
    gone = repo.forgotten(lost)
    links = {s: f.link for s, f in gone.items()}
    held = []
    for sequence in present:
        if sequence in gone:
            continue
        try:
            one = repo.snapshot(sequence)
        except Damage as bad:
            damaged(sequence, bad.message)
            links[sequence] = Link(sequence=sequence, digest=None, previous=None)
        else:
            held.append(one)
            links[sequence] = one.link
    chain = [links[s] for s in sorted(links)]
    if chain and chain[-1].sequence - len(chain) > HOLES_MAX:
        forgotten.check_chain(chain, name=repo.name)
    hole = lost.hole if lost.keys else lambda s: damaged(s, "missing from the chain")
    forgotten.check_chain(chain, name=repo.name, hole=hole)
    return held


def _unsigned(repo: "Repository", sequence: int) -> bool:
    return not _signed(repo, sequence)


def _signed(repo: "Repository", sequence: int) -> bool:
    try:
        repo.link(sequence)
    except NewerFormat:
        return True  # asked for after the signature
    except Damage:
        return False
    return True

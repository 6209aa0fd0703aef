"""The chain of snapshots in one vault: which are there, which are forgotten, and which one is meant.

Each snapshot names the one before. A number counts as far as something proves that the chain went there: a
snapshot that is signed, itself or as a copy of a rotation, a signed statement, this machine's memory. What
follows without a gap counts too, readable or not: it may be the newest, damaged. Any other number under
`snapshots/` is a stray, or one object of four bytes would make the chain ten billion long.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from backup.errors import NewerFormat, Retired
from backup.format import chain_link, forget_statement, snapshot
from backup.format.chain_link import Link
from backup.format.forget_statement import Forgotten, Statement
from backup.format.snapshot import Snapshot
from backup.hints import MEND_SNAPSHOTS
from backup.repository import last_seen, resealed, unreadable
from backup.repository.unreadable import Damaged, with_hint
from backup.repository.vault import OpenVault
from zaibei.kernel.errors import Damage, Usage

_NO_TIP: Final = (
    "zaibei backup repair states what it was, or that it is lost, and the next run goes on after it"
)
HOLES_MAX: Final = 100_000  # numbers that are not there, stated as lost at once
KINDS: Final = ("files", "bucket", "postgres", "point")


def present(repo: OpenVault) -> list[int]:
    """Snapshots that are there, forgotten or not; after a rotation perhaps only re-encrypted. No strays."""
    return split(repo, _numbers(repo))[0]


def strays(repo: OpenVault) -> list[int]:
    """Numbers under `snapshots/` that the chain never reached."""
    return split(repo, _numbers(repo))[1]


def _numbers(repo: OpenVault) -> list[int]:
    return [*snapshot.numbers(resealed.named(repo, snapshot.PREFIX))]


def sequences(repo: OpenVault) -> list[int]:
    """Those that are there and not forgotten."""
    # Before the statements: an object is removed long after its statement, so a hole seen here is
    # explained there.
    here = present(repo)
    gone = statements(repo, unreadable.WarnOnce(repo))
    return [s for s in here if s not in gone]


def snapshots(repo: OpenVault) -> list[Snapshot]:
    """All that are not forgotten, oldest first, each link of the chain checked.

    A hole is damage unless a statement explains it, or one that cannot be read may do so: then it is logged.
    """
    here = present(repo)
    lost = unreadable.WarnOnce(repo)
    gone = statements(repo, lost)
    held = {s: opening(repo, s) for s in here if s not in gone}
    links = {s: f.link for s, f in gone.items()} | {s: o.link for s, o in held.items()}
    chain_link.check_chain(
        [links[s] for s in sorted(links)], name=repo.name, hole=lost.hole if lost.keys else None
    )
    return [held[s] for s in sorted(held)]


def tip(repo: OpenVault) -> Link | None:
    """The end of the chain, forgotten or not: what the next snapshot follows. Reads one snapshot."""
    here = present(repo)
    gone = statements(repo, unreadable.WarnOnce(repo))
    newest = max((*here, *gone), default=None)
    if newest is None:
        return None
    try:
        link = gone[newest].link if newest in gone else resealed.link_of(repo, newest)
    except Damage as bad:
        bad.hints = (*bad.hints, _NO_TIP)
        raise
    if link.digest is None:
        raise Damage(f"{repo.name}: nobody knows what snapshot {newest} was", hint=_NO_TIP)
    return link


def find(repo: OpenVault, which: str, *, kind: str | None = None) -> Snapshot:
    """`latest` or a number. The newest may be incomplete: its content says so. One that cannot be read is not passed
    over: nobody may take an older one for the newest without having said so."""
    if kind is not None and kind not in KINDS:
        raise Usage(f"no kind {kind!r}", hint=f"one of {', '.join(KINDS)}")
    numbers = sequences(repo)
    if which != "latest":
        if not which.isdecimal() or int(which) not in numbers:
            raise Usage(f"{repo.name}: no snapshot {which!r}", hint="zaibei backup list shows them")
        return resealed.snapshot_of(repo, int(which)).value
    for at, sequence in reversed(list(enumerate(numbers))):
        try:
            one = resealed.snapshot_of(repo, sequence).value
        except Damage as bad:
            older = (f"an older one by its number: {numbers[at - 1]}",) if at else ()
            bad.hints = (*bad.hints, *older, MEND_SNAPSHOTS)
            raise
        if kind in (None, one.content.kind):
            return one
    if numbers:
        raise Usage(f"{repo.name}: none of its snapshots is of {kind}", hint="zaibei backup list")
    raise Usage(f"{repo.name}: there is no snapshot yet", hint="zaibei backup run")


def opening(repo: OpenVault, sequence: int) -> Snapshot:
    """For who needs all of them: one that does not open stops it, and the error says where, and what mends it."""
    try:
        return resealed.snapshot_of(repo, sequence).value
    except Damage as bad:
        if repo.name not in bad.message:
            bad.message = f"{repo.name}: {bad.message}"
        bad.hints = (*bad.hints, MEND_SNAPSHOTS)
        raise


def split(repo: OpenVault, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those that are of the chain, and the strays. Reads nothing while there is no gap, and one object while the
    newest is sound."""
    every = sorted(numbers)
    if not every or every[-1] - snapshot.FIRST + 1 == len(every):
        return every, []
    newest = next((s for s in reversed(every) if _signed(repo, s)), snapshot.FIRST - 1)
    if newest < every[-1]:
        told = statements(repo, lambda _key, _bad: None)
        known = last_seen.remembered(repo)
        newest = max((newest, *told, *(known[:1] if known else ())))
        follows = frozenset(every)
        while newest + 1 in follows:
            newest += 1
    return [s for s in every if s <= newest], [s for s in every if s > newest]


def sound(repo: OpenVault, damaged: Callable[[int, str], None]) -> list[Snapshot]:
    """All that open and are not forgotten, oldest first; of the others the number and what is wrong."""
    here = present(repo)
    lost = unreadable.WarnOnce(repo)
    gone = statements(repo, lost)
    links = {s: f.link for s, f in gone.items()}
    held = []
    for sequence in here:
        if sequence in gone:
            continue
        try:
            one = resealed.snapshot_of(repo, sequence).value
        except Damage as bad:
            damaged(sequence, bad.message)
            links[sequence] = Link(sequence=sequence, digest=None, previous=None)
        else:
            held.append(one)
            links[sequence] = one.link
    chain = [links[s] for s in sorted(links)]
    if chain and chain[-1].sequence - len(chain) > HOLES_MAX:
        chain_link.check_chain(chain, name=repo.name)
    hole = lost.hole if lost.keys else lambda s: damaged(s, "missing from the chain")
    chain_link.check_chain(chain, name=repo.name, hole=hole)
    return held


def _signed(repo: OpenVault, sequence: int) -> bool:
    try:
        resealed.link_of(repo, sequence)
    except NewerFormat:
        return True  # asked for after the signature
    except Damage:
        return False
    return True


def statements(repo: OpenVault, damaged: Damaged | None) -> dict[int, Forgotten]:
    """What is forgotten, as far as it can be read. Without `damaged` the first that cannot be raises."""
    said: list[tuple[Statement, datetime]] = []
    for stat in repo.listed(forget_statement.PREFIX):
        try:
            number = forget_statement.number_of(stat.key)
            said.append(
                (
                    forget_statement.decode(repo.keys, repo.read(stat.key), number=number),
                    stat.modified,
                )
            )
        except Retired:
            continue  # the word of a key that was retired, maybe because it was stolen, forgets nothing
        except Damage as bad:
            if damaged is None:
                raise with_hint(bad) from bad
            damaged(stat.key, bad)
    return forget_statement.in_force(said)

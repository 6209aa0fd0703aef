"""Forgets snapshots, by policy or by number. Writes one signed statement and deletes nothing.

The garbage collection later removes what only they needed.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from backup import status
from backup.format import forget_statement, snapshot
from backup.format import point as points
from backup.format.chain_link import Link
from backup.format.forget_statement import Statement
from backup.lifecycle import retention
from backup.lifecycle.retention import Decision, Entry, Policy
from backup.repository import rollback, unreadable
from backup.repository.repository import Repository
from zaibei.kernel.errors import Busy, Refused, Usage

_ATTEMPTS: Final = 16
BY_POLICY: Final = "policy"


def decide(
    repo: Repository,
    policy: Policy,
    *,
    label: str | None = None,
    by: Collection[str] = retention.GROUPED_BY,
) -> tuple[Decision, ...]:
    """Reads only."""
    return retention.plan(entries(repo, by=by), policy, label=label)


def entries(repo: Repository, *, by: Collection[str] = retention.GROUPED_BY) -> list[Entry]:
    """Raises RolledBack when the end of the chain is gone that this machine has seen: what is the newest, or the
    last of its kind, cannot be told from the rest."""
    rollback.check(repo, repo.sequences())
    found = snapshot.numbers(repo.listed(snapshot.PREFIX))
    taken_in = {sequence: stat.modified for sequence, stat in found.items()}
    proven = proven_to_restore(repo)
    there = repo.snapshots()
    needed = points.stands_on(there)
    return [
        retention.entry_of(
            one,
            modified=taken_in[one.sequence],
            verified=one.sequence in proven,
            stands_on=needed.get(one.sequence, frozenset()),
            by=by,
        )
        for one in there
        if one.sequence in taken_in  # committed while we looked: the next run's business
    ]


def proven_to_restore(repo: Repository) -> frozenset[int]:
    """Snapshots that were restored and read back, as this machine remembers."""
    told = status.restored(repo.name)
    return frozenset({int(told["snapshot"])} if told else ())


def by_policy(repo: Repository, policy: Policy) -> tuple[tuple[Decision, ...], Statement | None]:
    """Decide and state it. None: there was nothing to forget."""
    decisions = decide(repo, policy)
    gone = [d.entry.sequence for d in decisions if not d.keep]
    return decisions, forget(repo, gone, why=BY_POLICY) if gone else None


def forget(
    repo: Repository,
    sequences: Iterable[int],
    *,
    why: str,
    even_the_last: bool = False,
    write: bool = True,
    by: Collection[str] = retention.GROUPED_BY,
) -> Statement | None:
    """Safe to repeat: what is forgotten already is not said twice. Raises Usage for what was never there,
    Refused for what a consistency point that stays stands on, and for the newest complete or proven one of a
    group unless `even_the_last`.
    `why` can be read by whoever reads the vault. `write=False`: only whether it would be refused."""
    if why in (forget_statement.LOST, forget_statement.HEALED):
        raise Usage(f"--why {why!r} is what heal and repair say")
    wanted = sorted(set(sequences))
    gone = repo.forgotten(unreadable.WarnOnce(repo))
    links = {one.sequence: one.link for one in repo.snapshots()}
    if unknown := [s for s in wanted if s not in links and s not in gone]:
        raise Usage(
            f"{repo.name}: no snapshot {', '.join(map(str, unknown))}",
            hint="zaibei backup list shows them",
        )
    fresh = [links[s] for s in wanted if s not in gone]
    known = entries(repo, by=by)
    for sequence, point in retention.needed_by_points(known, wanted).items():
        raise Refused(
            f"{repo.name}: snapshot {sequence} is what the consistency point {point} stands on",
            hint=f"forget the point too: zaibei backup forget {sequence} {point}",
        )
    if not even_the_last:
        for sequence, what in retention.last_of_their_kind(known, wanted).items():
            raise Refused(
                f"{repo.name}: snapshot {sequence} is {what}",
                hint="back up again first; or say --even-the-last, for a source that is no more",
            )
    return state(repo, fresh, why=why) if fresh and write else None


def state(
    repo: Repository, links: Sequence[Link], *, why: str, kept: Sequence[int] = ()
) -> Statement:
    """Write a statement under the next number."""
    for _ in range(_ATTEMPTS):
        said = list(forget_statement.numbers(s.key for s in repo.listed(forget_statement.PREFIX)))
        one = Statement(
            number=max(said, default=forget_statement.FIRST - 1) + 1,
            snapshots=tuple(links),
            kept=tuple(kept),
            why=why,
            at=repo.clock.now().isoformat(),
        )
        if repo.create_if_absent(
            forget_statement.key_of(one.number), forget_statement.encode(repo.keys, one)
        ):
            return one
    raise Busy(f"{repo.name}: {_ATTEMPTS} other statements were written first")

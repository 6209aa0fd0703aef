"""Checks the chain of snapshots: nothing missing, nothing foreign, nothing taken back."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from backup.format import forget_statement, point, snapshot
from backup.format.chain_link import Link, check_chain
from backup.format.forget_statement import Forgotten
from backup.format.snapshot import Snapshot
from backup.hints import MEND_STRAY, REMOVE_STRAY_BY_HAND, STRAY_STATES
from backup.integrity import check_resealed
from backup.integrity.report import Report
from backup.repository import last_seen, resealed, rollback
from backup.repository.chain import strays
from backup.repository.repository import Repository
from infra.objectstore.contract import NotThere
from zaibei.kernel.errors import Damage

WHAT: Final = "not a snapshot of this repository: a number that the chain never reached"


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
    for sequence in strays(repo):
        key = snapshot.key_of(sequence)
        found = out.found(key, Damage(f"{repo.name}: {key}: {WHAT}"))
        found.lost, found.mend = "nothing: no snapshot was there", MEND_STRAY
    for sequence, why in in_the_way(repo, newest).items():
        found = out.found(snapshot.key_of(sequence), Damage(why, hint=REMOVE_STRAY_BY_HAND))
        found.lost, found.mend = "nothing yet: no snapshot can be written there", STRAY_STATES


def _chain(repo: Repository, out: Report) -> list[Snapshot]:
    """The snapshots that can be read; holes, false links and a lost end are damage."""
    chain: list[Snapshot] = []
    links: dict[int, Link] = {}
    sequences: list[int] = []
    with out.collecting(snapshot.PREFIX):
        sequences = repo.present()
    present = frozenset(sequences)
    told: dict[int, Forgotten] = {}
    gone: set[int] = set()
    with out.collecting(forget_statement.PREFIX):
        told = repo.forgotten(out.found)
        gone, links = set(told), {s: f.link for s, f in told.items()}
    with out.collecting(snapshot.PREFIX):
        check(repo, out, max((*present, *gone), default=0))
    for sequence in gone.intersection(sequences):
        if told[sequence].why in (forget_statement.LOST, forget_statement.HEALED):
            out.note(f"{snapshot.key_of(sequence)} is damaged, and a statement says so")
            continue
        with out.collecting(snapshot.key_of(sequence)):
            _taken_back(repo, sequence, links[sequence])
    sequences = [s for s in sequences if s not in gone]
    if (lost := rollback.lost(repo)) is not None:
        known = last_seen.remembered(repo)
        out.found(snapshot.key_of(known[0]) if known else snapshot.PREFIX, lost)
    for sequence in sequences:
        try:
            found = resealed.snapshot_of(repo, sequence)
        except Damage as bad:
            check_resealed.told(repo, out, snapshot.key_of(sequence), bad)
            continue
        one = found.value
        chain.append(one)
        links[sequence] = one.link
        # The copies are looked at below, all of them.
        check_resealed.passed_over(
            out, one.key, {k: b for k, b in found.passed.items() if k == one.key}
        )
    with out.collecting(snapshot.PREFIX):
        check_chain([links[s] for s in sorted(links)], name=repo.name)
    for one in chain:
        with out.collecting(one.key):
            _stands(repo, one, chain, told, present)
    check_resealed.check_snapshots(repo, out, {one.sequence: one for one in chain}, told)
    out.snapshots = len(chain)
    return chain


def _stands(
    repo: Repository,
    one: Snapshot,
    chain: Sequence[Snapshot],
    told: Mapping[int, Forgotten],
    there: Collection[int],
) -> None:
    """A point is as good as what it names: a copy of that will do, and what is kept though it was forgotten."""
    named = point.still_named([one], told).intersection(there)
    for sequence, digest in point.named_by(one):
        if sequence not in named and not point.standing_for(
            chain, (sequence, digest), copied=point.is_copy(one)
        ):
            raise Damage(
                f"{repo.name}: point {one.content.label} (snapshot {one.sequence}) stands on snapshot"
                f" {sequence}, which is not there",
                hint=f"heal it; or let the point go: zaibei backup forget {one.sequence}",
            )


def _taken_back(repo: Repository, sequence: int, link: Link) -> None:
    """A forgotten snapshot may be taken back while it is there, so it must be the one that was forgotten."""
    try:
        one = repo.snapshot(sequence)
    except Damage as bad:
        if isinstance(bad.__cause__, NotThere):
            return  # swept meanwhile
        raise
    if link.digest not in (None, one.digest):
        raise Damage(f"{repo.name}: snapshot {sequence} is not the one that was forgotten")

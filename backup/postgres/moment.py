"""Decide which base backup leads to a moment. Pure, but for listing the vaults.

Recovery only goes forward: from a backup that ended after the moment PostgreSQL would come up as of the backup, days
too late, and call it a success. So a target is held against the end of the backup before anything is restored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backup.format import point, wal_segment
from backup.format.facts import POSTGRES
from backup.format.snapshot import Snapshot
from backup.postgres.recovery_target import Target
from backup.repository.repository import Repository
from zaibei.kernel.errors import Damage, Usage, ZaibeiError


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """`passed_over`: the newer ones that do not lead to the target, newest first, by number, each with why."""

    repository: Repository
    snapshot: Snapshot
    passed_over: tuple[tuple[int, str], ...] = ()

    @property
    def note(self) -> str | None:
        """Why it is not the newest; None: it is."""
        if not self.passed_over:
            return None
        newest, why = self.passed_over[0]
        return f"snapshot {self.snapshot.sequence} and not {newest}: {why}"


def why_not_from(one: Snapshot, target: Target, *, named: int | None = None) -> str | None:
    """Why recovery from this base backup cannot stop at the target; None: it may. `named`: where the log has the
    target's name, if that is known. Pure."""
    facts = one.content.facts
    timeline, end = int(facts["timeline"]), wal_segment.lsn(str(facts["stop_lsn"]))
    if target.timeline is not None and timeline > target.timeline:
        return f"it was taken on timeline {timeline}, after timeline {target.timeline}"
    if target.at is not None and target.at < one.content.finished:
        return f"it ended at {one.content.finished:%Y-%m-%dT%H:%M:%SZ}, after the target"
    at = wal_segment.lsn(target.value) if target.how == "lsn" else named
    if at is not None and at < end:
        return f"it ended at {facts['stop_lsn']}, after the target"
    return None


def demand(repo: Repository, one: Snapshot, target: Target, *, now: datetime) -> None:
    """Raises Usage for a target that recovery from this base backup cannot stop at, and names the newest of the vault
    that can be taken instead."""
    not_to_come(target, now=now)
    if target.how == "latest" and target.timeline is None:
        return
    among = readable(repo)[0] if target.how == "name" else ()
    named = _named(target, among, one)
    if (why := why_not_from(one, target, named=named)) is None:
        return
    others = [
        s
        for s in among or readable(repo)[0]
        if s.content.kind == POSTGRES
        and _of_one_cluster(s, one)
        and why_not_from(s, target, named=named) is None
    ]
    raise Usage(
        f"recovery from snapshot {one.sequence} cannot stop at {target}: {why}",
        hint=f"the newest snapshot that is old enough: {_newest(others).sequence}"
        if others
        else "no snapshot in this vault is old enough; another vault may hold one",
    )


def readable(repo: Repository) -> tuple[list[Snapshot], list[int]]:
    """Its snapshots, newest first, and the numbers of those that do not open: one damaged statement must not keep
    every moment from whoever needs it."""
    good: list[Snapshot] = []
    bad: list[int] = []
    for sequence in sorted(repo.sequences(), reverse=True):
        try:
            good.append(repo.snapshot(sequence))
        except Damage:
            bad.append(sequence)
    return good, bad


def not_to_come(target: Target, *, now: datetime) -> None:
    """Raises Usage for a time that has not been yet: no log holds it."""
    if target.at is not None and target.at > now:
        raise Usage(
            f"{target} is still to come: now is {now:%Y-%m-%dT%H:%M:%SZ}",
            hint="--to latest goes as far as the log does",
        )


def choose(repositories: Sequence[Repository], target: Target, *, now: datetime) -> Chosen:
    """The newest base backup of all vaults from which the target can be reached, of the cluster whose backup is the
    newest. Raises Usage when there is none, and the last vault's error when none holds a base backup."""
    not_to_come(target, now=now)
    held: list[tuple[Repository, Snapshot]] = []
    every: list[Snapshot] = []
    damaged: list[int] = []
    failed: ZaibeiError | None = None
    for repo in repositories:
        try:
            snapshots, unread = readable(repo)
        except ZaibeiError as bad:
            failed = bad
            continue
        every += snapshots
        damaged += unread
        held += [(repo, s) for s in snapshots if s.content.kind == POSTGRES]
    if not held:
        raise failed or Usage(
            "no base backup can be read in any of the vaults", hint="zaibei backup list; verify"
        )
    held.sort(key=lambda h: h[1].content.finished, reverse=True)
    newest = held[0][1]
    named = _named(target, every, newest)
    passed_over: list[tuple[int, str]] = []
    for repo, one in held:
        if not _of_one_cluster(one, newest):
            continue
        why = why_not_from(one, target, named=named)
        if why is None:
            passed_over += [(n, "it does not open") for n in damaged if n > one.sequence]
            return Chosen(repository=repo, snapshot=one, passed_over=tuple(passed_over))
        passed_over.append((one.sequence, why))
    oldest, why = passed_over[-1]
    foreign = [s.sequence for _, s in held if not _of_one_cluster(s, newest)]
    raise Usage(
        f"no base backup is old enough for {target}: snapshot {oldest} is the oldest, and {why}",
        hint=f"of another cluster, by number: {', '.join(map(str, foreign))}"
        if foreign
        else "--as-of opens a vault as it was, with snapshots that were forgotten since",
    )


def _named(target: Target, among: Sequence[Snapshot], like: Snapshot) -> int | None:
    """Where the log has the name, when a consistency point of the same cluster says so."""
    if target.how != "name":
        return None
    for one in among:
        facts = one.content.facts
        if (
            one.content.kind == point.KIND
            and facts.get("name") == target.value
            and facts.get("system_identifier") == like.content.facts.get("system_identifier")
        ):
            return wal_segment.lsn(str(facts["lsn"]))
    return None


def _of_one_cluster(one: Snapshot, other: Snapshot) -> bool:
    said = "system_identifier"
    return bool(one.content.facts.get(said) == other.content.facts.get(said))


def _newest(snapshots: Sequence[Snapshot]) -> Snapshot:
    return max(snapshots, key=lambda s: s.content.finished)

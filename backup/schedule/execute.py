"""Runs one slot of one job: the same for the scheduler's child process and for a Temporal worker.

Safe to repeat: vaults that have the slot's snapshot are left alone, and what an earlier attempt
uploaded is found there and not sent again.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from backup import run as running
from backup.lifecycle import forget
from backup.lifecycle.retention import Policy
from backup.locations.urls import open_bucket
from backup.repository import leases as leasing
from backup.repository.leases import End, Lease
from backup.repository.repository import Repository
from backup.schedule.model import Job
from backup.schedule.slot import FACT, Slot, committed, fence
from backup.sources.roots import Root
from backup.sources.walk import Rules
from infra.objectstore.contract import ObjectStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Busy, ZaibeiError
from zaibei.kernel.progress import Progress

LEASE_MARGIN: Final = timedelta(minutes=5)  # after the job's own time-out nobody may be alive


class Outcome(StrEnum):
    DONE = "done"
    ALREADY = "already"  # every vault has the slot's snapshot
    BUSY = "busy"  # another host is at it
    INCOMPLETE = "incomplete"  # a snapshot everywhere, and something of the source is not in it
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    outcome: Outcome
    snapshots: dict[str, int]  # by vault
    problems: tuple[str, ...] = ()
    anomalies: tuple[str, ...] = ()
    token: int = 0


Opened = tuple[list[Repository], list[str]]  # and why the others do not open
Standby = Callable[[], tuple[str, str]]
OpenBucket = Callable[[str], tuple[ObjectStore, str]]  # and what names it in snapshots


def perform(
    job: Job,
    slot: Slot,
    opened: Opened,
    *,
    standby: Standby,
    clock: Clock,
    progress: Progress,
    leased: bool = True,
    bucket: OpenBucket = open_bucket,
) -> Result:
    """`leased` False: somebody else (Temporal) sees to it that one worker is at it."""
    repos, lost = opened
    have = {r.name: found.sequence for r in repos if (found := committed(r, slot)) is not None}
    open_ = [r for r in repos if r.name not in have]
    if not open_:
        outcome = Outcome.FAILED if lost else Outcome.ALREADY
        return Result(outcome=outcome, snapshots=have, problems=tuple(lost))
    lease: Lease | None = None
    if leased:
        try:
            lease = _lease(job, slot, open_, lost)
        except Busy as busy:
            return Result(outcome=Outcome.BUSY, snapshots=have, problems=(busy.message,))
        slot = Slot(job=slot.job, at=slot.at, token=lease.token if lease else 0)
    how = End.HANDED_OVER
    try:
        run = _run(job, slot, open_, standby, bucket, clock, progress)
        have |= {o.vault: o.snapshot.sequence for o in run.outcomes if o.snapshot}
        have |= {r.name: f.sequence for r in open_ if (f := committed(r, slot)) is not None}
        missing = (*lost, *(f"{o.vault}: {o.error}" for o in run.outcomes if o.vault not in have))
        outcome = Outcome.INCOMPLETE if run.unread else Outcome.DONE
        how = End.FAILED if missing else End.DONE
        if missing:
            outcome = Outcome.FAILED
        # A night that missed a part of the source must not age out the nights that had it.
        kept = tuple(_forget(job, open_)) if outcome is Outcome.DONE else ()
        return Result(
            outcome=outcome,
            snapshots=have,
            problems=(*missing, *run.unread, *kept),
            anomalies=run.anomalies,
            token=slot.token,
        )
    except ZaibeiError as bad:
        how = End.FAILED
        return Result(
            outcome=Outcome.FAILED, snapshots=have, problems=(*lost, bad.message), token=slot.token
        )
    finally:
        if lease is not None:
            _end(lease, how, progress)


def _run(
    job: Job,
    slot: Slot,
    repos: Sequence[Repository],
    standby: Standby,
    bucket: OpenBucket,
    clock: Clock,
    progress: Progress,
) -> running.Run:
    if job.files:
        return running.run_files(
            [Root.of(f) for f in job.files],
            repos,
            clock,
            None,
            progress,
            label=job.label,
            retain=job.retain,
            facts={FACT: slot.as_fact()},
            fence=fence(slot),
            rules=Rules.of(job.exclude),
            unreadable=Rules.of(job.unreadable),
            allow_empty=job.allow_empty,
            host=job.host,
            tags=job.tags,
        )
    if job.bucket:
        store, source = bucket(job.bucket)
        return running.run_bucket(
            store,
            repos,
            clock,
            None,
            progress,
            source=source,
            label=job.label,
            retain=job.retain,
            facts={FACT: slot.as_fact()},
            fence=fence(slot),
            host=job.host,
            tags=job.tags,
        )
    conninfo, secret = (job.postgres, None) if job.postgres else standby()
    return running.run_postgres(
        conninfo,
        secret,
        repos,
        clock,
        None,
        progress,
        label=job.label,
        retain=job.retain,
        facts={FACT: slot.as_fact()},
        fence=fence(slot),
        host=job.host,
        tags=job.tags,
    )


def _forget(job: Job, repos: Sequence[Repository]) -> Iterator[str]:
    """The job's own policy, on its own snapshots. What goes wrong here costs no backup."""
    if not job.keep:
        return
    policy: dict[str, Any] = dict(job.keep)
    for repo in repos:
        try:
            gone = [
                d.entry.sequence
                for d in forget.decide(repo, Policy(**policy), label=job.label)
                if not d.keep
            ]
            if gone:
                forget.forget(repo, gone, why=forget.BY_POLICY)
        except ZaibeiError as bad:
            yield f"{repo.name}: nothing was forgotten: {bad.message}"


def _lease(job: Job, slot: Slot, repos: Sequence[Repository], lost: list[str]) -> Lease | None:
    """In the first vault that answers: it is the same for every host that sees the same vaults."""
    for repo in repos:
        try:
            return leasing.take(
                repo, slot.name, holds=job.timeout + LEASE_MARGIN, holder=socket.gethostname()
            )
        except Busy:
            raise
        except ZaibeiError as bad:
            lost.append(f"{repo.name}: no lease: {bad.message}")
    return None


def _end(lease: Lease, how: End, progress: Progress) -> None:
    try:
        lease.end(how)
    except ZaibeiError as bad:
        progress.note(f"the lease stays until it runs out: {bad.message}")

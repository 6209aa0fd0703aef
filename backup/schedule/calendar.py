"""Computes when a job's slots are: instants in UTC, whatever the wall clocks do.

An interval counts from the epoch, so every host has the same slots. A cron line counts in its zone:
an hour that does not exist in spring is made up an hour later, and of an hour that comes twice in
autumn a line with a fixed hour takes the first; one that runs every hour takes both.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]

from backup.schedule.model import Job
from zaibei.kernel.errors import Usage

SLOTS_MAX: Final = (
    2000  # looked at in one go; after a longer sleep the oldest are only counted so far
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


def slots(job: Job, *, after: datetime, until: datetime) -> tuple[datetime, ...]:
    """The newest SLOTS_MAX at most, oldest first; `after` is not among them, `until` may be."""
    if until <= after:
        return ()
    if job.every is not None:
        last = (until - _EPOCH) // job.every
        first = max((after - _EPOCH) // job.every + 1, last - SLOTS_MAX + 1)
        return tuple(_EPOCH + n * job.every for n in range(first, last + 1))
    found: list[datetime] = []
    at = after
    while (slot := _next_cron(job, at)) is not None and slot <= until:
        found.append(slot)
        at = slot
        if len(found) == SLOTS_MAX:
            # A line that fires often and a long sleep: go on where a run is still possible.
            at = max(at, until - job.catch_up)
            found = found[-1:] if at > slot else found[SLOTS_MAX // 2 :]
    return tuple(found)


def following(job: Job, after: datetime) -> datetime | None:
    """The first slot after it; None when the line never fires again."""
    if job.every is not None:
        return _EPOCH + ((after - _EPOCH) // job.every + 1) * job.every
    return _next_cron(job, after)


def offset(job: Job, slot: datetime) -> timedelta:
    """The slot's share of the jitter. From the names, not from luck: a plan can be made twice."""
    if not job.jitter:
        return timedelta(0)
    digest = hashlib.sha256(f"{job.name}|{slot.isoformat()}".encode()).digest()
    return job.jitter * (int.from_bytes(digest[:8]) / 2**64)


def check(job: Job) -> None:
    """Raises Usage for a cron line or a zone that nobody can follow, and for a line of which no slot ever comes:
    such a job would never run and never be overdue."""
    if job.cron is not None and _next_cron(job, job.created) is None:
        raise Usage(
            f"job {job.name!r}: {job.cron!r} never fires: there is no such day",
            hint='--cron "30 2 * * *"',
        )


def _next_cron(job: Job, after: datetime) -> datetime | None:
    trigger = _trigger(job)
    at = after
    while True:
        found = trigger.get_next_fire_time(None, at + _TICK)
        if found is None:
            return None
        slot: datetime = found.astimezone(UTC)
        if not (found.fold and _fixed_hour(job)):
            return slot
        at = slot


def _fixed_hour(job: Job) -> bool:
    assert job.cron is not None
    return not job.cron.split()[1].startswith("*")


def _trigger(job: Job) -> CronTrigger:
    assert job.cron is not None
    try:
        return CronTrigger.from_crontab(job.cron, timezone=ZoneInfo(job.zone))
    except (ValueError, ZoneInfoNotFoundError, OSError) as bad:
        raise Usage(
            f"job {job.name!r}: {bad}", hint='--cron "30 2 * * *" --zone Asia/Shanghai'
        ) from bad

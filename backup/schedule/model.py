"""A job: which source, into which repositories, when, and what to do when its time was missed."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final

from zaibei.kernel.errors import Usage
from zaibei.kernel.units import duration, say_duration

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
EVERY_MIN: Final = timedelta(minutes=1)
TIMEOUT_MAX: Final = timedelta(days=7)
KEEPS: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_LATER = ("unreadable", "allow_empty", "host", "tags")
_DURATIONS = ("every", "jitter", "timeout", "catch_up", "retain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`files`, `postgres` and `bucket` empty: the stack's databases. `repos` empty: the stack's vaults."""

    name: str
    created: datetime  # slots before it are nobody's
    files: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()  # of the files, as in .gitignore
    unreadable: tuple[str, ...] = ()  # such rules for what may fail to be read
    allow_empty: bool = False  # a first backup of nothing is meant
    host: str = ""  # whose data it is; empty: of the machine that runs it
    tags: tuple[str, ...] = ()
    postgres: str | None = None  # conninfo without a password
    bucket: str | None = None  # s3+https://HOST/BUCKET or SITE/BUCKET
    repos: tuple[str, ...] = ()
    password_file: str | None = None
    cron: str | None = None  # five fields
    zone: str = "UTC"  # of the cron's hours
    every: timedelta | None = None
    jitter: timedelta = timedelta(0)
    timeout: timedelta = timedelta(hours=12)
    catch_up: timedelta = timedelta(hours=24)  # how late a slot may still be made good
    retain: timedelta | None = None  # lock what is written
    keep: Mapping[str, int] | None = None  # retention after a good run: {"daily": 14, …}
    enabled: bool = True

    def __post_init__(self) -> None:
        why = _why_not(self)
        if why:
            raise Usage(f"job {self.name!r}: {why}")

    @property
    def label(self) -> str:
        """What the snapshots of the job are labelled with: retention and guard go by it."""
        return self.name

    @property
    def source(self) -> str:
        """For people."""
        if self.files:
            without = f" without {', '.join(self.exclude)}" if self.exclude else ""
            return " ".join(self.files) + without
        if self.bucket:
            return f"bucket {self.bucket}"
        return "postgres" if self.postgres else "the stack's databases"

    @property
    def when(self) -> str:
        return f"{self.cron} {self.zone}" if self.cron else f"every {say_duration(self.period)}"

    @property
    def period(self) -> timedelta:
        return self.every or timedelta(0)


def _why_not(job: Job) -> str | None:
    if not _NAME.fullmatch(job.name):
        return "a name is a-z, 0-9 and -, at most 64"
    if (job.cron is None) == (job.every is None):
        return "either --cron or --every"
    if job.every is not None and job.every < EVERY_MIN:
        return f"every {say_duration(job.every)} is below a minute"
    if sum(map(bool, (job.files, job.postgres, job.bucket))) > 1:
        return "one source a job"
    if (job.exclude or job.unreadable) and not job.files:
        return "rules are for files"
    if not timedelta(0) < job.timeout <= TIMEOUT_MAX:
        return "a timeout is between 0 and a week"
    if job.jitter < timedelta(0) or job.catch_up <= timedelta(0):
        return "jitter and catch-up are not negative"
    if job.keep is not None and (set(job.keep) - set(KEEPS) or not sum(job.keep.values())):
        return f"a policy keeps a number of: {', '.join(KEEPS)}"
    if job.every is not None and job.jitter >= job.every:
        return "the jitter is as long as the interval"
    return None


def to_json(job: Job) -> dict[str, Any]:
    told = asdict(job)
    # Only where they say something: an older zaibei refuses a field that it does not know.
    told = {k: v for k, v in told.items() if v or k not in _LATER}
    for name in _DURATIONS:
        told[name] = None if told[name] is None else say_duration(told[name])
    return told | {"created": job.created.isoformat(), "keep": dict(job.keep) if job.keep else None}


def from_json(told: Any) -> Job:
    """Raises Usage for what is no job, and for a field it does not know."""
    if not isinstance(told, dict):
        raise Usage(f"not a job: {told!r}")
    known = {f.name for f in fields(Job)}
    if unknown := sorted(set(told) - known):
        raise Usage(f"a job has no field {unknown[0]!r}", hint=f"known: {', '.join(sorted(known))}")
    try:
        made = dict(told)
        for name in _DURATIONS:
            if made.get(name) is not None:
                made[name] = duration(made[name])
        made["created"] = datetime.fromisoformat(made["created"])
        for name in ("files", "exclude", "unreadable", "tags", "repos"):
            made[name] = tuple(made.get(name) or ())
        return Job(**made)
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise Usage(f"not a job: {bad}") from bad

"""Runs one backup: reads the source once, writes to every vault, records the result for monitors."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from backup import status
from backup.format.facts import FACT, Verdict, verdict_of
from backup.format.snapshot import Content, Snapshot
from backup.guard.judge import judging
from backup.guard.magic import MagicCheck
from backup.index.blob_index import BlobIndex
from backup.repository import last_seen, rollback
from backup.repository.repository import Repository
from backup.sources.fanout import Judge, Outcome
from backup.sources.walk import Rules
from backup.writer import object_lock
from backup.writer.pack_health import known_damaged
from backup.writer.writer import Fence, Writer
from infra.objectstore.contract import ObjectStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Usage, ZaibeiError, in_a_line
from zaibei.kernel.progress import Progress

TAGS = "tags"

if TYPE_CHECKING:
    from backup.format.point import NamedMoment
    from backup.sources.roots import Root


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of one run. `complete`: every vault holds everything that was asked for."""

    kind: str
    took: timedelta
    outcomes: tuple[Outcome, ...]
    unremembered: tuple[str, ...] = ()  # the snapshot is there, and this machine could not note it

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each reason why it is not complete."""
        lost = [f"{o.vault}: {o.error}" for o in self.outcomes if o.error is not None]
        return (*lost, *self.unread, *self.unremembered)

    @property
    def unread(self) -> tuple[str, ...]:
        """What of the source is not in the snapshots that were made."""
        made = next((o.snapshot for o in self.outcomes if o.snapshot is not None), None)
        return made.content.problems if made else ()

    @property
    def anomalies(self) -> tuple[str, ...]:
        """Why the guard calls it anomalous. The backup is as true as any other: this is for people."""
        found = [o for o in self.outcomes if _anomalous(o)]
        return tuple(
            f"{o.vault}: {reason}"
            for o in found
            if o.snapshot is not None
            for reason in o.snapshot.content.facts[FACT]["reasons"]
        )

    @property
    def complete(self) -> bool:
        whole = all(o.snapshot is not None and o.snapshot.content.complete for o in self.outcomes)
        return whole and not self.unremembered


def run_files(
    paths: "Sequence[Path | Root]",
    repos: Sequence[Repository],
    clock: Clock,
    rng: random.Random | None,
    progress: Progress,
    *,
    label: str = "",
    retain: timedelta | None = None,
    retain_max: timedelta = object_lock.RETAIN_MAX,
    accept: str = "",
    facts: Mapping[str, Any] | None = None,
    fence: Fence | None = None,
    rules: Rules | None = None,
    unreadable: Rules | None = None,
    allow_empty: bool = False,
    skip_unchanged: bool = True,
    host: str = "",
    tags: Sequence[str] = (),
    stream: tuple[str, BinaryIO] | None = None,
) -> Run:
    """`accept`: why a person says that a change which the guard will notice is meant. `stream`: one file of what is read
    there, under that name, instead of paths."""
    # A source is imported by the run that reads it: drivers of databases take longer than a small backup.
    from backup.sources import files  # noqa: PLC0415

    asked = files.Asked(
        rules=rules or Rules(),
        unreadable=unreadable or Rules(),
        allow_empty=allow_empty,
        skip_unchanged=skip_unchanged,
        host=host,
    )

    def work(writers: Sequence[Writer], judge: Judge) -> tuple[Outcome, ...]:
        if stream is not None:
            name, data = stream
            return files.backup_stream(
                data,
                name,
                writers,
                clock=clock,
                progress=progress,
                label=label,
                asked=asked,
                judge=judge,
            )
        return files.backup_files(
            paths,
            writers,
            clock=clock,
            progress=progress,
            label=label,
            asked=asked,
            judge=judge,
        )

    return _run(
        "files",
        repos,
        work,
        clock=clock,
        rng=rng,
        progress=progress,
        retain=retain,
        retain_max=retain_max,
        accept=accept,
        facts=facts,
        fence=fence,
        host=host,
        tags=tags,
    )


def run_bucket(
    store: ObjectStore,
    repos: Sequence[Repository],
    clock: Clock,
    rng: random.Random | None,
    progress: Progress,
    *,
    source: str,
    label: str = "",
    retain: timedelta | None = None,
    retain_max: timedelta = object_lock.RETAIN_MAX,
    accept: str = "",
    facts: Mapping[str, Any] | None = None,
    fence: Fence | None = None,
    host: str = "",
    tags: Sequence[str] = (),
    skip_unchanged: bool = True,
) -> Run:
    """`source` names the bucket: by it the next run finds what this one has already fetched."""
    from backup.sources.bucket import backup_bucket  # noqa: PLC0415

    return _run(
        "bucket",
        repos,
        lambda writers, judge: backup_bucket(
            store,
            writers,
            source=source,
            clock=clock,
            progress=progress,
            label=label,
            skip_unchanged=skip_unchanged,
            judge=judge,
        ),
        clock=clock,
        rng=rng,
        progress=progress,
        retain=retain,
        retain_max=retain_max,
        accept=accept,
        facts=facts,
        fence=fence,
        host=host,
        tags=tags,
    )


def run_postgres(
    conninfo: str,
    password: str | None,
    repos: Sequence[Repository],
    clock: Clock,
    rng: random.Random | None,
    progress: Progress,
    *,
    label: str = "zaibei",
    retain: timedelta | None = None,
    retain_max: timedelta = object_lock.RETAIN_MAX,
    accept: str = "",
    facts: Mapping[str, Any] | None = None,
    fence: Fence | None = None,
    host: str = "",
    tags: Sequence[str] = (),
) -> Run:
    """`rng` None: placement by the system's randomness, as it should be outside tests."""
    from backup.sources.postgres import backup_postgres  # noqa: PLC0415

    return _run(
        "postgres",
        repos,
        lambda writers, judge: backup_postgres(
            conninfo,
            password,
            writers,
            clock=clock,
            progress=progress,
            label=label,
            judge=judge,
        ),
        clock=clock,
        rng=rng,
        progress=progress,
        retain=retain,
        retain_max=retain_max,
        accept=accept,
        facts=facts,
        fence=fence,
        host=host,
        tags=tags,
    )


def run_point(
    one: "NamedMoment",
    runs: Sequence[Run],
    repos: Sequence[Repository],
    clock: Clock,
    rng: random.Random | None,
    progress: Progress,
    *,
    retain: timedelta | None = None,
    retain_max: timedelta = object_lock.RETAIN_MAX,
    within: timedelta = timedelta(seconds=60),
) -> Run:
    """Tie a named moment of the database to what `runs` wrote after it, in every vault that holds all of it."""
    from backup.postgres.consistency_point import commit_points  # noqa: PLC0415

    return _run(
        "point",
        repos,
        lambda writers, judge: commit_points(
            one, runs, writers, clock=clock, progress=progress, within=within, judge=judge
        ),
        clock=clock,
        rng=rng,
        progress=progress,
        retain=retain,
        retain_max=retain_max,
        accept="",
        facts=None,
        fence=None,
    )


def latest(repos: Sequence[Repository], *, kind: str | None = None) -> tuple[Repository, Snapshot]:
    """The newest of all vaults that answer. Raises the last vault's error when none has one."""
    found: list[tuple[Repository, Snapshot]] = []
    why: ZaibeiError | None = None
    for repo in repos:
        try:
            found.append((repo, repo.find("latest", kind=kind)))
        except ZaibeiError as bad:
            why = bad
    if not found:
        assert why is not None, "there is at least one vault"
        raise why
    return max(found, key=lambda f: f[1].content.finished)


def _run(
    kind: str,
    repos: Sequence[Repository],
    work: Callable[[Sequence[Writer], Judge], tuple[Outcome, ...]],
    *,
    clock: Clock,
    rng: random.Random | None,
    progress: Progress,
    retain: timedelta | None,
    retain_max: timedelta,
    accept: str,
    facts: Mapping[str, Any] | None = None,
    fence: Fence | None = None,
    host: str = "",
    tags: Sequence[str] = (),
) -> Run:
    begun = clock.monotonic()
    judge = _stating({**(facts or {}), **_tagged(tags)}, host, judging(accept=accept))
    writers: list[Writer] = []
    lost: list[Outcome] = []
    siblings = rollback.seen(repos) if len(repos) > 1 else {}
    for repo in repos:
        try:
            rollback.check(repo, repo.sequences())
            lock = (
                None
                if retain is None
                else object_lock.lock(repo.store, retain, clock=clock, longest=retain_max)
            )
            if lock is not None and lock.warning:
                progress.note(f"{repo.name}: {lock.warning}")
            writers.append(
                Writer(
                    repo,
                    lock=lock,
                    rng=rng,
                    fence=fence,
                    says=rollback.fact(repo, siblings),
                    doubted=known_damaged(repo),
                )
            )
        except Usage:
            raise
        except ZaibeiError as bad:
            # One vault down must not keep the backup from the other.
            lost.append(Outcome(vault=repo.name, snapshot=None, written=None, error=in_a_line(bad)))
            why = bad
    try:
        if not writers:
            raise why
        outcomes = (*work(writers, judge), *lost)
    except ZaibeiError as bad:
        for repo in repos:
            with suppress(OSError, ValueError):
                status.failed(repo.name, why=bad.message, at=clock.now())
        raise
    by_name = {repo.name: repo for repo in repos}
    unremembered: list[str] = []
    for o in outcomes:
        try:
            _note(o, by_name[o.vault], kind, clock)
        except (OSError, ValueError) as bad:
            # The snapshot is committed. Who hears of a failure here must hear its number, too.
            unremembered.append(
                f"{o.vault}: the state directory cannot be used, so neither monitors nor the next run"
                f" know of this one: {bad}"
            )
    return Run(
        kind=kind,
        took=timedelta(seconds=clock.monotonic() - begun),
        outcomes=tuple(outcomes),
        unremembered=tuple(unremembered),
    )


def _note(o: Outcome, repo: Repository, kind: str, clock: Clock) -> None:
    """For the monitors, and for who must notice that a vault goes back."""
    if o.snapshot is None:
        status.failed(o.vault, why=o.error or "unknown", at=clock.now())
        return
    last_seen.remember(repo, o.snapshot)
    status.judged(o.vault, o.snapshot, at=clock.now())
    if o.snapshot.content.complete:
        status.backed_up(o.vault, kind=kind, sequence=o.snapshot.sequence, at=clock.now())
    else:
        status.failed(o.vault, why="some files could not be read", at=clock.now())


def _stating(facts: Mapping[str, Any], host: str, judge: Judge) -> Judge:
    """`facts` and `host` go into the snapshot beside the source's own, before the guard judges it:
    the fence, retention and the guard's own history go by them.
    """
    if not facts and not host:
        return judge

    def stating(repo: Repository, index: BlobIndex, content: Content, seen: MagicCheck) -> Content:
        stated = replace(content, facts={**content.facts, **facts}, host=host or content.host)
        return judge(repo, index, stated, seen)

    return stating


def _tagged(tags: Sequence[str]) -> dict[str, Any]:
    return {TAGS: sorted(set(tags))} if tags else {}


def _anomalous(outcome: Outcome) -> bool:
    made = outcome.snapshot
    return made is not None and verdict_of(made.content) is Verdict.ANOMALOUS

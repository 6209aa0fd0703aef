"""Computes which WAL a snapshot cannot be restored without: a base backup that brought none, or a
point.

WAL lost at an end of the archive leaves no hole in it, so the question is asked from here: from
what needs it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from backup.format import point, wal_segment
from backup.format.facts import POSTGRES
from backup.format.point import NamedMoment
from backup.format.snapshot import Snapshot
from backup.repository.repository import Repository
from backup.wal import archive
from backup.wal import archive as wal_archive
from backup.wal.timelines import parse_history, route
from zaibei.kernel.errors import Usage

Listed = Callable[[int], list[wal_segment.Item]]  # of a system


def lacking(repo: Repository, chain: Sequence[Snapshot]) -> Iterator[tuple[Snapshot, str]]:
    """Each snapshot of `chain` whose log is not all there, and what is not. An archive is listed once: it has as many
    objects as the database has written segments."""

    @cache
    def listed(system: int) -> list[wal_segment.Item]:
        return archive.Archive(repo, system).items()

    for one in chain:
        why: str | None = None
        if one.content.kind == "postgres":
            why = _of_base(one, listed)
        elif one.content.kind == point.KIND:
            why = _of_point(repo, one, chain, listed)
        if why is not None:
            yield one, why


def _of_base(one: Snapshot, listed: Listed) -> str | None:
    facts = one.content.facts
    if facts.get("wal") != "none" or not facts.get("wal_needed"):
        return None  # it brought what it needs
    names = [wal_segment.parse_segment(n) for n in facts["wal_needed"]]
    (timeline, first), (_, last) = names[0], names[-1]
    gone = wal_segment.missing(
        listed(int(facts["system_identifier"])),
        timeline=timeline,
        start=first * wal_segment.SEGMENT_BYTES,
        stop=(last + 1) * wal_segment.SEGMENT_BYTES,
    )
    return f"{', '.join(gone[:3])} of the log are not there" if gone else None


def _of_point(
    repo: Repository, one: Snapshot, chain: Sequence[Snapshot], listed: Listed
) -> str | None:
    # A driver of databases, for a repository that has points alone.
    from backup.format.point import point_of  # noqa: PLC0415

    bases = [
        base
        for named in point.named_by(one)[:1]
        for base in point.standing_for(chain, named, copied=point.is_copy(one))
        if base.content.kind == "postgres"
    ]
    if not bases:
        return None  # told elsewhere: it stands on what is not there
    mark = point_of(one).mark
    return why_not_recoverable(repo, bases[-1], mark, items=listed(mark.system))


def why_not_recoverable(
    repo: Repository,
    base: Snapshot,
    one: NamedMoment,
    *,
    items: Sequence[wal_segment.Item] | None = None,
) -> str | None:
    """Why recovery from this base would not reach the point with what the vault holds now, or held in `items`."""
    needed = wal_needed_from(base)
    assert needed is not None, "a base backup is a database's"
    archive = wal_archive.Archive(repo, one.system)
    items = archive.items() if items is None else items
    try:
        way = route(
            items,
            {t: parse_history(data) for t, data in archive.histories(items).items()},
            from_timeline=needed[1],
            from_segment=needed[2],
            towards=one.timeline,
            beside=_brought(base),
        )
    except Usage as not_yet:
        return not_yet.message
    here = (one.timeline, one.segment)
    if not any((i.timeline, i.segment) == here and i.part is None for i in items):
        return f"{wal_segment.segment_name(*here)} is not there"
    if here not in way.places:
        return way.hole or f"no way leads to {wal_segment.segment_name(*here)}"
    return None


def _brought(base: Snapshot) -> list[tuple[int, int]]:
    """The segments that the backup itself brings."""
    facts = base.content.facts
    if facts.get("wal") != "fetch":
        return []
    (timeline, first), (_, last) = (wal_segment.parse_segment(n) for n in facts["wal_needed"])
    return [(timeline, n) for n in range(first, last + 1)]


def wal_needed_from(snapshot: Snapshot) -> tuple[int, int, int] | None:
    """The first segment of the log that a recovery from this snapshot reads: system, timeline, number.

    None: not a database. What lies before the earliest of these, of one system, no snapshot needs. Pure.
    """
    facts = snapshot.content.facts
    if snapshot.content.kind != POSTGRES:
        return None
    first = wal_segment.lsn(str(facts["start_lsn"])) // wal_segment.SEGMENT_BYTES
    return int(facts["system_identifier"]), int(facts["start_timeline"]), first

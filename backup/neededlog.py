"""The log without which a snapshot restores nothing: of a base backup that brought none, and of a point. What is lost
at an end of the archive leaves no hole in it, so it is asked from here: from those who need it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from backup import points, wal
from backup.repository import Repository
from backup.snapshot import Snapshot

Listed = Callable[[int], list[wal.Item]]  # of a system


def lacking(repo: Repository, chain: Sequence[Snapshot]) -> Iterator[tuple[Snapshot, str]]:
    """Each snapshot of `chain` whose log is not all there, and what is not. An archive is listed once: it has as many
    objects as the database has written segments."""

    @cache
    def listed(system: int) -> list[wal.Item]:
        return wal.Archive(repo, system).items()

    for one in chain:
        why: str | None = None
        if one.content.kind == "postgres":
            why = _of_base(one, listed)
        elif one.content.kind == points.KIND:
            why = _of_point(repo, one, chain, listed)
        if why is not None:
            yield one, why


def _of_base(one: Snapshot, listed: Listed) -> str | None:
    facts = one.content.facts
    if facts.get("wal") != "none" or not facts.get("wal_needed"):
        return None  # it brought what it needs
    names = [wal.parse_segment(n) for n in facts["wal_needed"]]
    (timeline, first), (_, last) = names[0], names[-1]
    gone = wal.missing(
        listed(int(facts["system_identifier"])),
        timeline=timeline,
        start=first * wal.SEGMENT_BYTES,
        stop=(last + 1) * wal.SEGMENT_BYTES,
    )
    return f"{', '.join(gone[:3])} of the log are not there" if gone else None


def _of_point(
    repo: Repository, one: Snapshot, chain: Sequence[Snapshot], listed: Listed
) -> str | None:
    # A driver of databases, for a repository that has points alone.
    from backup.consistency import point_of, why_not_recoverable  # noqa: PLC0415

    bases = [
        base
        for named in points.named_by(one)[:1]
        for base in points.standing_for(chain, named, copied=points.is_copy(one))
        if base.content.kind == "postgres"
    ]
    if not bases:
        return None  # told elsewhere: it stands on what is not there
    mark = point_of(one).mark
    return why_not_recoverable(repo, bases[-1], mark, items=listed(mark.system))

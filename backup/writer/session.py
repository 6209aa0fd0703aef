"""Lets a writer and the garbage collection work at once without a lock.

A writer announces itself, then reads the marks, then the index: it does not rely on what is marked.
It may already rely on what is marked later; then it commits before the mark's grace period ends, so
that the sweep sees its snapshot, or it does not commit at all. All of it by the store's clock.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from backup.format import layout, snapshot
from backup.format import mark as mark_format
from backup.format.mark import TERMS, Mark, Terms
from backup.repository import marks
from backup.repository import unreadable as unreadable_objects
from backup.repository.repository import Repository
from backup.repository.vault import retry
from backup.writer.heartbeats import Heartbeat
from infra.objectstore.contract import Stat
from zaibei.kernel.errors import Damage, Refused

_AGAIN: Final = "run again: what was uploaded is found and not sent twice"


class WriteSession:
    """Of one run into one vault."""

    def __init__(self, repository: Repository, *, terms: Terms = TERMS) -> None:
        self._repository = repository
        self._terms = terms
        # This order is the proof: a mark that is not seen here is younger than the run.
        self.run = Heartbeat.begin(repository)
        unreadable: list[Stat] = []
        seen = marks.standing(repository, lambda stat, bad: self._unread(unreadable, stat, bad))
        self._known = frozenset(
            {*(mark_format.key_of(m.name) for m in seen), *(s.key for s in unreadable)}
        )
        self.packs = mark_format.packs_of(seen)
        self.segments = mark_format.segments_of(seen)
        if unreadable:
            # It may name any pack that was there before it, and each of them may be on its way out.
            last = max(s.modified for s in unreadable)
            self.packs |= {
                s.key.rpartition("/")[2]
                for s in layout.ours_in(repository.store.list("packs/"))
                if s.modified <= last
            }

    def may_commit(self, relied: Collection[str]) -> None:
        """Raises Refused when a pack that this run relies on may be swept before the snapshot is seen."""
        for mark in self._hit(relied):
            if self._now() >= mark.since + self._terms.grace - self._terms.margin:
                raise Refused(
                    f"{self._repository.name}: this run took so long that packs it relies on are being"
                    " removed; nothing was committed",
                    hint=_AGAIN,
                )

    def committed(self, sequence: int, relied: Collection[str]) -> None:
        """Raises Damage when the commit came too late after all: a machine may sleep between the check and
        the write, and nobody may call that a backup."""
        repo = self._repository
        at = retry(repo.clock, lambda: repo.store.stat(snapshot.key_of(sequence))).modified
        if at - self.run.started < self._terms.grace - self._terms.margin:
            return  # every mark that was not seen at the start is younger than the run
        late = [m for m in self._hit(relied) if at >= m.since + self._terms.grace]
        there = {s.key.rpartition("/")[2] for s in repo.store.list("packs/")} if relied else set()
        if late or not there.issuperset(relied):
            raise Damage(
                f"{repo.name}: snapshot {sequence} was committed too late: packs it relies on are gone"
                " or going",
                hint=(_AGAIN, f"then zaibei backup forget {sequence}"),
            )

    def _hit(self, relied: Collection[str]) -> list[Mark]:
        unreadable: list[Stat] = []
        seen = marks.standing(
            self._repository, lambda stat, bad: self._unread(unreadable, stat, bad)
        )
        return [
            *(m for m in seen if not m.packs.isdisjoint(relied)),
            # One that was there when the run began names nothing that the run relies on.
            *(
                _of_everything(stat)
                for stat in unreadable
                if relied and stat.key not in self._known
            ),
        ]

    def _unread(self, into: list[Stat], stat: Stat, bad: Damage) -> None:
        unreadable_objects.WarnOnce(self._repository)(stat.key, bad)
        into.append(stat)

    def _now(self) -> datetime:
        return retry(self._repository.clock, self._repository.store.now)


def _of_everything(stat: Stat) -> Mark:
    return Mark(
        name=stat.key.removeprefix(mark_format.PREFIX),
        since=stat.modified,
        packs=frozenset(),
        segments=frozenset(),
        observed=(),
        why="cannot be read",
    )

"""Finds out whether a damaged pack that was marked is still needed. Reads every listing, so only
asked when there is one.
"""

from collections.abc import Sequence

from backup.format.snapshot import Snapshot
from backup.index.id_set import IdSet
from backup.repository.reachable import reachable
from backup.repository.reader import Reader
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Progress


class Unneeded:
    """`name in unneeded`: the pack is marked, and each of its blobs is in another pack or in no snapshot."""

    def __init__(
        self,
        reader: Reader,
        snapshots: Sequence[Snapshot],
        marked: frozenset[str],
        progress: Progress,
    ) -> None:
        self._reader, self._snapshots = reader, snapshots
        self._marked, self._progress = marked, progress
        self._needed: IdSet | None = None

    def __contains__(self, name: str) -> bool:
        if name not in self._marked:
            return False
        held = self._reader.catalogue
        only_here = [
            e.id for e in held.entries(name) if all(p.pack == name for p in held.locations(e.id))
        ]
        if not only_here:
            return True
        try:
            if self._needed is None:
                self._needed = reachable(
                    self._reader.repository, self._snapshots, self._progress, reader=self._reader
                )
        except Damage:
            return False
        return not any(id_ in self._needed for id_ in only_here)

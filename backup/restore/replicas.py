"""Where a restore reads: a snapshot in one vault, and the same run in the others for what the first
has lost.

Ids differ between vaults, because each has its own keys; names, order and contents of a run do not.
So a listing that breaks off in one vault goes on in the next at the same entry, and a file that is
damaged in one is taken from another by its name.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Self

from backup.format.snapshot import Content, Snapshot
from backup.format.tree import Node
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from zaibei.kernel.errors import Damage

SIBLINGS_BACK: Final = 256  # snapshots in which another vault's copy of a run is looked for
Entry = tuple[Reader, Node]
View = Callable[[Callable[[], Iterator[Entry]]], Iterable[Entry]]


class Source:
    """Opened when it is asked: an index that nobody needs is not read. Its owner closes it."""

    def __init__(
        self,
        repository: Repository,
        *,
        snapshot: Snapshot | None = None,
        like: Content | None = None,
    ) -> None:
        assert (snapshot is None) != (like is None), "a snapshot, or what it must be like"
        self.repository = repository
        self._snapshot, self._like = snapshot, like
        self._reader: Reader | None = None
        self._own = True
        self.unread: list[str] = []  # of the index: a restore asks the packs in their place

    @classmethod
    def of(cls, reader: Reader, snapshot: Snapshot) -> Self:
        made = cls(reader.repository, snapshot=snapshot)
        made._reader, made._own = reader, False
        return made

    @property
    def snapshot(self) -> Snapshot:
        """Raises Damage when this vault does not hold the run."""
        if self._snapshot is None:
            assert self._like is not None
            self._snapshot = sibling(self.repository, self._like)
        return self._snapshot

    @property
    def reader(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(
                self.repository,
                damaged=lambda key, bad: self.unread.append(f"{key}: {bad.message}"),
            )
        return self._reader

    def close(self) -> None:
        if self._own and self._reader is not None:
            self._reader.close()


def mark_of(content: Content) -> str:
    """Names a run, the same in every vault that holds it."""
    what = (content.kind, content.label, content.host, content.started.isoformat())
    return hashlib.sha256(repr(what).encode()).hexdigest()


def sibling(repo: Repository, content: Content) -> Snapshot:
    """The same run in another vault."""
    wanted = mark_of(content), content.entries, content.size_bytes
    for sequence in sorted(repo.sequences(), reverse=True)[:SIBLINGS_BACK]:
        one = repo.snapshot(sequence)
        if (mark_of(one.content), one.content.entries, one.content.size_bytes) == wanted:
            return one
    raise Damage(f"{repo.name} does not hold this run")


def entries(sources: Sequence[Source], *, note: Callable[[str], None]) -> Iterator[Entry]:
    """The listing; where a vault's is damaged, it goes on with the next vault's at the same entry."""
    done = 0
    for at, source in enumerate(sources):
        try:
            reader = source.reader
            for node in islice(reader.nodes(source.snapshot), done, None):
                done += 1
                yield reader, node
        except Damage as bad:
            if at + 1 == len(sources):
                raise
            name = sources[at + 1].repository.name
            note(f"the listing from entry {done + 1} on, from {name}: {bad.message}")
        else:
            return

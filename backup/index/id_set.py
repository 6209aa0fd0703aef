"""A set of blob ids in bounded memory: sorted arrays, merged as they grow."""

import threading
from collections.abc import Iterable, Iterator
from typing import Final

from backup.crypto.suite import ID_BYTES
from backup.index.sorted_runs import Pile, SortedRun, cut, rows_of

_JOINED_BYTES: Final = 1 << 20


class IdSet:
    """Ids, each once, in bounded memory. Thread-safe while ids are added."""

    def __init__(self, ids: Iterable[bytes] = ()) -> None:
        self._pile = Pile(ID_BYTES, ID_BYTES)
        self._run: SortedRun | None = None
        self._joined = bytearray()  # an array for each id added alone would weigh five times the id
        self._lock = threading.Lock()
        self.update(b"".join(ids))

    def add(self, id: bytes) -> None:  # noqa: A002
        self.update(id)

    def update(self, joined: bytes) -> None:
        """Any number of ids, one after the other."""
        with self._lock:
            self._joined += joined
            if len(self._joined) >= _JOINED_BYTES:
                self._hand_over()

    def settle(self) -> SortedRun:
        """All of them in order, each once."""
        with self._lock:
            self._hand_over()
            if self._run is None:
                self._run = self._pile.settle()
            return self._run

    def _hand_over(self) -> None:
        if self._joined:
            self._run = None
            self._pile.add(rows_of(bytes(self._joined), ID_BYTES))
            self._joined = bytearray()

    def __len__(self) -> int:
        return self.settle().count

    def __contains__(self, id: bytes) -> bool:  # noqa: A002
        return bool(self.settle().find(id))

    def __iter__(self) -> Iterator[bytes]:
        run = self.settle()
        bits = cut([run])
        for number in range(1 << bits):
            for row in run.block(number, bits):
                yield row.tobytes()

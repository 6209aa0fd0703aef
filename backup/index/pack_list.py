"""The packs of an index: number, name and size, in 50 bytes of memory each and no Python object."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from backup.index.sorted_runs import Rows, none, order_of, repeats

_NAME: Final = 32
_RECENT_MAX: Final = 8192  # names that wait in a dict until they are sorted in
_ROOM: Final = 1024


class PackList:
    """Not for two threads at once, but for `name_and_size`: its catalogue holds the lock."""

    def __init__(self) -> None:
        self.total = 0  # numbers given; a pack that was named twice has its first
        self._names: Rows = none(_NAME)
        self._sizes: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: dict[bytes, int] = {}
        self._order: NDArray[np.int64] = np.empty(0, np.int64)  # first numbers, in name order
        self._leads: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._settled = 0

    def add(self, name: bytes, size_bytes: int) -> int:
        known = self.number(name)
        if known is not None:
            return known
        number = self.extend(
            np.frombuffer(name, np.uint8).reshape(1, _NAME), np.array([size_bytes], np.uint64)
        )
        self._recent[name] = number
        if len(self._recent) > _RECENT_MAX:
            self.settle()
        return number

    def extend(self, names: Rows, sizes: NDArray[np.uint64]) -> int:
        """The number of the first; the others follow. Not findable before `settle`."""
        first, self.total = self.total, self.total + len(names)
        if self.total > len(self._sizes):
            room = max(_ROOM, self.total + self.total // 2) - len(self._sizes)
            # New arrays: who reads the old ones at this moment goes on reading them.
            self._names = np.concatenate([self._names, np.empty((room, _NAME), np.uint8)])
            self._sizes = np.concatenate([self._sizes, np.empty(room, np.uint64)])
        self._names[first : self.total] = names
        self._sizes[first : self.total] = sizes
        return first

    def settle(self) -> NDArray[np.uint32]:
        """For each number given the one that counts: that of the first pack of this name."""
        names = self._names[: self.total]
        order = order_of(names, _NAME)
        again = repeats(names[order], _NAME)
        firsts = order[~again]
        numbers = np.empty(self.total, np.uint32)
        numbers[order] = firsts[np.cumsum(~again) - 1]
        self._order = firsts
        self._leads = _leads(names[firsts])
        self._recent, self._settled = {}, self.total
        return numbers

    def number(self, name: bytes) -> int | None:
        if name in self._recent:
            return self._recent[name]
        at = int(np.searchsorted(self._leads, np.uint64(int.from_bytes(name[:8]))))
        while at < len(self._order) and self._names[self._order[at], :8].tobytes() == name[:8]:
            if self._names[self._order[at]].tobytes() == name:
                return int(self._order[at])
            at += 1
        return None

    def name_and_size(self, number: int) -> tuple[str, int]:
        return self._names[number].tobytes().hex(), int(self._sizes[number])

    def in_order(self) -> NDArray[np.int64]:
        """The numbers of all packs, by name."""
        if self._settled != self.total:
            self.settle()
        return self._order

    def count(self) -> int:
        return len(self.in_order())


def _leads(names: Rows) -> NDArray[np.uint64]:
    return np.ascontiguousarray(names[:, :8]).view(">u8").ravel().astype(np.uint64)

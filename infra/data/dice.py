"""Luck by position: the draws of row n do not depend on the rows before it.

So any row can be made alone (a company names its representative without a table of people in memory),
and the result is the same on every Python: only BLAKE2b and integers are used, not `random`.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
_BITS_LEFT = 32  # fewer than this and the draws would no longer be even


class Dice:
    """512 bits of luck for one row; each draw uses some up."""

    __slots__ = ("_luck",)

    def __init__(self, luck: int) -> None:
        self._luck = luck

    def roll(self, sides: int) -> int:
        """0 .. sides - 1."""
        assert self._luck >> _BITS_LEFT, "a row drew more than its 512 bits"
        self._luck, drawn = divmod(self._luck, sides)
        return drawn

    def between(self, low: int, high: int) -> int:
        """low .. high, both possible."""
        return low + self.roll(high - low + 1)

    def pick(self, of: Sequence[T]) -> T:
        return of[self.roll(len(of))]


class Cup:
    """The dice of one table under one seed."""

    def __init__(self, *, seed: int, table: str) -> None:
        self._state = blake2b(key=f"{seed}/{table}".encode()[:64], digest_size=64)

    def throw(self, row: int) -> Dice:
        return Dice(int.from_bytes(self.sealed(row)) | 1 << 511)

    def sealed(self, row: int) -> bytes:
        """64 opaque bytes."""
        state = self._state.copy()
        state.update(row.to_bytes(8))
        return state.digest()

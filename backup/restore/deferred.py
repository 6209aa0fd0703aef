"""Entries that a restore handles after every file is written: links, special files, modes and times
of directories.

They wait in a file, so that a tree of millions of directories costs little memory: ten bytes each,
and eight more at the end.
"""

from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO

from backup.format import tree
from backup.format.tree import Node


class Deferred:
    """Filled first, then read, in its order or the deepest first."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._starts = array("Q")
        self._depths = array("H")
        self._end = 0

    def append(self, node: Node) -> None:
        # Without blobs: one line, and nothing here needs them.
        line = b"".join(tree.encode(replace(node, blobs=())))
        self._starts.append(self._end)
        self._depths.append(node.path.count(b"/"))
        self._end += len(line)
        self._file.write(line)

    def __iter__(self) -> Iterator[Node]:
        self._file.seek(0)
        return tree.decode(self._file)

    def deepest_first(self) -> Iterator[Node]:
        """No entry before one that lies in it, whatever order the listing had."""
        self._file.flush()
        before = array("Q", bytes(8 * (max(self._depths, default=0) + 2)))
        for depth in self._depths:
            before[depth + 1] += 1
        for depth in range(1, len(before)):
            before[depth] += before[depth - 1]
        sorted_ = array("Q", bytes(8 * len(self._starts)))
        for start, depth in zip(self._starts, self._depths, strict=True):
            sorted_[before[depth]] = start
            before[depth] += 1
        for start in reversed(sorted_):
            self._file.seek(start)
            yield from tree.decode([self._file.readline()])

    def close(self) -> None:
        # What is still in the buffer is of a restore that is over: a full disk says no once more here.
        with suppress(OSError):
            self._file.close()

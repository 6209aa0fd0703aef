"""Entries that a restore comes back to when every file is written: links, special files, directories' modes
and times. They wait in a file, so that a tree of millions of directories costs no memory but eight bytes each.
"""

from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from backup import tree
from backup.tree import Node


class Later:
    """Filled first, then read, in either direction."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._starts = array("Q")
        self._end = 0

    def append(self, node: Node) -> None:
        # Without blobs: one line, and nothing here needs them.
        line = b"".join(tree.encode(replace(node, blobs=())))
        self._starts.append(self._end)
        self._end += len(line)
        self._file.write(line)

    def __iter__(self) -> Iterator[Node]:
        self._file.seek(0)
        return tree.decode(self._file)

    def __reversed__(self) -> Iterator[Node]:
        self._file.flush()
        for start in reversed(self._starts):
            self._file.seek(start)
            yield from tree.decode([self._file.readline()])

    def close(self) -> None:
        # What is still in the buffer is of a restore that is over: a full disk says no once more here.
        with suppress(OSError):
            self._file.close()

"""The directories that a restore makes below its target, kept open while they are used."""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH120

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from zaibei.kernel.beneath import DIRECTORY, LINKED, Directory, open_below
from zaibei.kernel.errors import Damage
from zaibei.kernel.printable import quoted

DIRECTORIES_MAX: Final = 100_000  # remembered as made; beyond that they are asked for again
OPEN_MAX: Final = 128  # directories that are kept open
OWN: Final = 0o700


class Below:
    """Thread-safe. Nothing here follows a symbolic link."""

    def __init__(self, base: Directory) -> None:
        self._base = base
        self._made: set[bytes] = set()
        self._open: dict[bytes, Directory] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for held in self._open.values():
                held.close()

    def make(self, path: bytes, *, found: Callable[[int], object] | None = None) -> None:
        """With all above it. `found` is called with one that is there. Raises Damage for what is there and no directory."""
        if not path or path in self._made:
            return
        at = os.path.dirname(path)
        while at and at not in self._made:
            at = os.path.dirname(at)
        held = self.at(at)
        for name in path[len(at) :].lstrip(b"/").split(b"/"):
            at = at + b"/" + name if at else name
            new = True
            try:
                os.mkdir(name, OWN, dir_fd=held.fd)
            except FileExistsError:
                new = False
            with _no_link(at):
                held = Directory(os.open(name, DIRECTORY, dir_fd=held.fd))
            if not new and found is not None:
                found(held.fd)
            self._keep(at, held)

    def at(self, path: bytes) -> Directory:
        """The directory at that path. Raises OSError, and Damage when a link or a file is on the way."""
        if not path:
            return self._base
        held = self._open.get(path)
        if held is None:
            with _no_link(path):
                held = Directory(open_below(self._base.fd, path))
            self._keep(path, held)
        return held

    def name(self, path: bytes) -> tuple[Directory, bytes]:
        """Where an entry is or will be: its directory, and its name there."""
        above, _, name = path.rpartition(b"/")
        return self.at(above), name

    def _keep(self, path: bytes, held: Directory) -> None:
        with self._lock:
            if len(self._made) >= DIRECTORIES_MAX:
                self._made.clear()
            self._made.add(path)
            if len(self._open) >= OPEN_MAX:
                self._open.pop(next(iter(self._open)))
            self._open[path] = held


def twice(path: bytes) -> Damage:
    return Damage(f"a listing names {quoted(path)} twice")


@contextmanager
def _no_link(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as strange:
        if strange.errno not in LINKED:
            raise
        raise Damage(
            f"a listing names {quoted(path)} twice, or below what is no directory"
        ) from strange

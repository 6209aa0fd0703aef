"""What `--files` names: a path, under its last part, or under a name that is given: `NAME=PATH`."""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH114, PTH115, PTH116, PTH119

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zaibei.kernel.errors import Usage

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True, slots=True)
class Root:
    path: Path
    name: str = ""  # empty: its last part

    @classmethod
    def of(cls, said: str) -> "Root":
        """A path with an `=` in it that is there is that path."""
        name, equals, path = said.partition("=")
        if not equals or not name or "/" in name or Path(said).exists():
            return cls(Path(said))
        if name in (".", "..") or not path:
            raise Usage(f"--files {said}: not NAME=PATH", hint="a name of one part, then a path")
        return cls(Path(path), name)

    def __str__(self) -> str:
        """To be read again by `of`, from any directory."""
        return f"{self.name}={self.path.absolute()}" if self.name else str(self.path.absolute())


def roots(asked: Sequence[Root]) -> dict[bytes, bytes]:
    """Name in the listing to path, in the order of the names. Raises Usage for two of one name, and for what is not there
    or has no contents of its own."""
    named: dict[bytes, bytes] = {}
    for one in asked:
        root = os.fsencode(one.path.absolute())
        name = os.fsencode(one.name) or os.path.basename(os.path.normpath(root)) or b"root"
        if name in named:
            raise Usage(
                f"two of the paths end in the same name: {shown(named[name])} and {shown(root)}",
                hint=f"give one a name: --files other={shown(root)}",
            )
        named[name] = root
        # A link that leads nowhere is a disk that is not mounted, more often than it is meant: backing up the link
        # alone would be a backup of nothing that says it is complete.
        to = f" (a link to {shown(os.readlink(root))})" if os.path.islink(root) else ""
        try:
            kind = _KINDS.get(stat.S_IFMT(os.stat(root).st_mode))
        except OSError as bad:
            why = (bad.strerror or str(bad)).lower()
            raise Usage(f"{shown(root)}{to}: {why}") from bad
        if kind is not None:
            # In a tree it is kept as what it is. Named alone its contents are meant, and would not be there.
            raise Usage(
                f"{shown(root)}{to} is {kind}: what can be read from it would not be backed up",
                hint=f"give its contents to standard input: --stdin {shown(name)} < {shown(root)}",
            )
    return dict(sorted(named.items()))


def shown(path: bytes) -> str:
    """For people and JSON; in any locale the same, because the next run finds this one by it."""
    return path.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()

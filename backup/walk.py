"""A tree of files in one stable order, without what the rules leave out. Names are bytes; links are not followed.

The order is that of names compared part by part, a directory before what is in it: two walks of one tree
meet the same entries in the same order, so a listing of the last one can be read beside this one.
The rules are the operator's alone. A file in the tree cannot exclude anything: whoever may write into the
data would otherwise decide what of it is backed up.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH118, PTH208

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from zaibei.kernel.errors import Usage

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

RULES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    real: bytes
    path: bytes  # as the listing names it
    info: os.stat_result


@dataclass(frozen=True, slots=True)
class Rules:
    """What is left out. `lines` in the words of gitignore, each relative to the root that was asked for."""

    lines: tuple[str, ...] = ()
    one_file_system: bool = False
    _spec: "GitIgnoreSpec | None" = None

    @classmethod
    def of(
        cls, lines: Sequence[str] = (), *, files: Sequence[Path] = (), one_file_system: bool = False
    ) -> "Rules":
        """Raises Usage for a rule that is none, with its line, and for a file that cannot be read."""
        all_ = [("--exclude", 1, line) for line in lines]
        for file in files:
            try:
                raw = file.read_bytes()
            except OSError as bad:
                raise Usage(f"{file}: no exclude rules can be read: {bad.strerror}") from bad
            # Names are bytes, so rules about them are: a folder with a name in GBK can be left out, too.
            if b"\0" in raw:
                raise Usage(f"{file}: no exclude rules can be read: no name holds a NUL")
            said = [os.fsdecode(line) for line in raw.splitlines()]
            all_ += [(str(file), n, line) for n, line in enumerate(said, 1)]
        if len(all_) > RULES_MAX:
            raise Usage(f"{len(all_)} exclude rules; {RULES_MAX} are the limit")
        if not all_:
            return cls(one_file_system=one_file_system)
        from pathspec import GitIgnoreSpec  # noqa: PLC0415

        for where, n, line in all_:
            try:
                GitIgnoreSpec.from_lines([line])
            except (ValueError, re.error) as bad:
                raise Usage(
                    f"{where}:{n}: not a rule: {line!a}", hint="rules are written as in .gitignore"
                ) from bad
        kept = tuple(line for _, _, line in all_ if line.strip() and not line.startswith("#"))
        spec = GitIgnoreSpec.from_lines(kept) if kept else None
        return cls(kept, one_file_system, spec)

    def told(self) -> list[str]:
        """For the snapshot: a byte that is no text as `\\xff`."""
        return [os.fsencode(line).decode("utf-8", "backslashreplace") for line in self.lines]

    def match(self, below: bytes, *, directory: bool) -> bool:
        """`below`: the path under the root; the root itself is matched by nothing."""
        if self._spec is None or not below:
            return False
        return self._spec.match_file(os.fsdecode(below) + ("/" if directory else ""))


def walk(
    root: bytes,
    name: bytes,
    rules: Rules,
    *,
    problem: Callable[[bytes, OSError], None],
    excluded: Callable[[], None] = lambda: None,
) -> Iterator[Entry]:
    """What lies under `root`, as `name/…`. What cannot be looked at is told to `problem`."""
    waiting = [(root, name)]
    skip = len(name) + 1
    device: int | None = None
    while waiting:
        real, path = waiting.pop()
        try:
            info = os.lstat(real)
            directory = stat.S_ISDIR(info.st_mode)
            if rules.match(path[skip:], directory=directory):
                excluded()
                continue
            device = info.st_dev if device is None else device
            yield Entry(real, path, info)
            # The mount point itself is kept: a restore must bring back where to mount.
            if directory and not (rules.one_file_system and info.st_dev != device):
                below = sorted(os.listdir(real), reverse=True)
                waiting += [(os.path.join(real, b), path + b"/" + b) for b in below]
        except OSError as bad:
            problem(path, bad)


def chosen(include: Rules, exclude: Rules) -> Callable[[bytes], bool]:
    """What a restore wants: asked with a path as the listing has it, a directory's with a slash at its end."""

    def wanted(path: bytes) -> bool:
        directory = path.endswith(b"/")
        below = path[:-1] if directory else path
        asked = not include.lines or include.match(below, directory=directory)
        return asked and not exclude.match(below, directory=directory)

    return wanted


def order(path: bytes) -> bytes:
    """Sorts as the walk goes: `a`, `a/x`, `a-b`. No name holds a NUL."""
    return path.replace(b"/", b"\0")

"""Walks a tree of files in one stable order, without what the rules exclude. Names are bytes; links
are not followed.

The order compares names part by part, a directory before what is in it: two walks of one tree meet
the same entries in the same order, so a listing of the last one can be read beside this one. The
rules are the operator's alone. A file in the tree cannot exclude anything: otherwise whoever can
write into the data would decide what of it is backed up.
"""

# Names are bytes here, and pathlib refuses bytes.
# ruff: noqa: PTH118, PTH208

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backup.format.tree import NAME_BYTES_MAX
from zaibei.kernel.beneath import DIRECTORY, Directory
from zaibei.kernel.errors import Usage
from zaibei.kernel.persontext import NotText, unmarked

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

RULES_MAX: Final = 10_000
LONG: Final = 3500  # bytes of a path; with a name of 255 more it still is one that the system takes


@dataclass(frozen=True, slots=True)
class Entry:
    real: bytes
    path: bytes  # as the listing names it
    info: os.stat_result
    held: Directory | None = None  # what `real` begins at, while it is used


@dataclass(frozen=True, slots=True)
class Rules:
    """What is left out. `lines` in the words of gitignore, each relative to the root that was asked for."""

    lines: tuple[str, ...] = ()
    one_file_system: bool = False
    _spec: "GitIgnoreSpec | None" = None
    _of: tuple[int, ...] = ()  # for each pattern of `_spec` the line that it is from
    _used: set[int] = field(default_factory=set)  # lines that decided about an entry
    _bare: tuple[str, ...] = ()  # files without a rule

    @classmethod
    def of(
        cls, lines: Sequence[str] = (), *, files: Sequence[Path] = (), one_file_system: bool = False
    ) -> "Rules":
        """Raises Usage for a rule that is none, with its line, and for a file that cannot be read."""
        all_ = [("--exclude", 1, line) for line in lines]
        bare: list[str] = []
        for file in files:
            said = _lines_of(file)
            if not any(_is_rule(line) for line in said):
                bare.append(str(file))
            all_ += [(str(file), n, line) for n, line in enumerate(said, 1)]
        if len(all_) > RULES_MAX:
            raise Usage(f"{len(all_)} exclude rules; {RULES_MAX} are the limit")
        if not all_:
            return cls(one_file_system=one_file_system, _bare=tuple(bare))
        from pathspec import GitIgnoreSpec  # noqa: PLC0415

        for where, n, line in all_:
            try:
                GitIgnoreSpec.from_lines([line])
            except (ValueError, re.error) as bad:
                raise Usage(
                    f"{where}:{n}: not a rule: {line!a}", hint="rules are written as in .gitignore"
                ) from bad
        kept = tuple(line for _, _, line in all_ if _is_rule(line))
        spec = GitIgnoreSpec.from_lines(kept) if kept else None
        return cls(kept, one_file_system, spec, tuple(range(len(kept))), _bare=tuple(bare))

    def told(self) -> list[str]:
        """For the snapshot: a byte that is no text as `\\xff`."""
        return [_told(line) for line in self.lines]

    def at(self, places: Iterable[tuple[bytes, bytes]]) -> "Rules":
        """The same rules where one may begin with a whole path of this machine: for each of `places` a directory, and what
        it is called where the rules are asked. Such a rule stands beside itself as it was written."""
        found: list[tuple[int, str]] = []
        asked = [(os.fsdecode(was), os.fsdecode(now)) for was, now in places]
        for n, line in enumerate(self.lines):
            found.append((n, line))
            found += [(n, new) for was, now in asked if (new := _moved(line, was, now)) is not None]
        if len(found) == len(self.lines):
            return self
        from pathspec import GitIgnoreSpec  # noqa: PLC0415

        spec = GitIgnoreSpec.from_lines([line for _, line in found])
        return Rules(self.lines, self.one_file_system, spec, tuple(n for n, _ in found), self._used)

    def match(self, below: bytes, *, directory: bool) -> bool:
        """`below`: the path under the root; the root itself is matched by nothing."""
        if self._spec is None or not below:
            return False
        found = self._spec.check_file(os.fsdecode(below) + ("/" if directory else ""))
        if found.index is not None:
            self._used.add(self._of[found.index])
        return bool(found.include)

    def idle(self) -> list[str]:
        """The rules that decided about nothing so far, for people: a typing error, or a path that is not there."""
        idle = [f"rule {_told(line)!r}" for n, line in enumerate(self.lines) if n not in self._used]
        return [*idle, *(f"{file}: no rule in it" for file in self._bare)]


def _lines_of(file: Path) -> list[str]:
    # Names are bytes, so rules about them are: a folder with a name in GBK can be left out, too.
    try:
        return [os.fsdecode(line) for line in unmarked(file.read_bytes()).splitlines()]
    except OSError as bad:
        raise Usage(f"{file}: no exclude rules can be read: {bad.strerror}") from bad
    except NotText as bad:
        raise Usage(
            f"{file}: no exclude rules can be read: {bad}", hint="no name holds a NUL"
        ) from bad


def _is_rule(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _told(line: str) -> str:
    return os.fsencode(line).decode("utf-8", "backslashreplace")


def _moved(line: str, was: str, now: str) -> str | None:
    """A rule that begins with the whole path of a directory, for where that directory is called otherwise."""
    no, path = ("!", line[1:]) if line.startswith("!") else ("", line)
    if not path.startswith(was.rstrip("/") + "/"):
        return f"{no}{_literal(now)}" if path == was and now else None
    return f"{no}{_literal(now)}{path[len(was.rstrip('/')) :]}"


def _literal(path: str) -> str:
    return re.sub(r"([\\*?\[\]! #])", r"\\\1", path)


def walk(
    root: bytes,
    name: bytes,
    rules: Rules,
    *,
    problem: Callable[[bytes, OSError], None],
    excluded: Callable[[], None] = lambda: None,
    leave: Callable[[bytes, os.stat_result], bool] = lambda _, __: False,
) -> Iterator[Entry]:
    """What lies under `root`, as `name/…`. What cannot be looked at is told to `problem`; `leave` is asked of directories."""
    waiting: list[tuple[bytes, bytes, Directory | None]] = [(root, name, None)]
    skip = len(name) + 1
    device: int | None = None
    while waiting:
        real, path, held = waiting.pop()
        try:
            if len(path) > NAME_BYTES_MAX:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            info = os.lstat(real)
            directory = stat.S_ISDIR(info.st_mode)
            if rules.match(path[skip:], directory=directory):
                excluded()
                continue
            if directory and leave(path, info):
                continue
            device = info.st_dev if device is None else device
            yield Entry(real, path, info, held)
            # The mount point itself is kept: a restore must bring back where to mount.
            if directory and not (rules.one_file_system and info.st_dev != device):
                if len(real) > LONG:
                    # From here on by a descriptor, which is closed when the last entry below it is done.
                    held = Directory(os.open(real, DIRECTORY))
                    real = b"/proc/self/fd/%d" % held.fd
                below = sorted(os.listdir(real), reverse=True)
                waiting += [(os.path.join(real, b), path + b"/" + b, held) for b in below]
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

"""stdin, stdout and stderr as the commands need them, whatever they were started with.

Progress may get lost and an answer may not: a backup at night must not fail because the log's disk is full or its
reader has gone, and a program that reads an answer must not take the half of one for all of it.
"""

import io
import os
import sys
from contextlib import suppress
from typing import Any, Final

from zaibei.kernel.errors import ZaibeiError
from zaibei.kernel.printable import printable_lines

_IN, _OUT, _ERR = 0, 1, 2
_ENCODING: Final = "utf-8"


class Unwritten(ZaibeiError):
    """The answer cannot be written: stdout is full or closed."""


def settle() -> None:
    """Before anything is said or opened."""
    _as_utf8()
    for fd in (_IN, _OUT, _ERR):
        _hold(fd)
    sys.stdout = _text(_Answer(_OUT))
    sys.stderr = _text(_Talk(_ERR))


def finish() -> None:
    """What was said is out. Raises Unwritten, and BrokenPipeError when the reader had enough."""
    sys.stdout.flush()


def let_go() -> None:
    """Nobody reads what is still to be said: the interpreter's own flush at the end must not complain."""
    raw: Any = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Answer):
        raw.lost = True


def _as_utf8() -> None:
    """Begin again in UTF-8 where the locale is another: configs, jobs and listings are UTF-8, and every file that is
    opened as text would be read in the locale's encoding. Names stay the bytes that they are."""
    if sys.getfilesystemencoding() != _ENCODING and not sys.flags.utf8_mode:
        again = [sys.orig_argv[0], "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, again)  # noqa: S606 — this very program


def _hold(fd: int) -> None:
    """A number that is closed is given to the next file that is opened: a child's words would go into a pack."""
    try:
        os.fstat(fd)
    except OSError:
        # stdout for reading only, so that writing to it stays the error that it is.
        got = os.open(os.devnull, os.O_WRONLY if fd == _ERR else os.O_RDONLY)
        os.dup2(got, fd)
        if got != fd:
            os.close(got)


class _Shown(io.TextIOWrapper):
    """What is written is for eyes or for a program, and others wrote part of it: a name with an escape sequence
    must not clear the screen. It is spelt as JSON spells it, so JSON stays what it was."""

    def write(self, text: str, /) -> int:
        super().write(printable_lines(text))
        return len(text)

    @property
    def drawn(self) -> "_Drawn":
        """Where `shown.Shown` writes what it has drawn and looked through itself."""
        return _Drawn(self)


class _Drawn:
    """The same stream for a console that has its own escape sequences to write."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _text(raw: "io.FileIO") -> io.TextIOWrapper:
    # A name that is no text: `\udcff`, which is what JSON calls it, too.
    return _Shown(
        io.BufferedWriter(raw),
        encoding=_ENCODING,
        errors="backslashreplace",
        line_buffering=raw.fileno() == _ERR or raw.isatty(),
    )


class _Answer(io.FileIO):
    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self.lost = False

    def write(self, data: Any, /) -> Any:
        if self.lost:
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as bad:
            self.lost = True
            raise Unwritten(
                f"the answer cannot be written to stdout: {bad.strerror}",
                hint="what the command did is done; ask again where there is room for the answer",
            ) from bad


class _Talk(io.FileIO):
    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)

    def write(self, data: Any, /) -> Any:
        with suppress(OSError):  # nobody is there to be told
            super().write(data)
        return len(data)

"""What the terminal sees: JSON on stdout, progress and errors on stderr."""

import errno
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from zaibei.cli.streams import Unwritten
from zaibei.kernel.errors import NoSpace, Unexpected, Usage, ZaibeiError
from zaibei.kernel.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


@cache
def _console() -> "Console":
    from zaibei.cli.shown import Shown  # noqa: PLC0415

    return Shown(stderr=True)


class _Late:
    """A console that is made when something is said: a run that only writes JSON does without rich."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_console(), name)


talk: "Console" = cast("Console", _Late())
_FORCED = {"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}  # what rich asks beside the terminal
_WORDS = 500  # characters of an unexpected error that go into its message
_EVERY_S = 5.0  # without a terminal: a line at most this often


def plain(value: Any) -> Any:
    """Types to JSON: durations as seconds, times as RFC 3339."""
    if is_dataclass(value) and not isinstance(value, type):
        return {k: plain(v) for k, v in asdict(value).items()}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value


_emitted = False


def emit(value: Any) -> None:
    """One JSON object on stdout."""
    global _emitted  # noqa: PLW0603 — stdout is the process's, and so is this
    text = printable_lines(json.dumps(plain(value), ensure_ascii=False, indent=2, sort_keys=False))
    _emitted = True
    print(text, flush=True)


def emit_line(value: Any) -> None:
    """One of many objects, a line each: for what goes on until it is ended."""
    print(printable_lines(json.dumps(plain(value), ensure_ascii=False)), flush=True)


def failed(error: ZaibeiError, exit_code: int) -> dict[str, Any]:
    """What a program reads of an error: `exit_code` is the process's own."""
    kind = type(error)
    return {
        "error": {
            "kind": kind.__name__,
            "exit_code": exit_code,
            "retryable": kind.retryable,
            "message": error.message,
            "hints": error.hints,
        }
    }


_interrupted = False


def interrupted(*hints: str) -> None:
    """Ctrl-C, told once: what was begun is not done, and what to do about it. The exit code is 130."""
    global _interrupted  # noqa: PLW0603 — as `_emitted`
    # Whoever does not want to wait for what is still under way is not held up by us a second time.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _interrupted:
        return
    _interrupted = True
    what = "ended by a signal before it was done"
    told = {"kind": "Interrupted", "exit_code": 130, "retryable": True, "message": what}
    _emit_failure({"error": {**told, "hints": hints}})
    print(f"interrupted: {what}", *(f"hint: {h}" for h in hints), sep="\n", file=sys.stderr)


def complain(error: ZaibeiError, exit_code: int) -> None:
    """The message and its hints on stderr, word for word: a wrapped `file:line` opens in no editor, and rich
    would draw the `:key:` of a path as an emoji. With `--json` an object on stdout too, if none is there yet.
    """
    _emit_failure(failed(error, exit_code))
    word = {2: "usage", 3: "invalid", 4: "refused", 5: "missing"}.get(error.exit_code, "error")
    labelled(word, error.message, style="bold red")
    for hint in error.hints:
        labelled("hint", hint, style="cyan")


def line(text: object) -> None:
    """One line of an answer on stdout: a newline in a name, a title or a reason begins no other."""
    print(printable(str(text)))


def labelled(word: str, text: str, *, style: str) -> None:
    """`word: text` on stderr, the word in its colour; the text is never markup."""
    talk.print(f"{word}:", style=style, end=" ")
    talk.print(text, soft_wrap=True)


def refused_words(wrong: BaseException | None) -> None:
    """What Typer found wrong with the command line, and has said on stderr: with `--json` an object too."""
    said = getattr(wrong, "format_message", lambda: "")()
    error = Usage(said or "the command line is wrong", hint="--help lists what there is")
    _emit_failure(failed(error, error.exit_code))


def _emit_failure(told: dict[str, Any]) -> None:
    """With `--json`, if no object is there yet. Where stdout takes none, the failure keeps its own exit code."""
    if "--json" not in sys.argv or _emitted:
        return
    try:
        emit(told)
    except Unwritten as lost:
        labelled("error", lost.message, style="bold red")


def unexpected(bug: BaseException) -> ZaibeiError:
    """A short message, and a file with the traceback for whoever mends it. A full disk has its own error."""
    if isinstance(bug, OSError) and bug.errno == errno.ENOSPC:
        where = bug.filename or "this machine"
        return NoSpace(f"{where}: {bug.strerror}", hint="free disk space")
    what = " ".join(str(bug).split())[:_WORDS]
    message = f"{type(bug).__name__}: {what}" if what else type(bug).__name__
    kept = _keep(bug)
    hint = (
        f"the details are in {kept}; please report it with that file"
        if kept
        else "please report it"
    )
    return Unexpected(message, hint=hint)


def _keep(bug: BaseException) -> Path | None:
    import tempfile  # noqa: PLC0415 - only a crash pays for them
    import traceback  # noqa: PLC0415

    from zaibei.kernel.clock import SystemClock  # noqa: PLC0415
    from zaibei.kernel.state import state_dir, write_atomic  # noqa: PLC0415

    name = f"{SystemClock().now():%Y%m%dT%H%M%SZ}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(bug))
    for folder in (state_dir() / "crashes", Path(tempfile.gettempdir())):
        with suppress(OSError):
            write_atomic(folder / name, text, mode=0o600)
            return folder / name
    return None


class Lines:
    """Progress for logs and pipes: a line a step, and one every few seconds inside it."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last = 0.0
        self._what = ""

    def step(self, what: str) -> None:
        self._what = what
        self._say(what)

    def done(self, amount: int, total: int | None = None, *, unit: str = "") -> None:
        if time.monotonic() - self._last >= _EVERY_S:
            of = f" of {total}" if total else ""
            self._say(f"{self._what}: {amount}{of} {unit}".rstrip())

    def note(self, what: str) -> None:
        self._say(what)

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"[{self._last - self._start:6.1f} s] {text}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None: ...


class JsonLines:
    """Progress for programs: an object a line. `eta_s` from the pace of the step so far; null while nobody knows
    the total."""

    def __init__(self) -> None:
        self._start = self._since = time.monotonic()
        self._last = float("-inf")
        self._what = ""

    def step(self, what: str) -> None:
        self._what, self._since = what, time.monotonic()
        self._say(step=what)

    def done(self, amount: int, total: int | None = None, *, unit: str = "") -> None:
        now = time.monotonic()
        if now - self._last < _EVERY_S:
            return
        took = now - self._since
        eta = round(took * (total - amount) / amount, 1) if total and 0 < amount <= total else None
        self._say(step=self._what, done=amount, total=total, unit=unit, eta_s=eta)

    def note(self, what: str) -> None:
        self._say(step=self._what, note=what)

    def _say(self, **fields: Any) -> None:
        self._last = time.monotonic()
        line = {"at_s": round(self._last - self._start, 1), **fields}
        print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None: ...


class Bar:
    """Progress for a terminal: a bar with an ETA; finished steps stay as lines with their time."""

    def __init__(self) -> None:
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=_console(),
            transient=True,
        )
        self._task: TaskID | None = None
        self._what = ""
        self._since = time.monotonic()

    def step(self, what: str) -> None:
        self._finish()
        self._what, self._since = what, time.monotonic()
        self._task = self._bar.add_task(what, total=None, amount="")

    def done(self, amount: int, total: int | None = None, *, unit: str = "") -> None:
        if self._task is not None:
            of = f"/{total}" if total else ""
            self._bar.update(
                self._task, completed=amount, total=total, amount=f"{amount}{of} {unit}"
            )

    def note(self, what: str) -> None:
        self._bar.console.print(f"    {what}")

    def _finish(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            took = time.monotonic() - self._since
            self._ended("✓", "green", f"{self._what}  {took:.1f} s")
            self._task = None

    def _ended(self, mark: str, style: str, what: str) -> None:
        self._bar.console.print(mark, style=style, end=" ")
        self._bar.console.print(what)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *gone: object) -> None:
        if kind is None:
            self._finish()
        elif self._task is not None:
            self._ended("✗", "red", self._what)
        self._bar.stop()


def progress(*, programs: bool = False) -> Bar | Lines | JsonLines:
    """A context manager that is a `kernel.progress.Progress`. `programs`: without a terminal it is read by one."""
    if not sys.stderr.isatty() and not _FORCED & set(os.environ):
        return JsonLines() if programs else Lines()
    return Bar() if talk.is_terminal else Lines()


def show(table: Any, *, width: int | None = None) -> None:
    """Something rich can draw, on stdout: the answer a person asked for. `width`: of what is no terminal."""
    from zaibei.cli.shown import Shown, on_one_line  # noqa: PLC0415

    out = Shown()
    if width is not None and not out.is_terminal:
        out.width = width
    out.print(on_one_line(table))

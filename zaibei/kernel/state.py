"""Where zaibei keeps its state, and how a file becomes true: written whole, flushed, then named."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zaibei.kernel.errors import Busy

ENV = "ZAIBEI_STATE"
_DEFAULT = Path("/var/lib/zaibei")
_MARK_MAX = 1 << 16


def state_dir() -> Path:
    """`$ZAIBEI_STATE`, else /var/lib/zaibei for root, else ~/.local/state/zaibei."""
    if given := os.environ.get(ENV):
        return Path(given)
    if os.geteuid() == 0:
        return _DEFAULT
    return Path.home() / ".local" / "state" / "zaibei"


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """A reader sees the old file or the new one, also after a power loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def sole(path: Path, *, what: str) -> Iterator[None]:
    """Hold `path` as a lock of this process; the kernel lets it go when the process dies.

    Raises Busy, naming the holder, at once: nobody waits for a drill.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            held.seek(0)
            try:
                who: dict[str, Any] = json.loads(held.read() or "{}")
            except json.JSONDecodeError:
                who = {}
            raise Busy(
                f"{who.get('what', what)} is running (process {who.get('pid', 'unknown')})",
                hint="wait for it, or end that process: its faults are undone by the dead-man",
            ) from taken
        held.seek(0)
        held.truncate()
        held.write(json.dumps({"pid": os.getpid(), "what": what}))
        held.flush()
        yield


@contextmanager
def marked(path: Path, content: str) -> Iterator[None]:
    """Show `content` to other processes at `path` for as long as this process is in here.

    The lock on the file is what counts: after a kill the file is still there, and `marked_by` sees that
    its writer is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(content)
        held.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def marked_by(path: Path) -> str | None:
    """What a living process shows at `path`; None when there is none. Raises OSError."""
    try:
        with path.open() as seen:
            try:
                fcntl.flock(seen, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return seen.read(_MARK_MAX)
    except FileNotFoundError:
        return None
    return None

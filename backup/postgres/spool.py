"""Set the spool right before a receiver starts in it: half-written files would keep it from ever starting.

pg_receivewal makes a segment by padding it with zeros, and takes up what it finds. When the disk fills, the power fails
or it is killed meanwhile, it finds a file that is neither empty nor whole, and refuses it each time. The server still
has that segment whole: its slot lies in it or before it. So the file is put aside, and streamed again.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from backup.format.wal_segment import SEGMENT_BYTES, is_segment
from backup.postgres.wal_shipper import PARTIAL, grown

_FORKED = re.compile(
    r"not in this server's history|ahead of the WAL flush position|timeline \d+ does not exist"
)
# Written by a pg_receivewal that was told to compress: it would go on after them.
_COMPRESSED: Final = re.compile(r"[0-9A-F]{24}\.(gz|lz4)(\.partial)?")


_ENOUGH: Final = 64 << 10
_LAST_WORDS: Final = 1000  # characters


def forked(said: str) -> bool:
    """Whether the receiver was refused because the spool holds what this server's history does not."""
    return _FORKED.search(said) is not None


def set_right(spool: Path, *, now: datetime) -> list[str]:
    """Put aside what no receiver can go on from; one line each, for people."""
    told = []
    for path in sorted(spool.iterdir()):
        if not path.is_file() or (why := _why_torn(path)) is None:
            continue
        told.append(f"{path.name}: {why}: put aside, and streamed again")
        if path.name.endswith(PARTIAL) and not grown(path):
            path.unlink()  # padding, and nothing yet
        else:
            _aside(path, f"torn-{now:%Y%m%dT%H%M%SZ}")
    return told


def set_aside(spool: Path, *, now: datetime) -> None:
    """The old writer had sent us more than the new one knows: that end was never acknowledged by a partner. It stays
    on disk for salvage; the receiver begins again where the slot says."""
    for path in spool.iterdir():
        if is_segment(path.name.removesuffix(PARTIAL)):
            _aside(path, f"forked-{now:%Y%m%dT%H%M%SZ}")


def sweep(spool: Path, archived: Callable[[str], bool]) -> None:
    """Remove torn files whose segment is whole in every vault by now."""
    for folder in spool.glob("torn-*"):
        if all(archived(p.name.removesuffix(PARTIAL)) for p in folder.iterdir()):
            shutil.rmtree(folder)


def last_words(said: IO[bytes] | None, spool: Path) -> str:
    """Why the receiver ended. One that cannot write says nothing of the disk at times."""
    words = ""
    if said is not None:
        with said:
            said.seek(0)
            words = said.read(_ENOUGH).decode(errors="replace").strip()[-_LAST_WORDS:]
    free = free_bytes(spool)
    if free is not None and free < SEGMENT_BYTES:
        words += (
            f" (the spool's disk is full: {free} bytes are free, a segment takes {SEGMENT_BYTES})"
        )
    return words.strip() or "it gave no reason"


def free_bytes(spool: Path) -> int | None:
    """For whom we are, on the spool's disk; None: nothing can be said."""
    with suppress(OSError):
        return shutil.disk_usage(spool).free
    return None


def _why_torn(path: Path) -> str | None:
    name, size = path.name, path.stat().st_size
    if _COMPRESSED.fullmatch(name):
        return "compressed"
    if not is_segment(name.removesuffix(PARTIAL)) or size == SEGMENT_BYTES:
        return None
    if name.endswith(PARTIAL) and size == 0:
        return None
    return f"{size} bytes of {SEGMENT_BYTES}"


def _aside(path: Path, folder: str) -> None:
    made = path.parent / folder
    made.mkdir(exist_ok=True)
    path.replace(made / path.name)

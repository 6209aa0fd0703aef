"""Unpack a `.tar.gz` of a pack within a budget. The archive is only a wrapping: nothing in it is believed.

Headers are read here, 512 bytes each, and not by `tarfile`: that reads the body of a pax or long-name header into
memory, however long it says it is. A pack holds regular files of USTAR and nothing else; what is spelt otherwise
(a size that is negative or binary, a link, a sparse file) is refused, for `tar` may read it otherwise than we do.
"""

import gzip
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.printable import printable

MAX_FILES: Final = 100_000
MAX_BYTES: Final = 8 << 30  # unpacked; a bomb is refused, not filled in
MAX_RATIO: Final = 200  # and no more than this for each byte of the archive,
SPARE_BYTES: Final = 64 << 20  # beside what any archive may hold
MAX_TAIL_BYTES: Final = 1 << 20  # zeros after the last file; `tar` pads to 10,240
_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_SIZE = re.compile(rb"[0-7]{11}\0")
_CHECKSUM = re.compile(rb"[0-7]{6}\0 ")
_PART = re.compile(r"[A-Za-z0-9._-]+")


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    top: str
    parts: tuple[str, ...]  # below the top
    size: int


@contextmanager
def unpacked(pack: Path) -> Iterator[Path]:
    """The folder of a pack, unpacked into a temporary place when it is an archive."""
    if pack.is_dir():
        yield pack
        return
    if not pack.is_file():
        raise Usage(f"no pack here: {pack}")
    with tempfile.TemporaryDirectory(prefix="zaibei-pack.") as work:
        folder = Path(work, "pack")
        try:
            with gzip.open(pack) as stream:
                _extract(stream, folder, budget=_budget(pack))
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as bad:
            raise Damage("the archive holds a file and a folder of one name") from bad
        except (EOFError, zlib.error, gzip.BadGzipFile) as bad:
            raise Damage(f"{pack.name} is not a whole archive: {bad}") from bad
        yield folder


def _budget(pack: Path) -> int:
    return min(MAX_BYTES, SPARE_BYTES + MAX_RATIO * pack.stat().st_size)


def _extract(stream: _Stream, folder: Path, *, budget: int) -> None:
    tops: set[str] = set()
    seen: set[tuple[str, ...]] = set()
    while (header := _exactly(stream, _BLOCK)).strip(b"\0"):
        member = _member(header)
        budget -= member.size + _BLOCK
        if budget < 0 or len(seen) >= MAX_FILES:
            raise Damage("the archive is larger than any pack of its size")
        tops.add(member.top)
        if len(tops) != 1:
            raise Damage("the archive is not one pack in one folder")
        if member.parts in seen:
            raise Damage(f"the archive holds {'/'.join(member.parts)} twice")
        seen.add(member.parts)
        target = folder.joinpath(*member.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            for size in _pieces(member.size):
                out.write(_exactly(stream, size))
        if _exactly(stream, -member.size % _BLOCK).strip(b"\0"):
            raise Damage("the archive holds bytes between its files")
    if not tops:
        raise Damage("the archive is not one pack in one folder")
    _only_zeros(stream)


def _member(header: bytes) -> _Member:
    """What a header says. Raises Damage unless it is a regular file, as `packing.archive` writes it."""
    name, size, checksum, kind = header[:100], header[124:136], header[148:156], header[156:157]
    link, magic, prefix = header[157:257], header[257:265], header[345:500]
    path = _text(prefix) + "/" + _text(name) if prefix.strip(b"\0") else _text(name)
    if kind != b"0" or link.strip(b"\0") or magic != b"ustar\x0000":
        raise Damage(f"the archive holds something that is not a file of a pack: {printable(path)}")
    total = sum(header[:148]) + sum(b" " * 8) + sum(header[156:])
    if not _CHECKSUM.fullmatch(checksum) or int(checksum[:6], 8) != total:
        raise Damage("a header of the archive has another checksum")
    if not _SIZE.fullmatch(size):
        raise Damage(f"the archive has no plain size for {printable(path)}")
    top, *parts = path.split("/")
    plain = all(_PART.fullmatch(p) and p not in {".", ".."} for p in parts)
    if top in {"", ".", ".."} or not parts or not plain:
        raise Damage(f"the archive holds something that is not a file of a pack: {printable(path)}")
    return _Member(top=top, parts=tuple(parts), size=int(size[:11], 8))


def _text(field: bytes) -> str:
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise Damage("a name in the archive goes on after its end")
    return text.decode(errors="backslashreplace")


def _pieces(size: int) -> Iterator[int]:
    for at in range(0, size, _CHUNK):
        yield min(_CHUNK, size - at)


def _exactly(stream: _Stream, size: int) -> bytes:
    raw = stream.read(size)
    if len(raw) != size:
        raise EOFError("it is cut off")
    return raw


def _only_zeros(stream: _Stream) -> None:
    """Also reads to the end: the length and CRC of gzip stand after it."""
    tail = 0
    while chunk := stream.read(_CHUNK):
        tail += len(chunk)
        if chunk.strip(b"\0") or tail > MAX_TAIL_BYTES:
            raise Damage("the archive goes on after its end")
    if tail < _BLOCK:
        raise EOFError("it is cut off")

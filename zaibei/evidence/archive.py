"""Opening a packed pack. The archive is only a wrapping: nothing in it is believed, least of all names."""

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zaibei.kernel.errors import Damage, Usage

MAX_FILES = 100_000
MAX_BYTES = 8 << 30  # unpacked; a bomb is refused, not filled in


@contextmanager
def unpacked(pack: Path) -> Iterator[Path]:
    """The folder of a pack, unpacked into a temporary place when it is an archive."""
    if pack.is_dir():
        yield pack
        return
    if not pack.is_file():
        raise Usage(f"no pack here: {pack}")
    with tempfile.TemporaryDirectory(prefix="zaibei-pack.") as work:
        try:
            yield _extract(pack, Path(work))
        except (tarfile.TarError, EOFError, zlib.error) as bad:
            raise Damage(f"{pack.name} is not a whole archive: {bad}") from bad


def _extract(pack: Path, work: Path) -> Path:
    tops: set[str] = set()
    seen: set[str] = set()
    total = 0
    with gzip.open(pack) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            parts = member.name.split("/")
            total += member.size
            if not member.isreg() or len(parts) < 2 or {"", ".", ".."} & set(parts):
                raise Damage(
                    f"the archive holds something that is not a file of a pack: {parts[-1]}"
                )
            if member.name in seen:
                raise Damage(f"the archive holds {member.name} twice")
            if total > MAX_BYTES or len(seen) >= MAX_FILES:
                raise Damage("the archive is larger than any pack")
            seen.add(member.name)
            tops.add(parts[0])
            target = work.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None, "a regular member has content"
            with source, target.open("wb") as out:
                while chunk := source.read(1 << 20):
                    out.write(chunk)
        # tarfile stops at the first empty block; the length and CRC of gzip stand after it.
        while chunk := stream.read(1 << 20):
            if chunk.strip(b"\0"):
                raise Damage("the archive goes on after its end")
    if len(tops) != 1:
        raise Damage("the archive is not one pack in one folder")
    return work / tops.pop()

"""Put a drill's raw data into its pack, and open them again to recompute the verdict.

What was read back after recovery is as much a measurement as the ledger: without it nobody could
count the losses a second time. Large files are compressed; nothing is left out without a word.
"""

import gzip
import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import rfc8785

from failover.checker import Object, Row
from failover.measure import Observation
from zaibei.kernel.errors import Damage, Invalid

LEDGER, READBACK, WATCH = "ledger.jsonl", "readback.jsonl", "watch.json"
PLAN, STACK = "plan.json", "stack.json"
READBACK_FORMAT = "zaibei-readback/1"
PLAIN_MAX_BYTES = 64 << 20  # larger ones are compressed
PACKED_MAX_BYTES = 4 << 30  # beyond it a file is left out, and the outcome says so
# Each record holds a digest, which does not compress: ours unpack to about ten times their size, a bomb
# to a thousand times.
OPEN_MAX_RATIO = 64
_CHUNK = 1 << 20
_SMALL_MAX_BYTES = 16 << 20  # of plan, stack and watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """What became of one file: in the pack under `name`, or left out with the reason."""

    name: str
    size_bytes: int  # of the file as it lies in the pack
    sha256: str | None = None
    left_out: str | None = None

    def as_json(self) -> dict[str, Any]:
        told = {"name": self.name, "size_bytes": self.size_bytes}
        return told | ({"why": self.left_out} if self.left_out else {"sha256": self.sha256})


def put(
    source: Path,
    into: Path,
    name: str,
    *,
    plain_max_bytes: int = PLAIN_MAX_BYTES,
    packed_max_bytes: int = PACKED_MAX_BYTES,
) -> Put:
    """Copy `source` into the folder of artefacts, compressed when it is large."""
    size = source.stat().st_size
    if size <= plain_max_bytes:
        shutil.copyfile(source, into / name)
    else:
        name = f"{name}.gz"
        with (
            source.open("rb") as plain,
            (into / name).open("wb") as raw,
            # Without name and time in its header: the same data give the same file.
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed,
        ):
            shutil.copyfileobj(plain, packed, _CHUNK)
    there = into / name
    size = there.stat().st_size
    if size > packed_max_bytes:
        there.unlink()
        return Put(name=name, size_bytes=size, left_out=f"larger than {packed_max_bytes} bytes")
    with there.open("rb") as content:
        return Put(
            name=name, size_bytes=size, sha256=hashlib.file_digest(content, "sha256").hexdigest()
        )


@contextmanager
def opened(folder: Path, name: str) -> Iterator[Path]:
    """The plain file, wherever it lies. Raises Invalid when the pack does not hold it."""
    packed = folder / f"{name}.gz"
    if (folder / name).is_file():
        # One of the two would be judged, and the other read by whoever opens the pack.
        if packed.exists():
            raise Damage(f"{name} is in this pack twice, plain and compressed")
        yield folder / name
        return
    if not packed.is_file():
        raise Invalid(f"{name} is not in this pack")
    with tempfile.TemporaryDirectory(prefix="zaibei-judge.") as work:
        plain = Path(work, name)
        budget = packed.stat().st_size * OPEN_MAX_RATIO
        try:
            with gzip.open(packed) as source, plain.open("wb") as out:
                while chunk := source.read(_CHUNK):
                    budget -= len(chunk)
                    if budget < 0:
                        raise Damage(f"{packed.name} unpacks to more than any such file")
                    out.write(chunk)
        except (OSError, EOFError, zlib.error) as bad:
            raise Damage(f"{packed.name} is not a whole file: {bad}") from bad
        yield plain


def canonical(value: dict[str, Any]) -> bytes:
    return rfc8785.dumps(value)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A small file of one object. Raises Invalid when it is absent, Damage when it is no such file."""
    with opened(folder, name) as path:
        if path.stat().st_size > _SMALL_MAX_BYTES:
            raise Damage(f"{name} is larger than any such file")
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as bad:
            raise Damage(f"{name} is not JSON: {bad}") from bad
    if not isinstance(found, dict):
        raise Damage(f"{name} is not an object")
    return found


def write_readback(path: Path, drill: str, rows: Sequence[Row], objects: Sequence[Object]) -> None:
    """What was there after recovery, and an end with the counts: a list that was cut off has none."""
    with path.open("wb") as out:
        out.write(_line({"format": READBACK_FORMAT, "drill": drill}))
        for key, sha, epoch in rows:
            out.write(_line({"row": key, "sha256": sha, "epoch": epoch}))
        for key, sha in objects:
            out.write(_line({"object": key, "sha256": sha}))
        out.write(_line({"rows": len(rows), "objects": len(objects)}))


def read_readback(path: Path, drill: str) -> tuple[list[Row], list[Object]]:
    """Raises Invalid when it is cut off, Damage when it is of another drill or no read-back."""
    rows: list[Row] = []
    objects: list[Object] = []
    end: dict[str, Any] | None = None
    try:
        with path.open("rb") as source:
            if orjson.loads(source.readline(_CHUNK)) != {"format": READBACK_FORMAT, "drill": drill}:
                raise Damage(f"{path.name} is not the read-back of {drill}")
            while line := source.readline(_CHUNK):
                if end is not None:
                    raise Damage(f"{path.name} goes on after its end")
                said = orjson.loads(line)
                if "row" in said:
                    rows.append((str(said["row"]), str(said["sha256"]), said["epoch"]))
                elif "object" in said:
                    objects.append((str(said["object"]), str(said["sha256"])))
                else:
                    end = said
    except (orjson.JSONDecodeError, KeyError, TypeError) as bad:
        raise Damage(f"{path.name} holds a line that no drill writes: {bad!r}") from bad
    if end != {"rows": len(rows), "objects": len(objects)}:
        raise Invalid(f"{path.name} is cut off: {len(rows)} rows, {len(objects)} objects")
    return rows, objects


def watch_json(observations: Sequence[Observation], cpu_some_pct_max: float | None) -> bytes:
    seen = [{"t_s": o.t_s, "what": o.what} for o in observations]
    return canonical({"cpu_some_pct_max": cpu_some_pct_max, "observations": seen})


def observations_of(watch: dict[str, Any]) -> tuple[Observation, ...]:
    try:
        return tuple(
            Observation(t_s=float(o["t_s"]), what=str(o["what"])) for o in watch["observations"]
        )
    except (KeyError, TypeError, ValueError) as bad:
        raise Damage(f"{WATCH} is not what a drill writes: {bad!r}") from bad


def _line(said: dict[str, Any]) -> bytes:
    return orjson.dumps(said) + b"\n"

"""A repository of ten million chunks, made in minutes, and what the commands cost on it.

Everything that the commands read at this size is real: config, key, sealed index segments, listings in packs
that open, a signed snapshot. Only the data packs are holes of the right name and size: `verify --level full`
would find them empty, `structure` and `gc` never read them.

    python -P -m backup.bench.index --chunks 10000000 --work /var/tmp
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np

from backup.bench.measure import floor_bytes, measure
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.progress import Silent

CEILING_BYTES: Final = 512 << 20
PACK_BLOBS: Final = 16
BLOB_BYTES: Final = 500_000
FILE_BLOBS: Final = 10  # entries of the listing: a tenth of the chunks
SECRET: Final = "ten million"
_DEADLINE: Final = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    what: str
    wall_s: float
    cpu_s: float
    peak_bytes: int
    others_cores: float


def make(root: Path, chunks: int, clock: Clock, *, seed: int = 1) -> None:
    """One repository with one snapshot whose listing names all chunks."""
    from backup.format import tree  # noqa: PLC0415 — the parent that measures stays small
    from backup.format.blob import Chunk, Kind  # noqa: PLC0415
    from backup.format.pack import padme  # noqa: PLC0415
    from backup.format.snapshot import Content  # noqa: PLC0415
    from backup.format.tree import TREE_BYTES, Node, Type  # noqa: PLC0415
    from backup.index.segment import SEGMENT_PACKS, seal_segment  # noqa: PLC0415
    from backup.repository.init import create_repository  # noqa: PLC0415
    from backup.writer.writer import Writer  # noqa: PLC0415
    from infra.objectstore.directory import DirectoryStore  # noqa: PLC0415

    repo = create_repository(DirectoryStore(root), SECRET, clock=clock)
    luck = np.random.default_rng(seed)
    writer = Writer(repo, rng=random.Random(seed))
    for xx in range(256):
        (root / f"packs/{xx:02x}").mkdir(parents=True, exist_ok=True)
    (root / "index").mkdir()
    size = padme(PACK_BLOBS * BLOB_BYTES)
    trees, lines, held, files, left = list[bytes](), list[bytes](), 0, 0, chunks
    while left:
        count = min(left, SEGMENT_PACKS * PACK_BLOBS)
        left -= count
        packs = -(-count // PACK_BLOBS)
        names = luck.bytes(32 * packs)
        ids = luck.bytes(32 * count)
        name, sealed = seal_segment(repo.keys, _plain(names, ids, size))
        (root / "index" / name).write_bytes(sealed)
        for at in range(0, len(names), 32):
            pack = names[at : at + 32].hex()
            fd = os.open(root / "packs" / pack[:2] / pack, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.ftruncate(fd, size)
            os.close(fd)
        for at in range(0, count, FILE_BLOBS):
            blobs = [ids[i * 32 : i * 32 + 32] for i in range(at, min(count, at + FILE_BLOBS))]
            files += 1
            node = Node(
                path=f"share/{files // 1000:05d}/{files:08d}".encode(),
                type=Type.FILE,
                mode=0o640,
                mtime_ns=1_700_000_000_000_000_000 + files,
                size_bytes=len(blobs) * BLOB_BYTES,
                blobs=tuple(blobs),
            )
            for line in tree.encode(node):
                lines.append(line)
                held += len(line)
            if held >= TREE_BYTES or (not left and at + FILE_BLOBS >= count):
                trees.append(writer.put(Chunk(b"".join(lines)), Kind.TREE))
                lines, held = [], 0
    writer.finish()
    writer.commit(
        Content(
            kind="files",
            label="made",
            host="bench",
            started=clock.now(),
            finished=clock.now(),
            tree=tuple(trees),
            entries=files,
            size_bytes=chunks * BLOB_BYTES,
            complete=True,
        )
    )
    writer.close()


def run(chunks: int, work: Path, clock: Clock) -> list[Cost]:
    """What each command takes on a repository of so many chunks."""
    place = Path(tempfile.mkdtemp(prefix="zaibei-index-", dir=work))
    try:
        root, source, secret = place / "repository", place / "source", place / "secret"
        source.mkdir()
        secret.write_text(SECRET + "\n")
        for n in range(10):
            (source / f"{n}").write_bytes(random.Random(n).randbytes(300_000))
        env = {**os.environ, "ZAIBEI_STATE": str(place / "state"), "TMPDIR": str(work)}
        python = [sys.executable, "-P", "-m"]
        cli = [*python, "zaibei.cli.main", "backup"]
        at = ["--repo", root.as_uri(), "--password-file", str(secret), "--json"]
        steps = {
            "make": [*python, "backup.bench.scale", "--make", str(root), "--chunks", str(chunks)],
            "open": [*python, "backup.bench.scale", "--open", str(root)],
            "backup of 3 MB": [*cli, "run", "--files", str(source), *at],
            "verify structure": [*cli, "verify", "--level", "structure", *at],
            "who needs what": [*python, "backup.bench.scale", "--needed", str(root)],
            "gc": [*cli, "gc", *at, "--confirm", root.as_uri()],
        }
        out = []
        for what, argv in steps.items():
            one = measure(argv, env=env, cwd=place, clock=clock, deadline=_DEADLINE)
            out.append(
                Cost(
                    what=what,
                    wall_s=one.wall.total_seconds(),
                    cpu_s=one.cpu.total_seconds(),
                    peak_bytes=one.peak_bytes,
                    others_cores=one.others_cores,
                )
            )
            print(_line(out[-1]), flush=True)
        return out
    finally:
        shutil.rmtree(place)


def _plain(names: bytes, ids: bytes, size: int) -> bytes:
    """The plaintext of a segment: `docs/design/repository.md`."""
    from backup.index.segment import ROW  # noqa: PLC0415

    count, packs = len(ids) // 32, len(names) // 32
    rows = np.zeros(count, ROW)
    rows["id"] = np.frombuffer(ids, "V32")
    number = np.arange(count)
    rows["pack"], rows["slot"] = number // PACK_BLOBS, number % PACK_BLOBS
    rows["encoding"] = 1
    rows["stored"], rows["raw"] = BLOB_BYTES - 200_000, BLOB_BYTES
    rows["offset"] = 76 + rows["slot"] * (BLOB_BYTES - 200_000)
    leads = rows["id"].copy().view(np.uint8).reshape(count, 32)[:, :8].copy().view(">u8").ravel()
    rows = rows[np.argsort(leads)]
    listed = b"".join(names[i : i + 32] + size.to_bytes(8) for i in range(0, len(names), 32))
    return packs.to_bytes(4) + listed + count.to_bytes(4) + rows.tobytes()


def _line(one: Cost) -> str:
    return (
        f"{one.what:<18} {one.wall_s:8.1f} s  cpu {one.cpu_s:7.1f} s"
        f"  peak {one.peak_bytes / 2**20:6.0f} MiB  (others: {one.others_cores:.1f} cores)"
    )


def _open(root: Path) -> None:
    from backup.repository.repository import open_repository  # noqa: PLC0415
    from infra.objectstore.directory import DirectoryStore  # noqa: PLC0415

    repo = open_repository(DirectoryStore(root), SECRET, clock=SystemClock())
    held = repo.catalogue()
    print(held.count())
    held.close()


def _needed(root: Path) -> None:
    """What a collection of garbage stands on: reachable ids beside the whole index."""
    from backup.repository.reachable import reachable  # noqa: PLC0415
    from backup.repository.reader import Reader  # noqa: PLC0415
    from backup.repository.repository import open_repository  # noqa: PLC0415
    from infra.objectstore.directory import DirectoryStore  # noqa: PLC0415

    repo = open_repository(DirectoryStore(root), SECRET, clock=SystemClock())
    with Reader(repo) as reader:
        ids = reachable(repo, repo.snapshots(), Silent(), reader=reader)
        dead = sum(x.live_blobs == 0 for x in reader.catalogue.liveness(ids))
        print(len(ids), dead, reader.catalogue.lacking(ids).count)


def main() -> int:
    """1 when a command needs more memory than is promised; what it took is printed all the same."""
    asked = argparse.ArgumentParser(prog="backup.bench.scale")
    asked.add_argument("--chunks", type=int, default=1_000_000)
    asked.add_argument("--work", type=Path, default=Path("/var/tmp"))
    asked.add_argument("--out", type=Path, help="the figures as JSON")
    asked.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    asked.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    asked.add_argument("--needed", type=Path, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.make:
        make(given.make, given.chunks, SystemClock())
        return 0
    if given.open:
        _open(given.open)
        return 0
    if given.needed:
        _needed(given.needed)
        return 0
    costs = run(given.chunks, given.work, SystemClock())
    if given.out:
        told = {
            "chunks": given.chunks,
            "floor_bytes": floor_bytes(),
            "steps": [{k: getattr(c, k) for k in Cost.__slots__} for c in costs],
        }
        given.out.write_text(json.dumps(told, indent=2) + "\n")
    over = [c.what for c in costs if c.peak_bytes > CEILING_BYTES and c.what != "make"]
    print(f"over {CEILING_BYTES >> 20} MiB: {', '.join(over) or 'nothing'}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())

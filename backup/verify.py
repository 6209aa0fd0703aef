"""Is everything there that a restore needs, and is it what was written? Three levels, each holding the one
before: `structure` (signatures, chain, index, listings, sizes), `sample` (some packs read whole), `full`
(every byte of every object). The fourth level is to restore: `room`.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from backup import forgotten, heads, snapshot, wal
from backup.forgotten import Link, check_chain
from backup.index import Catalogue
from backup.pack import check_whole
from backup.reader import Reader
from backup.repository import CONFIG, Repository, read_config, read_key
from backup.snapshot import Snapshot
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Progress

SAMPLE: Final = 0.1
FINDINGS_MAX: Final = 1000
_PREFIXES = (
    CONFIG,
    "keys/",
    "packs/",
    "index/",
    snapshot.PREFIX,
    forgotten.PREFIX,
    "marks/",
    "runs/",
    wal.PREFIX,
)


class Level(StrEnum):
    STRUCTURE = "structure"
    SAMPLE = "sample"
    FULL = "full"


@dataclass(slots=True, kw_only=True)
class Report:
    """`damage` empty means: nothing wrong was found by this level, on what it read."""

    repository: str
    level: Level
    snapshots: int = 0
    packs: int = 0
    packs_read: int = 0
    packs_unindexed: int = 0  # of runs that died: not damage
    blobs: int = 0
    wal_objects: int = 0
    bytes_read: int = 0
    damage: list[str] = field(default_factory=list)
    damage_count: int = 0
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """One damaged object does not end the search: the person on call needs the whole list."""
        try:
            yield
        except Damage as bad:
            self.found(bad)

    def found(self, bad: Damage) -> None:
        self.damage_count += 1
        if len(self.damage) < FINDINGS_MAX:
            self.damage.append(str(bad))


def verify(
    repo: Repository,
    level: Level,
    *,
    rng: random.Random,
    progress: Progress,
    sample: float = SAMPLE,
) -> Report:
    out = Report(repository=repo.name, level=level)
    progress.step(f"{repo.name}: structure")
    _recipients(repo, out)
    chain = _chain(repo, out)
    held = _index(repo, out)
    with Reader(repo, held) as reader:
        sizes = _present(repo, held, out)
        for one in chain:
            with out.collecting():
                _listing(reader, one, out)
        if level is not Level.STRUCTURE:
            names = [n for n, _ in held.packs() if n in sizes]
            if level is Level.SAMPLE and names:
                names = rng.sample(names, max(1, round(len(names) * sample)))
            else:
                names = sorted(sizes)  # also what no index names: it costs money and may be needed
            progress.step(f"{repo.name}: {len(names)} packs")
            for done, name in enumerate(names, 1):
                with out.collecting():
                    _pack(repo, held, name, out)
                progress.done(done, len(names), unit="packs")
    _wal(repo, out, whole=level is Level.FULL)
    return out


def _recipients(repo: Repository, out: Report) -> None:
    """Config and every key object, also those that were not needed to open."""
    with out.collecting():
        config = read_config(repo.store, clock=repo.clock)
        if config != repo.config:
            raise Damage(f"{repo.name}: config changed since the repository was opened")
        for stat in repo.listed("keys/"):
            with out.collecting():
                if read_key(repo.store, stat.key, config, clock=repo.clock) is None:
                    out.notes.append(f"{stat.key}: a key of another repository")


def _chain(repo: Repository, out: Report) -> list[Snapshot]:
    """The snapshots that can be read; holes, false links and a lost end are damage."""
    chain: list[Snapshot] = []
    sequences: list[int] = []
    links: dict[int, Link] = {}
    with out.collecting():
        sequences = repo.sequences()
        links = {s: f.link for s, f in repo.forgotten().items()}
        heads.check(repo, sequences)
    for sequence in sequences:
        with out.collecting():
            one = repo.snapshot(sequence)
            chain.append(one)
            links[sequence] = one.link
    with out.collecting():
        check_chain([links[s] for s in sorted(links)], name=repo.name)
    out.snapshots = len(chain)
    return chain


def _index(repo: Repository, out: Report) -> Catalogue:
    held = Catalogue().load(repo.segments(out.found))
    out.packs, out.blobs = held.count()
    return held


def _present(repo: Repository, held: Catalogue, out: Report) -> dict[str, int]:
    """Packs in the vault, by name. What the index names must be there in its size."""
    sizes = {s.key.rpartition("/")[2]: s.size_bytes for s in repo.store.list("packs/")}
    indexed = 0
    for name, size in held.packs():
        with out.collecting():
            indexed += 1
            if name not in sizes:
                raise Damage(f"{repo.name}: pack {name} is missing")
            if sizes[name] != size:
                raise Damage(f"{repo.name}: pack {name} has {sizes[name]} bytes, not {size}")
    out.packs_unindexed = max(0, len(sizes) - indexed)
    for stat in repo.store.list(""):
        if not stat.key.startswith(_PREFIXES):
            out.notes.append(f"{stat.key}: not of a repository")
    return sizes


def _listing(reader: Reader, one: Snapshot, out: Report) -> None:
    for node in reader.nodes(one):
        size = 0
        for id_ in node.blobs:
            places = reader.catalogue.places(id_)
            if not places:
                raise Damage(
                    f"snapshot {one.sequence}: a blob of {node.path!a} is in no index segment"
                )
            size += places[0].entry.raw_bytes
        if size != node.data_bytes:
            raise Damage(f"snapshot {one.sequence}: blobs of {node.path!a} do not add up")


def _pack(repo: Repository, held: Catalogue, name: str, out: Report) -> None:
    data = repo.read(f"packs/{name[:2]}/{name}")
    out.bytes_read += len(data)
    out.packs_read += 1
    entries = set(check_whole(repo.keys, name, data))
    indexed = held.entries(name)
    if indexed and indexed != entries:
        raise Damage(f"{repo.name}: pack {name}: index and trailer differ")


def _wal(repo: Repository, out: Report, *, whole: bool) -> None:
    found: list[int] = []
    with out.collecting():
        found = wal.systems(repo)
    for system in found:
        archive = wal.Archive(repo, system)
        held = archive.items()
        out.wal_objects += len(held)
        for gap in wal.gaps(held):
            with out.collecting():
                raise Damage(f"{repo.name}: system {system}: {gap}")
        if whole:
            for item in held:
                with out.collecting():
                    out.bytes_read += len(archive.open(item))

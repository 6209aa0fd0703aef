"""Mends a repository without a second one: keeps what is whole, names what is lost.

Each snapshot with a loss is committed again without the lost files, incomplete and listing their
names, and the old one is forgotten. `heal` is better wherever another vault has the data.

It removes damaged objects only where something else opens under the same name (a copy under
`resealed/`, or the original of one that opens), unreadable revocations (they have no effect), and
objects under a snapshot number that the chain never reached. Names are fixed: while a damaged copy
is there no rotation can put a whole one in its place, and a damaged original would be reported for
ever.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from backup.format import revocation, snapshot, tree
from backup.format.blob import Chunk, Kind
from backup.format.forget_statement import LOST
from backup.format.snapshot import Snapshot
from backup.format.tree import TREE_BYTES, Node
from backup.integrity import check_chain, remove_damaged
from backup.integrity.damage import DamageReport, dress, find, salvage
from backup.lifecycle.forget import state
from backup.repository import resealed
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.writer.writer import Writer
from infra.objectstore.contract import ObjectStore
from zaibei.kernel.errors import Damage
from zaibei.kernel.printable import printable
from zaibei.kernel.progress import Progress

PATHS_MAX = 1000  # named one by one; the count is exact


@dataclass(slots=True, kw_only=True)
class Loss:
    """`replaced_by` None: nothing of it is left."""

    snapshot: int
    replaced_by: int | None
    count: int
    paths: list[str]


@dataclass(slots=True, kw_only=True)
class Repaired:
    wounds: DamageReport
    indexed: int = 0
    salvaged: int = 0
    losses: list[Loss] = field(default_factory=list)
    stay: dict[str, str] = field(default_factory=dict)  # what is damaged -> why it was not removed

    @property
    def complete(self) -> bool:
        """Nothing is lost. Damage that cost nothing is no loss; log that is lost is, and nothing here mends it. Nor
        is it complete while a damaged copy is in a rotation's way."""
        return not (self.losses or self.wounds.wal or self.wounds.keys or self.stay)

    def mended_told(self, name: str, *, done: bool, read: bool) -> list[str]:
        """What came of it, also when there was nothing to do."""
        if self.wounds.none:
            looked = (
                "every pack was read"
                if read
                else "names and sizes were looked at, no pack was read"
            )
            return [f"{name}: nothing is wrong: {looked}"]
        if not done:
            return []
        marked = len(self.wounds.packs) + len(self.wounds.segments)
        done_with = f"{marked} damaged or missing objects marked: nothing relies on them any more"
        found = (
            f"{self.indexed} packs indexed again, {self.salvaged} blobs saved from damaged packs"
        )
        return [f"{name}: {found}, {done_with}"]

    def copies_told(self, *, done: bool) -> list[str]:
        gone = "removed" if done else "would be removed"
        return [
            f"NOT REMOVED: {key}: {self.stay[key]}"
            if key in self.stay
            else f"{gone}: {key}; {self._after(key)}"
            for key in (
                *self.wounds.copies,
                *self.wounds.revocations,
                *map(snapshot.key_of, self.wounds.strays),
            )
        ]

    def _after(self, key: str) -> str:
        if key.startswith(revocation.PREFIX):
            return "whom it let out, if anybody: zaibei backup key list, then key revoke"
        if key.startswith(snapshot.PREFIX) and snapshot.sequence_of(key) in self.wounds.strays:
            return check_chain.WHAT
        if resealed.copy_of(key) is None:
            return "its copy is read in its place"
        return "zaibei backup key rotate --resume makes it again"


def repair(
    repo: Repository,
    progress: Progress,
    *,
    read: bool = True,
    deleter: ObjectStore | None = None,
    rng: random.Random | None = None,
    write: bool = True,
) -> Repaired:
    """`deleter`: needed only to remove damaged copies of a rotation, whose names are fixed, and revocations that
    cannot be read. Safe to repeat."""
    repo.keys.require_root()
    wounds = find(repo, progress, read=read)
    out = Repaired(wounds=wounds, indexed=len(wounds.unindexed))
    if not write:
        return out
    out.stay = remove_damaged.remove_copies(repo, deleter, wounds.copies, wounds.whole)
    out.stay |= remove_damaged.remove_revocations(repo, deleter, wounds.revocations)
    out.stay |= remove_damaged.remove_strays(repo, deleter, wounds.strays)
    dress(repo, wounds)
    writer = Writer(repo, rng=rng)
    try:
        out.salvaged = salvage(repo, wounds, writer, progress)
        writer.finish()
        with Reader(repo) as reader:
            # Those that an earlier repair made anew, and died before it forgot the old ones.
            done = {
                one.content.facts["repaired_from"]["digest"]: one.sequence
                for one in wounds.whole
                if "repaired_from" in one.content.facts
            }
            for one in wounds.whole:
                progress.step(f"{repo.name}: what is left of snapshot {one.sequence}")
                loss = _anew(repo, writer, reader, one, done)
                if loss is not None:
                    out.losses.append(loss)
    finally:
        writer.close()
    for sequence, why in sorted(wounds.snapshots.items()):
        out.losses.append(Loss(snapshot=sequence, replaced_by=None, count=1, paths=[why]))
    if wounds.links:
        state(repo, [wounds.links[s] for s in sorted(wounds.links)], why=LOST)
    return out


def _anew(
    repo: Repository, writer: Writer, reader: Reader, one: Snapshot, done: dict[str, int]
) -> Loss | None:
    """None: all of it is there."""
    lost: list[str] = []
    kept: list[Node] = []
    for piece in _readable(reader, one, lost):
        for node in tree.decode([piece]):
            if _there(writer, node):
                kept.append(node)
            else:
                lost.append(printable(node.path))
    if not lost and len(kept) == one.content.entries:
        return None
    if not lost:
        lost.append(f"{one.content.entries - len(kept)} entries of the listing")
    made = done.get(one.digest)
    if made is None and kept:
        made = _commit(writer, one, kept, lost)
    state(repo, [one.link], why="damaged; what is left was committed anew")
    return Loss(snapshot=one.sequence, replaced_by=made, count=len(lost), paths=lost[:PATHS_MAX])


def _readable(reader: Reader, one: Snapshot, lost: list[str]) -> Iterator[bytes]:
    """Runs of whole pieces of the listing, each run joined: a file may go on in the next piece. A run that begins
    in the middle of a file loses that file's name with the piece before it."""
    run: list[bytes] = []
    for n, id_ in enumerate(one.content.tree, 1):
        try:
            raw = reader.read(id_)
        except Damage:
            lost.append(f"piece {n} of {len(one.content.tree)} of the listing, and all it names")
            if run:
                yield b"".join(run)
            run = []
            continue
        if not run and n > 1:
            lines = raw.splitlines(keepends=True)
            while lines and lines[0].startswith(b'{"more":'):
                lines.pop(0)
            raw = b"".join(lines)
        run.append(raw)
    if run:
        yield b"".join(run)


def _there(writer: Writer, node: Node) -> bool:
    size = 0
    for id_ in node.blobs:
        places = writer.catalogue.locations(id_)
        if not places:
            return False
        size += places[0].entry.raw_bytes
    return size == node.data_bytes


def _commit(writer: Writer, one: Snapshot, kept: list[Node], lost: list[str]) -> int:
    lines: list[bytes] = []
    ids: list[bytes] = []
    size = 0
    for node in kept:
        writer.holds(node.blobs)
        for line in tree.encode(node):
            lines.append(line)
            size += len(line)
            if size >= TREE_BYTES:
                ids.append(writer.put(Chunk(b"".join(lines)), Kind.TREE))
                lines, size = [], 0
    if lines:
        ids.append(writer.put(Chunk(b"".join(lines)), Kind.TREE))
    writer.finish()
    content = one.content
    facts = {k: v for k, v in content.facts.items() if k != "lock"}
    origin = {"sequence": one.sequence, "digest": one.digest}
    made = writer.commit(
        replace(
            content,
            tree=tuple(ids),
            entries=len(kept),
            size_bytes=sum(n.size_bytes for n in kept),
            complete=False,
            problems=(*content.problems, *(f"lost: {p}" for p in lost[:PATHS_MAX])),
            facts={**facts, "repaired_from": origin, "lost": len(lost)},
        )
    )
    return made.sequence

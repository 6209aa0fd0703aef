"""Takes what one vault has lost from another one.

Blobs are opened there, checked here against the id that was lost, and packed again, so that every
name in every listing leads to its bytes. What is still whole in a damaged pack comes from that
pack. A snapshot that cannot be mended in place is copied whole and the old one forgotten. Nothing
is overwritten: damaged packs and segments are marked, and the garbage collection removes them.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from backup.format import tree, wal_segment
from backup.format.blob import Chunk, Kind
from backup.format.forget_statement import HEALED
from backup.format.snapshot import Snapshot
from backup.format.tree import TREE_BYTES, Node
from backup.index.blob_index import BlobIndex
from backup.integrity import check_chain, remove_damaged
from backup.integrity.damage import DamageReport, dress, find, needed, salvage
from backup.integrity.pairing import Moment, by_moment, moment, paired, weight
from backup.lifecycle.forget import state
from backup.lifecycle.replicate import Copied, copies_of, replicate
from backup.repository import resealed
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.wal import archive
from backup.wal.archive import Archive
from backup.writer.writer import Writer
from infra.objectstore.contract import Locked, ObjectStore
from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.progress import Progress

UNHEALED_MAX: Final = 1000
LACKING_MAX: Final = 50_000  # entries that are looked for in the other vault at once


@dataclass(slots=True, kw_only=True)
class Healed:
    """`copied`: snapshot that could not be mended -> the copy that stands for it now."""

    wounds: DamageReport
    indexed: int = 0
    salvaged: int = 0
    copied: dict[int, int] = field(default_factory=dict)
    wal_objects: int = 0
    unhealed: list[str] = field(default_factory=list)
    unhealed_count: int = 0
    got: set[bytes] = field(default_factory=set, repr=False)  # on their way into a pack

    @property
    def complete(self) -> bool:
        return self.unhealed_count == 0

    @property
    def fetched(self) -> int:
        return len(self.got)

    def lost(self, what: str) -> None:
        self.unhealed_count += 1
        if len(self.unhealed) < UNHEALED_MAX:
            self.unhealed.append(what)


def heal(
    repo: Repository,
    sibling: Repository,
    progress: Progress,
    *,
    read: bool = True,
    deleter: ObjectStore | None = None,
    rng: random.Random | None = None,
    write: bool = True,
) -> Healed:
    """`deleter`: needed only for what has a fixed name: to put WAL in the place of damaged WAL, and to remove damaged
    copies of a rotation. Safe to repeat."""
    if repo.config.repository == sibling.config.repository:
        raise Usage(f"{repo.name} and {sibling.name} are one repository")
    wounds = find(repo, progress, read=read)
    out = Healed(wounds=wounds)
    if not write:
        return out
    for key, no in remove_damaged.remove_copies(repo, deleter, wounds.copies, wounds.whole).items():
        out.lost(f"{key}: {wounds.copies[key]}; {no}")
    for key, no in remove_damaged.remove_strays(repo, deleter, wounds.strays).items():
        out.lost(f"{key}: {check_chain.WHAT}; {no}")
    dress(repo, wounds)
    out.indexed = len(wounds.unindexed)
    theirs = by_moment(sibling)
    worse: list[Snapshot] = []
    # After the mark: the writer relies on nothing that is damaged, and takes in what is lost as new.
    writer = Writer(repo, rng=rng)
    try:
        out.salvaged = salvage(repo, wounds, writer, progress)
        writer.finish()
        with Reader(sibling) as reader:
            for one in wounds.whole:
                if any(id_ not in writer.catalogue for id_ in one.content.tree):
                    other = theirs.get(moment(one.content))
                    if other is None or not _listing(repo, writer, reader, one, other, out):
                        worse.append(one)
            writer.finish()
            worse += _data(repo, wounds, writer, reader, theirs, worse, out, progress)
            writer.finish()
    finally:
        writer.close()
    _whole_copies(repo, sibling, wounds, worse, out, progress)
    _wal(repo, sibling, deleter, out)
    for key, why in wounds.revocations.items():
        out.lost(
            f"{key}: {why}; it lets nobody out: zaibei backup repair removes it, as who may delete"
        )
    for key, why in wounds.keys.items():
        # A vault's keys are its own: no other vault has them.
        out.lost(f"{key}: {why}; remove it, and let its owner in again: zaibei backup key add")
    return out


def _listing(
    repo: Repository, writer: Writer, theirs: Reader, one: Snapshot, other: Snapshot, out: Healed
) -> bool:
    """The lost pieces of a listing, written anew from the other's: byte for byte, or their ids do not fit."""
    lost = {n for n, id_ in enumerate(one.content.tree) if id_ not in writer.catalogue}
    parts: dict[int, list[bytes]] = {n: [] for n in lost}
    at = size = 0
    try:
        for node in theirs.nodes(other):
            lines = list(tree.encode(node))
            where = []
            for line in lines:  # ids have one length, so the lines of both have one length
                where.append(at)
                size += len(line)
                if size >= TREE_BYTES:
                    at, size = at + 1, 0
            if not lost.isdisjoint(where):
                ids = tuple(
                    repo.keys.blob_id(Kind.DATA.domain, data)
                    for data in theirs.read_all(node.blobs)
                )
                lines = list(tree.encode(replace(node, blobs=ids)))
                for n, line in zip(where, lines, strict=True):
                    if n in lost:
                        parts[n].append(line)
    except (Damage, ValueError):
        return False
    for n in sorted(lost):
        raw = b"".join(parts[n])
        if not raw or repo.keys.blob_id(Kind.TREE.domain, raw) != one.content.tree[n]:
            return False
        writer.put(Chunk(raw), Kind.TREE)
        out.got.add(one.content.tree[n])
    return True


def _data(
    repo: Repository,
    wounds: DamageReport,
    writer: Writer,
    theirs: Reader,
    others: dict[Moment, Snapshot],
    worse: list[Snapshot],
    out: Healed,
    progress: Progress,
) -> list[Snapshot]:
    """Lost blobs of files; returns the snapshots that still lack one."""
    wanted = needed(repo, wounds, progress)
    if not writer.catalogue.lacking(wanted).count:
        return []
    sizes = BlobIndex().load(repo.segments(lambda _key, _bad: None))
    unmended = []
    skip = {one.sequence for one in worse}
    try:
        with Reader(repo) as ours:
            for one in wounds.whole:
                if one.sequence in skip:
                    continue
                progress.step(f"{repo.name}: what snapshot {one.sequence} lacks")
                other = others.get(moment(one.content))
                if not _mend(repo, writer, ours, theirs, one, other, sizes, out):
                    unmended.append(one)
    finally:
        sizes.close()
    return unmended


def _mend(
    repo: Repository,
    writer: Writer,
    ours: Reader,
    theirs: Reader,
    one: Snapshot,
    other: Snapshot | None,
    sizes: BlobIndex,
    out: Healed,
) -> bool:
    """By name, not by place: the other vault may have lost other entries of the same run."""
    whole = True
    for lacking in _lacking(writer, ours.nodes(one), out):
        try:
            for twin in theirs.nodes(other) if other is not None else ():
                node = lacking.get(_name(twin))
                if node is not None and _mended(repo, writer, node, twin, theirs, sizes, out):
                    del lacking[_name(twin)]
                    if not lacking:
                        break
        except Damage:
            whole = False  # their listing breaks off
        whole = whole and not lacking
    return whole


def _lacking(
    writer: Writer, nodes: Iterable[Node], out: Healed
) -> Iterator[dict[tuple[bytes, str | None], Node]]:
    """Entries of which a blob is lost, so many at a time as are held in memory."""
    found: dict[tuple[bytes, str | None], Node] = {}
    for node in nodes:
        if _lost_of(writer, node, out):
            found[_name(node)] = node
            if len(found) >= LACKING_MAX:
                yield found
                found = {}
    if found:
        yield found


def _mended(
    repo: Repository,
    writer: Writer,
    node: Node,
    twin: Node,
    theirs: Reader,
    sizes: BlobIndex,
    out: Healed,
) -> bool:
    lost = _lost_of(writer, node, out)
    try:
        for data in _pieces(node, twin, theirs, sizes):
            if not lost:
                break
            id_ = repo.keys.blob_id(Kind.DATA.domain, data)
            if id_ in lost:
                writer.put(Chunk(data), Kind.DATA)
                lost.discard(id_)
                out.got.add(id_)
    except Damage:
        return False
    return not lost


def _lost_of(writer: Writer, node: Node, out: Healed) -> set[bytes]:
    return {i for i in node.blobs if i not in out.got and i not in writer.catalogue}


def _name(node: Node) -> tuple[bytes, str | None]:
    """Of a bucket a key has versions."""
    return node.path, node.object.version if node.object else None


def _pieces(node: Node, twin: Node, theirs: Reader, sizes: BlobIndex) -> Iterator[bytes]:
    """The file's bytes from the other vault, cut as they were cut here."""
    if len(node.blobs) == len(twin.blobs):
        yield from theirs.read_all(twin.blobs)
        return
    # The two were cut at different places: by the sizes that the index still knows of what is lost.
    held, rest = b"", theirs.read_all(twin.blobs)
    for id_ in node.blobs:
        places = sizes.locations(id_)
        if not places:
            return
        size = places[0].entry.raw_bytes
        while len(held) < size:
            more = next(rest, None)
            if more is None:
                return
            held += more
        yield held[:size]
        held = held[size:]


def _whole_copies(
    repo: Repository,
    sibling: Repository,
    wounds: DamageReport,
    worse: list[Snapshot],
    out: Healed,
    progress: Progress,
) -> None:
    """The last means: the other vault's snapshot as a new one here, then the old number forgotten."""
    others = by_moment(sibling)
    for one in worse:
        other = others.get(moment(one.content))
        if other is None:
            out.lost(f"snapshot {one.sequence}: the other vault does not have it")
        elif weight(other.content) != weight(one.content):
            # What is still whole of ours may be what theirs lacks: theirs must not take its place.
            out.lost(f"snapshot {one.sequence}: the other vault has another part of it")
        else:
            _copy(repo, sibling, one, other, out, progress)
    # Which of them is which is sealed in what was lost: by the runs before and after it.
    stood_for = {n for one in wounds.whole for n in one.content.facts.get("stands_for", ())}
    begun = {s for s, f in repo.forgotten().items() if f.why == HEALED} - stood_for
    pairs = paired(repo, wounds.whole, others, sorted(begun | wounds.snapshots.keys()))
    if pairs is None:
        for sequence in sorted(begun | wounds.snapshots.keys()):
            why = wounds.snapshots.get(sequence, "an earlier healing was not finished")
            out.lost(f"snapshot {sequence}: {why}; the other vault has not just what is lost here")
        return
    if wounds.snapshots:
        # First: no copy can join a chain with an unexplained hole. A death after this is found above.
        state(repo, [wounds.links[s] for s in sorted(wounds.snapshots)], why=HEALED)
    for lost, other in pairs:
        done = _stand_in(repo, sibling, lost, other, progress)
        for sequence, why in done.failed.items():
            out.lost(f"snapshot {lost}: {sequence} of {sibling.name}: {why}")
        if other.sequence in done.snapshots:
            out.copied[lost] = done.snapshots[other.sequence]


def _stand_in(
    repo: Repository, sibling: Repository, lost: int, other: Snapshot, progress: Progress
) -> Copied:
    return replicate(
        sibling,
        repo,
        progress,
        sequences=[other.sequence],
        with_wal=False,
        facts={"stands_for": [lost]},
    )


def _copy(
    repo: Repository,
    sibling: Repository,
    one: Snapshot,
    other: Snapshot,
    out: Healed,
    progress: Progress,
) -> None:
    done = _stand_in(repo, sibling, one.sequence, other, progress)
    if done.failed:
        out.lost(f"snapshot {other.sequence} of {sibling.name}: {done.failed[other.sequence]}")
        return
    made = done.snapshots.get(other.sequence)
    if made is None:  # an earlier healing had copied it, and died before it forgot the old one
        made = copies_of(sibling, repo)[other.sequence].sequence
    state(repo, [one.link], why="damaged; taken over from the other vault")
    out.copied[one.sequence] = made


def _wal(
    repo: Repository,
    sibling: Repository,
    deleter: ObjectStore | None,
    out: Healed,
) -> None:
    for system in sorted({*archive.systems(repo), *archive.systems(sibling)}):
        ours, theirs = Archive(repo, system), Archive(sibling, system)
        held = {i.key: i for i in ours.items()}
        there = {i.key: i for i in theirs.items()}
        bad = held.keys() & out.wounds.wal.keys()
        for key in sorted(bad | (there.keys() - held.keys())):
            try:
                if key not in there:
                    raise Damage(f"{key}: damaged, and the other vault does not have it")
                item = there[key]
                offset, data = theirs.read(item)
                if key in bad:
                    if deleter is None:
                        raise Damage(f"{key}: damaged, and only the deleter can make room for it")
                    # Of a rotation perhaps only the copy is there, and it is the copy that is damaged.
                    stat = resealed.where(repo, key)
                    if stat is not None:
                        deleter.remove(stat.key, version=stat.version)
                ours.put(
                    data,
                    epoch=item.epoch,
                    timeline=item.timeline,
                    segment=item.segment,
                    part=item.part,
                    offset=offset,
                )
                out.wal_objects += 1
            except Damage as why:
                out.lost(why.message)
            except Locked as no:
                out.lost(f"{key}: damaged, and a lock holds it: {no.message}")
        # What neither vault has is a loss, though no object of it is here to be called damaged.
        for gap in wal_segment.gaps(ours.items()):
            out.lost(f"{repo.name}: system {system}: {gap}")

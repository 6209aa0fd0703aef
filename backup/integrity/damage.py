"""Finds what is damaged or lost in a repository, and mends what needs no other vault.

That is: the index, from the packs' own trailers; the whole blobs of damaged packs; and a mark on
everything that must not be relied on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from backup.crypto.seal import Kind, Seal
from backup.format import chain_link, layout, mark, snapshot, wal_segment
from backup.format.blob import Chunk
from backup.format.chain_link import Link
from backup.format.pack import check_whole, key_of, open_blob, read_trailer
from backup.format.snapshot import Snapshot
from backup.index.blob_index import BlobIndex
from backup.index.id_set import IdSet
from backup.index.segment import SEGMENT_PACKS, PackEntries
from backup.integrity import check_chain, remove_damaged
from backup.lifecycle.reindex import cover, write_segment
from backup.repository import chain, last_seen, marks, resealed
from backup.repository.access import read_access
from backup.repository.repository import Repository
from backup.wal import archive as wal_archive
from backup.writer.writer import Writer
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Progress


@dataclass(slots=True, kw_only=True)
class DamageReport:
    """`packs` and `segments`: name -> what is wrong. `snapshots`: number -> what is wrong, `links`: what the
    chain says of them all the same."""

    packs: dict[str, str] = field(default_factory=dict)
    segments: dict[str, str] = field(default_factory=dict)
    snapshots: dict[int, str] = field(default_factory=dict)
    links: dict[int, Link] = field(default_factory=dict)
    strays: list[int] = field(default_factory=list)  # names that hold nothing, and nothing is lost
    keys: dict[str, str] = field(default_factory=dict)  # a recipient's object -> what is wrong
    revocations: dict[str, str] = field(default_factory=dict)  # that let nobody out
    wal: dict[str, str] = field(
        default_factory=dict
    )  # a key, or the archive that has a hole -> what is wrong
    copies: dict[str, str] = field(
        default_factory=dict
    )  # of a rotation, or their originals, and nothing is lost with them
    unindexed: list[str] = field(default_factory=list)  # whole, and in no readable segment
    whole: list[Snapshot] = field(default_factory=list)

    @property
    def none(self) -> bool:
        return not any(
            (
                self.packs,
                self.segments,
                self.snapshots,
                self.keys,
                self.revocations,
                self.wal,
                self.copies,
                self.strays,
                self.unindexed,
            )
        )

    @property
    def by_key(self) -> dict[str, str]:
        """Those that are told by the name of their object."""
        junk = {snapshot.key_of(s): check_chain.WHAT for s in self.strays}
        return self.keys | self.revocations | self.wal | self.copies | junk


def find(repo: Repository, progress: Progress, *, read: bool) -> DamageReport:
    """`read`: every byte of every pack; without it only what is missing, of a wrong size, or not indexed."""
    out = DamageReport()
    held_keys = read_access(repo.store, repo.config, clock=repo.clock)
    out.keys = {key: bad.message for key, bad in held_keys.damage.items()}
    out.revocations = {k: bad.message for k, bad in held_keys.statements.damage.items()}
    _snapshots(repo, out)

    def damaged(key: str, bad: Damage) -> None:
        out.segments[key.removeprefix("index/")] = bad.message

    held = BlobIndex().load(repo.segments(damaged))
    try:
        marked = mark.packs_of(marks.standing(repo))
        indexed = dict(held.packs())
        present = set()
        progress.step(f"{repo.name}: looking at packs")
        for done, stat in enumerate(layout.ours_in(repo.store.list("packs/")), 1):
            name = stat.key.rpartition("/")[2]
            present.add(name)
            try:
                if name in indexed and indexed[name] != stat.size_bytes:
                    raise Damage(f"{stat.size_bytes} bytes, not {indexed[name]}")
                if read or name not in indexed:
                    check_whole(repo.keys, name, repo.read(stat.key))
                if name not in indexed and name not in marked:
                    out.unindexed.append(name)
            except Damage as bad:
                if name not in marked:
                    out.packs[name] = bad.message
            progress.done(done, unit="packs")
        for name in indexed:
            if name not in present and name not in marked:
                out.packs[name] = "missing"
    finally:
        held.close()
    _log(repo, out, progress, read=read)
    progress.step(f"{repo.name}: looking at what a rotation sealed anew")
    out.copies |= remove_damaged.spare(repo, out.whole, read=read)
    return out


def _log(repo: Repository, out: DamageReport, progress: Progress, *, read: bool) -> None:
    for system in wal_archive.systems(repo):
        progress.step(f"{repo.name}: looking at the log of system {system}")
        archive = wal_archive.Archive(repo, system)
        held = archive.items()
        for gap in wal_segment.gaps(held):
            out.wal[f"{archive.prefix} {gap}"] = gap
        for item in held if read else ():
            try:
                found = archive.look(item)
            except Damage as bad:
                out.wal[item.key] = bad.message
            else:
                out.copies |= remove_damaged.spare_originals(item.key, found.passed)


def dress(repo: Repository, wounds: DamageReport) -> None:
    """Index what is whole, and mark what is not, so that nothing relies on it. Repeats itself safely."""
    waiting: list[PackEntries] = []
    for name in wounds.unindexed:
        data = repo.read(key_of(name))
        waiting.append(PackEntries(name, len(data), read_trailer(repo.keys, name, data)))
        if len(waiting) == SEGMENT_PACKS:
            write_segment(repo, waiting, None)
            waiting = []
    if waiting:
        write_segment(repo, waiting, None)
    if wounds.packs or wounds.segments:
        retired = mark.segments_of(marks.standing(repo)) | frozenset(wounds.segments)
        done = cover(repo, going=wounds.packs, retired=retired, damaged=frozenset(wounds.segments))
        marks.write(
            repo,
            packs=wounds.packs,
            segments={*wounds.segments, *done.dirty} - (retired - frozenset(wounds.segments)),
            observed=[one.sequence for one in wounds.whole],
            why="damaged",
        )


def salvage(repo: Repository, wounds: DamageReport, writer: Writer, progress: Progress) -> int:
    """Blobs of damaged packs that are whole themselves, packed anew: one flipped bit costs one blob."""
    saved = 0
    for name, id_, kind, plain in _whole_blobs(repo, wounds, progress):
        if writer.put(Chunk(plain), kind) != id_:
            raise Damage(f"{repo.name}: pack {name}: a blob under another name")
        saved += 1
    return saved


def needed(repo: Repository, wounds: DamageReport, progress: Progress) -> IdSet:
    """What the whole snapshots need, as far as their listings can be read."""
    from backup.repository.reachable import reachable  # noqa: PLC0415
    from backup.repository.reader import Reader  # noqa: PLC0415

    out = IdSet()
    with Reader(repo) as reader:
        for one in wounds.whole:
            out.update(b"".join(one.content.tree))
            try:
                out.update(b"".join(reachable(repo, [one], progress, reader=reader)))
            except Damage:
                continue
    return out


def _whole_blobs(
    repo: Repository, wounds: DamageReport, progress: Progress
) -> Iterator[tuple[str, bytes, Any, bytes]]:
    entries = BlobIndex().load(repo.segments(lambda _key, _bad: None))
    try:
        for name, why in wounds.packs.items():
            if why == "missing":
                continue
            progress.step(f"{repo.name}: what is whole in pack {name[:16]}")
            try:
                data = repo.read(key_of(name))
                one = Seal.of(repo.keys, Kind.PACK, "", data)
                known = entries.entries(name) or set(read_trailer(repo.keys, name, data))
            except Damage:
                continue
            for e in sorted(known, key=lambda e: e.offset):
                try:
                    plain = open_blob(one, e, data[e.offset : e.offset + e.stored_bytes], repo.keys)
                except Damage:
                    continue
                yield name, e.id, e.kind, plain
    finally:
        entries.close()


def _snapshots(repo: Repository, out: DamageReport) -> None:
    """The chain with its wounds: for what is lost, the neighbours say what it was."""
    gone = repo.forgotten()
    present = set(repo.present())
    remembered = last_seen.remembered(repo)  # a lost end leaves no hole
    newest = max((*present, *gone, *(remembered[:1] if remembered else ())), default=0)
    blocked = check_chain.in_the_way(repo, newest)
    _not_too_many(repo, newest, newest - len(present | gone.keys()))
    for sequence in range(snapshot.FIRST, newest + 1):
        if sequence in gone:
            continue
        try:
            found = resealed.snapshot_of(repo, sequence)
        except Damage as bad:
            out.snapshots[sequence] = bad.message
        else:
            out.whole.append(found.value)
            out.copies |= remove_damaged.spare_originals(found.value.key, found.passed)
    out.snapshots |= blocked
    out.strays = chain.strays(repo)
    known = {one.sequence: one.link for one in out.whole} | {s: f.link for s, f in gone.items()}
    for sequence in out.snapshots:
        after, before = known.get(sequence + 1), known.get(sequence - 1)
        digest = after.previous if after else None
        if after is None and remembered is not None and remembered[0] == sequence:
            digest = remembered[1]
        elif after is None and (sequence in present or sequence in blocked):
            # The newest one: nobody after it says what it was, so what is there is what is stated.
            digest = _of_what_is_there(repo, sequence)
        out.links[sequence] = Link(
            sequence=sequence, digest=digest, previous=before.digest if before else None
        )
    links = {**known, **out.links}
    chain_link.check_chain([links[s] for s in sorted(links)], name=repo.name)


def _not_too_many(repo: Repository, newest: int, holes: int) -> None:
    # Whoever has a certificate can sign any number, and nobody can state billions as lost.
    if holes > chain.HOLES_MAX:
        raise Refused(
            f"{repo.name}: snapshot {newest} is signed, and {holes} before it are not there: more than"
            f" {chain.HOLES_MAX}, nobody lost so many",
            hint="a host that signs such a number is not to be believed: zaibei backup key revoke",
        )


def _of_what_is_there(repo: Repository, sequence: int) -> str | None:
    try:
        stat = resealed.where(repo, snapshot.key_of(sequence))
        return None if stat is None else repo.keys.suite.digest(repo.read(stat.key))
    except Damage:
        # A FIFO, a link, a directory: no bytes, and the next snapshot has to follow something.
        return repo.keys.suite.digest(b"")

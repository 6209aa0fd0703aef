"""The first half of garbage collection: finds what no snapshot needs and marks it. Takes no lock.

`backup.lifecycle.gc_sweep` looks at every snapshot again after the grace period, by the store's
clock, and removes what is still not needed; what a snapshot needs again is kept. The proof is in
docs/design/repository.md; the order of the lines is part of it.
"""

import random
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backup.format import mark as mark_format
from backup.format import point
from backup.format.mark import TERMS, Mark, Terms
from backup.format.pack import key_of
from backup.format.snapshot import Snapshot
from backup.index.blob_index import BlobIndex, Liveness
from backup.index.id_set import IdSet
from backup.lifecycle.reindex import cover
from backup.lifecycle.repack import Repacker
from backup.repository import marks, rollback
from backup.repository.reachable import reachable
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.repository.vault import retry
from backup.writer import heartbeats
from backup.writer.heartbeats import Heartbeat
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Progress

LIVE_SHARE_MIN: Final = 0.5  # a pack of which less is needed is packed anew
REPACK_BYTES_MAX: Final = 8 << 30  # live bytes moved in one run; the rest waits for the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What one run of `mark` found. Sizes are of whole packs."""

    dead: int
    dead_bytes: int
    orphans: int
    repacked: int
    repacked_bytes: int
    moved_bytes: int
    young: int  # dead for all that is known, but somebody may be writing
    marks: int
    segments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is there and what is needed of it."""

    now: datetime  # the store's, before anything was read
    marks: tuple[Mark, ...]
    present: IdSet  # packs
    aged: IdSet  # of them: older than every living run
    indexed: IdSet
    needed: IdSet
    observed: tuple[int, ...]

    def there(self, pack: str) -> bool:
        return bytes.fromhex(pack) in self.present


def mark(
    repo: Repository,
    progress: Progress,
    *,
    terms: Terms = TERMS,
    live_share: float = LIVE_SHARE_MIN,
    rng: random.Random | None = None,
    write: bool = True,
) -> Marked:
    """Find garbage and say so. `write=False`: only count. Raises Damage and marks nothing when a listing or
    a needed blob is missing: garbage cannot be told from what is merely lost."""
    rollback.check(repo, repo.sequences())
    run = Heartbeat.begin(repo) if write else None
    try:
        with looked(
            repo, progress, terms=terms, but=run.name if run else None, only_look=not write
        ) as (seen, reader):
            mover = Repacker(
                repo,
                reader,
                needed=seen.needed,
                there=seen.there,
                gone=set(mark_format.packs_of(seen.marks)),
                now=seen.now,
                rng=rng or secrets.SystemRandom(),
                progress=progress,
                write=write,
            )
            return _mark(repo, reader.catalogue, seen, mover, live_share=live_share, run=run)
    finally:
        if run is not None:
            run.end()


def _mark(
    repo: Repository,
    held: BlobIndex,
    seen: View,
    mover: Repacker,
    *,
    live_share: float,
    run: Heartbeat | None,
) -> Marked:
    marked = mark_format.packs_of(seen.marks)
    dead: dict[str, int] = {}
    partial: list[Liveness] = []
    young = 0
    for one in held.liveness(seen.needed):
        if one.pack in marked or one.live_blobs == one.blobs:
            continue
        # Neither there nor needed: marked too, so that the index loses it.
        if seen.there(one.pack) and bytes.fromhex(one.pack) not in seen.aged:
            young += 1
        elif one.live_blobs == 0:
            dead[one.pack] = one.size_bytes
        else:
            partial.append(one)
    orphans = [
        name.hex() for name in seen.aged if name not in seen.indexed and name.hex() not in marked
    ]
    mover.never_rely_on(dead)
    repacked: dict[str, int] = {}
    for one in sorted(partial, key=lambda p: (p.live_bytes / max(1, p.size_bytes), p.pack)):
        worth = one.live_bytes < live_share * one.size_bytes
        if mover.moved_bytes <= REPACK_BYTES_MAX and mover.move(one, worth=worth):
            repacked[one.pack] = one.size_bytes
            if run is not None:
                run.beat()
    mover.finish()
    going = {*dead, *orphans, *repacked}
    count, fresh = 0, list[str]()
    if going:
        retired = mark_format.segments_of(seen.marks)
        # What replaces them is in the vault and in the index before the mark says that they go.
        clean = cover(repo, going=marked | going, retired=retired, write=run is not None)
        fresh = [s for s in clean.dirty if s not in retired]
        if run is not None:
            count = marks.write(
                repo, packs=going, segments=fresh, observed=seen.observed, why="not needed"
            )
    return Marked(
        dead=len(dead),
        dead_bytes=sum(dead.values()),
        orphans=len(orphans),
        repacked=len(repacked),
        repacked_bytes=sum(repacked.values()),
        moved_bytes=mover.moved_bytes,
        young=young,
        marks=count,
        segments=len(fresh),
    )


@contextmanager
def looked(
    repo: Repository,
    progress: Progress,
    *,
    terms: Terms,
    but: str | None = None,
    only_look: bool = False,
) -> Iterator[tuple[View, Reader]]:
    """Raises Damage when something that a snapshot needs is in no pack that is there.

    The order of the reads is the proof. Runs before snapshots: a run that is over was seen by its snapshot.
    Snapshots before the index, as every reader does. Marks before packs: a pack that another sweep takes
    away meanwhile is then seen as marked, or not seen at all.
    """
    now = time_of(repo, only_look=only_look)
    floor = min([now, *(o.started for o in heartbeats.live(repo, now, but=but))])
    roots = repo.snapshots()
    standing = marks.standing(repo)
    with Reader(repo) as reader:
        present, aged, indexed = IdSet(), IdSet(), IdSet()
        for stat in repo.store.list("packs/"):
            name = _digest_in(stat.key)
            if name is None:
                continue  # not a pack: verify tells of it
            present.add(name)
            if stat.modified < floor:
                aged.add(name)
        for known, _ in reader.catalogue.packs():
            indexed.add(bytes.fromhex(known))
        needed = reachable(repo, roots, progress, reader=reader)
        _all_there(repo, reader.catalogue, present, needed)
        observed = [one.sequence for one in roots]
        for sequence in still_roots(repo, roots, terms, now):
            # As long as it may be taken back it needs what it needs; one whose listing is lost, nothing.
            try:
                needed.update(
                    b"".join(reachable(repo, [repo.snapshot(sequence)], progress, reader=reader))
                )
            except Damage as bad:
                progress.note(f"snapshot {sequence} cannot be taken back: {bad.message}")
                continue
            observed.append(sequence)
        view = View(
            now=now,
            marks=standing,
            present=present,
            aged=aged,
            indexed=indexed,
            needed=needed,
            observed=tuple(sorted(observed)),
        )
        yield view, reader


def time_of(repo: Repository, *, only_look: bool) -> datetime:
    """The store's. A directory is asked for it by writing: who may only look there takes this machine's, because
    nothing is removed by it."""
    try:
        return retry(repo.clock, repo.store.now)
    except Refused:
        if not only_look:
            raise
        return repo.clock.now()


def still_roots(
    repo: Repository, kept: Iterable[Snapshot], terms: Terms, now: datetime
) -> list[int]:
    """Forgotten, and either so lately that they may be taken back, or under a point that is kept."""
    gone = repo.forgotten()
    named = point.still_named(kept, gone)
    return sorted(s for s, f in gone.items() if now - f.since < terms.grace or s in named)


def _all_there(repo: Repository, held: BlobIndex, present: IdSet, needed: IdSet) -> None:
    hint = "zaibei backup heal, from the other vault; or repair, which names what is lost"
    lacking = held.lacking(needed)
    if lacking.count:
        raise Damage(
            f"{repo.name}: {lacking.count} needed blobs are in no index segment", hint=hint
        )
    gone = {name for name, _ in held.packs() if bytes.fromhex(name) not in present}
    for name in sorted(gone):
        for e in held.entries(name):
            if e.id in needed and all(p.pack in gone for p in held.locations(e.id)):
                raise Damage(f"{repo.name}: pack {name} is missing and needed", hint=hint)


def _digest_in(key: str) -> bytes | None:
    with suppress(ValueError):
        name = bytes.fromhex(key.rpartition("/")[2])
        if key == key_of(name.hex()):
            return name
    return None

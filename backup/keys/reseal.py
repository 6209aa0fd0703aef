"""Re-encrypts everything still sealed under an older root key, then marks the old objects for
garbage collection.

It may die at any call and be started again. The vault itself records progress: what new packs hold
and what opens under `resealed/` is done, the rest is not (`progress_of`); so copies are read on
each call. Nothing is removed here: a copy that does not open blocks a whole one and is reported
until it is removed.
"""

import base64
import random
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime

from backup import hints
from backup.crypto import signed
from backup.crypto.keyring import Keyring
from backup.crypto.seal import HEADER_BYTES, Kind, Seal, epoch_of, open_whole, seal_whole
from backup.crypto.trust import FIRST_EPOCH
from backup.format import mark, snapshot, wal_segment
from backup.format.pack import Builder, check_name, key_of, open_blob, read_trailer
from backup.index.blob_index import BlobIndex
from backup.index.segment import SEGMENT_PACKS, PackEntries, encode_segment
from backup.repository import marks, resealed
from backup.repository.repository import Repository
from backup.repository.resealed import Copy, open_snapshot
from backup.repository.vault import retry
from backup.writer.heartbeats import Heartbeat
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Progress


@dataclass(slots=True, kw_only=True)
class Anew:
    """What one run of `reseal_all` did, and what is left. `problems`: objects that could not be read, and copies that
    do not open."""

    snapshots: int = 0
    wal: int = 0
    packs: int = 0
    size_bytes: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.left == 0 and not self.problems


def reseal_all(
    repo: Repository,
    progress: Progress,
    *,
    rng: random.Random | None = None,
    packs_max: int | None = None,
) -> Anew:
    """Everything that is sealed under an older root, sealed once more under the newest. Safe to repeat: what is
    done is not done again. `packs_max`: stop after so many."""
    out = Anew()
    if repo.keys.epoch == FIRST_EPOCH:
        return out
    progress.step(f"{repo.name}: snapshots and log")
    _snapshots(repo, out)
    _log(repo, out)
    progress.step(f"{repo.name}: packs")
    # A run like others: nobody takes what it uploads for the rest of a dead one.
    run = Heartbeat.begin(repo)
    try:
        _packs(repo, out, progress, run, rng=rng or secrets.SystemRandom(), packs_max=packs_max)
        if out.done:
            _retire(repo)
    finally:
        run.end()
    return out


def progress_of(repo: Repository) -> Anew:
    """What is left, without doing it: the ledger, read from the vault."""
    out = Anew()
    if repo.keys.epoch > FIRST_EPOCH:
        for prefix in (snapshot.PREFIX, wal_segment.PREFIX):
            out.left += len(_not_copied(repo, prefix, out))
        out.left += len(out.problems)
        with closing(repo.catalogue()) as held:
            fresh, old = _by_epoch(repo, held, out)
            out.left += sum(1 for name in old if _lacking(held, name, fresh))
    return out


def put_snapshot(repo: Repository, sequence: int, data: bytes) -> None:
    key = snapshot.key_of(sequence)
    until = retry(repo.clock, lambda: repo.store.stat(key)).retain_until
    again = snapshot.reseal(repo.keys, data, sequence=sequence)
    # Two runs seal with different salts: whoever was first is right.
    repo.create_if_absent(snapshot.resealed_key(repo.keys.epoch, key), again, retain_until=until)


def _not_copied(repo: Repository, prefix: str, out: Anew) -> list[Stat]:
    """What only an older root opens, and has no copy nor anything in the place of one. In key order."""
    originals = {s.key for s in repo.listed(prefix)}
    taken = set[str]()
    gone = {snapshot.key_of(s) for s in repo.forgotten()}
    for one, bad in resealed.each(repo, prefix):
        taken.add(one.of)
        if bad is not None and one.of not in gone:
            clear = hints.CLEAR_COPY if resealed.read_without(repo, one.of) else hints.HEAL_COPY
            out.problems.append(f"{one.key} is no copy: {bad.message}; {clear}")
    left: list[Stat] = []
    for stat in repo.named(prefix):
        if stat.key in taken or stat.key in gone:
            continue
        try:
            # Of one that is gone the copy under an older root is what is left.
            if stat.key not in originals or _sealed_in(repo, stat.key) < repo.keys.epoch:
                left.append(stat)
        except Damage as bad:
            if any(one.of == stat.key for one in resealed.there(repo, stat.key)):
                left.append(stat)  # a copy of an earlier rotation may open
            else:
                out.problems.append(bad.message)
    return left


def _sealed_in(repo: Repository, key: str) -> int:
    if key.startswith(snapshot.PREFIX):
        return snapshot.sealed_in(repo.read(key), snapshot.sequence_of(key))
    return epoch_of(_head(repo, key))


def _snapshots(repo: Repository, out: Anew) -> None:
    for stat in _not_copied(repo, snapshot.PREFIX, out):
        try:
            _snapshot(repo, stat.key)
            # Whoever was first is right, when what he wrote opens.
            resealed.open_snapshot(repo, Copy(repo.keys.epoch, stat.key))
            out.snapshots += 1
        except Damage as bad:
            out.problems.append(bad.message)


def _snapshot(repo: Repository, key: str) -> None:
    sequence = snapshot.sequence_of(key)
    try:
        data = repo.read(key)
        snapshot.decode(repo.keys, data, sequence=sequence)
    except Damage:
        # Gone, retired or damaged: what stands for it since an earlier rotation is carried on.
        old = resealed.copy_of(resealed.snapshot_of(repo, sequence).key)
        if old is None:
            raise
        until = retry(repo.clock, lambda: repo.store.stat(old.key)).retain_until
        name = snapshot.resealed_key(repo.keys.epoch, key)
        repo.create_if_absent(name, carried(repo, old), retain_until=until)
    else:
        put_snapshot(repo, sequence, data)


def _log(repo: Repository, out: Anew) -> None:
    for stat in _not_copied(repo, wal_segment.PREFIX, out):
        try:
            plain = repo.opened(Kind.WAL, stat.key)
            # Asked for each: a listing does not tell locks.
            was = resealed.where(repo, stat.key)
            one = Copy(repo.keys.epoch, stat.key)
            sealed = seal_whole(repo.keys, Kind.WAL, one.key, plain)
            if not repo.create_if_absent(
                one.key, sealed, retain_until=was.retain_until if was else None
            ):
                resealed.open_log(repo, one)
            out.wal += 1
        except Damage as bad:
            out.problems.append(bad.message)


def _packs(
    repo: Repository,
    out: Anew,
    progress: Progress,
    run: Heartbeat,
    *,
    rng: random.Random,
    packs_max: int | None,
) -> None:
    with closing(repo.catalogue()) as held:
        fresh, old = _by_epoch(repo, held, out)
        waiting: list[PackEntries] = []
        until: datetime | None = None
        todo = [name for name in old if _lacking(held, name, fresh)]
        for at, name in enumerate(todo):
            if packs_max is not None and at >= packs_max:
                out.left = len(todo) - at
                break
            # Asked again: two packs may hold the same blobs (two runs at once, a host's own memory), and then the first
            # of them has brought all of the second.
            if not (wanted := _lacking(held, name, fresh)):
                continue
            try:
                data = repo.read(key_of(name))
                builder = _again(repo.keys, name, data, wanted)
            except Damage as bad:
                out.problems.append(bad.message)
                continue
            locked = retry(repo.clock, lambda name=name: repo.store.stat(key_of(name))).retain_until  # type: ignore[misc]
            pack = builder.seal(repo.keys, rng)
            repo.create(key_of(pack.name), pack.data, retain_until=locked)
            held.add(pack.name, len(pack.data), pack.entries)
            fresh.add(pack.name)
            waiting.append(PackEntries(pack.name, len(pack.data), pack.entries))
            until = max((t for t in (until, locked) if t is not None), default=None)
            run.beat()
            out.packs += 1
            out.size_bytes += len(pack.data)
            if len(waiting) >= SEGMENT_PACKS:
                _index(repo, waiting, until)
                waiting, until = [], None
            progress.done(at + 1, len(todo), unit="packs")
        _index(repo, waiting, until)


def _retire(repo: Repository) -> None:
    """What is sealed under older roots is not needed any more; the garbage collection may have it."""
    standing = marks.standing(repo)
    with closing(repo.catalogue(without=mark.packs_of(standing))) as held:
        _, old = _by_epoch(repo, held, Anew())
    segments = [
        s.key.removeprefix("index/")
        for s in repo.listed("index/")
        if epoch_of(_head(repo, s.key)) < repo.keys.epoch
    ]
    fresh = set(segments) - mark.segments_of(standing)
    if old or fresh:
        marks.write(
            repo,
            packs=old,
            segments=sorted(fresh),
            observed=repo.sequences(),
            why=f"sealed anew in epoch {repo.keys.epoch}",
        )


def _by_epoch(repo: Repository, held: BlobIndex, out: Anew) -> tuple[set[str], list[str]]:
    """Packs of the newest epoch, and the others. What is marked may be gone, and nobody needs it."""
    fresh, old = set[str](), list[str]()
    marked = mark.packs_of(marks.standing(repo))
    for name, _ in held.packs():
        if name in marked:
            continue
        try:
            newest = epoch_of(_head(repo, key_of(name))) == repo.keys.epoch
        except Damage as bad:
            out.problems.append(f"{repo.name}: pack {name}: {bad.message}")
            continue
        if newest:
            fresh.add(name)
        else:
            old.append(name)
    return fresh, old


def _lacking(held: BlobIndex, name: str, fresh: set[str]) -> set[bytes]:
    """Blobs of the pack that no pack of the newest epoch holds."""
    return {
        e.id for e in held.entries(name) if not any(p.pack in fresh for p in held.locations(e.id))
    }


def _again(keys: Keyring, name: str, data: bytes, wanted: set[bytes]) -> Builder:
    """Opened and checked: a blob that is not whole is not carried on under a good seal."""
    check_name(keys, name, data)
    assert wanted, "a pack of nothing is not packed anew"
    entries = [e for e in read_trailer(keys, name, data) if e.id in wanted]
    if {e.id for e in entries} != wanted:
        raise Damage(f"pack {name}: index and trailer differ")
    one = Seal.of(keys, Kind.PACK, "", data)
    builder = Builder(entries[0].kind)
    for e in entries:
        sealed = data[e.offset : e.offset + e.stored_bytes]
        open_blob(one, e, sealed, keys)
        builder.add(e.id, e.encoding, one.open(e.slot, sealed), e.raw_bytes)
    return builder


def _index(repo: Repository, packs: Sequence[PackEntries], until: datetime | None) -> None:
    if packs:
        name, sealed = encode_segment(repo.keys, packs)
        repo.create(f"index/{name}", sealed, retain_until=until)


def _head(repo: Repository, key: str) -> bytes:
    """A header, not the object: a vault has many packs."""
    try:
        return retry(repo.clock, lambda: repo.store.read(key, start=0, length=HEADER_BYTES))
    except NotThere as gone:
        raise Damage(f"{repo.name}: {key} is not there") from gone


def carried(repo: Repository, one: Copy) -> bytes:
    """A copy of a snapshot under an older root, sealed once more: there is no original that could be."""
    keys, name = repo.keys, snapshot.resealed_key(repo.keys.epoch, one.of)
    open_snapshot(repo, one)
    body, _ = signed.parse(repo.read(one.key), what=one.key)
    plain = open_whole(keys, Kind.SNAPSHOT, one.key, base64.b64decode(body["sealed"]))
    sealed = base64.b64encode(seal_whole(keys, Kind.SNAPSHOT, name, plain)).decode()
    return signed.sign("resealed", {**body, "epoch": keys.epoch, "sealed": sealed}, keys.signer)

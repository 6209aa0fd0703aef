"""Read the log of a pack from its first entry to its last, and keep only what the checks need.

Entries are opened bundle by bundle and let go of: a log of 100,000 entries needs no more memory than its hashes,
the drills' names and the entries that the pack was made for.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from zaibei.evidence import dsse, kinds, log, note, statement, tiles, tree
from zaibei.evidence.folder import Folder
from zaibei.evidence.kinds import Kind
from zaibei.evidence.record import Entry, step
from zaibei.evidence.roll import RollCall
from zaibei.evidence.witness_list import WitnessList
from zaibei.kernel.errors import Damage


@dataclass(slots=True)
class Replay:
    """What one reading of the log leaves behind."""

    roll: RollCall
    leaves: list[bytes] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    order: kinds.Order = field(default_factory=kinds.Order)
    runs: list[str] = field(default_factory=list)  # by index: the kind, as file names have it
    drills: dict[str, list[int]] = field(default_factory=dict)  # drill -> its entries
    schedules: dict[int, str] = field(default_factory=dict)  # index -> sha256 of the statement
    witnesses: WitnessList = field(default_factory=WitnessList)
    newest: str | None = None  # the latest recorded_at
    kept: dict[int, Entry] = field(default_factory=dict)

    def see(self, entry: Entry, *, keep: bool) -> None:
        one = entry.statement
        self.runs.append(kinds.short(Kind(one.predicate_type)))
        if reason := self.order.why_not(step(entry)):
            self.disorder.append(reason)
        if one.drill_id is not None:
            self.drills.setdefault(one.drill_id, []).append(entry.index)
        if one.predicate_type == Kind.SCHEDULE:
            self.schedules[entry.index] = entry.statement_digest
        if one.predicate_type == Kind.WITNESSES:
            self.witnesses.see(entry.index, entry.payload)
        if one.recorded_at is not None:
            self.newest = max(one.recorded_at, self.newest or "")
        self.roll.see(entry)
        if keep:
            self.kept[entry.index] = entry

    def run_id(self, index: int) -> str:
        return f"{index:06d}-{self.runs[index]}"


def replay(
    pack: Folder,
    head: note.Checkpoint,
    *,
    key: EllipticCurvePublicKey,
    keyid: str,
    keep: Collection[int],
) -> Replay:
    """Every entry of the log, its signature and its place under the root. Raises Damage."""
    out = Replay(
        RollCall(chosen=keep), leaves=[tree.leaf_hash(raw) for raw in _envelopes(pack, head.size)]
    )
    if tree.root(out.leaves) != head.root:
        raise Damage("the log is not what its checkpoint signs")
    due = {f"log/{p}" for p in log.wanted(out.leaves)} | {f"log/{log.WHOLE}"}
    if due != pack.under("log/").keys():
        raise Damage("the log has files too many or too few")
    for name, content in tiles.hash_tiles(out.leaves):
        if pack.read(f"log/{name}") != content:
            raise Damage(f"a tile does not hold the hashes of the log: {name}")
    # A second reading: no statement is parsed before the root says that it is one of the log.
    for index, raw in enumerate(_envelopes(pack, head.size)):
        if tree.leaf_hash(raw) != out.leaves[index]:
            raise Damage(f"entry {index} changed while it was read")
        out.see(_entry(index, raw, key=key, keyid=keyid), keep=index in keep)
    return out


def _envelopes(pack: Folder, size: int) -> Iterator[bytes]:
    for number, width in tiles.bundles(size):
        bundle = pack.read(f"log/{tiles.path('entries', number, width)}")
        yield from tiles.decode_bundle(bundle, width)


def _entry(index: int, envelope: bytes, *, key: EllipticCurvePublicKey, keyid: str) -> Entry:
    try:
        payload = dsse.unseal(envelope, key=key, keyid=keyid)
        decoded = statement.decode(payload)
    except Damage as bad:
        raise Damage(f"entry {index}: {bad.message}") from bad
    return Entry(
        index=index,
        statement_digest=hashlib.sha256(payload).hexdigest(),
        envelope=envelope,
        payload=payload,
        statement=decoded,
    )

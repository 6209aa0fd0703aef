"""Check the chosen entries of a pack: each as it was logged, with its proof and all its artefacts."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from zaibei.evidence import note, tree
from zaibei.evidence.files import read
from zaibei.evidence.kinds import Kind
from zaibei.evidence.packing import PROOF, run_id
from zaibei.evidence.record import Entry
from zaibei.kernel.errors import Damage

_RUN = re.compile(r"(?P<index>\d{6,})-[a-z-]+")


def runs(
    folder: Path,
    digests: Mapping[str, str],
    logged: Sequence[Entry],
    head: note.Checkpoint,
    checkpoint: bytes,
) -> list[Entry]:
    """The chosen entries: each the same as in the log, with all its artefacts and no other."""
    names = sorted({p.split("/")[1] for p in digests if p.startswith("runs/")})
    chosen: list[Entry] = []
    for run in names:
        match = _RUN.fullmatch(run)
        index = int(match["index"]) if match else -1
        if not 0 <= index < len(logged) or run_id(logged[index]) != run:
            raise Damage(f"runs/{run} is not an entry of the log")
        entry = logged[index]
        due = {
            f"runs/{run}/statement.json": hashlib.sha256(entry.payload).hexdigest(),
            f"runs/{run}/statement.dsse.json": hashlib.sha256(entry.envelope).hexdigest(),
        } | {f"runs/{run}/artifacts/{s.name}": s.sha256 for s in entry.statement.subject}
        _same(due, {p: d for p, d in digests.items() if p.startswith(f"runs/{run}/")})
        _proof(read(folder, f"proofs/{run}.txt"), entry, head, checkpoint)
        chosen.append(entry)
    if not chosen:
        raise Damage("the pack holds no entry")
    proofs = {p for p in digests if p.startswith("proofs/")}
    if proofs != {f"proofs/{run}.txt" for run in names}:
        raise Damage("there are proofs of entries that are not in the pack")
    drills = {e.statement.drill_id for e in chosen} - {None}
    for entry in logged:
        if entry.statement.drill_id in drills and entry not in chosen:
            raise Damage(f"{run_id(entry)} belongs to a drill of this pack and was left out")
    return chosen


def _same(due: Mapping[str, str], held: Mapping[str, str]) -> None:
    for name in sorted(due.keys() | held.keys()):
        if name not in held:
            raise Damage(f"missing from the pack: {name}")
        if name not in due:
            raise Damage(f"no statement names it: {name}")
        if due[name] != held[name]:
            raise Damage(f"not what the statement says: {name}")


def _proof(raw: bytes, entry: Entry, head: note.Checkpoint, checkpoint: bytes) -> None:
    run = run_id(entry)
    lines, _, rest = raw.partition(b"\n\n")
    form, index, *encoded = lines.decode().split("\n")
    hashes = [base64.b64decode(h, validate=True) for h in encoded]
    again = [base64.b64encode(h).decode() for h in hashes]
    if form != PROOF or index != f"index {entry.index}" or rest != checkpoint or again != encoded:
        raise Damage(f"the proof of {run} is malformed")
    leaf = tree.leaf_hash(entry.envelope)
    top = tree.root_from_inclusion(leaf, index=entry.index, size=head.size, proof=hashes)
    if top != head.root:
        raise Damage(f"the proof of {run} does not lead to the root")


def schedule(folder: Path, digests: Mapping[str, str], logged: Sequence[Entry]) -> None:
    """What was due: every schedule in the log, so that what did not run can be seen."""
    due = {
        f"schedule/{run_id(e)}.json": hashlib.sha256(e.payload).hexdigest()
        for e in logged
        if e.statement.predicate_type == Kind.SCHEDULE
    }
    _same(due, {p: d for p, d in digests.items() if p.startswith("schedule/")})

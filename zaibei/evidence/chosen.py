"""Check the chosen entries of a pack: each as it was logged, with its proof and all its artefacts."""

import base64
import hashlib
import re
from collections.abc import Mapping

from zaibei.evidence import folder, note, tree
from zaibei.evidence.folder import Folder
from zaibei.evidence.packing import PROOF
from zaibei.evidence.record import Entry
from zaibei.evidence.replay import Replay
from zaibei.kernel.errors import Damage

_RUN = re.compile(r"(?P<index>[0-9]{6,7})-[a-z-]+")


def folders(pack: Folder, size: int) -> dict[int, dict[str, str]]:
    """Index -> files of each entry that the pack was made for. Raises Damage for another folder there."""
    held: dict[str, dict[str, str]] = {}
    for path, digest in pack.under("runs/").items():
        held.setdefault(path.split("/")[1], {})[path] = digest
    found: dict[int, dict[str, str]] = {}
    for run, files in held.items():
        match = _RUN.fullmatch(run)
        index = int(match["index"]) if match else size
        if index >= size or index in found:
            raise Damage(f"runs/{run} is not an entry of the log")
        found[index] = files
    if not found:
        raise Damage("the pack holds no entry")
    return found


def runs(
    pack: Folder,
    chosen: Mapping[int, Mapping[str, str]],
    seen: Replay,
    head: note.Checkpoint,
    checkpoint: bytes,
) -> list[Entry]:
    """The chosen entries: each the same as in the log, with all its artefacts and no other."""
    entries = [seen.kept[index] for index in sorted(chosen)]
    for entry in entries:
        run = seen.run_id(entry.index)
        due = {
            f"runs/{run}/statement.json": hashlib.sha256(entry.payload).hexdigest(),
            f"runs/{run}/statement.dsse.json": hashlib.sha256(entry.envelope).hexdigest(),
        } | {f"runs/{run}/artifacts/{s.name}": s.sha256 for s in entry.statement.subject}
        folder.same(due, chosen[entry.index])
        _proof(pack.read(f"proofs/{run}.txt"), run, entry, head, checkpoint)
    if pack.under("proofs/").keys() != {f"proofs/{seen.run_id(e.index)}.txt" for e in entries}:
        raise Damage("there are proofs of entries that are not in the pack")
    for drill in {e.statement.drill_id for e in entries} - {None}:
        for index in seen.drills[drill or ""]:
            if index not in chosen:
                raise Damage(
                    f"{seen.run_id(index)} belongs to a drill of this pack and was left out"
                )
    return entries


def _proof(raw: bytes, run: str, entry: Entry, head: note.Checkpoint, checkpoint: bytes) -> None:
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


def schedule(pack: Folder, seen: Replay) -> None:
    """What was due: every schedule in the log, so that what did not run can be seen."""
    due = {f"schedule/{seen.run_id(n)}.json": digest for n, digest in seen.schedules.items()}
    folder.same(due, pack.under("schedule/"))

"""Checks listings against the index: every entry has its blobs, sizes add up, and which snapshots
need what is lost.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backup.crypto.suite import ID_BYTES
from backup.format import tree
from backup.format.pack import key_of
from backup.format.snapshot import Snapshot
from backup.format.tree import Node
from backup.hints import HEAL, REPAIR
from backup.index.sorted_runs import rows_of
from backup.integrity.report import Finding, Report
from backup.repository.reader import Reader
from zaibei.kernel.errors import Damage
from zaibei.kernel.printable import printable
from zaibei.kernel.progress import Progress

_BATCH_BLOBS: Final = 1 << 18
_BATCH_NODES: Final = 1 << 16
_CHECKED_MAX: Final = 200_000  # pieces of listings known to be whole
_PATHS: Final = 5
_SNAPSHOTS: Final = 10
_BAD_IDS_MAX: Final = 1_000_000


def check(reader: Reader, chain: Sequence[Snapshot], out: Report, progress: Progress) -> None:
    """Every entry of every snapshot. A piece that several snapshots share is looked at once."""
    known: dict[bytes, int] = {}
    for done, one in enumerate(chain, 1):
        with out.collecting(one.key):
            _check_one(reader, one, known, out)
        progress.done(done, len(chain), unit="snapshots")


def who_needs(
    reader: Reader, chain: Sequence[Snapshot], bad: set[str], out: Report, progress: Progress
) -> None:
    """Say of each bad pack which snapshots and paths reach what only bad packs hold."""
    told = {f.object: f for f in out.findings}
    wanted: dict[bytes, Finding] = {}
    for name in sorted(bad):
        finding = told.get(key_of(name))
        if finding is None or len(wanted) > _BAD_IDS_MAX:
            continue  # beyond the bound `lost` stays unknown, and says so
        # Until somebody is found who does: then there is something to be fetched from another vault.
        finding.lost, finding.mend = "nothing that a snapshot needs", REPAIR
        for e in reader.catalogue.entries(name):
            if all(p.pack in bad for p in reader.catalogue.locations(e.id)):
                wanted[e.id] = finding
    progress.step(f"{out.repository}: who needs what is lost")
    unread: list[int] = []
    findings = {id(f): f for f in wanted.values()}.values()
    for one in chain:
        for id_ in wanted.keys() & set(one.content.tree):
            _reached(wanted[id_], one.sequence, b"(the listing, and with it every entry)")
        try:
            for node in reader.nodes(one):
                for id_ in wanted.keys() & set(node.blobs):
                    _reached(wanted[id_], one.sequence, node.path)
        except Damage:  # said already, by `check`
            unread.append(one.sequence)
    if unread:
        # What nobody could read needs perhaps all of it.
        some = ", ".join(map(str, unread[:_SNAPSHOTS])) + (", …" if unread[_SNAPSHOTS:] else "")
        for finding in findings:
            begun = f"{finding.lost}; " if finding.snapshots else ""
            finding.mend = HEAL
            finding.lost = f"{begun}unknown in snapshots {some}: their listings cannot be read"


def _reached(one: Finding, sequence: int, path: bytes) -> None:
    if sequence not in one.snapshots and len(one.snapshots) < _SNAPSHOTS:
        one.snapshots.append(sequence)
    if (text := printable(path)) not in one.paths and len(one.paths) < _PATHS:
        one.paths.append(text)
    one.mend = HEAL
    one.lost = f"in snapshots {', '.join(map(str, one.snapshots))}: {', '.join(one.paths)}"
    one.lost += ", …" if len(one.paths) == _PATHS or len(one.snapshots) == _SNAPSHOTS else ""


def _check_one(reader: Reader, one: Snapshot, known: dict[bytes, int], out: Report) -> None:
    pieces = one.content.tree
    # A piece can be passed over when the next begins with an entry of its own: then the last entry of
    # this one ends here, as it did where it was looked at.
    passed = [
        p in known and (n + 1 == len(pieces) or pieces[n + 1] in known)
        for n, p in enumerate(pieces)
    ]
    count = sum(known[p] for p, over in zip(pieces, passed, strict=True) if over)
    wrong = _Wrong()
    for over, some in groupby(zip(pieces, passed, strict=True), key=itemgetter(1)):
        if not over:
            count += _check_pieces(reader, [p for p, _ in some], known, wrong)
    wrong.tell(one, out)
    if count != one.content.entries:
        raise Damage(
            f"snapshot {one.sequence} lists {count} entries and should list {one.content.entries}"
        )


def _check_pieces(
    reader: Reader, pieces: Sequence[bytes], known: dict[bytes, int], wrong: "_Wrong"
) -> int:
    seen: list[tuple[bytes, bool, int]] = []

    def raws() -> Iterator[bytes]:
        for id_, raw in zip(pieces, reader.read_all(pieces), strict=True):
            more = [line.startswith(b'{"more"') for line in raw.splitlines()]
            seen.append((id_, bool(more) and more[0], more.count(False)))
            yield raw

    before, count = wrong.count, 0
    batch: list[Node] = []
    blobs = 0
    for node in tree.decode(raws()):
        count += 1
        batch.append(node)
        blobs += len(node.blobs)
        if blobs >= _BATCH_BLOBS or len(batch) >= _BATCH_NODES:
            wrong.look(reader, batch)
            batch, blobs = [], 0
    wrong.look(reader, batch)
    if wrong.count == before and len(known) < _CHECKED_MAX:
        for n, (id_, begins_inside, entries) in enumerate(seen):
            goes_on = n + 1 < len(seen) and seen[n + 1][1]
            if not begins_inside and not goes_on:
                known[id_] = entries
    return count


class _Wrong:
    """What is wrong with the entries of one snapshot: how many, and the first few."""

    def __init__(self) -> None:
        self.count = 0
        self._lacking: list[str] = []
        self._uneven: list[str] = []

    def look(self, reader: Reader, nodes: Sequence[Node]) -> None:
        if not nodes:
            return
        counts = np.fromiter((len(n.blobs) for n in nodes), np.int64, len(nodes))
        ids = rows_of(b"".join(b for n in nodes for b in n.blobs), ID_BYTES)
        sizes = reader.catalogue.raw_sizes(ids)
        ends = np.cumsum(counts)
        lacking = _sums(sizes < 0, ends, counts)
        uneven = _sums(np.maximum(sizes, 0), ends, counts) != np.fromiter(
            (n.data_bytes for n in nodes), np.int64, len(nodes)
        )
        for at in np.flatnonzero((lacking > 0) | uneven).tolist():
            self.count += 1
            into = self._lacking if lacking[at] else self._uneven
            if len(into) < _PATHS:
                into.append(printable(nodes[at].path))

    def tell(self, one: Snapshot, out: Report) -> None:
        for paths, what in (
            (self._lacking, "a blob of {} is in no index segment"),
            (self._uneven, "blobs of {} do not add up"),
        ):
            for path in paths:
                found = out.found(
                    one.key, Damage(f"snapshot {one.sequence}: {what.format(repr(path))}")
                )
                found.snapshots, found.paths = [one.sequence], [path]
                found.lost = f"in snapshot {one.sequence}: {path}"
        if self.count > len(self._lacking) + len(self._uneven):
            out.note(
                f"snapshot {one.sequence}: {self.count} entries are damaged, the first are told"
            )


def _sums(
    values: NDArray[np.int64] | NDArray[np.bool_],
    ends: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> NDArray[np.int64]:
    upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])
    total: NDArray[np.int64] = upto[ends] - upto[ends - counts]
    return total

"""What really happened to every write, told by the world that made it happen. No checker is asked.

Written for clarity: sets, and for each acknowledgement the question itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infra.sim.entry import Call
from infra.sim.member import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    acknowledged: frozenset[str]
    denied: frozenset[str]  # every request of it was told "not applied", or never left
    lost: frozenset[str]
    resurrected: frozenset[str]
    corrupted: frozenset[str]
    phantoms: frozenset[str]
    overlap: frozenset[
        str
    ]  # as clients can know it: acknowledged by an old epoch, sent after a newer had
    two_writers: (
        bool  # as only the world can know it: a member acknowledged what reached it after a newer
    )

    @property
    def harm(self) -> frozenset[str]:
        return self.lost | self.resurrected | self.corrupted | self.overlap

    def __str__(self) -> str:
        found = {
            "lost": self.lost,
            "resurrected": self.resurrected,
            "corrupted": self.corrupted,
            "phantoms": self.phantoms,
            "overlap": self.overlap,
        }
        named = [
            f"{len(ids)} {what} ({', '.join(sorted(ids)[:3])})"
            for what, ids in found.items()
            if ids
        ]
        return f"{len(self.acknowledged)} acknowledged; {'; '.join(named) or 'no harm'}"


def truth(
    asked: Iterable[tuple[str, str, float]],  # op id, SHA-256, when the client began
    calls: Iterable[Call],
    kept: Sequence[Record],
) -> Truth:
    """`kept` are the rows of the writer that the lease service names, after quiet."""
    of_op: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        of_op[call.op_id].append(call)
    bytes_of = {op_id: sha256 for op_id, sha256, _ in asked}
    began_s = {op_id: at_s for op_id, _, at_s in asked}
    there = {r.op_id: r.sha256 for r in kept}
    told = [c for all_of in of_op.values() for c in all_of if c.told_applied is True]
    acknowledged = frozenset(c.op_id for c in told)
    first_told_s: dict[int, float] = {}
    for call in told:
        first_told_s[_epoch(call)] = min(
            _s(call.told_s), first_told_s.get(_epoch(call), float("inf"))
        )

    def superseded(old: Call, at_s: float) -> bool:
        """A client had an acknowledgement of a newer epoch by then."""
        return any(e > _epoch(old) and s < at_s for e, s in first_told_s.items())

    denied = frozenset(
        op
        for op in bytes_of
        if op not in acknowledged and all(c.told_applied is False for c in of_op[op])
    )
    return Truth(
        acknowledged=acknowledged,
        denied=denied,
        lost=acknowledged - there.keys(),
        resurrected=denied & there.keys(),
        corrupted=frozenset(
            op
            for op, sha256 in there.items()
            if op in bytes_of and sha256 != bytes_of[op] and op not in denied
        ),
        phantoms=frozenset(there.keys() - bytes_of.keys()),
        overlap=frozenset(c.op_id for c in told if superseded(c, began_s[c.op_id])),
        two_writers=any(superseded(c, _s(c.reached_s)) for c in told),
    )


def _epoch(call: Call) -> int:
    assert call.told_epoch is not None, "an acknowledgement names its epoch"
    return call.told_epoch


def _s(at_s: float | None) -> float:
    assert at_s is not None
    return at_s

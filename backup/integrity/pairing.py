"""Finds the same run in another vault.

Numbers differ between vaults, and a lost snapshot cannot say what it was. So runs are matched by
what they say about themselves, and lost ones by the runs before and after them. When that is
ambiguous the answer is "unknown": a run that takes the place of another one is worse than a hole.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from backup.format.forget_statement import HEALED
from backup.format.snapshot import Content, Snapshot
from backup.repository.repository import Repository
from zaibei.kernel.errors import Damage

Moment = tuple[str, str, str, datetime]  # names a run


def moment(content: Content) -> Moment:
    """Two vaults of one run, and a copy and its original, agree in this."""
    return content.kind, content.label, content.host, content.started


def paired(
    repo: Repository, whole: list[Snapshot], others: dict[Moment, Snapshot], lost: list[int]
) -> list[tuple[int, Snapshot]] | None:
    """Each lost number and the other vault's run that it was. None where that cannot be told: a hole must have just as
    many runs over there, between its neighbours, as are lost in it."""
    # What was forgotten here is not what was lost here, though the other vault may keep it.
    known = {moment(one.content) for one in (*whole, *_forgotten_but_there(repo))}
    fresh = sorted(
        (o for m, o in others.items() if m not in known), key=lambda o: o.content.started
    )
    own = {at: one.content.started for one in whole if (at := _place(one)) is not None}
    holes: dict[tuple[datetime | None, datetime | None], list[int]] = {}
    for sequence in lost:
        before = max((s for s in own if s < sequence), default=None)
        after = min((s for s in own if s > sequence), default=None)
        edges = (own[before] if before else None, own[after] if after else None)
        holes.setdefault(edges, []).append(sequence)
    pairs: list[tuple[int, Snapshot]] = []
    for (first, last), numbers in holes.items():
        inside = [
            o
            for o in fresh
            if (first is None or o.content.started > first)
            and (last is None or o.content.started < last)
        ]
        if len(inside) != len(numbers):
            return None
        pairs += zip(sorted(numbers), inside, strict=True)
    return pairs


def _place(one: Snapshot) -> int | None:
    """Where among the runs it belongs: a copy that stands for a lost number there. None: for several, or nobody says."""
    told = one.content.facts.get("stands_for")
    if told is None:
        return one.sequence
    return int(told[0]) if len(told) == 1 else None


def _forgotten_but_there(repo: Repository) -> Iterator[Snapshot]:
    for sequence, said in repo.forgotten().items():
        if said.why != HEALED:
            with suppress(Damage):
                yield repo.snapshot(sequence)


def by_moment(repo: Repository) -> dict[Moment, Snapshot]:
    """Of several of one run the one that has most: what a repair left never hides what was whole."""
    found: dict[Moment, Snapshot] = {}
    for one in repo.snapshots():
        had = found.get(moment(one.content))
        if had is None or weight(one.content) > weight(had.content):
            found[moment(one.content)] = one
    return found


def weight(content: Content) -> tuple[bool, int, int]:
    return content.complete, content.entries, content.size_bytes

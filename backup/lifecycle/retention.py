"""Decides which snapshots to keep. Pure: nothing here deletes anything.

Times are the store's: when it took the snapshot in. What a host says about its own clock decides
nothing, so a host whose clock runs ahead, or a thief with its keys, cannot age the others out. Odd
snapshots (the guard calls them anomalous, or their own times are not the store's) are judged among
all, the sound ones only among themselves: an odd one never takes the place of a sound one.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from backup.format import point
from backup.format.facts import Verdict, verdict_of
from backup.format.snapshot import Snapshot
from zaibei.kernel.errors import Usage

AHEAD_MAX: Final = timedelta(minutes=5)  # own clock before the store's: no upload explains it
BEHIND_MAX: Final = timedelta(hours=6)  # the last packs are uploaded after the source was read
Group = tuple[str, str, str]  # kind, label, host; or what else they are grouped by
GROUPED_BY: Final = ("label", "host")
GROUPABLE: Final = ("label", "host", "paths", "tags")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One snapshot as the decision sees it. `dated`: when the store took it in; for a copy, when the first
    store did."""

    sequence: int
    group: Group
    dated: datetime
    copied: bool = False
    complete: bool = True
    verified: bool = False
    odd: str | None = None  # why it does not count; None: it does
    tags: tuple[str, ...] = ()
    label: str = ""
    stands_on: frozenset[int] = frozenset()  # a point: the snapshots that it cannot do without


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is kept in each group of (kind, label, host). GFS counts the periods that have a snapshot, and
    `within` counts back from the group's newest: where backups have stopped, nothing expires."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta = timedelta(0)
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    zone: tzinfo = UTC

    def __post_init__(self) -> None:
        counts = [self.last, *(n for _, n in self.periods())]
        if min(counts) < 0 or self.within < timedelta(0):
            raise Usage("a policy keeps a number of snapshots, not less than none")
        if not any(counts) and not self.within:
            raise Usage(
                "a policy that keeps nothing by time or number would forget almost everything",
                hint="--keep-within 30d, --keep-last 7, --keep-daily 14 …",
            )

    def periods(self) -> tuple[tuple[str, int], ...]:
        return (
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`keep` empty: it goes. `notes`: what a person should know of it all the same."""

    entry: Entry
    keep: tuple[str, ...]
    notes: tuple[str, ...] = ()


def plan(
    entries: Iterable[Entry], policy: Policy, *, label: str | None = None
) -> tuple[Decision, ...]:
    """Decide for each snapshot, by sequence, with reasons. With `label` for those of that label; the others
    stay, and so does what a point among them stands on.

    The newest complete and the newest *verified* of a group are kept whatever the policy says: after a
    quiet month with the verifier broken, age alone would expire the only copy known to restore.
    """
    groups: dict[Group, list[Entry]] = {}
    for e in sorted(entries, key=lambda e: e.sequence):
        groups.setdefault(e.group, []).append(e)
    decisions = [
        d
        for group in groups.values()
        for d in (
            _group(group, policy)
            if label in (None, group[0].group[1])
            else (Decision(entry=e, keep=("not of this policy",)) for e in group)
        )
    ]
    out = _with_what_points_need(sorted(decisions, key=lambda d: d.entry.sequence))
    for group in groups.values():
        kept = {d.entry.sequence for d in out if d.keep and d.entry.group == group[0].group}
        assert kept, "a group never disappears"
        for safe in _safe(group):
            assert safe is None or safe.sequence in kept, "what must never be lost"
    return out


def needed_by_points(entries: Iterable[Entry], gone: Iterable[int]) -> dict[int, int]:
    """Which of `gone` a point that stays stands on, and which point."""
    lost = set(gone)
    return {
        needed: e.sequence
        for e in entries
        if e.sequence not in lost
        for needed in e.stands_on & lost
    }


def last_of_their_kind(entries: Iterable[Entry], gone: Iterable[int]) -> dict[int, str]:
    """Which of `gone` nobody should let go without saying so, and why."""
    lost = set(gone)
    groups: dict[Group, list[Entry]] = {}
    for e in sorted(entries, key=lambda e: e.sequence):
        groups.setdefault(e.group, []).append(e)
    out: dict[int, str] = {}
    for group in groups.values():
        complete, verified, newest = _safe(group)
        for one, why in (
            (newest, "the newest of its group"),
            (complete, "the newest complete one of its group"),
            (verified, "the newest of its group that was proven to restore"),
        ):
            if one is not None and one.sequence in lost:
                out[one.sequence] = why
    return out


def _with_what_points_need(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """A point without its base or its bucket is a name for nothing."""
    why: dict[int, list[str]] = {}
    for d in decisions:
        for needed in sorted(d.entry.stands_on) if d.keep else ():
            why.setdefault(needed, []).append(
                f"point {d.entry.label} (snapshot {d.entry.sequence}) stands on it"
            )
    out = tuple(replace(d, keep=(*d.keep, *why.get(d.entry.sequence, ()))) for d in decisions)
    kept = {d.entry.sequence for d in out if d.keep}
    there = {d.entry.sequence for d in out}
    assert all(d.entry.stands_on & there <= kept for d in out if d.keep), "points stand"
    return out


def _group(group: Sequence[Entry], policy: Policy) -> Iterable[Decision]:
    sound = [e for e in group if e.odd is None]
    among_sound, among_all = _rules(sound, policy), _rules(group, policy)
    complete, verified, newest = _safe(group)
    for e in group:
        why = list((among_all if e.odd else among_sound).get(e.sequence, ()))
        if e is complete:
            why.append("the newest complete one")
        if e is verified:
            why.append("the newest that was proven to restore")
        if e is newest:
            why.append("the only kind there is: none is complete")
        yield Decision(
            entry=e,
            keep=tuple(why),
            notes=(f"does not count: {e.odd}",) if e.odd else (),
        )


def _safe(group: Sequence[Entry]) -> tuple[Entry | None, Entry | None, Entry | None]:
    """The newest complete one (sound before odd), the newest verified, and where no complete one is there
    the newest of any kind."""
    complete = [e for e in group if e.complete]
    sound = [e for e in complete if e.odd is None]
    verified = [e for e in group if e.verified]
    best = sound or complete
    return (
        best[-1] if best else None,
        verified[-1] if verified else None,
        None if complete else group[-1],
    )


def _rules(entries: Sequence[Entry], policy: Policy) -> dict[int, list[str]]:
    """Reasons to keep by sequence; `entries` are one group's, oldest first."""
    why: dict[int, list[str]] = {}
    if not entries:
        return why

    def keep(e: Entry, reason: str) -> None:
        why.setdefault(e.sequence, []).append(reason)

    for e in entries[len(entries) - min(policy.last, len(entries)) :]:
        keep(e, f"one of the last {policy.last}")
    for name, count in policy.periods():
        for period, e in _of_periods(entries, name, count, policy.zone):
            keep(e, f"{name}: {period}")
    newest = max(e.dated for e in entries)
    for e in entries:
        if policy.within and e.dated >= newest - policy.within:
            keep(e, "within the time to keep")
        if (label := e.label or e.group[1]) in policy.labels:
            keep(e, f"label {label}")
        for tag in sorted(set(policy.tags) & set(e.tags)):
            keep(e, f"tag {tag}")
    return why


def _of_periods(
    entries: Sequence[Entry], name: str, count: int, zone: tzinfo
) -> list[tuple[str, Entry]]:
    periods: dict[str, list[Entry]] = {}
    for e in entries:
        periods.setdefault(_period(name, e.dated.astimezone(zone)), []).append(e)
    newest_first = sorted(periods, reverse=True)[:count] if count else []
    return [(p, _of_one_period(periods[p])) for p in newest_first]


def _of_one_period(entries: Sequence[Entry]) -> Entry:
    """The newest; a complete one if there is one. Of copies the first that came: a copy says itself when
    the first store took it in, and a lie must not displace what was there before it."""
    able = [e for e in entries if e.complete] or list(entries)
    own = [e for e in able if not e.copied]
    return own[-1] if own else able[0]


def _period(name: str, at: datetime) -> str:
    # Sorts as time does: every field has its full width.
    if name == "weekly":
        year, week, _ = at.isocalendar()
        return f"{year:04d}-W{week:02d}"
    return at.strftime(
        {"hourly": "%Y-%m-%dT%H%z", "daily": "%Y-%m-%d", "monthly": "%Y-%m", "yearly": "%Y"}[name]
    )


def entry_of(
    snapshot: Snapshot,
    *,
    modified: datetime,
    verified: bool,
    stands_on: frozenset[int] = frozenset(),
    by: Collection[str] = GROUPED_BY,
) -> Entry:
    """`modified`: the store's time of the snapshot object. `by`: what tells its group, beside the kind."""
    content = snapshot.content
    facts: dict[str, Any] = content.facts
    copied, dated = facts.get("copied_from"), modified
    if copied is not None:
        # A copy may be older than its object, never younger.
        dated = min(modified, datetime.fromisoformat(copied["modified"]))
    odd = None
    if verdict_of(content) is Verdict.ANOMALOUS:
        odd = "the guard calls it anomalous"
    elif copied is None and content.finished - modified > AHEAD_MAX:
        odd = f"its own clock is {content.finished - modified} ahead of the store's"
    elif copied is None and modified - content.finished > BEHIND_MAX:
        odd = f"its own clock is {modified - content.finished} behind the store's"
    return Entry(
        sequence=snapshot.sequence,
        # Each point has a name of its own: a group a name would keep every point for ever, as its last.
        group=(
            (point.KIND, f"system {facts.get('system_identifier')}", content.host)
            if content.kind == point.KIND
            else (
                content.kind,
                content.label if "label" in by else "",
                "\0".join(
                    [
                        *([content.host] if "host" in by else ()),
                        *(str(r) for r in facts.get("roots", ()) if "paths" in by),
                        *(f"#{t}" for t in facts.get("tags", ()) if "tags" in by),
                    ]
                ),
            )
        ),
        dated=dated,
        copied=copied is not None,
        complete=content.complete,
        verified=verified,
        odd=odd,
        tags=tuple(str(t) for t in facts.get("tags", ())),
        label=content.label,
        stands_on=stands_on,
    )

"""Which snapshots stay: the rules, and what no rule and no clock may take away."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup import status
from backup.lifecycle.forget import proven_to_restore
from backup.lifecycle.retention import Decision, Entry, Policy, plan
from backup.repository.repository import Repository
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Usage

START = datetime(2026, 1, 1, 3, tzinfo=UTC)
DAY = timedelta(days=1)
GROUP = ("files", "registry", "host-1")


def nightly(count: int, **more: object) -> list[Entry]:
    return [
        Entry(sequence=n + 1, group=GROUP, dated=START + n * DAY, **more)  # type: ignore[arg-type]
        for n in range(count)
    ]


def kept(decisions: tuple[Decision, ...]) -> list[int]:
    return [d.entry.sequence for d in decisions if d.keep]


def test_a_year_of_nights_thins_out_by_days_weeks_and_months() -> None:
    decisions = plan(nightly(365), Policy(daily=3, weekly=2, monthly=3))
    # 31 December 2026 is a Thursday: the last days, the Sunday before, and the ends of the months.
    assert kept(decisions) == [304, 334, 361, 363, 364, 365]
    assert decisions[303].keep == ("monthly: 2026-10",)


def test_the_newest_verified_one_outlives_every_rule() -> None:
    entries = nightly(40)
    entries[4] = replace(entries[4], verified=True)
    assert kept(plan(entries, Policy(last=2))) == [5, 39, 40]


def test_a_rehearsal_of_one_vault_leaves_the_proven_one_of_the_other(
    make: Callable[..., Repository], clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    status.restore_verified(b.name, sequence=5, at=clock.now(), took_s=1.0)
    status.restore_verified(c.name, sequence=9, at=clock.now(), took_s=1.0)
    assert (proven_to_restore(b), proven_to_restore(c)) == ({5}, {9})
    assert proven_to_restore(make("site-d")) == frozenset()
    newest = status.read()["verified_restore"]
    assert (newest["vault"], newest["snapshot"]) == (c.name, 9), "where older readers look"


def test_a_proof_from_before_there_was_one_a_vault_outlives_the_next_rehearsal_elsewhere(
    make: Callable[..., Repository], clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    old = {"vault": b.name, "snapshot": 5, "at": clock.now().isoformat(), "took_s": 1.0}
    status.file().parent.mkdir(parents=True)
    told = {"format": 1, "vaults": {}, "verified_restore": old, "wal": None}
    status.file().write_text(json.dumps(told))
    assert (proven_to_restore(b), proven_to_restore(c)) == ({5}, frozenset())
    status.restore_verified(c.name, sequence=9, at=clock.now(), took_s=1.0)
    assert (proven_to_restore(b), proven_to_restore(c)) == ({5}, {9})


def test_the_newest_complete_one_outlives_a_month_of_incomplete_ones() -> None:
    entries = [replace(e, complete=e.sequence <= 3) for e in nightly(30)]
    assert kept(plan(entries, Policy(last=2))) == [3, 29, 30]


def test_encrypted_rubbish_pushes_no_clean_backup_out() -> None:
    rubbish = [
        Entry(sequence=100 + n, group=GROUP, dated=START + 10 * DAY, odd="anomalous")
        for n in range(50)
    ]
    found = kept(plan(nightly(10) + rubbish, Policy(last=3, daily=2)))
    assert [s for s in found if s < 100] == [8, 9, 10]


def test_a_day_ends_at_the_midnight_that_was_asked_for() -> None:
    entries = [
        Entry(sequence=n, group=GROUP, dated=datetime(2026, 5, 1, hour, tzinfo=UTC))
        for n, hour in ((1, 15), (2, 17))  # 23:00 and 01:00 in Shanghai
    ]
    assert kept(plan(entries, Policy(daily=2))) == [2]
    assert kept(plan(entries, Policy(daily=2, zone=ZoneInfo("Asia/Shanghai")))) == [1, 2]


def test_one_busy_host_ages_no_other_host_out() -> None:
    other = Entry(sequence=1, group=("files", "registry", "host-2"), dated=START)
    busy = [replace(e, sequence=e.sequence + 1) for e in nightly(100)]
    assert 1 in kept(plan([other, *busy], Policy(last=3, within=7 * DAY)))


def test_a_late_copy_that_claims_an_old_date_displaces_nothing() -> None:
    liar = Entry(sequence=500, group=GROUP, dated=START + 2 * DAY, copied=True)
    assert set(kept(plan(nightly(10), Policy(daily=10)))) <= set(
        kept(plan([*nightly(10), liar], Policy(daily=10)))
    )


def test_a_policy_that_keeps_nothing_is_refused() -> None:
    for bad in ({}, {"tags": ("x",)}, {"last": -1, "daily": 3}):
        with pytest.raises(Usage):
            Policy(**bad)  # type: ignore[arg-type]


entries_of = st.lists(
    st.builds(
        Entry,
        sequence=st.integers(1, 10**6),
        group=st.sampled_from([GROUP, ("postgres", "zaibei", "host-1")]),
        dated=st.integers(0, 24 * 900).map(lambda h: START + timedelta(hours=h)),
        copied=st.booleans(),
        complete=st.booleans(),
        verified=st.booleans(),
        odd=st.sampled_from([None, None, None, "anomalous"]),
        tags=st.lists(st.sampled_from(["audit", "tmp"]), max_size=1).map(tuple),
    ),
    unique_by=lambda e: e.sequence,
    max_size=30,
)
number = st.integers(0, 4)
policies = st.builds(
    Policy,
    last=st.integers(1, 4),
    hourly=number,
    daily=number,
    weekly=number,
    monthly=number,
    yearly=number,
    within=st.integers(0, 60).map(timedelta),
    tags=st.just(("audit",)),
)


@given(entries=entries_of, policy=policies)
def test_every_snapshot_gets_one_decision_and_the_last_good_ones_stay(
    entries: list[Entry], policy: Policy
) -> None:
    decisions = plan(entries, policy)
    assert [d.entry.sequence for d in decisions] == sorted(e.sequence for e in entries)
    found = set(kept(decisions))
    for group in {e.group for e in entries}:
        mine = [e for e in sorted(entries, key=lambda e: e.sequence) if e.group == group]
        for able in (
            [e for e in mine if e.complete],
            [e for e in mine if e.complete and e.odd is None],
            [e for e in mine if e.verified],
            [e for e in mine if "audit" in e.tags and e.odd is None],
        ):
            if able:
                assert found & {e.sequence for e in able}
        if proven := [e for e in mine if e.verified]:
            assert proven[-1].sequence in found


@given(entries=entries_of, odd=entries_of, policy=policies)
def test_odd_snapshots_change_no_decision_about_sound_ones(
    entries: list[Entry], odd: list[Entry], policy: Policy
) -> None:
    known = {e.sequence for e in entries}
    more = [
        replace(e, odd="ahead of the store's clock", verified=False)
        for e in odd
        if e.sequence not in known
    ]
    sound = {e.sequence for e in entries if e.odd is None}
    before, after = set(kept(plan(entries, policy))), set(kept(plan([*entries, *more], policy)))
    assert before & sound <= after


@given(entries=entries_of, policy=policies)
def test_deciding_again_forgets_nothing_more(entries: list[Entry], policy: Policy) -> None:
    first = plan(entries, policy)
    rest = [d.entry for d in first if d.keep]
    assert kept(plan(rest, policy)) == kept(first)


@given(entries=entries_of, policy=policies, field=st.sampled_from(["last", "daily", "yearly"]))
def test_a_larger_number_never_keeps_less(entries: list[Entry], policy: Policy, field: str) -> None:
    larger = replace(policy, **{field: getattr(policy, field) + 1})
    assert set(kept(plan(entries, policy))) <= set(kept(plan(entries, larger)))

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.checker import check
from failover.ledger.format import Kind, Op, Outcome
from failover.measure import (
    Measures,
    Observation,
    Outage,
    Stable,
    measure,
    outages,
    percentile,
    phases,
    psi_cpu_some_avg10,
    rpo,
    rto_first,
    series,
    stable_from,
)

FAULT_S = 100.0
PERIOD_S = 0.05
STABLE = Stable(window=timedelta(seconds=2))


def op(
    due_s: float,
    outcome: Outcome = Outcome.OK,
    took_s: float = 0.01,
    lag_s: float = 0.0,
    client: str = "c",
) -> Op:
    return Op(
        op_id=f"d-{client}-{due_s:.3f}",
        kind=Kind.ROW,
        client=client,
        seq=0,
        payload_sha256="00",
        intended_s=due_s,
        sent_s=due_s + lag_s,
        completed_s=due_s + lag_s + took_s,
        outcome=outcome,
        door="site-a",
    )


def run(
    down_from_s: float,
    down_to_s: float,
    *,
    begin_s: float = 80.0,
    end_s: float = 120.0,
    client: str = "c",
) -> list[Op]:
    """A steady service with one outage."""
    ops = []
    n = round((end_s - begin_s) / PERIOD_S)
    for i in range(n):
        due_s = begin_s + i * PERIOD_S
        down = down_from_s <= due_s < down_to_s
        ops.append(
            op(due_s, Outcome.INFO if down else Outcome.OK, 1.5 if down else 0.01, client=client)
        )
    return ops


def measured(ops: list[Op], **how: object) -> Measures:
    return measure(ops, fault_s=FAULT_S, stable=STABLE, **how)  # type: ignore[arg-type]


def s(value: timedelta | None) -> float:
    assert value is not None
    return value.total_seconds()


def test_rto_first_runs_from_the_last_good_answer_to_the_next() -> None:
    m = measured(run(100.0, 103.0))
    assert s(m.rto_first) == pytest.approx(3.0 + PERIOD_S)
    assert s(m.rto_stable) == pytest.approx(3.0)
    assert m.last_ok_before_s == pytest.approx(99.96)
    assert m.outage is not None
    assert m.outage.end_s == pytest.approx(103.01)
    assert m.ok_before == 20
    assert m.ok_after in (20, 21), "a second holds 20 periods, and both its ends"


def test_an_answer_that_was_on_its_way_does_not_end_the_outage() -> None:
    ops = [*run(100.0, 103.0), op(99.99, took_s=0.03, client="straggler")]
    m = measured(ops)
    assert s(m.rto_first) == pytest.approx(103.01 - 99.96)


def test_a_write_that_hung_through_the_outage_and_succeeded_is_an_outage_all_the_same() -> None:
    # The second try of an op can succeed: no write fails, and still nobody was served for 2 s.
    up = [op(80 + i * PERIOD_S) for i in range(400)]
    hung = [op(100 + i * PERIOD_S, took_s=2.0 - i * PERIOD_S + 0.01) for i in range(40)]
    after = [op(102 + i * PERIOD_S) for i in range(200)]
    m = measured([*up, *hung, *after])
    assert m.fail == m.info == 0
    assert s(m.rto_first) == pytest.approx(2.05, abs=0.02)
    assert s(m.rto_stable) == pytest.approx(1.5, abs=0.11), "from when they were fast enough again"


def test_no_outage_is_measured_as_the_usual_gap() -> None:
    m = measured(run(0, 0))
    assert m.outages == ()
    assert m.recovered
    assert s(m.rto_first) == pytest.approx(PERIOD_S)
    assert s(m.rto_stable) == pytest.approx(0.0)


def test_a_fault_that_bites_late_is_counted_from_where_it_bit_and_stable_from_the_fault() -> None:
    m = measured(run(105.0, 108.0))
    assert s(m.rto_first) == pytest.approx(3.0 + PERIOD_S)
    assert s(m.rto_stable) == pytest.approx(8.0)


def test_a_service_that_never_came_back_has_no_rto() -> None:
    m = measured(run(100.0, 999.0))
    assert m.rto_first is None
    assert m.rto_stable is None
    assert not m.recovered
    assert m.outage is not None
    assert m.outage.end_s is None
    assert m.outage.length_s == pytest.approx(20, abs=0.1)
    assert m.ok_after == 0


def test_a_service_that_flaps_is_told_by_its_longest_outage() -> None:
    ops = run(100.0, 101.0, end_s=101.5) + run(101.5, 104.5, begin_s=101.5)
    m = measured(ops)
    assert len(m.outages) == 2
    assert s(m.rto_first) == pytest.approx(3.0 + PERIOD_S)
    assert s(m.rto_stable) == pytest.approx(4.5)


def test_writes_after_the_fault_was_undone_are_left_out_when_asked() -> None:
    ops = run(100.0, 101.0, end_s=110.0) + run(110.0, 119.0, begin_s=110.0)
    assert s(measured(ops, until_s=109.9).rto_first) == pytest.approx(1.0 + PERIOD_S)


def test_a_client_that_stayed_away_is_the_worst_of_them() -> None:
    ops = [
        *run(100.0, 101.0, client="c1"),
        *run(100.0, 102.0, client="c2"),
        *run(100.0, 999.0, client="c3"),
    ]
    spread = measured(ops).per_client
    assert (spread.clients, spread.unrecovered) == (3, 1)
    assert s(spread.p50) == pytest.approx(2.0 + PERIOD_S)
    assert spread.max is None, "unknown, not the largest of the others"


def test_no_traffic_is_nothing_known() -> None:
    m = measured([])
    assert (m.rto_first, m.rto_stable, m.lag, m.offered_until_s) == (None, None, None, None)
    assert (m.ok_before, m.ok_after) == (0, 0)


def test_a_late_generator_is_seen() -> None:
    ops = [op(100 + i * PERIOD_S, lag_s=0.4 if i == 50 else 0.001) for i in range(200)]
    lag = measured(ops).lag
    assert lag is not None
    assert s(lag.max) == pytest.approx(0.4)
    assert s(lag.p99) == pytest.approx(0.001)


def test_phases_add_up_to_the_outage() -> None:
    seen = [
        Observation(t_s=103.0, what="promote"),
        Observation(t_s=101.0, what="detect"),
        Observation(t_s=102.0, what="fence"),
        Observation(t_s=102.5, what="detect"),  # again: does not count
        Observation(t_s=99.0, what="preflight"),
        Observation(t_s=110.0, what="rebuild"),  # after the clients were served
    ]
    cut = phases(seen, fault_s=FAULT_S, end_s=104.0)
    assert [p.what for p in cut] == ["detect", "fence", "promote", "app"]
    assert sum(s(p.took) for p in cut) == pytest.approx(4.0)
    assert all(a.begin_s + s(a.took) == pytest.approx(b.begin_s) for a, b in pairwise(cut))


def test_the_chart_has_each_second_once_without_holes() -> None:
    ops = [op(98.2), op(98.7, took_s=0.2), op(100.1, Outcome.FAIL), op(102.0, Outcome.INFO)]
    chart = series(ops, fault_s=FAULT_S)
    assert [(c.t_s, c.ok, c.fail, c.info) for c in chart] == [
        (-2, 2, 0, 0),
        (-1, 0, 0, 0),
        (0, 0, 1, 0),
        (1, 0, 0, 0),
        (2, 0, 0, 1),
    ]
    assert s(chart[0].latency_p50) == pytest.approx(0.01)
    assert s(chart[0].latency_p99) == pytest.approx(0.2)
    assert chart[2].latency_p99 is None


def test_latency_counts_the_wait_before_sending() -> None:
    chart = series([op(100.0, lag_s=0.5, took_s=0.01)], fault_s=FAULT_S)
    assert s(chart[0].latency_p50) == pytest.approx(0.51)


def lossy(gone: set[int], n: int = 10) -> tuple[list[Op], list[tuple[str, str, int]]]:
    ops = [op(90.0 + i, took_s=0.5) for i in range(n)]
    return ops, [(o.op_id, "00", 1) for i, o in enumerate(ops) if i not in gone]


def test_rpo_time_reaches_back_to_the_newest_write_before_which_all_survived() -> None:
    ops, rows = lossy({7, 9})
    found = check(ops, rows, None, prefix="d-")
    loss = rpo(found, measured([*ops, op(110.0)]))
    assert loss.writes == 2
    assert s(loss.time) == pytest.approx(99.5 - 96.5)  # write 8 survived, but 7 did not
    assert not loss.at_least


def test_nothing_lost_is_no_time_and_nothing_acknowledged_is_unknown() -> None:
    ops, rows = lossy(set())
    assert s(rpo(check(ops, rows, None, prefix="d-"), measured(ops)).time) == 0
    assert rpo(check([], [], None, prefix="d-"), measured([])).time is None


def test_everything_lost_is_a_lower_bound() -> None:
    ops, _ = lossy(set())
    loss = rpo(check(ops, [], None, prefix="d-"), measured(ops))
    assert loss.at_least
    assert s(loss.time) == pytest.approx(9.0)


def test_a_write_lost_after_the_outage_is_never_no_time() -> None:
    ops = run(100.0, 103.0)
    victim = next(o for o in ops if o.intended_s > 110)
    rows = [(o.op_id, "00", 1) for o in ops if o is not victim]
    loss = rpo(check(ops, rows, None, prefix="d-"), measured(ops))
    assert loss.writes == 1
    assert s(loss.time) > 0


def test_pressure_is_read_from_the_kernels_own_words() -> None:
    text = "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0 avg300=0 total=0\n"
    assert psi_cpu_some_avg10(text) == 12.34
    assert psi_cpu_some_avg10("") is None
    real = Path("/proc/pressure/cpu")
    assert not real.exists() or psi_cpu_some_avg10(real.read_text()) is not None


# -- against a model ---------------------------------------------------------------------------

_DONE = st.lists(st.integers(min_value=0, max_value=400), unique=True, max_size=60).map(
    lambda ticks: sorted(t / 2 for t in ticks)
)


@given(done=_DONE, fault=st.integers(min_value=0, max_value=200), tail=st.integers(0, 50))
def test_outages_hide_no_long_gap_and_invent_none(done: list[float], fault: int, tail: int) -> None:
    fault_s = float(fault)
    until_s = max([*done, fault_s]) + tail
    found = outages(done, fault_s=fault_s, until_s=until_s)
    for o in found:
        assert not [t for t in done if o.begin_s < t < (o.end_s or until_s + 1)]
        assert o.end_s is None or o.end_s > fault_s
    ends = {o.end_s for o in found}
    threshold = min((o.length_s for o in found), default=0)
    for begin_s, end_s in pairwise(done):
        if end_s > fault_s and end_s - begin_s > 150:
            assert end_s in ends
        if end_s > fault_s and found and end_s - begin_s > threshold:
            assert end_s in ends, "a longer gap than one that was told"
    assert sum(o.end_s is None for o in found) <= 1
    assert list(found) == sorted(found, key=lambda o: o.begin_s)


@given(done=_DONE, fault=st.integers(min_value=0, max_value=200), tail=st.integers(0, 50))
def test_rto_first_is_never_shorter_than_the_gap_over_the_fault(
    done: list[float], fault: int, tail: int
) -> None:
    fault_s = float(fault)
    until_s = max([*done, fault_s]) + tail
    took = rto_first(done, fault_s=fault_s, until_s=until_s)
    before = [t for t in done if t <= fault_s]
    after = [t for t in done if t > fault_s]
    if took is None:
        assert not before or not after or outages(done, fault_s=fault_s, until_s=until_s)
    else:
        assert before
        assert s(took) >= after[0] - before[-1] - 1e-9


_OPS = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=60),
        st.sampled_from(Outcome),
        st.sampled_from([0.1, 0.4, 0.6]),
    ),
    max_size=40,
).map(lambda all_: sorted((op(t / 4, o, d) for t, o, d in all_), key=lambda o: o.intended_s))


@given(ops=_OPS, from_s=st.integers(min_value=0, max_value=15).map(float))
def test_the_stable_window_is_the_first_that_a_slow_search_finds(
    ops: list[Op], from_s: float
) -> None:
    stable = Stable(window=timedelta(seconds=2), success=0.75)
    expected = None
    for first in ops:
        begin = first.intended_s
        inside = [o for o in ops if begin <= o.intended_s < begin + 2]
        took = sorted(o.completed_s - o.intended_s for o in inside if o.outcome is Outcome.OK)
        if (
            begin >= from_s
            and begin + 2 <= ops[-1].intended_s
            and took
            and len(took) >= 0.75 * len(inside)
            and percentile(took, 0.95) <= 0.5
        ):
            expected = begin
            break
    assert stable_from(ops, from_s=from_s, stable=stable) == expected


@given(values=st.lists(st.floats(0, 1e6), min_size=1), share=st.floats(0.001, 1.0))
def test_a_percentile_was_really_measured(values: list[float], share: float) -> None:
    values.sort()
    p = percentile(values, share)
    assert p in values
    assert sum(v <= p for v in values) >= share * len(values) - 1e-9


def test_an_outage_without_end_is_at_least_as_long_as_it_was_watched() -> None:
    assert Outage(begin_s=1.0, end_s=None, seen_until_s=5.0).length_s == 4.0

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.citizens import Ending, Outcome
from loadtest.guard import Door
from loadtest.histogram import Latencies, encode
from loadtest.plan import Plan
from loadtest.record import Recorder
from loadtest.results import Reader, SurgeResult, Tally, part, summarise
from loadtest.scenario import SurgeScenario
from loadtest.shapes import arrivals
from zaibei.kernel.errors import Damage

DOOR = Door(url="http://127.0.0.1:1", tls=False, host="127.0.0.1", port=1, address="127.0.0.1")


@pytest.fixture
def plan(scenario: Callable[..., SurgeScenario]) -> Plan:
    return scenario("/ok", rate=10, seconds=4).plan(doors=[DOOR], declared=(), ca_file=None, seed=1)


def _play(
    plan: Plan, path: Path, *, took_s: Callable[[int], float | None], until_s: float = math.inf
) -> None:
    """What an engine would have written; `took_s` None: never served."""
    recorder = Recorder(path)
    recorder.ready(scenario=plan.scenario, seed=plan.seed, worker=plan.worker, of=plan.of)
    for a in arrivals(plan.shape, plan.spacing, seed=plan.seed, worker=plan.worker, of=plan.of):
        if a.at_s >= until_s:
            break
        took = took_s(a.index)
        recorder.arrived(a.at_s)
        recorder.sent(lag_s=0.0001, again=False)
        outcome = Outcome.ERROR if took is None else Outcome.OK
        recorder.request(
            intended_s=a.at_s, step="ask", outcome=outcome, took_s=took or 1, reason="ask: 500"
        )
        recorder.citizen(
            intended_s=a.at_s,
            ending=Ending.FAILED if took is None else Ending.OK,
            took_s=took or 1,
        )
        recorder.second(at_s=a.at_s, in_flight=0, cpu_s=0.001)
    if until_s == math.inf:
        recorder.end(reason="finished", at_s=plan.shape.duration_s, unfinished=0)
    recorder.close()


def _tally(path: Path) -> Tally:
    tally = Tally()
    for line in Reader(path).lines():
        tally.take(line)
    return tally


def _result(plan: Plan, folder: Path, **how: Callable[[int], float | None]) -> SurgeResult:
    tallies = []
    for worker in range(plan.of):
        path = folder / f"results-{worker}.jsonl"
        _play(plan.slice(worker), path, took_s=how["took_s"])
        tallies.append(_tally(path))
    return summarise(plan, tallies)


def test_a_calm_run_is_valid_and_adds_up(plan: Plan, tmp_path: Path) -> None:
    result = _result(plan, tmp_path, took_s=lambda i: 0.020)

    assert result.generator_verdict.valid, result.generator_verdict.reasons
    assert (result.offered, result.sent, result.ok) == (40, 40, 40)
    assert [s.offered for s in result.series] == [10, 10, 10, 10]
    assert [s.served for s in result.series] == [10, 10, 10, 10]
    assert result.p99 is not None
    assert abs(result.p99 - timedelta(milliseconds=20)) < timedelta(microseconds=30)
    assert result.amplification == 1
    assert result.longest_silence == timedelta(0)


def test_a_part_of_a_surge_is_added_up_from_its_seconds_alone(plan: Plan, tmp_path: Path) -> None:
    result = _result(plan, tmp_path, took_s=lambda i: None if 10 <= i < 20 else 0.020)
    whole, outside = part(result), part(result, without=range(1, 2))

    assert (whole.offered, whole.ok, whole.gave_up) == (40, 30, 10)
    assert whole.p99 is None
    assert (outside.offered, outside.ok, outside.gave_up) == (30, 30, 0)
    assert outside.p99 is not None
    assert outside.answer_p99 is not None
    assert outside.success_ratio == 1
    assert (whole.p50, whole.p99, whole.success_ratio, whole.longest_silence) == (
        result.p50,
        result.p99,
        result.success_ratio,
        result.longest_silence,
    )
    assert part(result, without=range(4)).success_ratio is None, "nobody came: unknown, never 0"


def test_workers_merge_to_exactly_what_one_would_have_measured(plan: Plan, tmp_path: Path) -> None:
    def took_s(index: int) -> float:
        return 0.001 * (1 + index * 7 % 40)

    one, three = tmp_path / "one", tmp_path / "three"
    one.mkdir()
    three.mkdir()
    alone = _result(plan, one, took_s=took_s)
    together = _result(replace(plan, of=3), three, took_s=took_s)

    assert replace(together, generator_cpu=None) == replace(alone, generator_cpu=None)


def test_a_lost_worker_is_a_known_missing_slice_and_not_a_smaller_load(
    plan: Plan, tmp_path: Path
) -> None:
    plan = replace(plan, of=2)
    for worker, until_s in ((0, math.inf), (1, 2.0)):
        _play(
            plan.slice(worker),
            tmp_path / f"{worker}.jsonl",
            took_s=lambda i: 0.020,
            until_s=until_s,
        )
    result = summarise(plan, [_tally(tmp_path / f"{w}.jsonl") for w in (0, 1)])

    assert result.offered == 40
    assert result.ok == 30
    assert result.unfinished == 10
    assert not result.generator_verdict.valid
    assert "worker 2 of 2: died without a word" in result.generator_verdict.reasons
    assert "30 of 40 intended arrivals were sent (75.00%)" in result.generator_verdict.reasons


def test_a_worker_that_wrote_nothing_counts_as_missing(plan: Plan, tmp_path: Path) -> None:
    result = summarise(plan, [_tally(tmp_path / "not-there")])

    assert result.offered == result.unfinished == 40
    assert result.success_ratio == 0
    assert result.p50 is None
    assert not result.generator_verdict.valid


def test_people_who_were_never_served_are_later_than_any_percentile(
    plan: Plan, tmp_path: Path
) -> None:
    result = _result(plan, tmp_path, took_s=lambda i: None if i in (5, 25) else 0.020)

    assert result.p50 is not None
    assert result.p99 is None  # 2 of 40 never came through: the 40th has no time
    assert result.failed == 2
    assert result.series[0].p99 is None
    assert result.series[1].p99 is not None
    assert result.reasons == {"ask: 500": 2}


def test_a_silence_is_seconds_in_which_people_came_and_nobody_was_served(
    plan: Plan, tmp_path: Path
) -> None:
    result = _result(plan, tmp_path, took_s=lambda i: None if 10 <= i < 30 else 0.020)

    assert [s.served for s in result.series] == [10, 0, 0, 10]
    assert result.longest_silence == timedelta(seconds=2)


def test_a_torn_last_line_is_a_process_that_died_and_is_left_out(
    plan: Plan, tmp_path: Path
) -> None:
    path = tmp_path / "results.jsonl"
    _play(plan, path, took_s=lambda i: 0.020)
    raw = path.read_bytes()
    path.write_bytes(raw[:-5])
    tally = _tally(path)

    assert tally.ended is None
    assert tally.arrived.total() == 40


def test_a_broken_line_inside_is_damage_not_silence(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    _play(plan, path, took_s=lambda i: 0.020)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], lines[5][:20] + b"\n", *lines[6:]]))

    with pytest.raises(Damage, match="not a line of results"):
        _tally(path)


def test_a_reader_gives_each_line_once_while_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    reader = Reader(path)
    assert list(reader.lines()) == []
    path.write_bytes(b'{"kind":"a"}\n{"ki')
    assert [line["kind"] for line in reader.lines()] == ["a"]
    with path.open("ab") as more:
        more.write(b'nd":"b"}\n')
    assert [line["kind"] for line in reader.lines()] == ["b"]
    assert list(reader.lines()) == []


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 700_000_000), max_size=30), min_size=1, max_size=5))
def test_adding_histograms_is_the_histogram_of_all(parts: list[list[int]]) -> None:
    merged, whole = Latencies(), Latencies()
    for some in parts:
        assert merged.add(encode(some)) == len(some)
    whole.add(encode([v for some in parts for v in some]))

    assert merged.count == whole.count
    for percent in (1, 50, 99, 99.9, 100):
        assert merged.percentile(percent) == whole.percentile(percent)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 500_000_000), min_size=1, max_size=200),
    st.integers(0, 50),
    st.sampled_from([50, 90, 99, 99.9, 100]),
)
def test_a_percentile_is_the_nearest_rank_to_three_digits(
    values_us: list[int], never: int, percent: float
) -> None:
    latencies = Latencies()
    latencies.add(encode(values_us))
    rank = max(1, math.ceil(round((len(values_us) + never) * percent / 100, 6)))
    found = latencies.percentile(percent, never=never)

    if rank > len(values_us):
        assert found is None
    else:
        truth_us = sorted(values_us)[rank - 1]
        assert found is not None
        assert found / timedelta(microseconds=1) == pytest.approx(truth_us, rel=1e-3, abs=1)


@pytest.mark.parametrize("junk", ["", "####", "AAAA", "HISTFAAAAA=="])
def test_what_is_not_a_histogram_is_damage(junk: str) -> None:
    with pytest.raises(Damage):
        Latencies().add(junk)

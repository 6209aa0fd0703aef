from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.verdict import (
    Clause,
    Expectation,
    GeneratorVerdict,
    SelfCheck,
    Validity,
    Verdict,
    clauses,
    judge,
    judge_generator,
    undeniable_harm,
)

MS = timedelta(milliseconds=1)


def _check(**bent: object) -> SelfCheck:
    good: dict[str, object] = {
        "intended": 1000,
        "first_sent": 1000,
        "dropped": 0,
        "withheld": 0,
        "lag_p99": MS,
        "lag_p99_max": 10 * MS,
        "cpu": 0.1,
        "endings": ("finished", "stopped"),
    }
    return SelfCheck(**(good | bent))  # type: ignore[arg-type]


def test_a_generator_that_did_what_it_was_asked_is_valid() -> None:
    assert judge_generator(_check()).valid
    assert judge_generator(_check(first_sent=999)).valid  # 99.9 %


def test_each_way_of_measuring_less_than_asked_is_named() -> None:
    for bent, said in (
        ({"first_sent": 998}, "998 of 1000 intended arrivals were sent"),
        ({"dropped": 1}, "no room in the generator for 1 citizens"),
        ({"withheld": 3}, "3 requests were withheld"),
        ({"lag_p99": 11 * MS}, "requests left 11 ms late at p99, bound 10 ms"),
        ({"cpu": 0.95}, "the generator used 95% of its core"),
        ({"endings": ("finished", None)}, "worker 2 of 2: died without a word"),
        ({"endings": ("controller-lost",)}, "worker 1 of 1: controller-lost"),
        ({"intended": 0, "first_sent": 0}, "nothing was measured"),
    ):
        verdict = judge_generator(_check(**bent))
        assert verdict.word is Validity.INVALID
        assert len(verdict.reasons) == 1
        assert said in verdict.reasons[0]


def _found(expect: Expectation, **bent: object) -> tuple[Clause, ...]:
    got: dict[str, object] = {
        "success_ratio": 0.995,
        "p50": 20 * MS,
        "p99": 800 * MS,
        "longest_silence": timedelta(seconds=3),
        "amplification": 1.2,
    }
    return clauses(expect, **(got | bent))  # type: ignore[arg-type]


WANTED = Expectation(
    success_ratio_min=0.99,
    p50_max=50 * MS,
    p99_max=1000 * MS,
    longest_silence_max=timedelta(seconds=5),
    amplification_max=1.5,
)
VALID = GeneratorVerdict(word=Validity.VALID, reasons=())
BAD = GeneratorVerdict(word=Validity.INVALID, reasons=("late",))


def test_all_that_was_claimed_must_hold() -> None:
    assert judge(VALID, _found(WANTED)) is Verdict.PASS
    for bent in (
        {"success_ratio": 0.98},
        {"p50": 51 * MS},
        {"p99": 1001 * MS},
        {"longest_silence": timedelta(seconds=6)},
        {"amplification": 1.6},
    ):
        found = _found(WANTED, **bent)
        assert judge(VALID, found) is Verdict.FAIL
        assert [c.what for c in found if not c.holds] == [next(iter(bent)).removesuffix("_max")]


def test_what_is_not_known_does_not_hold() -> None:
    for bent in ({"success_ratio": None}, {"p50": None}, {"p99": None}, {"amplification": None}):
        assert judge(VALID, _found(WANTED, **bent)) is Verdict.FAIL


def test_a_claim_of_nothing_is_no_pass() -> None:
    assert judge(VALID, _found(Expectation())) is Verdict.INVALID


@settings(deadline=None)
@given(
    st.floats(0, 1),
    st.timedeltas(timedelta(0), timedelta(seconds=60)),
)
def test_an_invalid_generator_never_passes_and_never_fails_a_service(
    ratio: float, p99: timedelta
) -> None:
    assert judge(BAD, _found(WANTED, success_ratio=ratio, p99=p99)) is Verdict.INVALID


def _harm(expect: Expectation = WANTED, **bent: object) -> str | None:
    told: dict[str, object] = {
        "offered": 1000,
        "gave_up": 1000,
        "lag_p99": 12 * MS,
        "refresh_after": timedelta(seconds=2),
    }
    return undeniable_harm(expect, **(told | bent))  # type: ignore[arg-type]


def test_a_service_that_served_nobody_fails_though_the_generator_was_12_ms_late() -> None:
    harm = _harm()

    assert harm is not None
    assert "1000 of 1000 citizens (100.0%) asked and were never served" in harm
    assert judge(BAD, _found(WANTED, success_ratio=0.0, p99=None), harm=harm) is Verdict.FAIL


def test_harm_is_undeniable_only_beyond_all_that_the_generator_may_have_made() -> None:
    assert _harm(gave_up=21), "2.1 % gave up, 1 % may be the lag's, 99 % were promised"
    assert _harm(gave_up=20) is None
    assert _harm(gave_up=0) is None
    assert _harm(lag_p99=timedelta(seconds=2)) is None, "as late as a citizen waits"
    assert _harm(lag_p99=None) is None
    only_p50 = Expectation(p50_max=50 * MS)
    assert _harm(only_p50, gave_up=400) is None
    assert _harm(only_p50, gave_up=600)
    assert _harm(Expectation(amplification_max=2), gave_up=1000), "nobody at all was served"


def test_those_whom_the_generator_never_sent_are_no_harm_of_the_service() -> None:
    assert _harm(offered=9000, gave_up=0) is None
    assert judge(BAD, _found(WANTED, success_ratio=0.1), harm=_harm(gave_up=0)) is Verdict.INVALID


@settings(deadline=None)
@given(
    offered=st.integers(1, 10_000),
    gave_up=st.integers(0, 10_000),
    promised=st.floats(0, 1),
    lag=st.timedeltas(timedelta(0), timedelta(seconds=5)),
)
def test_harm_is_never_claimed_of_a_service_that_kept_its_promise(
    offered: int, gave_up: int, promised: float, lag: timedelta
) -> None:
    gave_up = min(gave_up, offered)
    expect = Expectation(success_ratio_min=promised)
    if _harm(expect, offered=offered, gave_up=gave_up, lag_p99=lag):
        assert gave_up == offered or 1 - gave_up / offered < promised

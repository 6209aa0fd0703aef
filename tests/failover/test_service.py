"""A drill's verdict over its citizens: what was declared is judged, and what was not served is named."""

import copy
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from failover import scenario, service
from failover.required import required
from failover.verdict import Ruling
from tests.failover import drills
from zaibei.kernel.bilingual import Bilingual, joined
from zaibei.kernel.errors import Usage

CHINESE = re.compile(r"[㐀-鿿]")


def check(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(c for c in told["checks"] if c["name"] == name)


def test_an_outage_within_the_objective_can_pass_and_its_unserved_citizens_are_named(
    tmp_path: Path,
) -> None:
    verdict, told = drills.told(drills.run(tmp_path))

    assert verdict.ruling is Ruling.PASS, verdict.reasons
    surge = told["surge"]
    assert surge["unserved"] == surge["offered"] - surge["ok"] > 500
    said = told["summary"][0]
    assert f"{surge['unserved']} of {surge['offered']} citizens" in said["en"]
    assert f"{surge['offered']} 人中有 {surge['unserved']} 人" in said["zh"]
    away = surge["judged"]["outage"]
    assert away["unserved"] == surge["unserved"]
    assert away["until_s"] <= 28.0, (
        "excused until the ledger saw it stable, not for the whole objective"
    )
    assert check(told, "surge-expectation")["passed"] is True
    assert check(told, "service-slo")["passed"] is True


def test_one_unserved_citizen_of_thousands_is_not_told_as_none(tmp_path: Path) -> None:
    came: list[float] = []

    def all_but_one(at_s: float) -> float | None:
        came.append(at_s)
        return None if len(came) == 100 else 0.03

    verdict, told = drills.told(drills.run(tmp_path, served=all_but_one, length_s=1.0))

    assert verdict.ruling is Ruling.PASS, verdict.reasons
    assert re.match(
        r"1 of \d+ citizens \(< 0\.1 %\) were never served; none of them", told["summary"][0]["en"]
    )


@pytest.mark.attack
def test_without_the_excuse_thirty_percent_unserved_are_no_pass(tmp_path: Path) -> None:
    made = drills.run(tmp_path, traffic={"outage": "judged"})
    verdict, told = drills.told(made)

    assert verdict.ruling is Ruling.FAIL
    assert any(r.startswith("surge-expectation: all ") for r in verdict.reasons)
    assert any(r.startswith("service-slo: health-code, all ") for r in verdict.reasons)
    assert "p99 of the time until served never" in check(told, "surge-expectation")["detail"]
    assert "从未得到服务" in check(told, "surge-expectation")["detail_i18n"]["zh"]


def test_a_scenario_that_says_nothing_about_the_outage_is_judged_over_everybody() -> None:
    bundled = scenario.load("site-power-loss").traffic
    assert bundled.outage == "excused"
    assert (
        scenario.TrafficSpec(rows_per_s=1, objects_per_s=0, steady="1s", after="1s").outage
        == "judged"
    )  # type: ignore[arg-type]


def _every_third_never(at_s: float) -> float | None:
    return None if int(at_s * 100) % 3 == 0 else 0.03


def test_citizens_unserved_outside_the_outage_fail_the_drill(tmp_path: Path) -> None:
    verdict, told = drills.told(drills.run(tmp_path, served=_every_third_never))

    assert verdict.ruling is Ruling.FAIL
    assert "before or after it" in told["summary"][0]["en"]
    assert told["surge"]["judged"]["unserved"] > 300


@pytest.mark.attack
def test_harm_that_lag_cannot_make_is_fail_although_the_generator_was_late(tmp_path: Path) -> None:
    late = drills.run(tmp_path, served=_every_third_never, lag_s=0.4)
    verdict, told = drills.told(late)

    assert told["surge"]["verdict"] == "INVALID"
    assert verdict.ruling is Ruling.FAIL
    assert verdict.reasons[0].startswith(("surge-expectation", "service-slo"))
    assert any(r.startswith("surge-generator") for r in verdict.reasons), "the doubt is still named"


def test_failures_that_a_generator_seconds_late_may_have_made_are_invalid(tmp_path: Path) -> None:
    verdict, _ = drills.told(drills.run(tmp_path, served=_every_third_never, lag_s=4.0))

    assert verdict.ruling is Ruling.INVALID


def test_slow_service_on_an_overloaded_host_is_not_blamed_on_the_service(tmp_path: Path) -> None:
    def slow(at_s: float) -> float:
        return 12.0

    verdict, _ = drills.told(drills.run(tmp_path / "calm", served=slow))
    assert verdict.ruling is Ruling.FAIL
    verdict, _ = drills.told(drills.run(tmp_path / "busy", served=slow, cpu=97.0))
    assert verdict.ruling is Ruling.INVALID
    assert any(r.startswith("surge-expectation") for r in verdict.reasons)


def test_a_service_objective_that_is_tighter_than_the_surge_is_judged_by_itself(
    tmp_path: Path,
) -> None:
    def one_in_a_hundred_before_the_fault(at_s: float) -> float | None:
        came.append(at_s)
        return None if at_s < 0 and len(came) % 100 == 0 else drills.outage(27.0)(at_s)

    came: list[float] = []
    verdict, told = drills.told(drills.run(tmp_path, served=one_in_a_hundred_before_the_fault))

    assert check(told, "surge-expectation")["passed"] is True
    assert check(told, "service-slo")["passed"] is False
    assert verdict.ruling is Ruling.FAIL


def test_a_declared_objective_decides_and_not_a_number_in_the_code(tmp_path: Path) -> None:
    strict = drills.stack(tmp_path, ("slo_latency: 1s", "slo_latency: 20ms"))
    verdict, told = drills.told(drills.run(tmp_path, declared=strict))

    assert verdict.ruling is Ruling.FAIL
    assert "p99 of good answers" in check(told, "service-slo")["detail"]
    assert check(told, "surge-expectation")["passed"] is True


def test_the_excuse_ends_with_the_objective_when_the_service_stays_away(tmp_path: Path) -> None:
    short = drills.stack(tmp_path, ("rto: 60s  # 租约", "rto: 35s  # 租约"))
    verdict, told = drills.told(drills.run(tmp_path, declared=short, length_s=48.0))

    assert verdict.ruling is Ruling.FAIL
    assert told["surge"]["judged"]["outage"]["until_s"] <= 36.0
    assert told["surge"]["judged"]["unserved"] > 100


def test_nobody_after_the_outage_is_no_measurement_of_the_service(tmp_path: Path) -> None:
    made = drills.run(tmp_path)
    made.surge = drills.crowd(tmp_path, drills.outage(27.0), until_s=drills.FAULT_S + 20.0)
    verdict, told = drills.told(made)

    assert verdict.ruling is Ruling.INVALID
    assert "0 citizens came after the outage" in check(told, "service-slo")["detail"]


@pytest.mark.attack
def test_a_required_check_that_was_not_made_is_no_pass(tmp_path: Path) -> None:
    made = drills.run(tmp_path)
    made.surge = None
    verdict, told = drills.told(made)

    assert verdict.ruling is Ruling.INVALID
    assert {"surge-expectation", "service-slo"} <= set(told["required"])
    assert "service-slo: did not run" in verdict.reasons


def test_a_drill_that_was_not_judged_still_says_who_was_not_served(tmp_path: Path) -> None:
    made = drills.run(tmp_path)
    made.measures = None
    verdict, told = drills.told(made)

    assert verdict.ruling is Ruling.INVALID
    assert re.search(
        r"\d+ of \d+ citizens \(\d+\.\d %\) were never served", told["summary"][0]["en"]
    )


@pytest.mark.attack
def test_a_scenario_cannot_thin_the_required_checks(tmp_path: Path) -> None:
    declared = drills.stack(tmp_path)
    chosen = scenario.load("primary-crash")
    needed = set(required(chosen, declared))
    with pytest.raises(Usage, match="required"):
        scenario.parse("required: [takeover]", where="mine.yml")
    bare = chosen.model_copy(update={"traffic": chosen.traffic.model_copy(update={"surge": None})})
    assert needed - set(required(bare, declared)) == {
        "surge-generator",
        "surge-expectation",
        "service-slo",
    }


def test_whose_objective_a_surge_is_held_to_is_never_guessed(tmp_path: Path) -> None:
    declared = drills.stack(tmp_path)
    chosen = scenario.load("site-power-loss")
    other = replace(declared.services[0], name="booking")
    two = replace(declared, services=(*declared.services, other))

    with pytest.raises(Usage, match="several services"):
        required(chosen, two)
    named = chosen.model_copy(
        update={"traffic": chosen.traffic.model_copy(update={"service": "booking"})}
    )
    assert "service-slo" in required(named, two)
    with pytest.raises(Usage, match="declares no service booking"):
        required(named, declared)
    none = replace(declared, services=())
    assert "service-slo" not in required(chosen, none)
    assert "surge-expectation" in required(chosen, none)


def test_what_was_not_judged_is_listed(tmp_path: Path) -> None:
    bare = drills.run(tmp_path, traffic={"surge": None})
    verdict, told = drills.told(bare)

    assert verdict.ruling is Ruling.PASS
    assert told["surge"] is None
    said = "\n".join(told["not_measured"])
    for what in (
        "objective of service health-code (99.9 % served, p99 1 s)",
        "degraded operation (doo) that the stack declares for H1",
        "loss of a whole city",
        "synchronous_commit",
        "clocks",
        "approve",
        "population",
    ):
        assert what in said


def _pairs(found: Any) -> Iterator[dict[str, str]]:
    if isinstance(found, dict):
        if found.keys() == {"zh", "en"}:
            yield found
            return
        for value in found.values():
            yield from _pairs(value)
    elif isinstance(found, list):
        for value in found:
            yield from _pairs(value)


@pytest.mark.parametrize("how", ["passes", "fails", "is doubtful"])
def test_every_text_of_an_outcome_is_whole_in_both_languages(tmp_path: Path, how: str) -> None:
    made = drills.run(
        tmp_path,
        length_s=27.0 if how == "passes" else 40.0,
        lag_s=0.4 if how == "is doubtful" else 0.004,
        cpu=95.0 if how == "is doubtful" else 20.0,
        served=None if how == "passes" else _every_third_never,
    )
    if how != "passes":
        made.returned = made.restored = None
        made.findings = replace(
            made.findings, rows=replace(made.findings.rows, lost=3, phantoms=2, duplicates=1)
        )  # type: ignore[type-var,union-attr]
    _, told = drills.told(made)

    found = list(_pairs(told))
    assert len(found) > 40
    for text in found:
        assert not CHINESE.search(text["en"]), text
        assert CHINESE.search(text["zh"]), text
        assert not re.search(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}", text["zh"]), text
    assert len(told["reasons_i18n"]) == len(told["reasons"])
    assert [t["en"] for t in told["reasons_i18n"]] == told["reasons"]
    assert [t["en"] for t in told["not_measured_i18n"]] == told["not_measured"]


def test_a_bilingual_text_is_its_english_and_joins_each_language_by_itself() -> None:
    one = Bilingual("one", "一")
    assert one == "one"
    both = joined([one, Bilingual("two", "二")])
    assert (str(both), both.zh) == ("one; two", "一；二")
    assert copy.deepcopy(one).zh == pickle.loads(pickle.dumps(one)).zh == "一"
    assert "程序原文" in joined(["FATAL: no room"]).zh


def test_the_outage_that_is_excused_begins_with_the_first_effect_of_the_fault(
    tmp_path: Path,
) -> None:
    made = drills.run(tmp_path)
    assert made.surge is not None
    found = service.window(
        made.surge,
        fault_s=drills.FAULT_S,
        begun_s=drills.FAULT_S - 3.0,
        stable=timedelta(seconds=5),
        objective=made.objective,
    )
    assert found.from_s == -4.0
    assert found.until_s == 5.0

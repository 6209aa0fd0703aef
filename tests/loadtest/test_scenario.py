import json
from datetime import timedelta
from pathlib import Path

import pytest

from loadtest import plan as plans
from loadtest.guard import Door
from loadtest.scenario import LIBRARY, BadScenario, library, load, parse

TEXT = (LIBRARY / "policy-step.yml").read_text()
DOOR = Door(url="http://127.0.0.1:1", tls=False, host="127.0.0.1", port=1, address="127.0.0.1")


def test_every_scenario_of_the_library_bears_the_name_of_its_file() -> None:
    assert [s.name for s in library()] == sorted(p.stem for p in LIBRARY.glob("*.yml"))
    assert {"surge-during-failover", "policy-step"} <= {s.name for s in library()}


def test_the_crowd_of_the_failover_drill_is_one_that_two_cores_can_carry() -> None:
    scenario = load("surge-during-failover")

    assert 30 <= scenario.shape.shape().peak_rps <= 60
    assert scenario.hazard == "H1"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hazard: H2", "hazard: H9", "hazard"),
        ("spacing: poisson", "spacng: poisson", "spacng: Extra inputs"),
        ("before: 20s", "before: 20", "with its unit"),
        ("before: 20s", "before: 0s", "greater than"),
        ("factor: 10", "factor: 100", "above the cap"),
        ("arrivals_rps: 200", "arrivals_rps: 200000", "is above 3000"),
        ("in_flight: 2000", "in_flight: 99999", "is above 4000"),
        ('pattern: "p{index:09d}"', "pattern: P", "one name"),
        ('pattern: "p{index:09d}"', 'pattern: "{who}"', "pattern"),
        # Format codes that reach into the number, or are as wide as it is: a crash, and megabytes a person.
        ('pattern: "p{index:09d}"', 'pattern: "{index.foo}"', "pattern"),
        ('pattern: "p{index:09d}"', 'pattern: "{index[0]}"', "pattern"),
        ('pattern: "p{index:09d}"', 'pattern: "{index:{index}}"', "pattern"),
        ('pattern: "p{index:09d}"', 'pattern: "{index:c}"', "pattern"),
        ("/code/me?person={person}", "http://192.0.2.1/", "path"),
        ("/code/me?person={person}", "/code/me HTTP/1.1", "path"),
        ("name: policy-step", "name: ../escape", "name"),
    ],
)
def test_a_scenario_that_cannot_be_meant_is_refused_with_its_place(
    old: str, new: str, said: str
) -> None:
    assert old in TEXT
    with pytest.raises(BadScenario, match=said) as refused:
        parse(TEXT.replace(old, new), origin="mine.yml")
    assert refused.value.exit_code == 2
    assert refused.value.message.startswith("mine.yml: ")


def test_a_scenario_that_claims_nothing_is_refused() -> None:
    start, end = TEXT.index("expect:"), TEXT.index("caps:")
    with pytest.raises(BadScenario, match="claims nothing"):
        parse(TEXT[:start] + "expect: {}\n" + TEXT[end:], origin="mine.yml")


def test_what_is_not_yaml_is_told_as_such() -> None:
    with pytest.raises(BadScenario, match="not YAML"):
        parse("a: [", origin="mine.yml")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadScenario) as refused:
        load("sunshine")
    assert "surge-during-failover" in refused.value.hints[0]


def test_a_longer_telling_than_the_cap_is_refused() -> None:
    with pytest.raises(BadScenario, match="longer than the cap"):
        load("policy-step").lasting(timedelta(hours=1))


def test_a_plan_read_back_is_the_plan(tmp_path: Path) -> None:
    for scenario in library():
        plan = scenario.plan(
            doors=[DOOR],
            declared=["10.77.0.11"],
            ca_file=Path("/ca.crt"),
            seed=7,
            workers=2,
            session_key=Path("/k"),
        )
        path = tmp_path / f"{scenario.name}.json"
        path.write_text(plan.slice(1).to_json())

        assert plans.load(path) == plan.slice(1)
        assert json.loads(plan.to_json())["doors"][0]["address"] == "127.0.0.1"

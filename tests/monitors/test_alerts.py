"""The chain alert → runbook → drill → date, and the rules themselves, followed link by link."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from failover import scenario
from infra.faults.model import Kind
from monitors.metrics import BY_NAME, METRICS, Metric, Where, reference
from monitors.rules import Rule, all_rules, evaluate, firing, metrics_named
from zaibei.evidence.pass_rules import REQUIRED
from zaibei.kernel.errors import Missing, Usage
from zaibei.kernel.process import run

ALERTS = Path(str(files("monitors"))) / "alerts"
LIBRARY = Path(str(files("runbooks"))) / "library"
DASHBOARDS = Path(str(files("monitors"))) / "dashboards"
TEMPLATE = Path(str(files("zaibei.config"))) / "templates" / "two-places-three-centres.yaml"
REPOSITORY = Path(__file__).parents[2]
_SCRAPED = {frozenset({("job", "zaibei")}): 1.0}
_GRAVITY = ("info", "warning", "critical")
_yaml = YAML(typ="safe")


def _promtool(*args: str) -> str:
    try:
        return run(["promtool", *args], cwd=ALERTS)
    except Missing as gone:
        raise AssertionError("promtool is not here: apt-get install prometheus") from gone


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert "rules found" in _promtool(
        "check", "rules", *(f.name for f in ALERTS.glob("*.rules.yml"))
    )


def test_every_alert_fires_and_is_quiet_as_promtool_sees_it() -> None:
    tests = sorted(f.name for f in ALERTS.glob("*.test.yml"))
    assert [t.replace(".test.", ".rules.") for t in tests] == sorted(
        f.name for f in ALERTS.glob("*.rules.yml")
    ), "each rules file has its tests beside it"
    assert "FAILED" not in _promtool("test", "rules", *tests)


def _cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(ALERTS.glob("*.test.yml")):
        for case in _yaml.load(file.read_text())["tests"]:
            for expected in case["alert_rule_test"]:
                yield (
                    expected["alertname"],
                    {
                        "series": case["input_series"],
                        "labels": [a["exp_labels"] for a in expected["exp_alerts"]],
                    },
                )


@pytest.mark.parametrize("rule", all_rules(), ids=lambda r: r.alert)
def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not(rule: Rule) -> None:
    mine = [case for alert, case in _cases() if alert == rule.alert]
    assert any(case["labels"] for case in mine)
    assert any(not case["labels"] for case in mine)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda r: r.alert)
def test_the_check_of_the_command_line_agrees_with_promtool(rule: Rule) -> None:
    of_name = [r for r in all_rules() if r.alert == rule.alert]
    for alert, case in _cases():
        # What changes in the course of a case is a question of `for:`, which a check at one moment has not.
        if alert != rule.alert or any(" " in one["values"] for one in case["series"]):
            continue
        seen: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for one in case["series"]:
            name, _, inside = one["series"].partition("{")
            labels = frozenset(re.findall(r'(\w+)="([^"]*)"', inside))
            seen.setdefault(name, {})[labels] = float(re.match(r"-?[\d.]+", one["values"])[0])
        told = [
            {"severity": f.severity, **f.labels} | ({"drill": "yes"} if f.drill else {})
            for one in of_name
            for f in firing(one, seen)
        ]
        assert told == case["labels"], (rule.alert, case)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda r: r.alert)
def test_every_alert_names_a_runbook_that_exists(rule: Rule) -> None:
    assert (LIBRARY / rule.runbook).is_file(), rule.runbook


@pytest.mark.parametrize("rule", all_rules(), ids=lambda r: r.alert)
def test_every_alert_speaks_both_languages_and_names_declared_metrics(rule: Rule) -> None:
    for texts in (rule.summary, rule.description):
        assert re.search(r"[\u4e00-\u9fff]", texts["zh"])
        assert not re.search(r"[\u4e00-\u9fff]", texts["en"])
    assert rule.severity in _GRAVITY
    assert metrics_named(rule.expr)
    assert metrics_named(rule.expr) <= BY_NAME.keys()


@pytest.mark.parametrize("metric", [m for m in METRICS if m.probe], ids=lambda m: m.name)
def test_a_silent_probe_is_as_grave_as_the_alert_that_it_hides(metric: Metric) -> None:
    hidden = [r for r in all_rules() if metric.name in metrics_named(r.expr)]
    where, up = metric.where, "zaibei_probe_up"
    if where is Where.SITE:
        up = "zaibei_local_probe_up"
    probe = metric.probe.replace(".*", "x")
    labels = frozenset({("probe", probe), ("site", "site-b")})
    told = [f for r in all_rules() for f in firing(r, {up: {labels: 0.0}, "up": _SCRAPED})]
    assert len(told) == 1, "one alert says that the probe is silent"
    gravest = max((_GRAVITY.index(r.severity) for r in hidden), default=0)
    assert _GRAVITY.index(told[0].severity) >= gravest, [r.alert for r in hidden]


def test_every_alert_is_told_apart_while_a_drill_runs() -> None:
    for file in sorted(ALERTS.glob("*.rules.yml")):
        for rule in _yaml.load(file.read_text())["groups"][0]["rules"]:
            marked = """{{ if query "zaibei_drill_in_progress == 1" }}yes{{ end }}"""
            assert rule["labels"]["drill"] == marked, rule["alert"]


def _drills() -> dict[str, str]:
    return {f.stem: _yaml.load(f.read_text())["drill"] for f in sorted(LIBRARY.glob("*.yml"))}


def test_every_runbook_names_a_drill_that_exists_and_every_drill_has_a_date() -> None:
    calendar = {e["scenario"] for e in _yaml.load(TEMPLATE.read_text())["calendar"]}
    assert _drills()
    assert set(_drills().values()) <= set(scenario.names()) == calendar


# What a drill must do to rehearse the runbook: its fault, or what its verdict demands to have been shown.
REHEARSED = [
    ("check-backup", set(Kind), "backup-committed"),
    ("check-site", {Kind.PARTITION, Kind.POWER_LOSS}, None),
    ("fail-back", {Kind.PARTITION, Kind.POWER_LOSS, Kind.FREEZE}, "failback"),
    ("fence-site", {Kind.PARTITION, Kind.FREEZE}, "takeover"),
    ("find-writer", set(Kind), "takeover"),
    ("free-disk", {Kind.KILL}, None),
    ("renew-certificates", {Kind.KILL}, None),
    ("reseed-store", {Kind.PARTITION, Kind.POWER_LOSS, Kind.FREEZE}, "objects-converged"),
    ("restore-database", set(Kind), "restore-verified"),
    ("restore-replication", {Kind.PARTITION, Kind.POWER_LOSS}, "replicas-agree"),
    ("run-drill", set(Kind), None),
]


@pytest.mark.parametrize(("runbook", "faults", "check"), REHEARSED)
def test_the_drill_of_a_runbook_exercises_it(
    runbook: str, faults: set[Kind], check: str | None
) -> None:
    rehearsal = scenario.load(_drills()[runbook])
    assert rehearsal.fault.kind in faults
    assert check is None or check in REQUIRED
    assert check != "failback" or rehearsal.takeover, "without a takeover there is no way home"


def test_no_runbook_goes_unrehearsed() -> None:
    assert {runbook for runbook, _, _ in REHEARSED} == _drills().keys()


def test_the_dashboards_show_only_declared_metrics() -> None:
    for file in DASHBOARDS.glob("*.json"):
        board = json.loads(file.read_text())
        exprs = [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
        assert exprs
        assert {m for e in exprs for m in metrics_named(e)} - BY_NAME.keys() == set()
        assert {p["id"] for p in board["panels"]}.__len__() == len(board["panels"])


def test_the_metrics_page_is_what_the_code_says() -> None:
    page = REPOSITORY / "docs" / "reference" / "metrics.md"
    assert page.read_text() == reference(), (
        "python -P -m monitors.metrics > docs/reference/metrics.md"
    )


@pytest.mark.parametrize(
    "expr",
    [
        "zaibei_no_such_metric > 1",
        "rate(zaibei_writer) > 1",
        "zaibei_writer",
        "1 > zaibei_writer",
        "zaibei_writer > 1 > 2",
        "zaibei_writer{site=a} > 1",
    ],
)
def test_an_expression_that_the_check_could_not_ask_is_refused(expr: str) -> None:
    with pytest.raises(Usage):
        evaluate(expr, {})

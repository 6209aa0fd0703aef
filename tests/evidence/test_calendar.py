"""Which drills are due, from the stack's calendar and what the log holds."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from tests.evidence.conftest import Desk
from tests.evidence.test_cli import zaibei
from zaibei.evidence import Kind, verify
from zaibei.evidence.calendar import Planned, record_due

pytestmark = pytest.mark.attack
MONTH = timedelta(days=30)


def plan(every: timedelta = MONTH, *names: str) -> list[Planned]:
    return [Planned(scenario=n, every=every, owner="duty") for n in names or ("power",)]


def dates(desk: Desk) -> list[str]:
    return [
        item["by"][:10]
        for e in desk.evidence.entries()
        if e.statement.predicate_type == Kind.SCHEDULE
        for item in e.statement.predicate["due"]
    ]


def ran(desk: Desk, drill: str, verdict: str = "FAIL") -> int:
    desk.evidence.record(Kind.INTENT, {"drill_id": drill})
    said = {"drill_id": drill, "scenario": "power", "verdict": verdict}
    return desk.evidence.record(Kind.OUTCOME, said).index


def test_a_drill_is_due_a_period_after_it_was_planned_and_then_after_each_run(desk: Desk) -> None:
    record_due(desk.evidence, plan())
    desk.clock.sleep(timedelta(days=10))
    ran(desk, "drill-1", "FAIL")
    record_due(desk.evidence, plan())
    assert dates(desk) == ["2026-01-31", "2026-02-10"]


def test_the_same_schedule_is_not_recorded_twice(desk: Desk) -> None:
    assert record_due(desk.evidence, plan()) is not None
    desk.clock.sleep(timedelta(days=3))
    assert record_due(desk.evidence, plan()) is None


def test_a_date_that_was_promised_does_not_move_before_a_drill_answers_it(desk: Desk) -> None:
    record_due(desk.evidence, plan())
    desk.clock.sleep(timedelta(days=40))
    record_due(desk.evidence, plan(timedelta(days=365)))
    ran(desk, "drill-1", "INVALID")  # measured nothing: answers nothing
    record_due(desk.evidence, plan(timedelta(days=365)))
    assert set(dates(desk)) == {"2026-01-31"}
    index = ran(desk, "drill-2", "FAIL")
    record_due(desk.evidence, plan(timedelta(days=365)))
    assert dates(desk)[-1] == "2027-02-10"
    lines = [str(d) for d in verify(desk.pack(index)).roll.due]
    assert lines[0].endswith("overdue, run late, drill-2 FAIL")
    assert lines[-1].endswith(": due")


def test_a_drill_taken_out_of_the_calendar_stays_due_in_the_log(desk: Desk) -> None:
    record_due(desk.evidence, plan(MONTH, "power", "crash"))
    index = ran(desk, "drill-1")
    record_due(desk.evidence, plan())
    desk.clock.sleep(timedelta(days=31))
    found = verify(desk.pack(index)).roll.overdue
    assert [d.scenario for d in found] == ["crash", "power"]


def test_an_empty_calendar_is_recorded_only_where_it_takes_something_back(desk: Desk) -> None:
    assert record_due(desk.evidence, []) is None
    record_due(desk.evidence, plan())
    assert record_due(desk.evidence, []) is not None


def test_the_command_records_the_calendar_of_the_stack_once(tmp_path: Path) -> None:
    where = ["--evidence", tmp_path / "evidence"]
    first = json.loads(zaibei("schedule", *where, "--json").stdout)
    assert first["recorded"] == 0
    assert first["due"]
    assert json.loads(zaibei("schedule", *where, "--json").stdout)["recorded"] is None
    log = json.loads(zaibei("log", *where, "--json").stdout)["entries"]
    assert [e["kind"] for e in log] == ["schedule"]

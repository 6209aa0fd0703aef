from dataclasses import replace
from pathlib import Path

import pytest

from failover.control import members, negative_control
from failover.control.negative_control import Arm, run_control
from failover.ledger.reader import Reader
from failover.verdict import Ruling, ledger_whole
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent


@pytest.mark.integration
def test_the_checker_condemns_the_sabotaged_pair_and_acquits_the_honest_one(
    tmp_path: Path,
) -> None:
    result = run_control(tmp_path, SystemClock(), 7, Silent())

    assert result.condemned, result.detail
    assert result.acquitted, result.detail
    assert result.lost == result.lost_made > 0, "to the last write"
    assert result.overlap > 0
    assert result.sabotaged is not None
    assert result.honest is not None
    assert result.sabotaged.verdict.ruling is Ruling.FAIL
    assert result.honest.verdict.ruling is Ruling.PASS
    assert result.honest.findings.lost == 0
    assert result.honest.findings.rows.fail == 3, "the outage was there"
    assert [e.epoch for e in result.honest.findings.epochs] == [1, 2]
    assert [e.epoch for e in result.sabotaged.findings.epochs] == [2, 3]
    assert result.as_check().passed

    ledgers = sorted(tmp_path.glob("*.jsonl"))
    assert len(ledgers) == 2, "they stay, as evidence"
    for path in ledgers:
        reader = Reader(path)
        assert ledger_whole(reader.read_through()).passed
    assert {Reader(p).read_through().sha256 for p in ledgers} == {
        result.honest.ledger_sha256,
        result.sabotaged.ledger_sha256,
    }
    _a_blind_checker_is_caught(result.sabotaged, result.lost_made)
    _a_checker_that_cries_wolf_is_caught(result.honest)


def _a_blind_checker_is_caught(arm: Arm, made: int) -> None:
    assert negative_control._condemned(arm, made)
    seen = arm.findings
    no_loss = replace(seen, rows=replace(seen.rows, lost=0))
    some_loss = replace(seen, rows=replace(seen.rows, lost=made - 1))
    for blind in (no_loss, some_loss, replace(seen, overlap=0)):
        assert not negative_control._condemned(replace(arm, findings=blind), made)
    passed = replace(arm.verdict, ruling=Ruling.PASS)
    assert not negative_control._condemned(replace(arm, verdict=passed), made)
    assert not negative_control._condemned(arm, 0), "nothing was sabotaged, so nothing was shown"


def _a_checker_that_cries_wolf_is_caught(arm: Arm) -> None:
    assert negative_control._acquitted(arm)
    for ruling in (Ruling.FAIL, Ruling.INVALID):
        assert not negative_control._acquitted(
            replace(arm, verdict=replace(arm.verdict, ruling=ruling))
        )


def test_a_control_that_could_not_run_is_not_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "_BIN", tmp_path / "nowhere")

    result = run_control(tmp_path, SystemClock(), 7, Silent())

    assert not result.condemned
    assert not result.acquitted
    said = result.as_check()
    assert not said.ran
    assert said.if_failed is Ruling.INVALID
    assert "no such program" in said.detail

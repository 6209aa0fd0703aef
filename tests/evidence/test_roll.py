"""What the whole log says beside the chosen entries, and what was noted earlier: both verifiers alike."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.evidence.conftest import Desk, shell
from tests.evidence.test_cli import zaibei
from tests.reports.conftest import made as pack_of
from tests.reports.conftest import outcome as a_drill
from zaibei.evidence import Evidence, Kind, Witness, verify
from zaibei.evidence.keys import fingerprint
from zaibei.kernel.errors import Usage

pytestmark = pytest.mark.attack


def listed(text: str) -> list[str]:
    words = ("drill ", "schedule ", "note: schedule", "note: cosigned", "note: no witness")
    lacks = ": not in this pack: "
    return sorted(line for line in text.splitlines() if line.startswith(words) or lacks in line)


def by_both(pack: Path, *flags: str) -> list[str]:
    """What both verifiers list; they must list the same."""
    python = zaibei("verify", pack, *flags)
    script = shell(pack, *flags)
    assert (python.returncode, script.returncode) == (0, 0), python.stderr + script.stderr
    assert listed(python.stdout) == listed(script.stdout)
    return listed(script.stdout)


def flags(*pems: bytes) -> list[str]:
    return [f for pem in pems for f in ("--fingerprint", fingerprint(pem))]


def test_drills_that_were_not_chosen_are_listed_with_their_verdicts(desk: Desk) -> None:
    """Five tries, the pack of the last: the other four stand in it all the same."""
    for n, verdict in enumerate(["FAIL", "FAIL", "INVALID", "nonsense", "FAIL"]):
        last = desk.drill(f"drill-{n}", verdict)
    desk.evidence.record(Kind.INTENT, {"drill_id": "drill-8"})
    desk.evidence.record(Kind.ABORTED, {"drill_id": "drill-8", "reason": "no disk"})
    desk.evidence.record(Kind.INTENT, {"drill_id": "drill-9"})
    found = by_both(desk.pack(last.index))
    assert "drill drill-0: FAIL (not chosen)" in found
    assert "drill drill-2: INVALID (not chosen)" in found
    assert "drill drill-3: no verdict (not chosen)" in found
    assert "drill drill-4: FAIL" in found
    assert "drill drill-8: aborted (not chosen)" in found
    assert "drill drill-9: no end in this log (not chosen)" in found
    assert "note: schedule: none" in found


def test_a_drill_that_was_due_and_never_ran_is_overdue(desk: Desk) -> None:
    due = [
        {"by": "2026-02-01", "scenario": "site-power-loss"},
        {
            "by": "2026-02-02T10:00:00Z",
            "every_s": 60,
            "owner": "数据局 duty",
            "scenario": "primary-crash",
        },
        {"by": "2026-02-03", "drill": "late-one"},
        {"by": "2027-01-01", "scenario": "city-loss"},
        {"by": "2026-02-03", "scenario": "measured-nothing"},
    ]
    desk.evidence.record(Kind.SCHEDULE, {"due": due})
    desk.evidence.record(Kind.SCHEDULE, {"due": [{"by": "next week", "scenario": "x"}]})

    def ran(drill_id: str, scenario: str, verdict: str) -> int:
        desk.evidence.record(Kind.INTENT, {"drill_id": drill_id})
        said = {"drill_id": drill_id, "scenario": scenario, "verdict": verdict}
        return desk.evidence.record(Kind.OUTCOME, said).index

    ran("drill-1", "site-power-loss", "FAIL")
    ran("drill-2", "measured-nothing", "INVALID")
    desk.clock.sleep(timedelta(days=40))
    last = ran("late-one", "other", "FAIL")
    assert [line for line in by_both(desk.pack(last)) if "schedule" in line] == [
        "note: schedule 1: not in a form that can be compared; read it",
        "schedule 0: city-loss by 2027-01-01: due",
        "schedule 0: late-one by 2026-02-03: overdue, run late, late-one FAIL",
        "schedule 0: measured-nothing by 2026-02-03: overdue",
        "schedule 0: primary-crash by 2026-02-02T10:00:00Z: overdue",
        "schedule 0: site-power-loss by 2026-02-01: met, drill-1 FAIL",
    ]


def test_a_second_history_with_a_new_key_of_the_witnesss_name_is_cosigned_by_an_unknown_key(
    desk: Desk, tmp_path: Path
) -> None:
    true = desk.evidence.witnesses[0]
    desk.drill("drill-0", "FAIL")
    given = flags(*desk.evidence.keys.files().values(), true.public)
    honest = desk.pack(1)
    assert "cosigned by site-b" in zaibei("verify", honest, *given).stdout
    assert "cosigned by urn:zaibei:witness:site-b" in shell(honest, *given).stdout
    shutil.copytree(desk.evidence.directory / "keys", tmp_path / "other" / "keys")
    fresh = Witness(
        tmp_path / "fresh", name="site-b", log_key=desk.evidence.keys.ed25519, clock=desk.clock
    )
    desk.evidence = Evidence.open(tmp_path / "other", desk.clock, witnesses=[fresh])
    desk.drill("drill-0", "PASS")
    rewritten = desk.pack(1, name="rewritten")
    unknown = f"cosigned by an unknown key: {fingerprint(fresh.public)}"
    own = flags(*desk.evidence.keys.files().values())
    assert f"note: {unknown}" in by_both(rewritten, *own)
    for said in (zaibei("verify", rewritten, *own).stdout, shell(rewritten, *own).stdout):
        assert "cosigned by site-b" not in said
        assert "witness:site-b" not in said


def test_a_log_put_back_as_it_was_before_a_failed_drill_does_not_go_on_from_what_was_noted(
    desk: Desk, tmp_path: Path
) -> None:
    shutil.copytree(desk.evidence.directory, tmp_path / "saved")
    desk.drill("drill-1", "FAIL")
    noted = verify(desk.pack(1)).noted
    assert noted is not None
    desk.drill("drill-2", "FAIL")
    assert by_both(desk.pack(3, name="goes-on"), "--at-least", noted)
    back = open_with(tmp_path / "saved", desk)
    short = back.pack(back.drill("drill-3").index - 1, name="as-long")
    refused(short, noted, "not the ones that were noted earlier")
    refused(short, noted.replace("2:", "7:"), "7 were noted earlier")


def open_with(directory: Path, desk: Desk) -> Desk:
    return Desk(
        desk.root, desk.clock, Evidence.open(directory, desk.clock), desk.artefacts
    )  # no witness: it would refuse


def refused(pack: Path, noted: str, reason: str) -> None:
    for done in (zaibei("verify", pack, "--at-least", noted), shell(pack, "--at-least", noted)):
        assert done.returncode == 8
        assert reason in " ".join(done.stderr.split())
        assert "VERIFIED" not in done.stdout.replace("NOT VERIFIED", "")


@pytest.mark.parametrize(
    "noted", ["", "5", "0:" + "A" * 43 + "=", "05:" + "A" * 43 + "=", "5:AAAA"]
)
def test_what_is_no_noted_checkpoint_is_refused_and_never_ignored(a_pack: Path, noted: str) -> None:
    with pytest.raises(Usage, match="not a noted checkpoint"):
        verify(a_pack, at_least=[noted])
    assert shell(a_pack, "--at-least", noted).returncode == 2


def test_the_script_and_python_print_the_same_checkpoint_to_note(a_pack: Path) -> None:
    noted = verify(a_pack).noted
    assert f"checkpoint {noted}\n" in shell(a_pack).stdout
    assert f"checkpoint {noted}\n" in zaibei("verify", a_pack).stdout


SPOILS: list[Callable[[dict[str, Any]], object]] = [
    lambda told: told.update(checks=[]),
    lambda told: told.pop("checks"),
    lambda told: told.update(checks=told["checks"][:1]),
    lambda told: told.update(checks=told["checks"][1:]),
    lambda told: told["checks"][3].update(passed=False),
    lambda told: told["checks"].append({"name": "x", "ran": False, "passed": None, "detail": ""}),
    lambda told: told.pop("required"),
    lambda told: told.update(required=["failback"]),
    lambda told: told["required"].append("failback"),
    lambda told: told.update(artefacts=[]),
    lambda told: told["artefacts"][0].update(sha256="ab" * 32),
    lambda told: told["objective"].update(rto_s=None),
    lambda told: told["objective"].update(rpo_s=None),
    lambda told: told.update({"objective/rpo_s": 0, "objective": {"rto_s": 5}}),
    lambda told: told.update(objective={"rto_s": 5, "rpo_s": 3600}, lost=10**6),
    lambda told: told.update(objective={"rto_s": 5, "rpo_s": 3600}, lost=9, rpo_s=3601),
    lambda told: told.update(lost=1),
    lambda told: told.update(lost="0"),
    lambda told: told.pop("phantoms"),
    lambda told: told.update(resurrected=1),
    lambda told: told.update(rto_first_s=5.1),
    lambda told: told.update(rto_stable_s=None),
    lambda told: told["negative_control"].update(condemned="true"),
    lambda told: told.update(acked=0),
]


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_pass_without_what_a_pass_needs_is_listed_as_invalid(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    told = a_drill()
    spoil(told)
    pack = pack_of(tmp_path, told)
    drill = next(line for line in listed(shell(pack).stdout) if line.startswith("drill "))
    assert drill.endswith(": INVALID, recorded as PASS")
    assert drill == str(verify(pack).roll.drills[0])


def test_a_pass_with_all_of_it_is_listed_as_one(tmp_path: Path) -> None:
    drills = [line for line in by_both(pack_of(tmp_path, a_drill())) if line.startswith("drill ")]
    assert [line.partition(": ")[2] for line in drills] == ["PASS"]


def test_loss_within_an_objective_that_allows_it_is_a_pass(tmp_path: Path) -> None:
    told = a_drill()
    told.update(objective={"rto_s": 5.0, "rpo_s": 60.0}, lost=4, rpo_s=1.25)
    assert any(line.endswith(": PASS") for line in by_both(pack_of(tmp_path, told)))


@pytest.mark.parametrize(
    "command", [["keys"], ["log"], ["show", "0"], ["pack", "0", "--to", "p", "--artefacts", "."]]
)
def test_a_command_that_reads_makes_no_keys(tmp_path: Path, command: list[str]) -> None:
    done = zaibei(*command, "--evidence", tmp_path / "evidence")
    assert done.returncode == 2
    assert "zaibei evidence init" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_init_makes_the_keys_once(tmp_path: Path) -> None:
    first = zaibei("init", "--evidence", tmp_path / "evidence")
    again = zaibei("init", "--evidence", tmp_path / "evidence")
    assert (first.returncode, again.stdout) == (0, first.stdout)
    assert zaibei("keys", "--evidence", tmp_path / "evidence").stdout == first.stdout

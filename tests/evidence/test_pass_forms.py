"""A signed PASS whose fields are of odd forms is INVALID for both verifiers, or for neither.

Many drills in one log: both verifiers list each with its verdict, and must list the same.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.evidence.conftest import Desk, Forger, shell
from tests.evidence.test_cli import zaibei
from zaibei.evidence import Entry, Kind, Subject, dsse, keys, statement
from zaibei.evidence.calendar import Planned, due
from zaibei.evidence.keys import fingerprint
from zaibei.evidence.pass_rules import required_of

pytestmark = pytest.mark.attack

SHA = "0" * 64
AT = "2026-01-01T00:00:00.000Z"
NAMES = list(required_of(surge=False))


@dataclass
class Said:
    """A drill as it is signed; as it comes, it is a PASS with all that a PASS needs."""

    drill: str
    intent: dict[str, Any] = field(init=False)
    outcome: dict[str, Any] = field(init=False)
    files: list[str] = field(default_factory=lambda: ["ledger.jsonl"])

    def __post_init__(self) -> None:
        fixed = {
            "drill_id": self.drill,
            "objective": {"rpo_s": 5, "rto_s": 60},
            "recorded_at": AT,
            "required": NAMES,
            "scenario": "power",
        }
        self.intent = copy.deepcopy(fixed)
        self.outcome = copy.deepcopy(fixed) | {
            "acked": 100,
            "artefacts": [{"name": "ledger.jsonl", "sha256": SHA}],
            "checks": [{"name": n, "passed": True, "ran": True} for n in NAMES],
            "epoch_overlap": 0,
            "lost": 0,
            "negative_control": {"condemned": True},
            "objects": {"lost": 0},
            "phantoms": 0,
            "resurrected": 0,
            "rpo_s": 1,
            "rto_first_s": 3,
            "rto_stable_s": 3.5,
            "verdict": "PASS",
        }

    def require(self, name: object) -> None:
        self.intent["required"].append(name)
        self.outcome["required"].append(name)

    def check(self, **more: object) -> None:
        self.outcome["checks"].append({"passed": True, "ran": True, **more})


def _required_number(d: Said) -> None:
    d.require(5)
    d.check(name="5")


def _required_object(d: Said) -> None:
    d.require({})
    d.check()


def _artefact_number(d: Said) -> None:
    d.files.append("5")
    d.outcome["artefacts"].append({"name": 5, "sha256": SHA})


def _fixed(name: str, before: object, after: object) -> Callable[[Said], None]:
    def change(d: Said) -> None:
        d.intent[name], d.outcome[name] = before, after

    return change


def _figures(**values: object) -> Callable[[Said], None]:
    return lambda d: d.outcome.update(values)


DENIED: dict[str, Callable[[Said], None]] = {
    "a required check that is a number": _required_number,
    "a required check that is an object, and a check without a name": _required_object,
    "a check without a name": lambda d: d.check(),
    "a check whose name is a list": lambda d: d.check(name=["takeover"]),
    "an artefact that is listed twice": lambda d: d.outcome["artefacts"].append(
        d.outcome["artefacts"][0]
    ),
    "an artefact that is a word": lambda d: d.outcome["artefacts"].append("x"),
    "an artefact whose name is a number": _artefact_number,
    "an artefact whose name is a list": lambda d: d.outcome.update(
        artefacts=[{"name": ["ledger.jsonl"], "sha256": SHA}]
    ),
    "a seed that was 1 and is true": _fixed("seed", 1, after=True),
    "a seed deep down that was 0 and is false": _fixed("seed", [{"a": 0}], [{"a": False}]),
    "negative times": _figures(rto_first_s=-5, rto_stable_s=-1),
    "fewer writes than none": _figures(acked=-5),
    "a negative loss": _figures(lost=-5),
    "a negative loss of objects": _figures(objects={"lost": -1}),
    "a loss of a negative time": _figures(lost=5, rpo_s=-1),
    "an announced null that is not recorded": lambda d: d.intent.update(seed=None),
}
HELD: dict[str, Callable[[Said], None]] = {
    "as it is": lambda _: None,
    "a null announced and recorded": _fixed("seed", None, None),
    "loss within the objective": _figures(lost=5),
    "a key with a quote": _figures(**{'lo"st': 1}),
}


def packed(forger: Forger, folder: Path, said: list[Said], schedules: list[dict[str, Any]]) -> Path:
    at = forger.desk.evidence
    key = keys.p256_private(at.directory / "keys")
    logged: list[Entry] = []

    def sign(kind: Kind, predicate: dict[str, Any], files: list[str]) -> None:
        raw = statement.encode(kind, predicate, [Subject(name=n, sha256=SHA) for n in files])
        logged.append(
            Entry(
                index=len(logged),
                statement_digest="",
                envelope=dsse.seal(raw, key=key, keyid=at.keys.keyid),
                payload=raw,
                statement=statement.decode(raw),
            )
        )

    sign(Kind.ACTION, {"what": "nothing"}, [])
    for one in schedules:
        sign(Kind.SCHEDULE, one, [])
    for drill in said:
        sign(Kind.INTENT, drill.intent, [])
        sign(Kind.OUTCOME, drill.outcome, drill.files)
    return forger.pack(logged, [0], folder)


def by_both(pack: Path) -> list[str]:
    python, script = zaibei("verify", pack), shell(pack)
    assert (python.returncode, script.returncode) == (0, 0), python.stderr + script.stderr

    def listed(text: str) -> list[str]:
        words = ("drill ", "schedule ", "note: schedule")
        return [line for line in text.splitlines() if line.startswith(words)]

    assert sorted(listed(python.stdout)) == sorted(listed(script.stdout))
    return listed(script.stdout)


def test_a_pass_of_odd_forms_is_invalid_to_both_verifiers(forger: Forger, tmp_path: Path) -> None:
    said, words = [], {}
    for n, (name, change) in enumerate({**DENIED, **HELD}.items()):
        drill = Said(f"d-{n}")
        change(drill)
        said.append(drill)
        words[name] = f"drill d-{n}: {'PASS' if name in HELD else 'INVALID, recorded as PASS'}"
    found = by_both(packed(forger, tmp_path / "p", said, []))
    assert [n for n, line in words.items() if f"{line} (not chosen)" not in found] == []


def test_a_pass_that_its_own_data_deny_answers_no_schedule(forger: Forger, tmp_path: Path) -> None:
    thin, whole = Said("d-thin"), Said("d-whole")
    thin.outcome["checks"] = thin.outcome["checks"][:1]
    whole.outcome["scenario"] = whole.intent["scenario"] = "crash"
    items = [{"by": "2025-12-31", "scenario": "power"}, {"by": "2026-12-31", "scenario": "crash"}]
    found = by_both(packed(forger, tmp_path / "p", [thin, whole], [{"due": items}]))
    assert "schedule 1: power by 2025-12-31: overdue" in found
    assert "schedule 1: crash by 2026-12-31: met, d-whole PASS" in found


def test_a_thin_pass_does_not_move_the_next_date(desk: Desk) -> None:
    desk.evidence.record(Kind.INTENT, {"drill_id": "d-1"})
    said = {"drill_id": "d-1", "scenario": "power", "verdict": "PASS"}
    desk.evidence.record(Kind.OUTCOME, said)
    now = desk.clock.now()
    month = Planned(scenario="power", every=now - now.replace(year=now.year - 1), owner="duty")
    desk.clock.sleep(month.every)
    found = due(desk.evidence.entries(), [month], now=desk.clock.now())
    assert found[0]["by"] == (desk.clock.now() + month.every).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_digits_of_another_script_are_no_date_to_either_verifier(
    forger: Forger, tmp_path: Path
) -> None:
    items = [{"by": "٢٠٢٥-12-01", "scenario": "power"}]
    found = by_both(packed(forger, tmp_path / "p", [Said("d-1")], [{"due": items}]))
    assert "note: schedule 1: not in a form that can be compared; read it" in found


ROOT = "A" * 43 + "="


@pytest.mark.parametrize(
    "noted",
    ["99999999:" + ROOT, "9" * 5000 + ":" + ROOT, "5:" + "A" * 42 + "B="],
    ids=["longer than any log", "5,000 digits", "another spelling of base64"],
)
def test_both_verifiers_end_with_2_for_what_is_no_noted_checkpoint(
    a_pack: Path, noted: str
) -> None:
    python, script = (
        zaibei("verify", a_pack, "--at-least", noted),
        shell(a_pack, "--at-least", noted),
    )
    assert (python.returncode, script.returncode) == (2, 2), python.stderr + script.stderr


def test_both_verifiers_refuse_a_fingerprint_with_a_line_feed(
    honest_desk: Desk, a_pack: Path
) -> None:
    given = [
        f
        for pem in honest_desk.evidence.keys.files().values()
        for f in ("--fingerprint", fingerprint(pem) + "\n")
    ]
    python, script = zaibei("verify", a_pack, *given), shell(a_pack, *given)
    assert (python.returncode, script.returncode) == (2, 2), python.stderr + script.stderr


def test_the_script_verifies_the_folder_that_was_named_and_no_other(a_pack: Path) -> None:
    other = a_pack.with_name(f"{a_pack.name}\n")
    other.mkdir()
    done = shell(other)
    assert (done.returncode, "VERIFIED" in done.stdout) == (8, False)
    assert shell(Path(), "").returncode == 2

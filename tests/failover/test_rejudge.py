"""The verdict again, from the raw data in the pack. The drill is made of the drill's own parts; only the
sites are not there: the writes are placed by hand, and recorded, checked, measured and judged as ever.
"""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from failover import announced, raw, scenario, statements, who
from failover.checker import check
from failover.ledger.format import Intent, Kind, Outcome
from failover.ledger.reader import Reader
from failover.ledger.writer import Ledger
from failover.measure import measure, series
from failover.observer import Watch
from failover.record import Asked, Run
from failover.rejudge import Rejudged, rejudge
from failover.required import required
from failover.verdict import Ruling, bounds_of, judge, ledger_whole
from infra.faults.model import Injected
from infra.lab.plan import plan
from infra.sites import StackAccess
from tests.evidence.conftest import shell
from tests.evidence.test_cli import zaibei
from zaibei import config
from zaibei.evidence import Evidence, pack, verify
from zaibei.evidence import Kind as Stated
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

pytestmark = pytest.mark.attack

FAULT_S, BACK_S, FROM_S, UNTIL_S = 112.0, 114.0, 100.0, 124.0
DRILL = "drill-20261130T120000Z-abcdef"


@dataclass
class Made:
    """A drill that was measured; its statement and its files before they are signed."""

    root: Path
    run: Run
    result: dict[str, Any]
    intent: dict[str, Any]
    artefacts: Path
    announced: list[Path]

    def kept(self) -> list[Path]:
        mine = {p.name for p in self.announced}
        return sorted(p for p in self.artefacts.iterdir() if p.name not in mine)

    def renamed(self) -> None:
        """A forger keeps its digests in step with its files."""
        self.result["artefacts"] = [
            {
                "name": p.name,
                "sha256": raw.put(p, self.root, "copy").sha256,
                "size_bytes": p.stat().st_size,
            }
            for p in self.kept()
        ]

    def packed(self) -> Path:
        evidence = Evidence.open(self.root / "evidence", self.run.clock)
        evidence.record(Stated.INTENT, self.intent, subject=self.announced)
        entry = evidence.record(Stated.OUTCOME, self.result, subject=self.kept())
        return pack(
            evidence,
            entries=[entry.index],
            artefacts_dir=self.artefacts,
            dest=self.root / "pack",
            title="a drill",
        )

    def judged(self) -> Rejudged:
        made = self.packed()
        found = verify(made)
        assert found.ok, found.problems
        return rejudge(made, found.entries)


def write_ledger(path: Path, clock: SimClock) -> list[tuple[str, str, int | None]]:
    """Twenty rows a second and an object a second; two seconds in which nothing is known."""
    rows: list[tuple[str, str, int | None]] = []
    with Ledger.create(path, drill=DRILL, clock=clock) as ledger:
        for seq in range(int((UNTIL_S - FROM_S) * 20)):
            due = FROM_S + seq / 20
            kind = Kind.OBJECT if seq % 20 == 7 else Kind.ROW
            intent = Intent(
                op_id=f"{DRILL}-{kind}-{seq}",
                kind=kind,
                client="pool0",
                seq=seq,
                payload_sha256="ab" * 32,
                intended_s=due,
            )
            if seq == int((FAULT_S - FROM_S) * 20):
                ledger.note("fault", at_s=FAULT_S, detail="power")
            lost = FAULT_S <= due < BACK_S
            ledger.intend(intent)
            done = intent.done(
                sent_s=due + 0.001,
                completed_s=due + (1.5 if lost else 0.006),
                outcome=Outcome.INFO if lost else Outcome.OK,
                door="site-b",
                epoch=None if lost else 1 if due < FAULT_S else 2,
            )
            ledger.complete(done)
            if not lost:
                rows.append((intent.op_id, intent.payload_sha256, done.epoch))
    return rows


def measured(root: Path) -> Made:
    """As in `drill`: clients' ledger, read-back, measures, verdict, statement."""
    clock = SimClock()
    (root / "stack.yaml").write_text(config.sample("two-places-three-centres"))
    stack = config.load(root / "stack.yaml")
    chosen = scenario.load("site-power-loss")
    access = StackAccess(
        stack=stack.name,
        operator_address="10.77.0.1",
        ca_file=root / "ca",
        client_cert=root / "c",
        client_key=root / "k",
        ssh_key=root / "s",
        ssh_known_hosts=root / "h",
        sites=(),
        passwords={},
    )
    run = Run(
        drill_id=DRILL,
        folder=root / "drill",
        lab=plan(stack, root),
        access=access,
        clock=clock,
        asked=Asked(stack=stack, scenario=chosen, seed=7, prepare=False, keep_lab=True),
        required=required(chosen, stack),
        objective=chosen.objective(stack),
        progress=Silent(),
        started_at="2026-11-30T12:00:00.000Z",
        writer="site-a",
        survivor="site-b",
        remote="site-c",
        run_by=who.ran_by(stack),
    )
    run.folder.mkdir()
    artefacts = root / "artefacts"
    artefacts.mkdir()
    files = announced.announce(run, artefacts)
    intent = announced.intent(run)
    there = write_ledger(run.ledger_file, clock)
    rows = [r for r in there if "-row-" in r[0]]
    kept = [(key, sha) for key, sha, _ in there if "-object-" in key]
    raw.write_readback(run.folder / raw.READBACK, DRILL, rows, kept)
    reader = Reader(run.ledger_file)
    run.findings = check(reader.ops(), rows, kept, prefix=run.prefix)
    run.checks.append(ledger_whole(reader.ending))
    run.watch = Watch(access, site="site-b", was_leader="site-a", clock=clock)
    run.watch._cpu.append(12.5)
    run.watch._note("promote")
    run.injected = Injected(
        fault_id="f",
        fault=chosen.fault_in(stack),
        begun_s=FAULT_S - 0.1,
        acknowledged_s=FAULT_S,
        proof="off",
    )
    run.measures = measure(reader.ops(), fault_s=FAULT_S, observations=run.watch.observations())
    for name in run.required:
        if name != "ledger-whole":
            run.holds(name, passed=True, detail="it held", spoils=name == "negative-control")
    verdict = judge(
        run.findings,
        run.measures,
        run.objective,
        run.checks,
        required=run.required,
        host_cpu_some_pct=12.5,
        bounds=bounds_of(run.objective),
    )
    assert verdict.ruling is Ruling.PASS, verdict.reasons
    named = statements.artefacts(run, artefacts)
    seconds = list(series(Reader(run.ledger_file).ops(), fault_s=FAULT_S))
    result = statements.result(run, verdict, named, series=seconds)
    result["negative_control"]["condemned"] = True
    return Made(root, run, result, intent, artefacts, files)


@pytest.fixture
def drill(tmp_path: Path) -> Made:
    return measured(tmp_path)


def differing(judged: Rejudged) -> set[str]:
    return {line.name for line in judged.differing}


def test_an_honest_drill_is_judged_the_same_again_and_both_verifiers_list_it(drill: Made) -> None:
    judged = drill.judged()
    assert (judged.differing, judged.missing, judged.denied) == ((), (), ())
    assert len(judged.lines) > 25
    assert verify(drill.root / "pack").roll.notes == ("schedule: none",)
    assert f"drill {DRILL}: PASS\n" in shell(drill.root / "pack").stdout
    done = zaibei("judge", drill.root / "pack.tar.gz")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"PASS  {DRILL}: every field follows from the raw data\n")
    told = json.loads(zaibei("judge", drill.root / "pack", "--json").stdout)
    assert told["ok"] is True


Spoil = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda told: told.update(acked=told["acked"] + 1), "acked"),
        (lambda told: told.update(info=0), "info"),
        (lambda told: told.update(rto_first_s=1.0), "rto_first_s"),
        (lambda told: told.update(rto_stable_s=1.0), "rto_stable_s"),
        (lambda told: told["phases_s"].update(app=0.1), "phases_s"),
        (lambda told: told["objects"].update(acked=1), "objects.acked"),
        (lambda told: told["series"]["ok"].__setitem__(3, 99), "series.ok"),
        (lambda told: told["objective"].update(rto_s=3600.0), "objective.rto_s"),
        (lambda told: told["objective"].update(rpo_s=3600.0), "objective.rpo_s"),
        (lambda told: told["environment"].update(psi_cpu_some=1.0), "environment.psi_cpu_some"),
        (lambda told: told["stack"].update(digest="ab" * 32), "stack.digest"),
        (lambda told: told.update(seed=8), "seed"),
        (lambda told: told.update(started_at="2026-11-30T13:00:00.000Z"), "started_at"),
        (lambda told: told["run_by"].update(user="another"), "run_by"),
        (lambda told: told.update(scenario="primary-crash"), "scenario"),
        (lambda told: told["required"].pop(), "required"),
        (lambda told: told["checks"].pop(), "verdict"),
        (lambda told: told["checks"][2].update(passed=False), "verdict"),
        (lambda told: told.update(checks=[]), "verdict"),
        (lambda told: told.update(verdict="FAIL"), "verdict"),
    ],
)
def test_a_field_that_does_not_follow_from_the_raw_data_differs(
    drill: Made, spoil: Spoil, field: str
) -> None:
    """Also where the forger announced the same beforehand."""
    spoil(drill.result)
    judged = drill.judged()
    assert field in differing(judged)


def test_a_loss_that_was_edited_away_is_found_in_the_read_back(drill: Made) -> None:
    rows, objects = raw.read_readback(drill.artefacts / raw.READBACK, DRILL)
    raw.write_readback(drill.artefacts / raw.READBACK, DRILL, rows[:-5], objects)
    drill.renamed()
    assert {"lost", "verdict", "rpo_s"} <= differing(drill.judged())
    done = zaibei("judge", drill.root / "pack")
    assert (done.returncode, "DIFFERS" in done.stdout) == (8, True)


@pytest.mark.parametrize("name", [raw.LEDGER, raw.READBACK, raw.PLAN, raw.STACK, raw.WATCH])
def test_a_pack_without_a_file_is_not_recomputable(drill: Made, name: str) -> None:
    (drill.artefacts / name).unlink()
    drill.announced = [p for p in drill.announced if p.name != name]
    drill.renamed()
    judged = drill.judged()
    assert any(name in why for why in judged.missing)
    assert not judged.ok


@pytest.mark.parametrize("keep", [0.5, 0.98, 0.0])
def test_a_ledger_that_was_shortened_is_not_recomputable(drill: Made, keep: float) -> None:
    path = drill.artefacts / raw.LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: int(len(lines) * keep)]))
    drill.renamed()
    assert drill.judged().missing


def test_a_text_in_the_place_of_the_ledger_is_not_recomputable(drill: Made) -> None:
    (drill.artefacts / raw.LEDGER).write_text("this ledger says 5 acknowledged writes are lost\n")
    drill.renamed()
    drill.packed()
    done = zaibei("judge", drill.root / "pack")
    assert done.returncode == 3
    assert "not recomputable" in " ".join(done.stderr.split())
    assert "follows from" not in done.stdout
    assert zaibei("judge", drill.root / "pack", "--json").returncode == 3


def test_a_ledger_of_another_drill_is_not_recomputable(drill: Made) -> None:
    path = drill.artefacts / raw.LEDGER
    path.unlink()
    with Ledger.create(path, drill="drill-other", clock=drill.run.clock) as ledger:
        ledger.note("fault", at_s=FAULT_S)
    drill.renamed()
    assert any("drill-other" in why for why in drill.judged().missing)


def test_a_large_ledger_is_compressed_and_judged_all_the_same(drill: Made) -> None:
    path = drill.artefacts / raw.LEDGER
    there = raw.put(drill.run.ledger_file, drill.artefacts, raw.LEDGER, plain_max_bytes=1000)
    assert there.name == "ledger.jsonl.gz"
    path.unlink()
    drill.renamed()
    assert drill.judged().ok
    assert f"drill {DRILL}: PASS\n" in shell(drill.root / "pack").stdout


def test_a_ledger_too_large_for_a_pack_is_left_out_with_a_word(drill: Made) -> None:
    there = raw.put(
        drill.run.ledger_file, drill.root, "big", plain_max_bytes=1000, packed_max_bytes=1000
    )
    assert there.left_out == "larger than 1000 bytes"
    assert not list(drill.root.glob("big*"))


def test_a_compressed_ledger_that_was_cut_off_is_not_recomputable(drill: Made) -> None:
    path = drill.artefacts / raw.LEDGER
    whole = gzip.compress(path.read_bytes())
    path.unlink()
    (drill.artefacts / f"{raw.LEDGER}.gz").write_bytes(whole[: len(whole) // 2])
    drill.renamed()
    assert any("not a whole file" in why for why in drill.judged().missing)


def test_a_compressed_ledger_that_unpacks_without_end_is_refused_and_not_filled_in(
    drill: Made,
) -> None:
    (drill.artefacts / raw.LEDGER).unlink()
    (drill.artefacts / f"{raw.LEDGER}.gz").write_bytes(gzip.compress(bytes(32 << 20)))
    drill.renamed()
    assert any("unpacks to more" in why for why in drill.judged().missing)


def test_another_stack_in_the_pack_denies_the_pass(drill: Made) -> None:
    path = drill.artefacts / raw.STACK
    path.write_bytes(path.read_bytes().replace(b'"rto":', b'"rto":9', 1))
    judged = drill.judged()
    assert "stack.digest" in differing(judged)
    assert f"drill {DRILL}: INVALID, recorded as PASS\n" in shell(drill.root / "pack").stdout
    assert verify(drill.root / "pack").roll.drills[0].denied


@pytest.mark.parametrize("key", ["seed", "stack", "objective", "run_by", "started_at", "required"])
def test_an_outcome_that_is_not_what_was_announced_is_no_pass(drill: Made, key: str) -> None:
    drill.intent[key] = {"seed": 9, "required": ["failback"]}.get(key, {"another": "value"})
    made = drill.packed()
    assert f"drill {DRILL}: INVALID, recorded as PASS\n" in shell(made).stdout
    assert str(verify(made).roll.drills[0]) == f"drill {DRILL}: INVALID, recorded as PASS"


def test_a_pack_of_the_first_format_is_not_recomputable_and_says_what_it_lacks(
    tmp_path: Path,
) -> None:
    v1 = Path(__file__).parents[1] / "golden" / "evidence" / "v1" / "pack"
    done = zaibei("judge", shutil.copytree(v1, tmp_path / "pack"))
    assert done.returncode == 3
    assert "not recomputable: plan.json holds no scenario" in " ".join(done.stderr.split())
    notes = verify(v1).notes
    assert "drill-20260101T000000Z-7k2m9p: not in this pack: stack.json" in notes


def test_a_stack_that_holds_a_secret_itself_is_not_put_into_a_pack(tmp_path: Path) -> None:
    text = config.sample("two-places-three-centres")
    (tmp_path / "stack.yaml").write_text(text)
    assert config.why_not_public(config.load(tmp_path / "stack.yaml")) is None
    title = next(line for line in text.splitlines() if line.startswith("title:"))
    (tmp_path / "stack.yaml").write_text(text.replace(title, "title: 'password: hunter2'"))
    found = config.why_not_public(config.load(tmp_path / "stack.yaml"))
    assert found == "the title of the stack"


def test_who_ran_it_is_named_with_the_person_the_stack_declares(drill: Made) -> None:
    stack = drill.run.asked.stack
    told = who.ran_by(stack, environ={"SUDO_USER": stack.people[0].name}, host="a-laptop")
    assert told["person"] == stack.people[0].name
    assert told["host_role"] == "operator"
    assert told["user"]
    assert who.ran_by(stack, environ={}, host="a\x1b[2J")["host"] == "a[2J"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("watch.json", "[" * 100_000),
        ("watch.json", '{"cpu_some_pct_max":' + "9" * 5000 + "}"),
        ("plan.json", "[" * 100_000),
        ("stack.json", "[" * 100_000),
    ],
    ids=["watch, deep", "watch, 5,000 digits", "plan, deep", "stack, deep"],
)
def test_raw_data_that_no_parser_takes_are_not_recomputable(
    drill: Made, name: str, content: str
) -> None:
    (drill.artefacts / name).write_text(content)
    drill.renamed()
    assert any(name in why for why in drill.judged().missing)


def test_an_objective_beyond_any_clock_is_no_objective(drill: Made) -> None:
    stack = json.loads((drill.artefacts / raw.STACK).read_text())
    for database in stack["databases"]:
        for objective in database["objectives"]:
            objective["rto"] = 1e300
    (drill.artefacts / raw.STACK).write_text(json.dumps(stack))
    assert any("declares no objective" in why for why in drill.judged().missing)


def test_two_ledgers_in_one_pack_are_not_recomputable(drill: Made) -> None:
    """One would be judged, and the auditor would open the other."""
    (drill.artefacts / f"{raw.LEDGER}.gz").write_bytes(gzip.compress(b"another ledger"))
    drill.renamed()
    assert any("twice" in why for why in drill.judged().missing)

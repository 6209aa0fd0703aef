"""The whole product once, for real: three sites, a power loss, a verdict, and a clean machine afterwards.

The tests of this file are one story and run in their order.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.faults import journal
from infra.faults.model import Fault, Kind
from infra.lab import cgroup, disk, host, leftovers
from infra.lab.plan import plan
from zaibei import config
from zaibei.config.model import Stack
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.state import sole

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
_OF_THE_SERVICE = ("surge-expectation", "service-slo")
_CONTRACT = {
    "drill_id",
    "scenario",
    "seed",
    "verdict",
    "reasons",
    "rto_first_s",
    "rto_stable_s",
    "phases_s",
    "acked",
    "lost",
    "info",
    "phantoms",
    "backup",
    "evidence_pack",
    "report",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    file = tmp_path_factory.mktemp("stack") / "stack.yaml"
    file.write_text(config.sample(config.DEFAULT))
    return config.load(file)


def test_a_lab_whose_boot_was_killed_is_finished_by_the_next_up(cli: Cli, lab_state: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-P", "-m", "zaibei.cli.main", "lab", "up"],
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,
    )
    assert first.stderr is not None
    for line in first.stderr:
        if "booting" in line:
            break
    time.sleep(1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert leftovers.find(lab_state), "the kill came before anything was made: nothing was tested"

    second = cli("lab", "up", "--json")

    assert second.returncode == 0, second.stderr
    again = cli("lab", "up", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["changed_tasks"] == 0, "a repeated up changes nothing"


def test_a_reset_brings_back_the_state_of_the_first_up(cli: Cli) -> None:
    made = cli("data", "load", "--scale", "0.01")
    assert made.returncode == 0, made.stderr

    reset = cli("lab", "reset", "--json")

    assert reset.returncode == 0, reset.stderr
    gone = cli("drill", "run", "site-power-loss", "--despite", "pressure")
    assert gone.returncode == 4, gone.stderr
    assert "the base databases are empty" in gone.stderr, "the data of before is still there"


def test_faults_are_undone_when_their_drill_is_killed(lab_state: Path, stack: Stack) -> None:
    lab = plan(stack, lab_state)
    victim = cgroup.of(lab.host("site-c"))
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", _DRILL_THAT_HANGS, str(lab_state)],
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "broken\n"
    assert cgroup.is_frozen(victim)

    child.kill()
    child.wait()

    clock = SystemClock()
    begun = clock.monotonic()
    while (cgroup.is_frozen(victim) or journal.active(lab)) and clock.monotonic() - begun < 20:
        time.sleep(0.1)
    assert not cgroup.is_frozen(victim)
    assert journal.active(lab) == {}


@pytest.mark.parametrize("heal", [("drill", "undo"), ("lab", "up")])
def test_a_recorded_fault_that_nothing_undid_is_healed_without_losing_the_lab(
    cli: Cli, lab_state: Path, stack: Stack, heal: tuple[str, str]
) -> None:
    lab = plan(stack, lab_state)
    site = lab.host("site-c")
    frozen = Fault(kind=Kind.FREEZE, site=site.name)
    journal.make(frozen, lab, clock=SystemClock(), rng=random.Random(1))

    healed = cli(*heal, "--json")

    assert healed.returncode == 0, healed.stderr
    assert not cgroup.is_frozen(cgroup.of(site)) and host.answers(site)
    assert journal.active(lab) == {}
    if heal == ("drill", "undo"):
        assert json.loads(healed.stdout)["undone"] == [str(frozen)]


def test_power_comes_back_while_another_program_holds_an_old_mount_table(
    lab_state: Path, stack: Stack
) -> None:
    lab = plan(stack, lab_state)
    site = lab.host("site-c")
    other = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 300"],
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    other.stdout.readline()
    try:
        lost = Fault(kind=Kind.POWER_LOSS, site=site.name)
        made = journal.make(lost, lab, clock=SystemClock(), rng=random.Random(2))
        journal.undo(made.fault_id, lab, SystemClock())

        assert host.answers(site) and disk.why_not_writable(site) is None
    finally:
        other.kill()
        other.wait()


def test_a_drill_without_data_or_backup_is_refused_with_the_way_out(cli: Cli) -> None:
    empty = cli("drill", "run", "site-power-loss", "--despite", "pressure")
    assert empty.returncode == 4, empty.stderr  # no data, and no backup either
    assert "zaibei data load" in empty.stderr

    loaded = cli("data", "load", "--scale", "0.2")
    assert loaded.returncode == 0, loaded.stderr
    no_backup = cli("drill", "run", "site-power-loss", "--despite", "pressure")
    assert no_backup.returncode == 4, no_backup.stderr
    assert "no recent backup" in no_backup.stderr
    assert "zaibei backup run" in no_backup.stderr


def test_a_second_drill_is_refused_while_one_runs(cli: Cli, lab_state: Path) -> None:
    with sole(lab_state / "drill.lock", what="a drill"):
        second = cli("drill", "run", "site-power-loss", "--prepare")
        under_it = cli("lab", "down")

    for refused in (second, under_it):
        assert refused.returncode == 4
        assert "a drill is running" in refused.stderr
    assert leftovers.find(lab_state), "the lab of the running drill was taken down"


def test_an_unknown_scenario_is_answered_with_the_known_ones(cli: Cli) -> None:
    unknown = cli("drill", "run", "no-such-thing")

    assert unknown.returncode == 2
    assert "site-power-loss" in unknown.stderr


def test_the_production_site_loses_its_power_and_no_acknowledged_write_is_lost(cli: Cli) -> None:
    done = cli(
        "drill",
        "run",
        "site-power-loss",
        "--prepare",
        "--scale",
        "0.2",
        "--keep-lab",
        "--json",
        "--seed",
        "7",
        "--despite",
        "pressure",
    )
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)

    # A machine that is busy with other things makes the instruments late, and then INVALID is the honest
    # verdict. It is not a defect of the product; a FAIL, or any other doubt, is.
    late = [r for r in result["reasons"] if "late" in r or "host was overloaded" in r]
    if late:  # and then the service is slow too, which is not held against it
        late += [r for r in result["reasons"] if r.startswith(_OF_THE_SERVICE)]
    assert result["verdict"] in ("PASS", "INVALID"), result["reasons"]
    assert sorted(result["reasons"]) == sorted(late), done.stderr
    assert done.returncode == {"PASS": 0, "INVALID": 3}[result["verdict"]]
    may_fail = ("surge-generator", *_OF_THE_SERVICE) if late else ()
    assert [c for c in result["checks"] if not c["passed"] and c["name"] not in may_fail] == []
    assert {c["name"] for c in result["checks"]} >= set(result["required"]) > set(_OF_THE_SERVICE)
    surge = result["surge"]
    assert f"{surge['unserved']} of {surge['offered']} citizens" in result["summary"][0]["en"]
    for text in [c["title"] for c in result["checks"]] + [
        c["detail_i18n"] for c in result["checks"]
    ]:
        assert not re.search(r"[\u4e00-\u9fff]", text["en"]), text
        assert re.search(r"[\u4e00-\u9fff]", text["zh"]), text
    assert set(result) >= _CONTRACT
    assert result["seed"] == 7
    assert result["acked"] > 200
    assert (result["lost"], result["phantoms"], result["epoch_overlap"]) == (0, 0, 0)
    assert 5 < result["rto_first_s"] < 60, (
        "stock Patroni: slower than nothing, faster than the objective"
    )
    assert result["writer"]["before"]["site"] == "site-a"
    assert result["writer"]["after"]["site"] == "site-b"
    assert result["writer"]["after"]["epoch"] > result["writer"]["before"]["epoch"]
    assert len(result["backup"]["vaults"]) == 2
    assert result["backup"]["restore_verified"]
    assert result["failback"]["writer"] == "site-a"
    assert result["negative_control"]["condemned"]
    assert result["environment"]["lab_memory_bytes_max"] < 5 << 30

    pack = Path(result["evidence_pack"])
    sites = ("site-a", "site-b", "site-c")
    assert set(result["fingerprints"]) > {f"witness-{site}.pub" for site in sites}
    given = [f for value in result["fingerprints"].values() for f in ("--fingerprint", value)]
    verified = cli("evidence", "verify", str(pack), *given)
    assert verified.returncode == 0, verified.stderr
    assert "did not sign" not in verified.stdout
    for site in sites:  # also the one whose power was cut: the outcome comes after the failback
        assert f"cosigned by {site} at " in verified.stdout
    by_hand = subprocess.run(
        ["sh", str(pack / "verify.sh")], capture_output=True, text=True, check=False
    )
    assert by_hand.returncode == 0, by_hand.stderr + by_hand.stdout
    report = Path(result["report"]).read_text()
    assert result["drill_id"] in report
    assert ", ".join(sites) in report, "the report names who cosigned"
    assert (
        json.loads(cli("drill", "show", "last", "--json").stdout)["drill_id"] == result["drill_id"]
    )


def test_after_down_nothing_is_left_and_down_again_is_no_error(cli: Cli, lab_state: Path) -> None:
    assert cli("lab", "down").returncode == 0
    assert leftovers.find(lab_state) == []
    assert not (lab_state / "lab").exists()
    assert cli("lab", "down").returncode == 0


_DRILL_THAT_HANGS = """
import random, sys, time
from datetime import timedelta
from collections.abc import Callable
from pathlib import Path
from zaibei import config
from zaibei.kernel.clock import SystemClock
from infra.faults import deadman, journal
from infra.faults.model import Fault, Kind
from infra.lab.plan import plan
state = Path(sys.argv[1])
sample = state / "sample.yaml"
sample.write_text(config.sample(config.DEFAULT))
lab = plan(config.load(sample), state)
with deadman.watching(lab, deadline=timedelta(minutes=5)):
    journal.make(Fault(kind=Kind.FREEZE, site="site-c"), lab, clock=SystemClock(), rng=random.Random(1))
    print("broken", flush=True)
    time.sleep(300)
"""

"""The engine as a process, against a service whose behaviour is known."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from loadtest.guard import Door, NotOurs
from loadtest.oracle import RiggedService
from loadtest.results import SurgeResult
from loadtest.run import Surge, _spawn, start
from loadtest.scenario import LIBRARY, SurgeScenario
from loadtest.shapes import intended_by
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Usage
from zaibei.kernel.wait import wait_until

pytestmark = pytest.mark.integration
Bend = Callable[..., SurgeScenario]
CLOCK = SystemClock()
PATIENT = timedelta(seconds=20)


def _seen(service: RiggedService) -> dict[str, int]:
    with urllib.request.urlopen(f"{service.url}/seen") as answer:
        found: dict[str, int] = json.load(answer)
    return found


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    scenario: Bend,
    plain: RiggedService,
    secure: RiggedService,
    closed_port: int,
    pki: object,
    other_pki: object,
) -> Iterator[dict[str, SurgeResult]]:
    """Five small runs at the same time: each engine takes two seconds to boot."""
    show = {"name": "show-code", "path": "/code/me?person={person}", "keeps": ["token"]}
    verify = {
        "name": "verify",
        "method": "POST",
        "path": "/code/verify",
        "body": {"token": "{token}"},
        "says": {"valid": True},
    }
    forged = {**verify, "name": "forged", "body": {"token": "made up"}}
    gate = [{"name": "gate", "weight": 1, "steps": [show, verify]}]
    forger = [{"name": "forger", "weight": 1, "steps": [forged]}]
    sick = ["/reject", "/broken", "/redirect", "/close", "/ok"]
    shut = f"https://127.0.0.1:{closed_port}"
    tight = {"send_lag_p99": timedelta(seconds=2), "in_flight": 5}
    ours, theirs = pki.ca_file, other_pki.ca_file  # type: ignore[attr-defined]
    plans = {
        "doors": (scenario(visits=gate), [shut, secure.url], ours, 2),
        "sick": (scenario(*sick, connections="fresh"), [plain.url], None, 1),
        "forged": (scenario(visits=forger, rate=10), [plain.url], None, 1),
        "full": (scenario("/hang", caps=tight), [plain.url], None, 1),
        "untrusted": (scenario("/ok", rate=10), [secure.url], theirs, 1),
    }
    folder = tmp_path_factory.mktemp("runs")

    def begin(name: str) -> Surge:
        bent, doors, ca_file, workers = plans[name]
        return start(
            bent,
            doors=doors,
            ca_file=ca_file,
            run_dir=folder / name,
            seed=5,
            clock=CLOCK,
            workers=workers,
            declared=(),
        )

    with ExitStack() as stack, ThreadPoolExecutor(len(plans)) as pool:
        running = {
            n: stack.enter_context(s) for n, s in zip(plans, pool.map(begin, plans), strict=True)
        }
        yield {name: surge.wait() for name, surge in running.items()}


def test_a_citizen_whose_first_door_is_shut_is_served_at_the_other(
    runs: dict[str, SurgeResult],
) -> None:
    result = runs["doors"]

    assert result.generator_verdict.valid, result.generator_verdict.reasons
    assert result.offered == result.ok == 80
    assert {r.step: r.outcomes for r in result.requests} == {
        "show-code": {"ok": 80, "unreachable": 80},
        "verify": {"ok": 80},  # a citizen stays where it was served
    }
    assert result.amplification == 1.5
    assert sum(s.offered for s in result.series) == sum(s.served for s in result.series) == 80


def test_every_kind_of_bad_answer_is_told_apart_and_no_redirect_is_followed(
    runs: dict[str, SurgeResult],
) -> None:
    result = runs["sick"]
    outcomes = {r.step: set(r.outcomes) for r in result.requests}

    assert outcomes == {
        "/ok": {"ok"},
        "/reject": {"rejected"},
        "/broken": {"error"},
        "/redirect": {"wrong"},
        "/close": {"unreachable"},
    }
    assert result.ok + result.rejected + result.failed == result.offered == 80
    assert "/redirect: 302" in result.reasons
    assert result.generator_verdict.valid  # the service is sick, the generator is not


def test_a_200_that_says_invalid_is_no_success(runs: dict[str, SurgeResult]) -> None:
    result = runs["forged"]

    assert result.ok == 0
    assert result.failed == result.offered == 20
    assert result.reasons == {"forged: valid is not True": 20}


def test_what_the_engine_says_it_sent_is_what_the_service_saw(
    runs: dict[str, SurgeResult], plain: RiggedService
) -> None:
    seen = _seen(plain)
    for request in runs["sick"].requests:
        # geventhttpclient alone would have repeated a GET whose connection closes, unseen by us.
        assert seen[f"GET {request.step}"] == sum(request.outcomes.values())


def test_a_generator_without_room_is_invalid_and_says_how_many_it_dropped(
    runs: dict[str, SurgeResult],
) -> None:
    result = runs["full"]

    assert result.dropped > 0
    assert result.ok + result.rejected + result.failed + result.dropped == result.offered == 80
    assert not result.generator_verdict.valid
    assert any("no room in the generator" in r for r in result.generator_verdict.reasons)


def test_a_service_with_anothers_certificate_gets_nothing(runs: dict[str, SurgeResult]) -> None:
    result = runs["untrusted"]

    assert result.ok == 0
    assert result.offered == result.failed == 20
    assert any("CERTIFICATE_VERIFY_FAILED" in r for r in result.reasons)


def test_a_surge_stopped_early_is_valid_for_as_long_as_it_ran(
    scenario: Bend, plain: RiggedService, tmp_path: Path
) -> None:
    bent = scenario("/ok", rate=50, seconds=60)
    with start(
        bent,
        doors=[plain.url],
        ca_file=None,
        run_dir=tmp_path / "run",
        seed=1,
        clock=CLOCK,
        declared=(),
    ) as surge:
        wait_until(
            lambda: None if surge.live().ok >= 50 else "too few were served",
            what="the crowd",
            deadline=PATIENT,
            clock=CLOCK,
        )
        result = surge.stop()

    due = intended_by(
        surge.plan.shape, surge.plan.spacing, seed=1, until_s=result.duration.total_seconds()
    )
    assert result.generator_verdict.valid, result.generator_verdict.reasons
    assert result.offered == result.ok == len(due) < 50 * 60


def test_the_load_ends_when_its_controllers_heart_stops(
    scenario: Bend, plain: RiggedService, tmp_path: Path
) -> None:
    with start(
        scenario("/ok", rate=20, seconds=60),
        doors=[plain.url],
        ca_file=None,
        run_dir=tmp_path / "run",
        seed=1,
        clock=CLOCK,
        declared=(),
    ) as surge:
        surge._over.set()  # the controller hangs: its pipe is open and silent
        wait_until(
            lambda: "the engine is running" if surge.running() else None,
            what="the dead-man",
            deadline=PATIENT,
            clock=CLOCK,
        )
        result = surge.wait()

    assert "worker 1 of 1: controller-lost" in result.generator_verdict.reasons
    assert result.offered > result.ok  # held against the whole of what was asked


_CONTROLLER = """
import sys, time
from pathlib import Path
from loadtest.run import start
from loadtest.scenario import parse
from zaibei.kernel.clock import SystemClock
text, url, folder, key = sys.argv[1:]
surge = start(parse(Path(text).read_text(), origin=text), doors=[url], ca_file=None,
              run_dir=Path(folder), seed=1, clock=SystemClock(), declared=(), session_key=Path(key))
print(surge._workers[0].process.pid, flush=True)
surge.wait()
"""


def test_the_load_does_not_outlive_a_killed_controller(
    plain: RiggedService, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    text = LIBRARY / "surge-during-failover.yml"
    key = tmp_path / "session.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    made = ed25519.Ed25519PrivateKey.generate()
    key.write_bytes(made.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    controller = subprocess.Popen(
        [sys.executable, "-P", "-c", _CONTROLLER, str(text), plain.url, str(run_dir), str(key)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert controller.stdout
        engine = int(controller.stdout.readline())
        controller.kill()
        controller.wait()
        wait_until(
            lambda: "the engine lives" if _alive(engine) else None,
            what="the dead-man",
            deadline=PATIENT,
            clock=CLOCK,
        )
    finally:
        controller.kill()
        controller.wait()
        controller.stdout.close()
    last = json.loads((run_dir / "results-0.jsonl").read_bytes().splitlines()[-1])

    assert last["kind"] == "end"
    assert last["reason"] == "controller-lost"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan's body may wait for init to notice: a zombie sends nothing.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_an_engine_given_a_plan_by_hand_refuses_a_foreign_address_itself(
    scenario: Bend, tmp_path: Path
) -> None:
    foreign = Door(url="https://x", tls=True, host="x", port=443, address="192.0.2.10")
    plan = scenario("/ok").plan(doors=[foreign], declared=["192.0.2.10"], ca_file=None, seed=1)
    worker = _spawn(plan, tmp_path)
    try:
        code = worker.process.wait(timeout=PATIENT.total_seconds())
    finally:
        worker.process.kill()
        worker.process.wait()
        os.close(worker.pipe)

    assert code == 70
    assert "NotOurs" in worker.log.read_text()
    assert not worker.read().ready


def test_a_host_that_is_not_ours_is_refused_before_anything_starts(
    scenario: Bend, tmp_path: Path
) -> None:
    with pytest.raises(NotOurs, match="neither loopback nor a declared lab address"):
        start(
            scenario("/ok"),
            doors=["http://127.0.0.1:1", "https://192.0.2.10"],
            ca_file=None,
            run_dir=tmp_path / "run",
            seed=1,
            clock=CLOCK,
            declared=(),
        )
    assert not (tmp_path / "run").exists()


def test_two_runs_do_not_share_a_directory(scenario: Bend, tmp_path: Path) -> None:
    (tmp_path / "results-0.jsonl").write_text("")
    with pytest.raises(Usage, match="not empty"):
        start(
            scenario("/ok"),
            doors=["http://127.0.0.1:1"],
            ca_file=None,
            run_dir=tmp_path,
            seed=1,
            clock=CLOCK,
            declared=(),
        )

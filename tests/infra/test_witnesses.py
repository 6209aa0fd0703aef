"""Every site is a witness of the operator's log: what the role starts signs, and what it showed is declared once."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ruamel.yaml import YAML

from infra.lab import pki, provision, witnesses
from infra.lab.plan import LabPlan, plan
from zaibei.config.model import Stack
from zaibei.evidence import Evidence, Kind, default_dir
from zaibei.evidence.note import parse
from zaibei.evidence.remote_witness import RemoteWitness, declare, declared
from zaibei.evidence.witness_server import Desk
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Refused

ROLES = Path(provision.__file__).parents[1] / "ansible" / "roles"
CLOCK = SystemClock()


@pytest.fixture
def lab(stack_of_three: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabPlan:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    made = plan(stack_of_three, tmp_path)
    return replace(made, hosts=tuple(replace(h, address="127.0.0.1") for h in made.hosts))


def tasks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = YAML(typ="safe").load(
        (ROLES / "witness" / "tasks" / "main.yml").read_text()
    )
    return found


def service() -> dict[str, Any]:
    (one,) = [t["vars"] for t in tasks() if "vars" in t]
    return dict(one)


@contextmanager
def run_as_the_role_does(lab: LabPlan, log_key: Path, port: int) -> Iterator[Path]:
    """Answers with the folder of the witness."""
    host = lab.hosts[1]
    folder = lab.root / "data"
    (folder / "witness").mkdir(parents=True)
    etc = log_key.parent
    values = {
        "zaibei_venv": str(Path(sys.executable).parents[1]),
        "zaibei_data": str(folder),
        "site": host.name,
        "zaibei_etc": str(etc),
        "site_address": host.address,
        "ports": {"witness": port},
        "pki_dir": str(lab.secrets / "pki" / host.name),
    }
    command = jinja2.Template(service()["service_command"]).render(values).split()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROLES.parents[2]), "LANG": "C.UTF-8"}
    with subprocess.Popen(command, env=env, cwd="/", stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline().startswith(f"witness {host.name} of urn:zaibei:log:")
            yield folder / "witness"
        finally:
            running.terminate()
            running.wait(timeout=10)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_what_the_role_starts_signs_the_logs_head_with_a_key_made_there(lab: LabPlan) -> None:
    pki.issue(lab, lab.secrets / "pki", CLOCK)
    etc = lab.root / "etc"
    etc.mkdir()
    (etc / "evidence-log.pub").write_text(witnesses.log_key(CLOCK))
    port = free_port()
    with run_as_the_role_does(lab, etc / "evidence-log.pub", port) as folder:
        wait_for = [
            t["ansible.builtin.wait_for"]["path"]
            for t in tasks()
            if "ansible.builtin.wait_for" in t
        ]
        assert wait_for == ["{{ zaibei_data }}/witness/witness.pub"]
        one = RemoteWitness(
            name="site-b",
            url=f"https://127.0.0.1:{port}",
            public=(folder / "witness.pub").read_bytes(),
            ca=str(pki.root_file(lab.secrets / "pki", pki.DOORS)),
        )
        declare(default_dir(), one)
        Evidence.open(default_dir(), CLOCK).record(Kind.ACTION, {"n": 1})
    head = (default_dir() / "log" / "checkpoint").read_bytes()
    assert "urn:zaibei:witness:site-b" in {line.name for line in parse(head).signatures}
    assert (folder / "ed25519.key").stat().st_mode & 0o777 == 0o600


def test_the_witness_has_an_account_a_port_and_a_certificate_of_its_own(lab: LabPlan) -> None:
    user = service()["service_user"]
    base = (ROLES / "base" / "tasks" / "main.yml").read_text()
    assert f"'{user}'" in base
    for host in lab.hosts:
        (leaf,) = [k for k in pki.leaves(lab) if k.site == host.name and k.name == "witness"]
        assert (leaf.account, leaf.root, leaf.client) == (user, pki.DOORS, False)
        assert [k for k in pki.leaves(lab) if k.account == user and k.site == host.name] == [leaf]
    (folder,) = [t["ansible.builtin.file"] for t in tasks() if "ansible.builtin.file" in t]
    assert (folder["owner"], folder["mode"]) == (user, "0700")
    copied = [t["ansible.builtin.copy"]["content"] for t in tasks() if "ansible.builtin.copy" in t]
    assert copied == ["{{ evidence_log_key }}"], "no private key is brought to a site"
    (back,) = [t["ansible.builtin.fetch"]["src"] for t in tasks() if "ansible.builtin.fetch" in t]
    assert back.endswith(".pub"), "none is taken from it"


def show_keys(lab: LabPlan, generation: str) -> None:
    """As the role brings them."""
    for host in lab.hosts:
        there = Desk.create(lab.root / generation / host.name, CLOCK, name=host.name)
        witnesses.key_file(lab, host).parent.mkdir(parents=True, exist_ok=True)
        witnesses.key_file(lab, host).write_bytes(there.public)


def declare_again(lab: LabPlan, *, fresh: bool) -> list[str]:
    """The kinds in the log afterwards."""
    witnesses.declare_all(lab, ca=lab.secrets / "ca.crt", fresh=fresh, clock=CLOCK)
    return [e.statement.predicate_type for e in Evidence.open(default_dir(), CLOCK).entries()]


def test_the_sites_are_declared_once_and_a_lab_made_new_has_new_ones(lab: LabPlan) -> None:
    show_keys(lab, "first")
    assert declare_again(lab, fresh=True) == [Kind.WITNESSES]
    assert declare_again(lab, fresh=False) == declare_again(lab, fresh=True) == [Kind.WITNESSES]
    assert [w.name for w in declared(default_dir())] == ["site-a", "site-b", "site-c"]

    show_keys(lab, "second")
    assert declare_again(lab, fresh=True) == [Kind.WITNESSES, Kind.WITNESSES]


@pytest.mark.attack
def test_a_site_that_shows_another_key_in_a_lab_that_is_there_is_refused(lab: LabPlan) -> None:
    show_keys(lab, "first")
    declare_again(lab, fresh=True)
    before = declared(default_dir())
    show_keys(lab, "second")
    with pytest.raises(Refused, match="declared with another key"):
        declare_again(lab, fresh=False)
    assert declared(default_dir()) == before


def test_a_witness_elsewhere_is_not_taken_for_one_of_the_lab(lab: LabPlan) -> None:
    Evidence.open(default_dir(), CLOCK)
    other = Desk.create(lab.root / "office", CLOCK, name="office")
    declare(
        default_dir(), RemoteWitness(name="office", url="http://127.0.0.1:1", public=other.public)
    )
    show_keys(lab, "first")
    declare_again(lab, fresh=True)
    assert [w.name for w in declared(default_dir())] == ["office", "site-a", "site-b", "site-c"]

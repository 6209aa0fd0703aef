"""Attacks on the runbook engine: a name that is a pattern, a value that is a program, a secret left behind."""

import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from runbooks import journal as book
from runbooks.engine import Engine, same
from runbooks.library import BadRunbook, Source, find, library_dir, read
from runbooks.placeholders import Declared, check_names, filled, given
from runbooks.play import run_play
from zaibei import config
from zaibei.cli.main import app
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Refused, Usage, ZaibeiError

pytestmark = pytest.mark.attack

SITES = ("site-a", "site-b", "site-c")
PATTERNS = (
    "all",
    "sites",
    "site-a:site-b",
    "site-a,site-b",
    "*",
    "site-*",
    "!site-a",
    "~site-.",
    "&sites",
    "@/etc/hosts",
    "site-a[0]",
    "site-[a:c]",
    "localhost",
    "ungrouped",
    "SITE-A",
    "site-a.",
    ":site-a",
    "site-a:",
    "site-a@/x",
    "./site-a",
    "site-d",
)
# Stands in for supervisorctl: each host that it reaches leaves a file.
STOP = """
- hosts: all
  gather_facts: false
  strategy: linear
  vars: {zaibei_destructive: true}
  tasks:
    - name: Stop
      ansible.builtin.copy:
        content: "{{ services | join(',') }} {{ hidden | default('') }}"
        dest: "{{ playbook_dir }}/../../../../../stopped.{{ inventory_hostname }}"
        mode: "0600"
      no_log: true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Three hosts that are this machine, and what was stopped on them."""

    engine: Engine
    folder: Path

    def stopped(self) -> dict[str, str]:
        files = sorted(self.folder.rglob("stopped.*"))
        return {f.name.removeprefix("stopped."): f.read_text() for f in files}

    def play(self, *, limit: str, services: list[str], secrets: dict[str, object]) -> None:
        folder = self.folder / "state" / "runbooks" / "by-hand"
        folder.mkdir(parents=True, exist_ok=True)
        run_play(
            "stop-services.yml",
            limit=limit,
            variables={"services": list(services)},
            secrets=secrets,
            inventory=self.engine.inventory,
            folder=folder,
            ident="step-1",
            deadline=timedelta(seconds=60),
            clock=SystemClock(),
            playbooks=self.engine.playbooks,
        )


@pytest.fixture
def hosts(state: Path, tmp_path: Path) -> Hosts:
    here = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(json.dumps({"sites": {"hosts": dict.fromkeys(SITES, here)}}))
    playbooks = tmp_path / "playbooks"
    playbooks.mkdir()
    (playbooks / "stop-services.yml").write_text(STOP)
    access: Any = SimpleNamespace(sites=[SimpleNamespace(name=s) for s in SITES])
    engine = Engine(
        clock=SystemClock(),
        rng=random.Random(1),
        inventory=inventory,
        access=lambda: access,
        playbooks=playbooks,
    )
    return Hosts(engine=engine, folder=tmp_path)


@pytest.mark.parametrize("site", PATTERNS)
def test_a_site_that_is_a_pattern_stops_nothing_anywhere(hosts: Hosts, site: str) -> None:
    with pytest.raises(Usage):
        hosts.engine.run(find("fence-site"), {"site": site}, typed=site)
    assert hosts.stopped() == {}


@pytest.mark.parametrize("limit", PATTERNS)
def test_a_play_takes_no_limit_but_the_name_of_one_host(hosts: Hosts, limit: str) -> None:
    with pytest.raises(Refused, match="limit"):
        hosts.play(limit=limit, services=["haproxy"], secrets={})
    assert hosts.stopped() == {}


def test_a_host_and_a_group_of_one_name_are_not_told_apart_by_luck(hosts: Hosts) -> None:
    listed = json.loads(hosts.engine.inventory.read_text())
    listed["site-a"] = {"hosts": listed["sites"]["hosts"]}
    hosts.engine.inventory.write_text(json.dumps(listed))
    with pytest.raises(Refused, match="name of a group"):
        hosts.play(limit="site-a", services=["haproxy"], secrets={})
    assert hosts.stopped() == {}


@pytest.mark.integration
def test_the_play_of_one_site_reaches_that_site_and_its_arguments_stay_text(hosts: Hosts) -> None:
    hostile = "{{ lookup('pipe', 'touch " + str(hosts.folder / "ran") + "; echo hi') }}"
    hosts.play(limit="site-b", services=[hostile], secrets={"hidden": "pa{{ 1 + 1 }}ss"})
    assert hosts.stopped() == {"site-b": f"{hostile} pa{{{{ 1 + 1 }}}}ss"}
    assert not (hosts.folder / "ran").exists()


def test_a_destructive_runbook_acts_on_no_site_but_the_one_that_was_typed(
    hosts: Hosts, written: Callable[[str], Source]
) -> None:
    content = (library_dir() / "fence-site.yml").read_text()
    elsewhere = content.replace('limit: "{site}"', "limit: site-c")
    source = written(elsewhere[elsewhere.index("id: fence-site") :])
    with pytest.raises(Refused, match="limited to 'site-c'"):
        hosts.engine.run(source, {"site": "site-a"}, typed="site-a")
    assert hosts.stopped() == {}


@pytest.mark.parametrize(
    "good_bad",
    [
        ('limit: "{site}"', "limit: all:sites"),
        ('limit: "{site}"', 'limit: "{site}:site-b"'),
        ('limit: "{site}"', 'limit: "*"'),
        ('limit: "{site}"', 'limit: "@/etc/hosts"'),
        ("services: [haproxy]", "services: [\"{{ lookup('pipe', 'id') }}\"]"),
        ("services: [haproxy]", 'services: "{% raw %}"'),
        ("services: [haproxy]", "services: [haproxy], ansible_host: other"),
        ("services: [haproxy]", 'services: [haproxy], "{{ x }}": y'),
    ],
)
def test_a_runbook_with_a_pattern_or_a_template_is_not_read(
    tmp_path: Path, good_bad: tuple[str, str]
) -> None:
    content = (library_dir() / "fence-site.yml").read_text()
    assert good_bad[0] in content
    file = tmp_path / "fence-site.yml"
    file.write_text(content.replace(*good_bad, 1))
    with pytest.raises(BadRunbook):
        read(file)


DECLARED = Declared(
    sites=frozenset(SITES), databases=frozenset({"health_code"}), buckets=frozenset({"objects"})
)


@pytest.mark.parametrize(
    ("runbook", "odd"),
    [
        ("restore-database", {"database": ".+"}),
        ("restore-database", {"database": "health_cod."}),
        ("restore-database", {"database": "template1"}),
        ("reseed-store", {"bucket": "other"}),
        ("reseed-store", {"other": "all"}),
        ("check-site", {"site": "all"}),
        ("fail-back", {"site": "sites"}),
        ("free-disk", {"site": "site-a:site-b"}),
        ("restore-replication", {"site": "*"}),
        ("run-drill", {"site": "all"}),
    ],
)
def test_a_name_that_the_stack_does_not_have_is_refused(runbook: str, odd: dict[str, str]) -> None:
    book = find(runbook).runbook
    good = {"site": "site-a", "other": "site-b", "database": "health_code", "bucket": "objects"}
    rest = {"target": "/srv/room", "scenario": "primary-crash"}
    asked = {k: v for k, v in {**good, **rest, **odd}.items() if k in book.parameters}
    with pytest.raises(Usage):
        check_names(book, given(book, asked), DECLARED)
    right = {k: v for k, v in {**good, **rest}.items() if k in book.parameters}
    check_names(book, given(book, right), DECLARED)


def test_what_is_left_in_the_target_is_what_was_recovered_to_the_moment() -> None:
    """A base backup without its log is not the moment that was asked for and counted."""
    book = find("restore-database").runbook
    words = [list(s.action.args["argv"]) for s in book.steps]  # type: ignore[call-overload]
    writing = [argv for argv in words if "{target}" in argv]
    assert [argv[:2] for argv in writing] == [["backup", "rehearse"]]
    assert [argv[argv.index("--to") + 1] for argv in writing] == ["{to}"]


def test_a_database_is_not_accepted_where_the_stack_is_not_known() -> None:
    book = find("restore-database").runbook
    values = given(book, {"database": "health_code", "target": "/srv/room"})
    with pytest.raises(Refused, match="cannot be checked"):
        check_names(book, values, Declared(sites=frozenset(SITES)))


def test_a_value_in_a_pattern_stands_for_itself() -> None:
    args = filled({"expect": "^{database}$"}, {"database": "a.+"})
    assert re.search(str(args["expect"]), "abc") is None
    assert re.search(str(args["expect"]), "a.+") is not None


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("time", "yesterday"),
        ("time", "2026-11-30T08:00:00"),
        ("integer", "12x"),
        ("integer", "٣"),
        ("integer", "9" * 40),
        ("text", "@/etc/passwd"),
        ("text", "--yes"),
        ("text", "a b"),
    ],
)
def test_a_value_of_another_type_is_refused(
    written: Callable[[str], Source], kind: str, value: str
) -> None:
    content = (library_dir() / "free-disk.yml").read_text()
    typed = content.replace("older-than: {type: text,", f"older-than: {{type: {kind},")
    book = written(typed.replace(", default: 7d", "")).runbook
    with pytest.raises(Usage):
        given(book, {"site": "site-a", "older-than": value})


@pytest.fixture
def watched(hosts: Hosts) -> Iterator[list[bool]]:
    """Whether the file with the variables was seen on the disk, looked at all the time."""
    seen, stop = [False], threading.Event()

    def look() -> None:
        while not stop.wait(0.005):
            found = any(hosts.folder.rglob("env/extravars"))
            seen.append(found) if found is not seen[-1] else None

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    stop.set()
    thread.join()


@pytest.mark.integration
@pytest.mark.parametrize("ends_well", [True, False])
def test_the_secrets_of_a_play_are_gone_when_it_ends_however_it_ends(
    hosts: Hosts, watched: list[bool], *, ends_well: bool
) -> None:
    playbook = hosts.folder / "playbooks" / "stop-services.yml"
    if not ends_well:
        playbook.write_text(STOP.replace("ansible.builtin.copy:", "ansible.builtin.fail:"))
    secret = "s3cret-" + "x" * 16
    try:
        hosts.play(limit="site-a", services=["haproxy"], secrets={"hidden": secret})
    except ZaibeiError:
        assert not ends_well
    assert True in watched, "the file with the variables was never there: the test saw nothing"
    kept = [f for f in (hosts.folder / "state").rglob("*") if f.is_file()]
    assert [str(f) for f in kept if secret.encode() in f.read_bytes()] == []


@pytest.mark.parametrize("argv", [("no-such-folder",), ("empty",), ("no-such-file.yml",)])
def test_lint_does_not_pass_what_it_did_not_look_at(tmp_path: Path, argv: tuple[str]) -> None:
    (tmp_path / "empty").mkdir()
    ended = CliRunner().invoke(app, ["runbook", "lint", str(tmp_path / argv[0]), "--json"])
    assert isinstance(ended.exception, Usage), ended.output


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        b"",
        b"\xff\xfe\x00",
        b"- a\n- b\n",
        b"a: [",
        b"{{ x }}",
        b"\x00" * 10,
        b"!!python/x y",
    ],
)
def test_lint_finds_a_fault_in_a_file_that_is_no_runbook(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "g.yml"
    file.write_bytes(content)
    ended = CliRunner().invoke(app, ["runbook", "lint", str(file), "--json"])
    assert ended.exit_code == 1, ended.output
    assert json.loads(ended.stdout)["findings"]


def test_lint_reads_one_file_and_names_what_lies_unread_beside_runbooks(tmp_path: Path) -> None:
    good = library_dir() / "fence-site.yml"
    ended = CliRunner().invoke(app, ["runbook", "lint", str(good), "--json"])
    assert json.loads(ended.stdout) == {"findings": [], "runbooks": ["fence-site.yml"]}
    (tmp_path / "fence-site.yml").write_bytes(good.read_bytes())
    (tmp_path / "README.md").write_text("ours\n")
    (tmp_path / "more.yaml").write_text("garbage\n")
    (tmp_path / "below").mkdir()
    ended = CliRunner().invoke(app, ["runbook", "lint", str(tmp_path), "--json"])
    assert ended.exit_code == 1
    assert [f["file"] for f in json.loads(ended.stdout)["findings"]] == ["below", "more.yaml"]


def test_the_sample_stack_is_what_the_command_line_looks_names_up_in(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stack.yaml").write_text(config.sample("two-places-three-centres"))
    argv = ["runbook", "run", "fence-site", "--site", "all", "--yes-i-mean", "all", "--dry-run"]
    ended = CliRunner().invoke(app, argv)
    assert isinstance(ended.exception, Usage)
    assert "no site 'all' in this stack" in str(ended.exception)


@pytest.mark.parametrize(
    "change",
    [
        {"values": "x"},
        {"values": None},
        {"values": {"site": ["site-a"]}},
        {"values": {}},
        {"steps": []},
        {"steps": [{"id": "other", "state": "proven", "attempts": 0}]},
        {"file": 5},
        {"digest": ["x"]},
        {"steps": [{"id": "stop", "state": "started", "attempts": "1"}]},
        {"values": {"site": "site-a", "extra": "x"}},
    ],
    ids=str,
)
def test_a_journal_that_was_edited_is_damage_before_any_step_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path))
    whole = {
        "run": "run-1",
        "runbook": "fence-site",
        "file": "x",
        "digest": "x",
        "values": {"site": "site-a"},
        "started_at": "x",
        "state": "failed",
        "steps": [
            {"id": s.id, "state": "failed", "attempts": 1} for s in find("fence-site").runbook.steps
        ],
    }
    whole["digest"] = find("fence-site").digest
    book.run_dir("run-1").mkdir(parents=True)
    (book.run_dir("run-1") / "journal.json").write_text(json.dumps(whole))
    assert same(book.load("run-1"), find("fence-site")).run == "run-1", "it is whole before"
    (book.run_dir("run-1") / "journal.json").write_text(json.dumps({**whole, **change}))
    with pytest.raises(Damage):
        same(book.load("run-1"), find("fence-site"))

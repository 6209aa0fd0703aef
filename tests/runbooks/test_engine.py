"""The engine: what it proves, what it refuses to call proven, and what is left when it is killed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from infra.sites import SiteAccess, StackAccess, StoreAccess, save
from runbooks import journal as book
from runbooks.actions import Context, action, check
from runbooks.engine import Engine, NotProven
from runbooks.journal import RunState, StepState
from runbooks.library import Source
from runbooks.native import FenceNotProven, site_takes_no_writes, zaibei
from runbooks.summary import in_short
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Refused, ToolFailed, Unreachable, Usage
from zaibei.kernel.tree import descendants
from zaibei.kernel.wait import wait_until

Written = Callable[[str], Source]
STEP = """
  - id: {id}
    title: {{zh: 写文件, en: Write a file}}
    action: {action}
    undo: {undo}
    proof: {{check: {check}, args: {args}, says: {{zh: 成立, en: it holds}}}}
    fallback: {{zh: 手工写, en: write it by hand}}
    deadline: {deadline}
"""
HEAD = """id: {id}
title: {{zh: 试验, en: A trial}}
when: {{zh: 试验时, en: in a trial}}
claim: {{zh: 文件在, en: the file is there}}
owner: 试验员 / tester
hazards: [H4]
danger: {{level: {level}, what: {{zh: 写一个文件, en: a file is written}}}}
drill: {drill}
approvals: {{needed: 0}}
parameters:
  site: {{type: site, title: {{zh: 站点, en: the site}}}}
steps:
"""


def text(
    *steps: str, name: str = "write-file", level: str = "destructive", drill: str = "a-drill"
) -> str:
    return HEAD.format(id=name, level=level, drill=drill) + "".join(steps)


def step(
    name: str,
    *,
    action: str,
    check: str,
    args: str = "{}",
    undo: str = "{none: {zh: 无, en: it cannot}}",
    deadline: str = "30s",
) -> str:
    return STEP.format(id=name, action=action, check=check, args=args, undo=undo, deadline=deadline)


@pytest.fixture
def engine(state: Path, inventory: Path, tmp_path: Path) -> Engine:
    playbooks = tmp_path / "playbooks"
    playbooks.mkdir()
    return Engine(
        clock=SystemClock(),
        rng=random.Random(1),
        inventory=inventory,
        access=lambda: nobody(tmp_path),
        playbooks=playbooks,
    )


def nobody(folder: Path, *, address: str = "127.0.0.1", ssh_port: int = 1) -> StackAccess:
    """A stack of one site, all of whose ports are closed (port 1 of loopback) unless told."""
    site = SiteAccess(
        name="site-b",
        address=address,
        store=StoreAccess(endpoint=f"https://{address}:1", region="x", keys={}),
        postgres_port=1,
        primary_port=1,
        replica_port=1,
        patroni_url=f"https://{address}:1",
        etcd_url=f"https://{address}:1",
        entry_url=f"https://{address}:1",
        exporter_url=f"https://{address}:1",
        ssh_port=ssh_port,
    )
    return StackAccess(
        stack="trial",
        operator_address="127.0.0.1",
        ca_file=folder / "ca.crt",
        client_cert=folder / "client.crt",
        client_key=folder / "client.key",
        ssh_key=folder / "ssh",
        ssh_known_hosts=folder / "known",
        sites=(site,),
        passwords={},
    )


@action("trial-append")
def _append(context: Context, *, file: str, word: str) -> str:
    """append a word to a file"""
    with Path(file).open("a") as out:
        out.write(word + "\n")
    return f"wrote {word}"


@check("trial-holds")
def _holds(context: Context, *, file: str, word: str) -> str | None:
    """the word is in the file"""
    if not Path(file).exists():
        raise Unreachable(f"{file} is not there to be asked")
    return None if word in Path(file).read_text() else f"{word} is not in it"


def _wrote(file: Path, word: str, *, says: str | None = None) -> str:
    args = f"{{file: {file}, word: {word}}}"
    return step(
        word,
        action=f"{{native: trial-append, args: {args}}}",
        check="trial-holds",
        args=f"{{file: {file}, word: {says or word}}}",
        undo=f"{{native: trial-append, args: {{file: {file}, word: un{word}}}}}",
    )


def test_a_run_whose_proofs_all_held_is_a_success(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    source = written(text(_wrote(tmp_path / "f", "one"), _wrote(tmp_path / "f", "two")))
    done = engine.run(source, {"site": "site-b"}, typed="site-b")
    assert done.state is RunState.SUCCEEDED
    assert [(s.state, s.proof) for s in done.steps] == [(StepState.PROVEN, "holds")] * 2
    assert book.load(done.run) == done
    assert book.run_dir(done.run).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("typed", [None, "site-a", "site-B", ""])
def test_a_destructive_runbook_wants_the_very_name_of_the_site(
    engine: Engine, written: Written, tmp_path: Path, typed: str | None
) -> None:
    source = written(text(_wrote(tmp_path / "f", "one")))
    with pytest.raises(Refused, match="destructive"):
        engine.run(source, {"site": "site-b"}, typed=typed)
    assert not (tmp_path / "f").exists()
    assert not book.runs_dir().exists()


def test_a_proof_that_does_not_hold_stops_the_run_and_is_told(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    source = written(text(_wrote(file, "one", says="other"), _wrote(file, "two")))
    with pytest.raises(NotProven, match="NOT proven: the file is there") as lost:
        engine.run(source, {"site": "site-b"}, typed="site-b")
    assert lost.value.exit_code == 4
    assert any("by hand: write it by hand" in h for h in lost.value.hints)
    assert file.read_text() == "one\n"


def test_a_proof_that_could_not_be_asked_is_no_success(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    one = step(
        "one",
        action=f"{{native: trial-append, args: {{file: {file}, word: one}}}}",
        check="trial-holds",
        args=f"{{file: {tmp_path / 'gone'}, word: one}}",
    )
    with pytest.raises(NotProven):
        engine.run(written(text(one)), {"site": "site-b"}, typed="site-b")
    (run,) = [d.name for d in book.runs_dir().iterdir() if d.is_dir()]
    record = book.load(run).step("one")
    assert record.state is StepState.FAILED
    assert record.proof.startswith("could not be asked: ")


def test_a_precondition_that_cannot_be_asked_refuses_before_anything_is_done(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    content = text(_wrote(tmp_path / "f", "one")).replace(
        "steps:\n",
        "preconditions: [{check: trial-holds, args: {file: /nowhere, word: x}, says: {zh: 有, en: x}}]\nsteps:\n",
    )
    with pytest.raises(Refused, match="could not be asked"):
        engine.run(written(content), {"site": "site-b"}, typed="site-b")
    assert not (tmp_path / "f").exists()


def test_a_killed_run_is_taken_up_where_it_was_and_only_the_step_in_doubt_is_repeated(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    """The process dies inside the second action: its journal says `started`, and nobody knows more."""
    file = tmp_path / "f"
    source = written(text(_wrote(file, "one"), _wrote(file, "two"), _wrote(file, "three")))
    program = (
        "import os, random, sys\n"
        "from pathlib import Path\n"
        "from runbooks.actions import action, check\n"
        "from runbooks.engine import Engine\n"
        "from runbooks.library import read\n"
        "from zaibei.kernel.clock import SystemClock\n"
        "@action('trial-append')\n"
        "def append(context, *, file, word):\n"
        "    'append a word'\n"
        "    if word == 'two': os.kill(os.getpid(), 9)\n"
        "    open(file, 'a').write(word + '\\n')\n"
        "    return word\n"
        "@check('trial-holds')\n"
        "def holds(context, *, file, word):\n"
        "    'it is there'\n"
        "    return None if word in open(file).read() else 'no'\n"
        "engine = Engine(clock=SystemClock(), rng=random.Random(2), inventory=Path('/nowhere'))\n"
        "engine.run(read(Path(sys.argv[1])), {'site': 'site-b'}, typed='site-b')\n"
    )
    save(nobody(tmp_path))
    died = subprocess.run([sys.executable, "-P", "-c", program, source.file], check=False)
    assert died.returncode == -signal.SIGKILL
    (run,) = [d.name for d in book.runs_dir().iterdir() if d.is_dir()]
    states = [s.state for s in book.load(run).steps]
    assert states == [StepState.PROVEN, StepState.STARTED, StepState.PENDING]

    done = engine.resume(source, run, typed="site-b")
    assert done.state is RunState.SUCCEEDED
    assert [s.attempts for s in done.steps] == [1, 2, 1]
    assert file.read_text().split() == ["one", "two", "three"]


def test_a_run_is_taken_back_from_its_last_step_to_its_first(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    source = written(text(_wrote(file, "one"), _wrote(file, "two", says="no"), _wrote(file, "x")))
    with pytest.raises(NotProven):
        engine.run(source, {"site": "site-b"}, typed="site-b")
    (run,) = [d.name for d in book.runs_dir().iterdir() if d.is_dir()]
    undone = engine.undo(source, run, typed="site-b")
    assert undone.state is RunState.UNDONE
    assert file.read_text().split() == ["one", "two", "untwo", "unone"]
    with pytest.raises(Usage):
        engine.resume(source, run, typed="site-b")


def test_a_runbook_that_was_edited_meanwhile_is_not_resumed(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    with pytest.raises(NotProven):
        engine.run(
            written(text(_wrote(file, "one", says="no"))), {"site": "site-b"}, typed="site-b"
        )
    (run,) = [d.name for d in book.runs_dir().iterdir() if d.is_dir()]
    with pytest.raises(Refused, match="another text"):
        engine.resume(written(text(_wrote(file, "two"))), run, typed="site-b")


@pytest.mark.parametrize("value", ["{{ lookup('pipe','id') }}", "-e", "a b", "", "x\ny"])
def test_a_parameter_cannot_carry_a_template_or_a_flag(
    engine: Engine, written: Written, tmp_path: Path, value: str
) -> None:
    source = written(text(_wrote(tmp_path / "f", "one")))
    with pytest.raises(Usage):
        engine.run(source, {"site": value}, typed=value)


PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Write
      ansible.builtin.copy: {content: "{{ word }} {{ hidden }}", dest: "{{ file }}", mode: "0600"}
      no_log: true
"""
SLEEPY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Sleep for long
      ansible.builtin.command: {argv: [/usr/bin/sleep, "%s"]}
"""


def _played(file: Path, play: str = "write.yml", deadline: str = "60s") -> str:
    return step(
        "play",
        action=f'{{play: {play}, limit: "{{site}}", args: {{file: {file}, word: played}}}}',
        check="trial-holds",
        args=f"{{file: {file}, word: played}}",
        deadline=deadline,
    )


@pytest.mark.integration
def test_a_real_play_runs_in_a_child_and_its_events_are_hashed_into_the_journal(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    assert engine.playbooks is not None
    (engine.playbooks / "write.yml").write_text(PLAY)
    with_secret = replace(engine, secrets={"hidden": "s3cr3t-value"})
    source = written(text(_played(tmp_path / "out")))
    done = with_secret.run(source, {"site": "site-b"}, typed="site-b")
    assert (tmp_path / "out").read_text() == "played s3cr3t-value"
    record = done.step("play")
    folder = book.run_dir(done.run)
    lines = (folder / "play-1.events.jsonl").read_text().splitlines()
    assert record.events == len(lines) > 3
    assert any(json.loads(line)["event"] == "runner_on_ok" for line in lines)
    assert len(record.events_sha256) == 64
    kept = [file for file in folder.rglob("*") if file.is_file()]
    assert [str(file) for file in kept if b"s3cr3t-value" in file.read_bytes()] == []
    assert folder / "journal.json" in kept


@pytest.mark.integration
def test_a_play_past_its_deadline_leaves_no_process_behind(
    engine: Engine, written: Written, tmp_path: Path
) -> None:
    assert engine.playbooks is not None
    marker = f"7{os.getpid()}"
    (engine.playbooks / "sleepy.yml").write_text(SLEEPY % marker)
    source = written(text(_played(tmp_path / "out", "sleepy.yml", deadline="5s")))
    before = set(descendants(os.getpid()))  # servers that other tests of this run keep up
    with pytest.raises(NotProven, match="not done after 5 s"):
        engine.run(source, {"site": "site-b"}, typed="site-b")
    assert _sleepers(marker) == []
    assert set(descendants(os.getpid())) - before == set()


@pytest.mark.integration
def test_when_the_engine_is_killed_its_play_dies_too(
    written: Written, inventory: Path, state: Path, tmp_path: Path
) -> None:
    marker = f"8{os.getpid()}"
    playbooks = tmp_path / "playbooks"
    playbooks.mkdir()
    (playbooks / "sleepy.yml").write_text(SLEEPY % marker)
    source = written(text(_played(tmp_path / "out", "sleepy.yml")))
    program = (
        "import random, sys\n"
        "from pathlib import Path\n"
        "from runbooks.engine import Engine\n"
        "from runbooks.library import read\n"
        "from zaibei.kernel.clock import SystemClock\n"
        "engine = Engine(clock=SystemClock(), rng=random.Random(3), inventory=Path(sys.argv[2]),\n"
        "                playbooks=Path(sys.argv[3]))\n"
        "engine.run(read(Path(sys.argv[1])), {'site': 'site-b'}, typed='site-b')\n"
    )
    save(nobody(tmp_path))
    victim = subprocess.Popen(
        [sys.executable, "-P", "-c", program, source.file, inventory, playbooks]
    )
    clock = SystemClock()
    try:
        wait_until(
            lambda: None if _sleepers(marker) else "the play does not sleep yet",
            what="the play runs",
            deadline=timedelta(seconds=40),
            clock=clock,
        )
    finally:
        victim.kill()
        victim.wait()
    wait_until(
        lambda: f"still there: {left}" if (left := _sleepers(marker)) else None,
        what="the play is gone",
        deadline=timedelta(seconds=15),
        clock=clock,
    )


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _context(tmp_path: Path, **site: object) -> Context:
    return Context(
        access=lambda: nobody(tmp_path, **site),  # type: ignore[arg-type]
        clock=SystemClock(),
        folder=tmp_path,
        deadline=timedelta(milliseconds=300),
    )


def test_a_site_that_cannot_be_reached_is_never_called_fenced(tmp_path: Path) -> None:
    """All its write ports are shut as seen from here; that is also how a cut link looks."""
    with pytest.raises(FenceNotProven, match="NOT proven") as lost:
        site_takes_no_writes(_context(tmp_path), site="site-b")
    assert lost.value.exit_code == 4
    assert any("power" in h for h in lost.value.hints)


def test_a_fence_needs_somebody_else_to_say_that_nobody_leads_there(
    tmp_path: Path, listener: int
) -> None:
    """The site answers on ssh and its ports are shut, but no other Patroni is left to ask."""
    with pytest.raises(FenceNotProven, match="no other Patroni"):
        site_takes_no_writes(_context(tmp_path, ssh_port=listener), site="site-b")


def test_an_open_door_is_told_by_name(tmp_path: Path, listener: int) -> None:
    access = nobody(tmp_path, ssh_port=listener)
    opened = replace(access, sites=(replace(access.sites[0], primary_port=listener),))
    context = replace(_context(tmp_path), access=lambda: opened)
    assert site_takes_no_writes(context, site="site-b") == (
        f"site-b: primary (port {listener}) is open"
    )


def test_a_program_that_fails_is_told_with_its_last_words(tmp_path: Path, state: Path) -> None:
    context = replace(_context(tmp_path), deadline=timedelta(seconds=20))
    with pytest.raises(ToolFailed):
        zaibei(context, argv=["no-such-group"])
    assert zaibei(context, argv=["version"]).count(".") == 2


def test_what_a_command_answers_is_told_in_short() -> None:
    answer = {"snapshot": 2, "took_s": 5.6, "point": None, "checks": [1, 2], "vault": "站点乙"}
    said = json.dumps(answer, indent=2)
    assert in_short(said) == 'snapshot 2, took_s 5.6, checks: 2, vault "站点乙"'
    assert in_short("one line\nthe last\n") == "the last"
    assert in_short("[1]") == "[1]"
    assert in_short("") == "no output"


def _sleepers(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"/usr/bin/sleep", marker.encode()]:
            found.append(int(entry.name))
    return found

"""`zaibei runbook run`, as a process: what a script reads when it fails, and what nobody may overlook."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUNBOOK = """id: write-file
title: {zh: 试验, en: A trial}
when: {zh: 试验时, en: in a trial}
claim: {zh: 文件在, en: the file is there}
owner: 试验员 / tester
hazards: [H4]
danger: {level: none, what: {zh: 什么也不做, en: nothing is done}}
drill: primary-crash
approvals: {needed: NEEDED}
steps:
  - id: version
    title: {zh: 问版本, en: Ask for the version}
    action: {native: zaibei, args: {argv: [version]}}
    undo: {none: {zh: 只读, en: it only reads}}
    proof: {check: last-command-said, args: {expect: "EXPECT"}, says: {zh: 成立, en: it holds}}
    fallback: {zh: 手工看, en: look by hand}
    deadline: 60s
"""


def zaibei(state: Path, *argv: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "zaibei.cli.main", "runbook", *argv],
        env={"ZAIBEI_STATE": str(state), "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def book(folder: Path, *, expect: str, needed: int = 0) -> Path:
    file = folder / "write-file.yml"
    file.write_text(RUNBOOK.replace("EXPECT", expect).replace("NEEDED", str(needed)))
    return file


def test_a_run_that_was_not_proven_is_one_json_object_with_its_journal(tmp_path: Path) -> None:
    ended = zaibei(tmp_path / "s", "run", book(tmp_path, expect="no such words"), "--json")
    assert ended.returncode == 4, ended.stderr
    told = json.loads(ended.stdout)
    assert told["error"]["kind"] == "NotProven"
    assert told["error"]["exit_code"] == 4
    assert told["state"] == "failed"
    assert told["steps"][0]["proof"].startswith("does not hold")
    assert "NOT proven" in ended.stderr
    assert (tmp_path / "s" / "runbooks" / told["run"] / "journal.json").is_file()


@pytest.mark.parametrize(
    ("argv", "kind", "code"),
    [
        (("run", "no-such-runbook"), "Usage", 2),
        (("run", "fence-site", "--site", "site-a"), "Refused", 4),
        (("run", "fence-site"), "Usage", 2),
        (("run", "fence-site", "--set", "odd"), "Usage", 2),
        (("undo", "run-of-nobody"), "Missing", 5),
    ],
)
def test_a_run_that_was_refused_is_one_json_object_too(
    tmp_path: Path, argv: tuple[str, ...], kind: str, code: int
) -> None:
    ended = zaibei(tmp_path, *argv, "--json")
    assert ended.returncode == code, ended.stderr
    told = json.loads(ended.stdout)
    assert told.keys() == {"error"}
    assert (told["error"]["kind"], told["error"]["exit_code"]) == (kind, code)


def test_that_nobody_checked_the_approvals_is_said_before_after_and_in_the_journal(
    tmp_path: Path,
) -> None:
    file = book(tmp_path, expect="[0-9]", needed=2)
    ended = zaibei(tmp_path / "s", "run", file, "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["approvals"] == {"needed": 2, "verified": None}
    assert told["warning"].startswith("APPROVALS ARE NOT CHECKED: write-file needs 2")
    assert ended.stderr.splitlines()[0].endswith(told["warning"])
    aloud = zaibei(tmp_path / "s", "run", file)
    assert aloud.stderr.count("APPROVALS ARE NOT CHECKED") == 2


def test_what_needs_no_approval_is_not_warned_of(tmp_path: Path) -> None:
    ended = zaibei(tmp_path / "s", "run", book(tmp_path, expect="[0-9]"), "--json")
    assert "APPROVALS" not in ended.stderr
    assert json.loads(ended.stdout)["warning"] is None

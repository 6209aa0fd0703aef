"""A state folder that is none, and a stdout that takes nothing: a failure keeps its own exit code, and is no defect."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.attack

COMMANDS = (
    ("lab", "status"),
    ("drill", "list"),
    ("drill", "show", "last"),
    ("monitor", "check"),
    ("backup", "schedule", "status"),
)


def _zaibei(
    *args: str, state: str, redirect: str = "", cwd: Path
) -> subprocess.CompletedProcess[str]:
    words = " ".join([sys.executable, "-P", "-m", "zaibei.cli.main", *args, redirect])
    return subprocess.run(
        words,
        shell=True,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ZAIBEI_STATE": state},
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_state_folder_that_is_a_file_is_refused_and_not_read_as_one_without_records(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "state").write_text("")
    for state in (tmp_path / "state", tmp_path / "state" / "below"):
        done = _zaibei(*command, "--json", state=str(state), cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert json.loads(done.stdout)["error"]["message"].startswith(f"ZAIBEI_STATE={state}: ")


@pytest.mark.parametrize(
    "args", [("runbook", "show", "nosuch"), ("drill", "run", "nosuch"), ("runbook", "nosuch")]
)
def test_a_failure_that_cannot_be_written_keeps_its_exit_code_and_is_no_crash(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    done = _zaibei(*args, "--json", state=str(tmp_path), redirect=">/dev/full", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "nosuch" in done.stderr
    assert not (tmp_path / "crashes").exists()

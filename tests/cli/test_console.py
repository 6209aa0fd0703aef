"""What a person reads when something went wrong: word for word."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zaibei.cli.console import complain
from zaibei.kernel.errors import BadStack, Refused


def test_a_line_with_file_and_number_is_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"/etc/zaibei/stack.yaml:12: databases.0.objectives: {'a long reason, ' * 30}the end"
    complain(BadStack(f"{line}\n{line}", hint=f"{line}: hint"), 2)
    said = capsys.readouterr()
    assert said.err == f"usage: {line}\n{line}\nhint: {line}: hint\n"
    assert said.out == ""


def test_brackets_and_colons_of_a_message_are_not_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    complain(Refused("site-a:key:[bold]x[/]:fire: differs", hint="see [red]there"), 4)
    assert capsys.readouterr().err == (
        "refused: site-a:key:[bold]x[/]:fire: differs\nhint: see [red]there\n"
    )


def _zaibei(*argv: str, **env: str) -> tuple[int, Any, str]:
    command = [sys.executable, "-P", "-m", "zaibei.cli.main", *argv]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=os.environ | env
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def test_with_json_an_error_is_an_object_on_stdout_too(tmp_path: Path) -> None:
    """The process's own exit code: the backup group has fewer than the errors."""
    (tmp_path / "pw").write_text("x\n")
    where = ("--repo", f"file://{tmp_path}/vault", "--password-file", str(tmp_path / "pw"))
    assert _zaibei("backup", "init", *where, "--json")[0] == 0
    (tmp_path / "vault" / "config").write_bytes(b"{}")
    code, said, words = _zaibei("backup", "list", *where, "--json")
    assert (code, said["error"]["exit_code"]) == (1, 1)
    assert said["error"]["message"] in words
    assert said["error"]["kind"] == "Damage" and "can be read by others: chmod 600" in words

    code, said, words = _zaibei("stack", "explain", str(tmp_path / "none.yaml"), "--json")
    assert (code, said["error"]["exit_code"], said["error"]["kind"]) == (2, 2, "BadStack")
    assert said["error"]["message"] in words


def test_what_was_answered_stays_the_only_object(tmp_path: Path) -> None:
    """A command that answers with what it found, and then ends with an error, has said it already."""
    code, said, _ = _zaibei("evidence", "verify", str(tmp_path), "--json")
    assert code != 0 and isinstance(said, dict)


def test_a_defect_has_a_code_of_its_own_an_object_and_a_file_and_no_traceback(
    tmp_path: Path,
) -> None:
    """Python's own exit 1 would read as FAIL, and its traceback is no answer to a person."""
    (tmp_path / "drills").mkdir()
    (tmp_path / "drills" / "last.json").write_text("[]")  # what no code of ours has ever written

    code, said, words = _zaibei("drill", "show", "last", "--json", ZAIBEI_STATE=str(tmp_path))

    assert code == 70
    error = said["error"]
    assert (error["kind"], error["exit_code"], error["retryable"]) == ("Unexpected", 70, False)
    assert error["message"].startswith("TypeError: ")
    assert "Traceback" not in words
    (kept,) = (tmp_path / "crashes").iterdir()
    assert str(kept) in error["hints"][0] and str(kept) in words
    assert "Traceback" in kept.read_text() and "show_" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def test_a_defect_whose_place_in_the_state_folder_is_taken_still_has_its_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "drills").mkdir()
    (tmp_path / "drills" / "last.json").write_text("[]")
    (tmp_path / "crashes").write_text("a file where the folder belongs")

    code, said, words = _zaibei("drill", "show", "last", "--json", ZAIBEI_STATE=str(tmp_path))

    assert code == 70 and "Traceback" not in words
    kept = Path(said["error"]["hints"][0].split(" in ")[1].split(";")[0])
    assert tmp_path not in kept.parents
    assert "TypeError" in kept.read_text()
    kept.unlink()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("lab", "bogus", "--json"), "No such command 'bogus'"),
        (("drill", "run", "x", "--scale", "abc", "--json"), "'abc' is not a valid float"),
        (("drill", "run", "--json"), "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_an_object_too(argv: tuple[str, ...], named: str) -> None:
    code, said, words = _zaibei(*argv)

    assert (code, said["error"]["exit_code"], said["error"]["kind"]) == (2, 2, "Usage")
    assert named in said["error"]["message"] and named in words

"""What the commands do when nobody listens, when there is no room for the answer, in a locale of yesterday, and at Ctrl-C."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zaibei.kernel.state import ENV

ZAIBEI = (sys.executable, "-P", "-m", "zaibei.cli.main", "backup")
OLD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


class Place:
    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "pw").write_text("口令 correct horse\n")
        (base / "pw").chmod(0o600)
        (base / "人口").mkdir()
        (base / "人口" / "x").write_text("x")
        self.where = ("--repo", f"file://{base}/vault", "--password-file", f"{base}/pw")
        self.env = {**os.environ, ENV: str(base / "state")}
        assert self.run("init").returncode == 0
        assert self.run("run", "--files", str(base / "人口")).returncode == 0

    def run(
        self, *words: str, redirect: str = "", **env: str
    ) -> "subprocess.CompletedProcess[str]":
        """As a shell starts it: `redirect` are its words."""
        argv = ["sh", "-c", f'exec "$@" {redirect}', "sh", *ZAIBEI, *words, *self.where]
        return subprocess.run(
            argv,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    def popen(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*ZAIBEI, *words, *self.where],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


# ── progress may get lost, an answer may not ────────────────────────────────────────────────────


@pytest.mark.parametrize("nobody", ["2>&-", "2>/dev/full", "2>&- <&-"])
@pytest.mark.parametrize(
    "command",
    [("run", "--files", "{0}/人口"), ("restore", "latest", "--target", "{1}/t"), ("verify",)],
)
def test_nothing_fails_because_nobody_can_be_told_of_its_progress(
    command: tuple[str, ...], nobody: str, place: Place, tmp_path: Path
) -> None:
    words = [w.format(place.base, tmp_path) for w in command]
    done = place.run(*words, redirect=nobody)
    assert done.returncode == 0 and done.stdout, "the answer is on stdout as ever"
    assert "[" not in done.stdout[:1], "and the progress is not"


@pytest.mark.parametrize("full", [">/dev/full", ">&-"])
@pytest.mark.parametrize(
    "command", [("list",), ("list", "--json"), ("show", "latest"), ("show", "latest", "--json")]
)
def test_an_answer_that_cannot_be_written_is_an_error_in_a_line(
    command: tuple[str, ...], full: str, place: Place
) -> None:
    done = place.run(*command, redirect=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the answer cannot be written to stdout: ")
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_without_assertions_there_is_no_answer_but_the_reason_and_it_is_json_too(
    place: Place,
) -> None:
    done = place.run("list", "--json", PYTHONOPTIMIZE="1")
    assert done.returncode == 2
    assert "PYTHONOPTIMIZE" in json.loads(done.stdout)["error"]["hints"][0]


def test_a_backup_whose_answer_is_lost_is_there(place: Place) -> None:
    before = place.run("list").stdout.count("\n")
    done = place.run("run", "--files", str(place.base / "人口"), redirect=">/dev/full")
    assert done.returncode == 1 and "what the command did is done" in done.stderr
    assert place.run("list").stdout.count("\n") == before + 1


def test_a_reader_who_has_enough_is_no_error_that_is_told(place: Place) -> None:
    done = place.run("show", "latest", redirect="| true")
    assert done.stderr == ""


# ── a locale of yesterday ───────────────────────────────────────────────────────────────────────


def test_names_passphrases_and_answers_are_utf_8_whatever_the_locale(place: Place) -> None:
    made = place.run("run", "--files", str(place.base / "人口"), "--label", "人口", **OLD)
    assert made.returncode == 0, made.stderr
    shown = place.run("show", "latest", **OLD)
    assert (shown.returncode, "人口/x" in shown.stdout) == (0, True), shown.stderr
    told = json.loads(place.run("show", "latest", "--json", **OLD).stdout)
    assert told["label"] == "人口"
    assert [e["path"] for e in told["entries"]] == ["人口", "人口/x"]


def test_the_reader_without_zaibei_is_printed_in_any_locale() -> None:
    done = subprocess.run(
        [*ZAIBEI, "breakglass"],
        env={**os.environ, **OLD},
        capture_output=True,
        check=True,
        timeout=60,
    )
    there = Path(__file__).parents[2] / "backup" / "breakglass.py"
    assert done.stdout == there.read_bytes()


# ── Ctrl-C ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", ["run", "restore"])
def test_whoever_presses_ctrl_c_hears_that_it_is_cut_and_what_to_do(
    command: str, place: Place, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    big.write_bytes(random.Random(1).randbytes(96 << 20))
    words = ["run", "--files", str(big)]
    if command == "restore":
        assert place.run(*words).returncode == 0
        words = ["restore", "latest", "--target", str(tmp_path / "t")]
    child = place.popen(*words, "--json")
    assert child.stderr is not None
    first = child.stderr.readline()  # it is at it
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, first + err
    hint = {"run": "run it again", "restore": "--resume"}[command]
    assert "interrupted: " in err and hint in err and "Traceback" not in err
    told: dict[str, Any] = json.loads(out)["error"]
    assert (told["kind"], told["exit_code"]) == ("Interrupted", 130)
    assert hint in told["hints"][0]


def _in_run(*lines: str, argv: tuple[str, ...] = ("zaibei", "--json")) -> tuple[int, str, str]:
    program = "\n".join(
        ["import signal, sys", "import zaibei.cli.main as main", f"sys.argv = {list(argv)}", *lines]
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_while_the_command_is_still_being_imported_is_told_too() -> None:
    code, out, err = _in_run(
        "main.build = lambda *_: signal.raise_signal(signal.SIGINT)", "main.run()"
    )
    assert (code, err) == (130, "interrupted: ended by a signal before it was done\n")
    assert json.loads(out)["error"]["kind"] == "Interrupted"


def test_ctrl_c_in_a_group_that_does_not_look_for_it_is_told_too() -> None:
    code, _, err = _in_run(
        "import typer",
        "one = typer.Typer()",
        "one.command()(lambda: signal.raise_signal(signal.SIGINT))",
        "main.build = lambda *_: one",
        "main.run()",
        argv=("zaibei",),
    )
    assert (code, err) == (130, "interrupted: ended by a signal before it was done\n")


def test_until_the_command_listens_to_ctrl_c_nothing_slow_is_imported() -> None:
    program = "import sys, zaibei.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not {"typer", "zaibei.cli.console", "structlog"} & set(done.stdout.split())

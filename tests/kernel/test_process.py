"""Programs we start: real ones. An argv, a deadline, and their last words."""

import os
import pwd
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from zaibei.kernel import tree
from zaibei.kernel.errors import Missing, ToolFailed
from zaibei.kernel.process import end, end_orphans, orphans, run, start

PYTHON = sys.executable


def test_stdout_comes_back_as_text() -> None:
    assert run(["printf", "人口 ok"]) == "人口 ok"


def test_arguments_are_not_read_by_a_shell() -> None:
    assert run(["printf", "%s", "$HOME; `id` && *"]) == "$HOME; `id` && *"


def test_a_program_that_is_not_there_is_missing() -> None:
    with pytest.raises(Missing, match="zaibei-no-such-program: no such program") as caught:
        run(["zaibei-no-such-program"])
    assert caught.value.hints


def test_a_bad_end_has_the_code_and_the_last_words() -> None:
    with pytest.raises(ToolFailed, match="exit 3: it broke") as caught:
        run([PYTHON, "-c", "import sys; sys.stderr.write('it broke'); sys.exit(3)"])
    assert caught.value.exit_code == 9


def test_without_words_on_stderr_those_on_stdout_are_told() -> None:
    with pytest.raises(ToolFailed, match="exit 1: said here"):
        run([PYTHON, "-c", "print('said here'); raise SystemExit(1)"])


def test_long_words_are_cut_to_the_last() -> None:
    with pytest.raises(ToolFailed) as caught:
        run([PYTHON, "-c", "import sys; sys.stderr.write('x' * 100000 + 'the end'); sys.exit(1)"])
    assert caught.value.message.endswith("the end")
    assert len(caught.value.message) < 3000


def test_another_code_may_be_fine() -> None:
    assert run([PYTHON, "-c", "print('none'); raise SystemExit(1)"], ok=(0, 1)) == "none\n"


def test_at_the_deadline_the_program_is_killed_and_not_left_behind(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(ToolFailed, match=r"not done after 1\.5 s"):
        run([PYTHON, "-S", "-c", code], deadline=timedelta(seconds=1.5))
    pid = int(told.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_secret_on_stdin_or_in_the_environment_is_in_no_message() -> None:
    code = "import os, sys; sys.stdin.read(); os.environ['S']; sys.exit(1)"
    with pytest.raises(ToolFailed) as caught:
        run([PYTHON, "-c", code], stdin=b"hunter2", env={"S": "hunter3"})
    assert "hunter2" not in str(caught.value)
    assert "hunter3" not in str(caught.value)


def test_the_environment_is_what_was_given_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEAK", "1")
    code = "import os; print(os.environ.get('LEAK'), os.environ.get('GIVEN'))"
    assert run([PYTHON, "-c", code], env={"GIVEN": "2"}) == "None 2\n"


def test_nobody_waits_for_a_keyboard() -> None:
    assert run([PYTHON, "-c", "import sys; print(repr(sys.stdin.read()))"]) == "''\n"


def test_the_folder_is_as_given(tmp_path: Path) -> None:
    assert run(["pwd", "-P"], cwd=tmp_path).strip() == str(tmp_path.resolve())


def test_output_that_is_not_utf_8_does_not_end_in_a_traceback() -> None:
    assert run(["printf", r"\377ok"]) == "\ufffdok"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_as_another_user_no_group_of_root_is_kept() -> None:
    said = run(["id", "-u", "-n"], user="daemon", cwd=Path("/")).strip()
    assert said == "daemon"
    groups = run(["id", "-G"], user="daemon", cwd=Path("/")).split()
    assert "0" not in groups


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_as_a_user_whose_group_has_another_name() -> None:
    assert run(["id", "-u", "-n"], user="nobody", cwd=Path("/")).strip() == "nobody"
    assert run(["id", "-g"], user="nobody", cwd=Path("/")).strip() == str(
        pwd.getpwnam("nobody").pw_gid
    )


def test_a_user_that_is_not_there_is_missing() -> None:
    with pytest.raises(Missing, match="no user 'zaibei-no-such-user'") as caught:
        run(["true"], user="zaibei-no-such-user")
    assert caught.value.hints


def test_a_folder_that_is_not_there_is_not_called_a_program(tmp_path: Path) -> None:
    with pytest.raises(Missing) as caught:
        run(["true"], cwd=tmp_path / "gone")
    assert str(tmp_path / "gone") in caught.value.message


def test_a_file_in_place_of_the_folder_is_not_called_a_program(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Missing, match=r"its folder .+ is not there"):
        run(["true"], cwd=tmp_path / "file")


def test_a_file_that_may_not_be_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a program")
    with pytest.raises(ToolFailed, match="text: cannot be started: Permission denied") as caught:
        run([tmp_path / "text"])
    assert caught.value.hints == (
        f"is it a program, and may this account run it? ls -l {tmp_path / 'text'}",
    )


def test_a_file_that_is_no_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\x7fELF and nothing more")
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(ToolFailed, match="text: cannot be started: Exec format error"):
        run([tmp_path / "text"])


# -- nothing outlives its deadline or its parent ---------------------------------------------------


def _gone_within(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while tree.started(str(pid)) and time.monotonic() < until:
        time.sleep(0.02)
    return not tree.started(str(pid))


def _a_zaibei_that_starts(code: str, state: Path) -> "subprocess.Popen[bytes]":
    """Another process of the product; it prints what `code` prints and then waits to be killed."""
    head = "import subprocess, sys, time\nfrom zaibei.kernel import process\n"
    return subprocess.Popen(
        [PYTHON, "-P", "-c", f"{head}{code}\nsys.stdout.flush()\ntime.sleep(120)"],
        stdout=subprocess.PIPE,
        env=os.environ | {"ZAIBEI_STATE": str(state), "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _first_number(of: "subprocess.Popen[bytes]") -> int:
    assert of.stdout is not None
    return int(of.stdout.readline())


def test_a_program_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    parent = _a_zaibei_that_starts("print(process.start(['sleep', '300']).pid)", tmp_path)
    child = _first_number(parent)
    assert tree.started(str(child)), "it was never there: nothing was tested"

    parent.kill()
    parent.wait()

    assert _gone_within(child, 5)


@pytest.mark.parametrize(
    "words",
    ["setsid sleep {} & wait", "setsid sleep {} & exit 0"],
    ids=["below-it", "left-by-it"],
)
def test_at_the_deadline_what_the_program_started_is_killed_too(words: str) -> None:
    seconds = f"{300 + os.getpid()}.{len(words)}"
    with pytest.raises(ToolFailed, match="not done after 1 s"):
        run(["sh", "-c", words.format(seconds)], deadline=timedelta(seconds=1))

    assert not _running(f"sleep\0{seconds}\0")


def test_what_escaped_a_killed_zaibei_is_found_by_its_mark_and_ended(tmp_path: Path) -> None:
    """A daemon has no parent that the kernel could watch; only what it carries says whose it was."""
    daemon = "setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $!"
    code = f"print(process.run(['sh', '-c', {daemon!r}]).strip())"
    parent = _a_zaibei_that_starts(code, tmp_path)
    child = _first_number(parent)
    assert orphans(tmp_path) == {}, "its zaibei lives: it is no orphan"

    parent.kill()
    parent.wait()

    assert orphans(tmp_path / "another-state") == {}
    assert list(orphans(tmp_path)) == [child]
    (ended,) = end_orphans(tmp_path)
    assert "sleep 300" in ended
    assert _gone_within(child, 5)
    assert orphans(tmp_path) == {}


def test_a_program_that_ends_by_itself_is_given_the_time_for_it(tmp_path: Path) -> None:
    last = tmp_path / "last"
    code = f"trap 'echo bye >{last}; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    child = start(["sh", "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()

    end(child, within=timedelta(seconds=5))

    assert last.read_text() == "bye\n"
    assert child.returncode == 0


def _running(words: str) -> bool:
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_text() == words:
                return bool(tree.started(entry.name))
    return False

"""How a file becomes true, and how one process keeps others out: with real files and real processes."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zaibei.kernel.errors import Busy
from zaibei.kernel.state import ENV, sole, state_dir, write_atomic

HOLD = """
import sys
from pathlib import Path
from zaibei.kernel.state import sole
with sole(Path(sys.argv[1]), what="drill site-power-loss"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds `lock` until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, tmp_path / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_the_state_folder_is_the_one_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ENV, str(tmp_path))
    assert state_dir() == tmp_path


def test_without_it_root_and_people_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV, raising=False)
    wanted = Path("/var/lib/zaibei") if os.geteuid() == 0 else Path.home() / ".local/state/zaibei"
    assert state_dir() == wanted


def test_text_and_bytes_are_written_whole_with_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, "人口", mode=0o600)
    assert path.read_text() == "人口"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_secret_is_never_readable_by_others_not_even_while_it_is_written(tmp_path: Path) -> None:
    """The temporary file is made by mkstemp: 0600 from its first moment, under any umask."""
    old = os.umask(0)
    try:
        write_atomic(tmp_path / "secret", "hunter2", mode=0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_when_the_name_cannot_be_given_the_old_file_stays_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "inside").write_text("old")
    with pytest.raises(OSError):
        write_atomic(taken, "new")
    assert (taken / "inside").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from zaibei.kernel.state import write_atomic
path = Path(sys.argv[1])
print("writing", flush=True)
for i in range(1_000_000):
    write_atomic(path, str(i % 10) * 200_000)
"""


def test_a_reader_sees_the_old_file_or_the_new_one_also_when_the_writer_is_killed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "0" * 200_000)
    writer = subprocess.Popen(
        [sys.executable, "-P", "-c", WRITE_FOR_EVER, path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "writing\n"
        for _ in range(200):
            seen = path.read_text()
            assert len(seen) == 200_000
            assert len(set(seen)) == 1
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    last = path.read_text()
    assert len(last) == 200_000
    assert len(set(last)) == 1


def test_the_second_process_is_refused_at_once_and_told_who_and_what(
    tmp_path: Path, holder
) -> None:
    with (
        pytest.raises(Busy) as caught,
        sole(tmp_path / "lock", what="drill city-loss"),
    ):
        pass
    assert caught.value.message == f"drill site-power-loss is running (process {holder.pid})"
    assert caught.value.hints


def test_a_refused_attempt_does_not_take_the_name_of_the_holder_away(
    tmp_path: Path, holder
) -> None:
    for _ in range(2):
        with pytest.raises(Busy, match=str(holder.pid)), sole(tmp_path / "lock", what="x"):
            pass


def test_when_the_holder_dies_the_lock_is_free(tmp_path: Path, holder) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with sole(tmp_path / "lock", what="the next"):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_when_the_holder_is_done_the_lock_is_free(tmp_path: Path, holder) -> None:
    holder.stdin.close()
    assert holder.wait() == 0
    with sole(tmp_path / "lock", what="the next"):
        pass
    with sole(tmp_path / "lock", what="once more"):
        pass


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole(tmp_path / "lock", what="x"):
        raise ZeroDivisionError
    with sole(tmp_path / "lock", what="y"):
        pass


def test_a_lock_file_with_rubbish_in_it_still_refuses(tmp_path: Path, holder) -> None:
    (tmp_path / "lock").write_text("not json")
    with pytest.raises(Busy, match="mine is running"), sole(tmp_path / "lock", what="mine"):
        pass


def test_within_one_process_it_is_held_once_as_well(tmp_path: Path) -> None:
    with (
        sole(tmp_path / "lock", what="first"),
        pytest.raises(Busy, match="first is running"),
        sole(tmp_path / "lock", what="second"),
    ):
        pass

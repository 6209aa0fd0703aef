"""The shell's help while typing: the scripts, the commands they offer, and the numbers of snapshots."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backup.crypto.keyring import Kdf
from backup.repository.init import create_repository
from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.state import ENV

PROGRAM = (sys.executable, "-P", "-m", "zaibei.cli.main")


def ran(*words: str, home: Path, **env: str) -> str:
    given = {"PATH": os.environ["PATH"], "HOME": str(home), ENV: str(home / "state"), **env}
    if "PYTHONPATH" in os.environ:
        given["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run(
        [*PROGRAM, *words], capture_output=True, text=True, timeout=60, check=True, env=given
    )
    return done.stdout


def offered(line: str, home: Path) -> list[str]:
    """As bash asks: the words so far, and the one that is being typed."""
    words = line.split(" ")
    return ran(
        home=home,
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        _ZAIBEI_COMPLETE="complete_bash",
    ).split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_shown_for_each_shell_and_names_the_program(shell: str, tmp_path: Path) -> None:
    script = ran(
        *("--show-completion", shell),
        home=tmp_path,
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )
    assert f"_ZAIBEI_COMPLETE=complete_{shell}" in script
    program = shutil.which(shell)
    if program is not None and shell != "fish":  # the shell itself reads it without complaint
        subprocess.run([program, "-n"], input=script.encode(), check=True, timeout=20)


def test_the_script_is_installed_where_bash_looks(tmp_path: Path) -> None:
    ran(
        *("--install-completion", "bash"),
        home=tmp_path,
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )
    assert "zaibei" in (tmp_path / ".bashrc").read_text()
    assert list(tmp_path.rglob("*zaibei*"))


def test_backup_offers_its_commands_and_those_of_the_schedule(tmp_path: Path) -> None:
    assert {"init", "run", "list", "show", "verify", "restore", "forget", "gc", "schedule"} <= set(
        offered("zaibei backup ", tmp_path)
    )
    jobs = offered("zaibei backup schedule ", tmp_path)
    assert {"add", "list", "publish", "remove", "run", "status", "worker"} == set(jobs)
    assert offered("zaibei backup sch", tmp_path) == ["schedule"]


def test_numbers_of_snapshots_are_offered_without_a_passphrase(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "vault")
    create_repository(store, "x", clock=SimClock(), kdf=Kdf(memory_kib=64, iterations=1, lanes=1))
    for n in (1, 2, 12):
        store.create(f"snapshots/{n:010d}", b"sealed")
    store.create("snapshots/.DS_Store", b"what others left hides no number")
    show = f"zaibei backup show --repo {store.name} "
    assert offered(show, tmp_path) == ["latest", "12", "2", "1"]
    assert offered(f"{show}1", tmp_path) == ["12", "1"]
    assert offered("zaibei backup show --repo nonsense ", tmp_path) == ["latest"]

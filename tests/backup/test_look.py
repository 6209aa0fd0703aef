"""What a person and a program see of a repository: one object on stdout, and an exit code that is true."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from backup.job import run_files
from backup.keys import Kdf
from backup.pack import key_of
from backup.repository import Repository, create_repository
from infra.objectstore.directory import DirectoryStore
from zaibei.cli.backup import app
from zaibei.cli.backup.look import table
from zaibei.cli.backup.shared import CLOCK, snapshot_told
from zaibei.kernel.progress import Silent

FAST = Kdf(memory_kib=64, iterations=1, lanes=1)


@pytest.fixture
def repository(tmp_path: Path, some_files: Path) -> Repository:
    (tmp_path / "secret").write_text("look\n")
    repo = create_repository(DirectoryStore(tmp_path / "r"), "look", clock=CLOCK, kdf=FAST)
    for n in range(2):
        (some_files / f"new{n}").write_bytes(random.Random(n).randbytes(5000))
        run_files([some_files], [repo], CLOCK, random.Random(n), Silent(), label="[bold]x")
    return repo


def said(repo: Repository, tmp_path: Path, *argv: str) -> Result:
    at = ["--repo", repo.name, "--password-file", str(tmp_path / "secret")]
    return CliRunner().invoke(app, [*argv, *at])


def told(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_show_lists_every_entry_as_one_object(repository: Repository, tmp_path: Path) -> None:
    done = said(repository, tmp_path, "show", "2", "--json")
    entries = told(done)["entries"]
    assert told(done)["sequence"] == 2
    assert len(entries) == told(done)["entries_count"]
    assert {"source/new1", "source/deep/big"} <= {e["path"] for e in entries}
    assert "source/\\xff\\xfe not text" in {e["path"] for e in entries}
    assert "new1" not in said(repository, tmp_path, "show", "1").stdout


def test_show_tells_what_two_snapshots_do_not_share(
    repository: Repository, some_files: Path, tmp_path: Path
) -> None:
    (some_files / "text").write_text("changed")
    (some_files / "new0").unlink()
    (some_files / "deep" / "er" / "same").chmod(0o600)
    run_files([some_files], [repository], CLOCK, random.Random(9), Silent())
    found = told(said(repository, tmp_path, "show", "3", "--diff", "1", "--json"))
    changed: dict[str, set[str]] = {}
    for c in found["changes"]:
        changed.setdefault(c["change"], set()).add(c["path"])
    assert changed == {
        "added": {"source/new1"},
        "removed": {"source/new0"},
        "content": {"source/text"},
        "attributes": {"source/deep/er/same"},
    }
    assert found["since"] == 1
    assert told(said(repository, tmp_path, "show", "3", "--diff", "3", "--json"))["changes"] == []


def test_a_table_shows_names_as_they_are(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    table({repository.name: [snapshot_told(s) for s in repository.snapshots()]})
    out = capsys.readouterr().out
    assert "[bold]x" in out, "a label is not markup"
    assert "entries" in out


def test_verify_ends_with_the_truth_and_remembers_it(
    repository: Repository, tmp_path: Path, state: Path
) -> None:
    sound = said(repository, tmp_path, "verify", "--level", "full", "--json")
    assert (sound.exit_code, told(sound)["sound"]) == (0, True)
    held = json.loads((state / "backup" / "status.json").read_text())["vaults"][repository.name]
    assert (held["damaged"], held["never_verified"], held["coverage_days"]) == (0, 0, None)

    catalogue = repository.catalogue()
    name = next(catalogue.packs())[0]
    (tmp_path / "r" / key_of(name)).unlink()
    bad = said(repository, tmp_path, "verify", "--level", "structure")
    assert bad.exit_code == 1
    assert "DAMAGE:" in bad.stdout
    assert "mend: zaibei backup heal" in bad.stdout
    held = json.loads((state / "backup" / "status.json").read_text())["vaults"][repository.name]
    assert held["damaged"] >= 1


@pytest.mark.parametrize("wrong", [("--share", "0"), ("--budget-bytes", "much"), ("--share", "2")])
def test_a_budget_that_cannot_be_is_a_wrong_request(
    repository: Repository, tmp_path: Path, wrong: tuple[str, str]
) -> None:
    assert said(repository, tmp_path, "verify", *wrong).exit_code == 2

"""What a person and a program see of a repository: one object on stdout, and an exit code that is true."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from backup.crypto.keyring import Kdf
from backup.format.pack import key_of
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.run import run_files
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


def test_a_vault_that_does_not_open_hides_nothing_of_the_others(
    repository: Repository, tmp_path: Path
) -> None:
    bad = create_repository(DirectoryStore(tmp_path / "bad"), "look", clock=CLOCK, kdf=FAST)
    spoilt = bytearray((tmp_path / "bad" / "config").read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    (tmp_path / "bad" / "config").write_bytes(spoilt)
    done = said(repository, tmp_path, "verify", "--level", "full", "--json", "--repo", bad.name)
    assert done.exit_code == 1
    assert [r["repository"] for r in told(done)["repositories"]] == [repository.name]
    assert len(told(done)["unopened"]) == 1 and bad.name in told(done)["unopened"][0]


def test_a_vault_without_any_key_is_damaged_and_not_a_wrong_request(
    repository: Repository, tmp_path: Path
) -> None:
    for key in (tmp_path / "r" / "keys").iterdir():
        key.unlink()
    assert said(repository, tmp_path, "verify").exit_code == 1


@pytest.mark.parametrize("what", ["a directory", "not text"])
def test_a_password_file_that_is_none_is_a_wrong_request(
    repository: Repository, tmp_path: Path, what: str
) -> None:
    (tmp_path / "secret").unlink()
    if what == "a directory":
        (tmp_path / "secret").mkdir()
    else:
        (tmp_path / "secret").write_bytes(b"\xff\xfe\n")
    done = said(repository, tmp_path, "list")
    assert done.exit_code == 2 and done.exception.__class__ is SystemExit


def test_a_damaged_key_is_no_whole_repository_for_heal_and_repair(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "second").write_text("second\n")
    added = said(
        repository,
        tmp_path,
        "key",
        "add",
        "--new-password-file",
        str(tmp_path / "second"),
        "--name",
        "wang",
    )
    assert added.exit_code == 0, added.output
    newest = max((tmp_path / "r" / "keys").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    spoilt = bytearray(newest.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    newest.write_bytes(spoilt)
    for command in (("repair",), ("repair", "--dry-run")):
        confirm = () if "--dry-run" in command else ("--confirm", repository.name)
        done = said(repository, tmp_path, *command, *confirm, "--json")
        assert done.exit_code == 1, done.output
        assert any(newest.name in w for w in told(done)["wounds"])
    found = told(said(repository, tmp_path, "verify", "--level", "structure", "--json"))
    (finding,) = found["repositories"][0]["findings"]
    assert "key add" in finding["mend"], "another vault has other keys"


def test_a_state_directory_that_cannot_be_used_hides_no_snapshot(
    repository: Repository, some_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path / "file" / "state"))
    done = said(repository, tmp_path, "run", "--files", str(some_files), "--json")
    assert done.exit_code == 1
    assert told(done)["vaults"][0]["snapshot"] == 3 and not told(done)["complete"]
    assert "state directory" in told(done)["problems"][0]

"""`backup run` as a person types it: what it takes for a source and for a vault, and what it refuses."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backup import status
from backup.crypto.keyring import Kdf
from backup.locations.conninfo import SECRETS, without_secrets
from backup.locations.urls import all_distinct, place_of
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.run import run_postgres
from infra.objectstore.directory import DirectoryStore
from zaibei.cli.backup import app
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Silent
from zaibei.kernel.state import ENV

CLOCK, FAST = SystemClock(), Kdf(memory_kib=64, iterations=1, lanes=1)
Told = tuple[int, dict[str, Any], str]
Zaibei = Callable[..., Told]
SECRET = "sekret-of-the-database"
WITH_A_SECRET = (
    f"host=x password={SECRET}",
    f"postgresql://u:{SECRET}@h/db",
    f"postgres://u@h/db?password={SECRET}",
    f"host=x sslpassword = '{SECRET}'",
    f"host=x pass word {SECRET}",
)


@pytest.fixture
def vault(tmp_path: Path) -> Repository:
    store = DirectoryStore(tmp_path / "vault")
    return create_repository(store, "correct horse", clock=CLOCK, kdf=FAST)


@pytest.fixture
def zaibei(vault: Repository, tmp_path: Path) -> Zaibei:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    password.chmod(0o600)

    def run(*words: str | Path, repos: tuple[str, ...] = ("vault",)) -> Told:
        where = [a for r in repos for a in ("--repo", f"file://{tmp_path}/{r}")]
        argv = [*map(str, words), *where, "--password-file", str(password), "--json"]
        done = CliRunner().invoke(app, argv)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, json.loads(done.stdout or "{}"), done.stderr

    return run


# ── a password has no place in a conninfo ───────────────────────────────────────────────────────


@pytest.mark.parametrize("conninfo", WITH_A_SECRET)
@pytest.mark.parametrize(
    "command",
    [
        ("run",),
        ("point", "before"),
        ("schedule", "add", "j", "--every", "1h"),
    ],
)
def test_a_password_in_a_conninfo_is_refused_and_not_repeated(
    command: tuple[str, ...], conninfo: str, zaibei: Zaibei, state: Path
) -> None:
    code, _, words = zaibei(*command, "--postgres", conninfo)
    assert code == 2 and "conninfo" in words
    assert SECRET not in words
    assert not any(SECRET in f.read_text() for f in state.rglob("*") if f.is_file())


def test_the_archiver_takes_no_password_in_its_conninfo(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["wal", "--postgres", WITH_A_SECRET[0]])
    assert done.exit_code == 2 and "PGPASSFILE" in done.stderr and SECRET not in done.stderr


def test_a_spool_that_is_no_directory_is_refused_and_not_tried_for_ever(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    words = ["wal", "--postgres", "host=x", "--spool", str(tmp_path / "spool")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "spool is not a directory" in done.stderr


def test_nor_does_the_source_itself_whoever_calls_it(vault: Repository) -> None:
    """A job that was added once, a library's caller: argv is in the process list in any case."""
    with pytest.raises(Usage, match="holds a secret: password") as refused:
        run_postgres(WITH_A_SECRET[0], None, [vault], CLOCK, random.Random(1), Silent())
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", sorted(SECRETS - {"oauth_client_secret"}))
def test_every_secret_that_a_conninfo_can_hold_is_known(name: str) -> None:
    with pytest.raises(Usage) as refused:
        without_secrets(f"host=x {name}={SECRET}")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "conninfo",
    ["host=x user=y", "postgresql://u@h:5433/db?sslmode=verify-ca", "service=geo", "passfile=/x"],
)
def test_a_conninfo_without_a_secret_is_what_it_was(conninfo: str) -> None:
    assert without_secrets(conninfo) == conninfo


# ── two vaults are two places ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("again", ["vault", "./vault/", "link"])
def test_one_vault_named_twice_is_not_two_copies(
    again: str, zaibei: Zaibei, vault: Repository, some_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("vault")
    code, _, words = zaibei("run", "--files", some_files, repos=("vault", again))
    assert code == 2 and "are one place" in words
    assert vault.sequences() == []


def test_two_ways_to_one_repository_are_not_two_copies(
    zaibei: Zaibei, vault: Repository, some_files: Path, tmp_path: Path
) -> None:
    """A copy by hand, a second mount: the URLs do not show it, the repository's id does."""
    shutil.copytree(tmp_path / "vault", tmp_path / "mount")
    code, _, words = zaibei("run", "--files", some_files, repos=("vault", "mount"))
    assert code == 2 and "are one repository" in words
    assert vault.sequences() == []


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("s3+https://s3.example/b/p", "s3+https://S3.example:443/b/p/"),
        ("s3+http://s3.example/b", "s3+http://s3.example/b/"),
        ("file:///srv/a", "file:///srv/x/../a/"),
        ("file:///srv/a", "file:///srv/%61"),
    ],
)
def test_one_place_written_in_two_ways_is_seen(one: str, two: str) -> None:
    with pytest.raises(Usage, match="are one place"):
        all_distinct([one, two])


def test_places_that_differ_are_two() -> None:
    all_distinct(["s3+https://h/b/p", "s3+https://h/b/q", "s3+https://h:8333/b/p", "file:///b/p"])


@pytest.mark.parametrize(
    "url", ["xxx", "file://x/y", "s3+https://h", "s3+https://h:x/b", "s3+https://[h/b"]
)
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(Usage, match="not a repository"):
        place_of(url)


# ── what is backed up is what was meant ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("option", ["--files", "--postgres", "--bucket"])
@pytest.mark.parametrize("command", [("run",), ("schedule", "add", "j", "--every", "1h")])
def test_an_empty_variable_is_no_source(
    command: tuple[str, ...], option: str, zaibei: Zaibei, vault: Repository
) -> None:
    code, _, words = zaibei(*command, option, "")
    assert code == 2 and "is empty" in words
    assert vault.sequences() == []


@pytest.mark.parametrize("said", ["", " ", "\n"])
@pytest.mark.parametrize("option", ["--host", "--label", "--accept"])
def test_an_empty_variable_is_no_name_and_no_reason(
    option: str, said: str, zaibei: Zaibei, vault: Repository, some_files: Path
) -> None:
    """It would be this machine's name, no label, and no reason: none of them was meant."""
    code, _, words = zaibei("run", "--files", some_files, option, said)
    assert code == 2 and f"{option} is empty" in words
    assert vault.sequences() == []


def test_a_link_that_is_named_is_followed_and_that_is_told(
    zaibei: Zaibei, vault: Repository, some_files: Path, tmp_path: Path
) -> None:
    """A backup of the link alone would hold no file and call itself complete."""
    link = tmp_path / "data"
    link.symlink_to(some_files)
    code, said, words = zaibei("run", "--files", link)
    assert (code, said["followed"]) == (0, {str(link): str(some_files)})
    assert f"{link} is a link" in words
    facts = vault.find("latest").content.facts
    assert facts["followed"] == {str(link): str(some_files)}
    assert facts["roots"] == [str(link)], (
        "by it the next run finds this one, wherever the link leads then"
    )
    assert zaibei("restore", "latest", "--target", tmp_path / "back")[0] == 0
    assert (tmp_path / "back" / "data" / "text").read_text() == (some_files / "text").read_text()
    assert (tmp_path / "back" / "data" / "link").is_symlink(), "below it links stay what they are"


def test_a_link_that_leads_nowhere_is_no_source(
    zaibei: Zaibei, vault: Repository, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to("/mnt/not-mounted")
    code, _, words = zaibei("run", "--files", tmp_path / "data")
    assert code == 2 and "(a link to /mnt/not-mounted)" in words
    assert vault.sequences() == []


def test_two_paths_of_one_name_are_both_named(zaibei: Zaibei, tmp_path: Path) -> None:
    for name in ("a/geo", "b/geo"):
        (tmp_path / name).mkdir(parents=True)
    code, _, words = zaibei("run", "--files", tmp_path / "a/geo", "--files", tmp_path / "b/geo")
    assert code == 2
    assert all(str(tmp_path / n) in words for n in ("a/geo", "b/geo"))


# ── names that are no text ──────────────────────────────────────────────────────────────────────

GBK = os.fsdecode("人".encode("gbk"))


@pytest.mark.parametrize("option", ["--label", "--accept"])
def test_what_people_read_must_be_text(option: str, zaibei: Zaibei, some_files: Path) -> None:
    code, _, words = zaibei("run", "--files", some_files, option, GBK)
    assert code == 2 and f"{option}: not text in UTF-8" in words


@pytest.mark.parametrize("from_file", [False, True])
def test_a_directory_whose_name_is_no_text_can_be_left_out(
    from_file: bool, zaibei: Zaibei, vault: Repository, tmp_path: Path
) -> None:
    base = tmp_path / "source"
    (base / GBK).mkdir(parents=True)
    (base / GBK / "x").write_text("x")
    (base / "y").write_text("y")
    rules = tmp_path / "rules"
    rules.write_bytes(os.fsencode(f"/{GBK}/\n"))
    how = ("--exclude-from", rules) if from_file else ("--exclude", f"/{GBK}/")
    assert zaibei("run", "--files", base, *how)[0] == 0
    facts = vault.find("latest").content.facts
    assert (facts["excluded"], facts["rules"]) == (1, [r"/\xc8\xcb/"])


def test_a_file_of_rules_in_another_encoding_of_all_is_refused(
    zaibei: Zaibei, some_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "rules").write_text("*.tmp\n", encoding="utf-16")
    code, _, words = zaibei("run", "--files", some_files, "--exclude-from", tmp_path / "rules")
    assert code == 2 and "no name holds a NUL" in words


# ── a machine that has no room of its own ───────────────────────────────────────────────────────


@pytest.mark.parametrize("command", [("run", "--files", "{}"), ("verify",)])
def test_a_tmpdir_that_is_not_there_is_named_with_what_to_do(
    command: tuple[str, ...], zaibei: Zaibei, some_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert zaibei("run", "--files", some_files)[0] == 0
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    code, _, words = zaibei(*(w.format(some_files) for w in command))
    assert code == 1 and "in /nowhere/at/all: " in words and "hint: point TMPDIR at" in words
    if command[0] == "run":
        (vault,) = status.read()["vaults"].values()
        assert "no temporary file" in vault["error"]["why"], "monitors hear of it"


@pytest.mark.parametrize(
    "command", [("verify",), ("schedule", "add", "j", "--every", "1h", "--files", "/etc")]
)
def test_a_state_directory_that_cannot_be_used_is_named_with_what_to_do(
    command: tuple[str, ...], zaibei: Zaibei, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV, "/proc/nowhere")
    code, _, words = zaibei(*command)
    assert code == 1 and f"{ENV} names another" in words and "/proc/nowhere" in words

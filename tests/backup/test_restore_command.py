"""What `zaibei backup restore` says and ends with: 0 all of it is true, 1 damage or incomplete, 2 a wrong request."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backup.crypto.keyring import Kdf
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from infra.objectstore.directory import DirectoryStore
from zaibei.cli.backup import app
from zaibei.kernel.clock import SystemClock

Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def vaults(tmp_path: Path) -> list[Repository]:
    fast = Kdf(memory_kib=64, iterations=1, lanes=1)
    return [
        create_repository(
            DirectoryStore(tmp_path / name), "correct horse", clock=SystemClock(), kdf=fast
        )
        for name in ("vault-b", "vault-c")
    ]


@pytest.fixture
def zaibei(vaults: list[Repository], tmp_path: Path) -> Run:
    password = tmp_path / "password"
    password.write_text("correct horse\n")

    def run(
        *arguments: str | Path, repos: tuple[str, ...] = ("vault-b", "vault-c")
    ) -> tuple[int, dict[str, Any], str]:
        where = [a for name in repos for a in ("--repo", f"file://{tmp_path / name}")]
        given = [str(a) for a in arguments]
        done = CliRunner().invoke(app, [*given, *where, "--password-file", str(password), "--json"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        told = json.loads(done.stdout) if done.stdout.strip().startswith("{") else {}
        return done.exit_code, told, done.stderr

    return run


@pytest.fixture
def source(tmp_path: Path, zaibei: Run) -> Path:
    base = tmp_path / "source"
    (base / "geo").mkdir(parents=True)
    rng = random.Random(3)
    for name in ("a", "b", "geo/c"):
        (base / name).write_bytes(rng.randbytes(100_000))
    assert zaibei("run", "--files", base)[0] == 0
    return base


def damage(vault: Repository) -> None:
    """A pack of data is gone."""
    with Reader(vault) as reader:
        node = next(n for n in reader.nodes(vault.find("latest")) if n.blobs)
        pack = reader.catalogue.locations(node.blobs[0])[0].pack
    vault.store.remove(f"packs/{pack[:2]}/{pack}")


def test_what_is_sound_ends_with_0(zaibei: Run, source: Path, tmp_path: Path) -> None:
    code, told, _ = zaibei("restore", "latest", "--target", tmp_path / "t")

    assert (code, told["files"], told["complete"]) == (0, 3, True)
    assert (tmp_path / "t" / "source" / "geo" / "c").read_bytes() == (source / "geo/c").read_bytes()


def test_what_came_from_the_other_vault_is_whole_and_ends_with_1(
    zaibei: Run, source: Path, vaults: list[Repository], tmp_path: Path
) -> None:
    damage(vaults[0])

    code, told, _ = zaibei("restore", "1", "--target", tmp_path / "t")

    assert (code, told["files"], told["lost"]) == (1, 3, [])
    assert told["taken"] and not told["complete"]


def test_what_nobody_has_is_named_and_ends_with_1_and_another_vault_completes_it(
    zaibei: Run, source: Path, vaults: list[Repository], tmp_path: Path
) -> None:
    damage(vaults[0])
    target = tmp_path / "t"

    code, told, _ = zaibei("restore", "1", "--target", target, repos=("vault-b",))
    assert code == 1 and told["lost"]

    again = zaibei("restore", "1", "--target", target, "--resume", repos=("vault-c",))
    assert again[0] == 0 and again[1]["files"] == 3


def test_a_vault_that_is_gone_stops_no_restore_and_latest_is_doubted(
    zaibei: Run, source: Path, vaults: list[Repository], tmp_path: Path
) -> None:
    vaults[1].store.remove("config")

    code, told, _ = zaibei("restore", "latest", "--target", tmp_path / "t")
    assert code == 1 and told["files"] == 3
    assert "may hold a newer snapshot" in told["unknown"][0]

    code, told, _ = zaibei("restore", "1", "--target", tmp_path / "u")
    assert (code, told["complete"]) == (0, True)

    code, _, said = zaibei("restore", "1", "--target", tmp_path / "v", repos=("vault-c", "vault-b"))
    assert code == 1 and "does not open" in said


def test_a_dry_run_says_what_would_come_and_writes_nothing(
    zaibei: Run, source: Path, tmp_path: Path
) -> None:
    code, told, _ = zaibei("restore", "latest", "--dry-run", "--include", "/source/geo/")

    assert (code, told["files"], told["size_bytes"]) == (0, 1, 100_000)


def wrong(tmp_path: Path) -> dict[str, tuple[tuple[str, ...], str]]:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    t = str(tmp_path / "t")
    return {
        "no target": (("restore", "latest"), "no target"),
        "both targets": (("restore", "latest", "--target", t, "--to-bucket", "x"), "no target"),
        "full target": (("restore", "latest", "--target", str(full)), "not empty"),
        "target a file": (("restore", "latest", "--target", f"{full}/mine"), "not a directory"),
        "no such number": (("restore", "77", "--target", t), "no snapshot '77'"),
        "no such name": (("restore", "newest", "--target", t), "no snapshot 'newest'"),
        "a rule that is none": (
            ("restore", "latest", "--target", t, "--include", "!"),
            "not a rule",
        ),
        "nothing matches": (
            ("restore", "latest", "--target", t, "--include", "/nowhere"),
            "nothing in the snapshot",
        ),
        "no bucket": (("restore", "latest", "--to-bucket", "site-a/x"), "not of a bucket"),
        "a time of a tree": (
            ("restore", "latest", "--target", t, "--versions-at", "2026-01-01T00:00:00Z"),
            "not of a bucket",
        ),
        "a time without zone": (
            ("restore", "latest", "--target", t, "--versions-at", "2026-01-01T00:00:00"),
            "does not say its zone",
        ),
        "an empty target": (("restore", "latest", "--target", ""), "is empty"),
        "two sources": (("run", "--files", t, "--bucket", "site-a/x"), "one source a run"),
        "rules of a bucket": (("run", "--bucket", "site-a/x", "--exclude", "x"), "for files"),
        "no such source": (("run", "--files", f"{t}/nowhere"), "no such file"),
    }


@pytest.mark.parametrize(
    "what",
    [
        "no target",
        "both targets",
        "full target",
        "target a file",
        "no such number",
        "no such name",
        "a rule that is none",
        "nothing matches",
        "no bucket",
        "a time of a tree",
        "a time without zone",
        "an empty target",
        "two sources",
        "rules of a bucket",
        "no such source",
    ],
)
def test_a_wrong_request_ends_with_2_and_says_why(
    zaibei: Run, source: Path, tmp_path: Path, what: str
) -> None:
    arguments, said = wrong(tmp_path)[what]

    code, _, told = zaibei(*arguments)

    assert code == 2, told
    assert said in told


def test_a_target_that_cannot_be_made_is_not_half_a_restore(zaibei: Run, source: Path) -> None:
    """Nothing was written: there is nothing to go on with."""
    code, _, words = zaibei("restore", "latest", "--target", "/proc/nowhere")
    assert code == 1 and "/proc/nowhere: " in words
    assert "hint: nothing was written" in words and "--resume" not in words


def test_a_wrong_password_ends_with_2(zaibei: Run, source: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("battery staple\n")

    code, _, said = zaibei("restore", "latest", "--target", tmp_path / "t")

    assert code == 2 and "passphrase" in said and not (tmp_path / "t").exists()

"""Repositories written by this format's first version open for ever. Never write these files again:
a change that cannot read them is a new format, with its own folder."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backup.crypto import escrow
from backup.crypto.identity import Identity, save
from backup.crypto.kem import of_suite
from backup.errors import WrongKey
from backup.integrity.verify import verify
from backup.repository.reader import Reader
from backup.repository.repository import open_repository
from backup.restore.files import restore_files
from backup.wal.archive import Archive, systems
from backup.writer.pack_health import Level
from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Silent

GOLDEN = Path(__file__).parents[2] / "golden" / "repository" / "v1"
PASSPHRASE = "zaibei golden"
SYSTEM = 7300000000000000001


@pytest.mark.parametrize("suite", ["intl", "sm"])
def test_a_repository_of_2026_opens(suite: str, tmp_path: Path, clock: SimClock) -> None:
    held = tmp_path / "repository"
    shutil.copytree(GOLDEN / suite, held)  # nothing may be written beside the golden files
    repo = open_repository(DirectoryStore(held), PASSPHRASE, clock=clock)

    assert verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage == []
    assert [s.sequence for s in repo.snapshots()] == [1, 2]
    with Reader(repo) as reader:
        restore_files(reader, repo.find("latest"), tmp_path / "t", progress=Silent())
    base = tmp_path / "t" / "data"
    assert (base / "人口.txt").read_text() == "人口基础信息库\n" * 400
    assert (base / "random").read_bytes() == random.Random(2026).randbytes(5000)
    assert (base / "second").read_text() == "written before the second snapshot\n"
    assert (base / "link").readlink() == Path("random")
    assert systems(repo) == [SYSTEM]
    archive = Archive(repo, SYSTEM)
    parts = [i for i in archive.items() if i.part is not None]
    assert [archive.open(i) for i in parts] == [b"growing", b"growing further"]
    assert [archive.open(i) for i in archive.items() if i.part is None] == [b"whole"]


NOVEMBER = GOLDEN.parent / "2026-11"
DAMAGED = GOLDEN.parent / "damaged"


def everything(base: Path) -> None:
    """The tree of `2026-11` as it was before its last snapshot but one."""
    assert (base / "人口.txt").read_text() == "人口基础信息库\n" * 400
    assert os.getxattr(base / "人口.txt", "user.grade") == b"3"
    assert (base / "random").read_bytes() == random.Random(2026).randbytes(5000)
    holes = (base / "holes").read_bytes()
    assert (len(holes), holes[:4], holes[1 << 20 :][:4]) == (3 << 20, b"head", b"tail")
    assert (base / "holes").stat().st_blocks * 512 < 1 << 20
    assert (base / "pipe").is_fifo()
    assert (base / "fourth").read_text() == "by a host that cannot read\n"
    assert (base / "same").read_bytes() == (base / "random").read_bytes()


@pytest.mark.parametrize("suite", ["intl", "sm"])
def test_a_repository_with_everything_in_it_opens(
    suite: str, tmp_path: Path, clock: SimClock
) -> None:
    """Recipients of every kind, a rotation, snapshots sealed anew, one of a write-only host, one forgotten."""
    held = tmp_path / "repository"
    shutil.copytree(NOVEMBER / suite, held)
    private = bytes(range(1, 33))
    shares = (NOVEMBER / f"{suite}.shares").read_text().splitlines()
    secrets = [PASSPHRASE, Identity(curve="x25519", private=private)]
    secrets += [Identity(curve="sm2", private=private)]
    secrets += [Identity(curve=of_suite(suite).name, private=escrow.join(shares[1:]))]
    for secret in secrets:
        repo = open_repository(DirectoryStore(held), secret, clock=clock)
        assert repo.keys.epoch == 2
    assert repo.config.ids == {"intl": "blake3", "sm": ""}[suite]
    assert [s.sequence for s in repo.snapshots()] == [1, 3, 4, 5]
    assert verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage == []
    with Reader(repo) as reader:
        restore_files(reader, repo.find("4"), tmp_path / "4", progress=Silent())
        restore_files(reader, repo.find("1"), tmp_path / "1", progress=Silent())
    everything(tmp_path / "4" / "data")
    assert not (tmp_path / "1" / "data" / "second").exists()
    archive = Archive(repo, SYSTEM)
    assert [archive.open(i) for i in archive.items()] == [b"whole", b"growing"]


@pytest.mark.parametrize("suite", ["intl", "sm"])
def test_and_so_it_does_without_zaibei(suite: str, tmp_path: Path) -> None:
    reader = Path(__file__).parents[3] / "backup" / "breakglass.py"
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n")
    save(Identity(curve="sm2", private=bytes(range(1, 33))), tmp_path / "identity")
    for secret in ("passphrase", "identity"):
        words = [NOVEMBER / suite, tmp_path / secret, tmp_path / f"by-{secret}", "4"]
        said = subprocess.run(
            [sys.executable, "-I", reader, *words], capture_output=True, timeout=60, check=False
        )
        assert (said.returncode, said.stderr) == (0, b"")
        everything(tmp_path / f"by-{secret}" / "data")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("lost-index", "in no index segment"),
        ("lost-pack", "is missing"),
        ("flipped-pack", "pack"),
        ("lost-snapshot", "snapshot"),
        ("flipped-snapshot", "snapshots/0000000001"),
    ],
)
def test_a_damaged_repository_of_2026_is_never_called_sound(
    what: str, told: str, tmp_path: Path, clock: SimClock
) -> None:
    held = tmp_path / "repository"
    shutil.copytree(DAMAGED / what, held)
    repo = open_repository(DirectoryStore(held), PASSPHRASE, clock=clock)
    damage = verify(repo, Level.FULL, rng=random.Random(1), progress=Silent()).damage
    assert any(told in line for line in damage), damage


@pytest.mark.parametrize("what", ["flipped-config", "lost-key"])
def test_one_that_does_not_open_says_why(what: str, tmp_path: Path, clock: SimClock) -> None:
    held = tmp_path / "repository"
    shutil.copytree(DAMAGED / what, held)
    with pytest.raises((Damage, WrongKey)) as said:
        open_repository(DirectoryStore(held), PASSPHRASE, clock=clock)
    assert said.value.message

"""Repositories written by this format's first version open for ever. Never write these files again:
a change that cannot read them is a new format, with its own folder."""

import random
import shutil
from pathlib import Path

import pytest

from backup.reader import Reader
from backup.repository import open_repository
from backup.restore import restore_files
from backup.verify import Level, verify
from backup.wal import Archive, systems
from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent

GOLDEN = Path(__file__).parent.parent / "golden" / "repository" / "v1"
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

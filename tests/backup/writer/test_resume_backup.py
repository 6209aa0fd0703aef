"""A run that is killed is not done again from the start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from backup.crypto.keyring import Kdf
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.restore.files import restore_files
from backup.sources.files import backup_files
from backup.writer.writer import Writer
from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent

PASSPHRASE = "correct horse"
PACK = 64 << 10
CLOCK = SystemClock()
# A backup by the engine itself, that stops dead in the middle of creating its N-th pack.
CHILD = """
import os, random, signal, sys
from pathlib import Path
from backup.sources.files import backup_files
from backup.repository.repository import open_repository
from backup.writer.writer import Writer
from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.progress import Silent

class Stops(DirectoryStore):
    made = 0
    def create(self, key, data, **more):
        if key.startswith("packs/"):
            Stops.made += 1
            if Stops.made > int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().create(key, data, **more)

clock = SystemClock()
repo = open_repository(Stops(Path(sys.argv[1]), lock=False), sys.argv[4], clock=clock)
writer = Writer(repo, rng=random.Random(1), pack_bytes=64 << 10)
backup_files([Path(sys.argv[2])], [writer], clock=clock, progress=Silent())
"""


def packs(store: DirectoryStore) -> set[str]:
    return {s.key for s in store.list("packs/")}


def run(repo: Repository, source: Path) -> None:
    writer = Writer(repo, pack_bytes=PACK)
    (outcome,) = backup_files([source], [writer], clock=CLOCK, progress=Silent())
    assert outcome.snapshot is not None
    assert outcome.snapshot.content.complete


def test_a_killed_run_leaves_what_it_had_indexed_and_the_next_uploads_only_the_rest(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for at in range(300):
        (source / f"{at:03d}").write_bytes(os.urandom(50_000))
    whole = DirectoryStore(tmp_path / "whole", lock=False)
    fast = Kdf(memory_kib=64, iterations=1, lanes=1)
    run(create_repository(whole, PASSPHRASE, clock=CLOCK, kdf=fast), source)

    store = DirectoryStore(tmp_path / "repository", lock=False)
    create_repository(store, PASSPHRASE, clock=CLOCK, kdf=fast)
    argv = [sys.executable, "-P", "-c", CHILD, str(tmp_path / "repository"), str(source), "150"]
    killed = subprocess.run([*argv, PASSPHRASE], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    left = packs(store)
    assert len(left) >= 140, "most of the run was there"
    assert len(list(store.list("index/"))) >= 2, "and segments name most of that"

    repo = open_repository(store, PASSPHRASE, clock=CLOCK)
    assert repo.sequences() == [], "nothing was committed"
    run(repo, source)
    again, all_ = len(packs(store) - left), len(packs(whole))
    # 150 packs arrived and 128 of them are in segments: those are not uploaded again.
    assert again <= all_ - 120, f"{again} of {all_} packs were uploaded by the second run"

    with Reader(repo) as reader:
        restore_files(reader, repo.find("latest"), tmp_path / "back", progress=Silent())
    for path in source.iterdir():
        assert (tmp_path / "back" / "source" / path.name).read_bytes() == path.read_bytes()

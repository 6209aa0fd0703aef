"""A vault with wounds goes on: what is lost is stored again, and what is known to be damaged is not called whole."""

import os
import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from backup.crypto.keyring import Kdf
from backup.errors import Incomplete, RolledBack
from backup.format.pack import key_of
from backup.integrity.check_packs import Budget
from backup.integrity.report import Report
from backup.integrity.verify import verify
from backup.lifecycle import gc_mark, gc_sweep
from backup.lifecycle.forget import decide
from backup.lifecycle.retention import Policy
from backup.repository.init import create_repository
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.writer import pack_health
from backup.writer.pack_health import Level, PackHealth, known_damaged
from infra.objectstore.directory import DirectoryStore
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Silent

CLOCK, FAST = SystemClock(), Kdf(memory_kib=64, iterations=1, lanes=1)


class Vault:
    """A directory, and a source that changes a little with each run."""

    def __init__(self, base: Path) -> None:
        self.base, self.root = base, base / "r"
        self.source = base / "source"
        self.source.mkdir()
        (self.source / "stays").write_bytes(random.Random(0).randbytes(50_000))
        self.repo = create_repository(
            DirectoryStore(self.root), "correct horse", clock=CLOCK, kdf=FAST
        )
        for day in (1, 2):
            self.backup(day)

    def backup(self, day: int) -> str | None:
        (self.source / "changes").write_bytes(random.Random(day).randbytes(5000))
        (outcome,) = run_files(
            [self.source], [self.repo], CLOCK, random.Random(day), Silent()
        ).outcomes
        return outcome.error

    def pack_of(self, path: str) -> Path:
        with Reader(self.repo) as reader:
            node = next(
                n for n in reader.nodes(self.repo.find("latest")) if n.path == path.encode()
            )
            return self.root / key_of(reader.catalogue.locations(node.blobs[0])[0].pack)

    def listings(self) -> list[Path]:
        with Reader(self.repo) as reader:
            return sorted(
                {
                    self.root / key_of(p.pack)
                    for one in self.repo.snapshots()
                    for id_ in one.content.tree
                    for p in reader.catalogue.locations(id_)
                }
            )

    def verify(self, level: Level, budget: Budget | None = None) -> Report:
        with PackHealth.of(self.repo) as ledger:
            return verify(
                self.repo,
                level,
                rng=random.Random(1),
                progress=Silent(),
                ledger=ledger,
                budget=budget,
            )

    def restores(self, which: str) -> bool:
        target = self.base / f"restored-{which}"
        with Reader(self.repo) as reader:
            restore_files(
                reader,
                self.repo.find(which),
                target,
                progress=Silent(),
                wanted=lambda path: path == b"source/stays",
            )
        return (target / "source" / "stays").read_bytes() == (self.source / "stays").read_bytes()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def flip(path: Path, at: int = 200) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_a_run_does_not_rely_on_a_pack_that_is_known_to_be_damaged(vault: Vault) -> None:
    pack = vault.pack_of("source/stays")
    flip(pack)
    assert vault.verify(Level.FULL).damage_count == 1
    assert vault.backup(3) is None
    assert vault.restores("latest"), "the new snapshot is whole"
    assert vault.restores("1"), "and what it stored again mends the old ones"


def test_what_was_found_by_reading_is_damaged_until_it_is_read_again(vault: Vault) -> None:
    whole = vault.pack_of("source/stays")
    kept = whole.read_bytes()
    flip(whole)
    vault.verify(Level.FULL)
    found = vault.verify(Level.STRUCTURE)
    (one,) = found.findings
    assert (one.object, one.by_content) == (whole.relative_to(vault.root).as_posix(), True)
    assert "source/stays" in one.lost
    assert any("not read again since" in n for n in found.notes)
    assert vault.verify(Level.STRUCTURE).findings[0].why == one.why, "the words do not grow"

    whole.write_bytes(kept)
    assert vault.verify(Level.FULL).damage_count == 0
    assert vault.verify(Level.STRUCTURE).damage_count == 0
    assert known_damaged(vault.repo) == frozenset()


def test_a_sample_that_does_not_come_to_a_damaged_pack_names_it_all_the_same(vault: Vault) -> None:
    packs = [vault.pack_of("source/stays"), vault.pack_of("source/changes")]
    for pack in packs:
        flip(pack)
    vault.verify(Level.FULL)
    found = vault.verify(Level.SAMPLE, Budget(share=None, size_bytes=1))
    assert found.packs_read == 1
    assert {f.object for f in found.findings} == {
        p.relative_to(vault.root).as_posix() for p in packs
    }


def test_a_pack_that_nobody_needs_any_more_is_for_repair(vault: Vault) -> None:
    flip(vault.pack_of("source/stays"))
    vault.verify(Level.FULL)
    vault.backup(1)  # as it was when that pack was written
    (one,) = [f for f in vault.verify(Level.STRUCTURE).findings if "nothing" in f.lost]
    assert one.mend == "zaibei backup repair"


@pytest.mark.parametrize("torn", [False, True])
def test_a_lost_pack_stops_no_run_and_what_it_held_is_stored_again(
    vault: Vault, torn: bool
) -> None:
    pack = vault.pack_of("source/stays")
    if torn:
        pack.write_bytes(pack.read_bytes()[:-1])
    else:
        pack.unlink()
    assert vault.backup(3) is None
    assert vault.restores("latest")
    assert vault.restores("1")


def test_in_a_vault_too_large_to_look_at_first_the_next_run_knows(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_health, "LOOKED_MAX", 1)
    vault.pack_of("source/stays").unlink()
    with pytest.raises(Incomplete, match="is in the index and not in the vault") as told:
        vault.backup(3)
    assert "run again: what is lost is stored again" in told.value.message
    assert "\n" not in told.value.message
    assert vault.backup(4) is None
    assert vault.restores("latest")


def test_what_an_unread_listing_needs_is_unknown_and_not_nothing(vault: Vault) -> None:
    pack = vault.pack_of("source/stays")
    for path in {pack, *vault.listings()}:
        path.unlink()
    found = {f.object: f for f in vault.verify(Level.STRUCTURE).findings}
    one = found[pack.relative_to(vault.root).as_posix()]
    assert one.lost == "unknown in snapshots 1, 2: their listings cannot be read"
    assert "heal" in one.mend


def test_an_end_that_is_gone_is_told_as_the_snapshot_it_was(vault: Vault) -> None:
    (vault.root / "snapshots/0000000002").unlink()
    (one,) = vault.verify(Level.STRUCTURE).findings
    assert (one.object, one.lost) == ("snapshots/0000000002", "snapshot 2, or a part of it")
    assert "hint" not in one.why
    assert any("repair" in h for h in one.hints)


def test_a_newest_snapshot_that_does_not_open_is_one_finding(vault: Vault) -> None:
    flip(vault.root / "snapshots/0000000002", at=-2)
    (one,) = vault.verify(Level.STRUCTURE).findings
    assert one.object == "snapshots/0000000002"


def test_nobody_decides_what_may_go_over_a_history_without_its_end(vault: Vault) -> None:
    (vault.root / "snapshots/0000000002").unlink()
    with pytest.raises(RolledBack, match="snapshot 2 was there"):
        decide(vault.repo, Policy(last=1))
    for write in (True, False):
        with pytest.raises(RolledBack):
            gc_mark.mark(vault.repo, Silent(), write=write)
        with pytest.raises(RolledBack):
            gc_sweep.sweep(vault.repo, vault.repo.store, Silent(), dry_run=not write)


def test_gc_takes_what_a_killed_writer_left(vault: Vault) -> None:
    left = vault.root / "packs/.tmp-0123456789abcdef"
    left.write_bytes(b"half a pack")
    os.utime(left, times=(0, 0))
    young = vault.root / "packs/.tmp-0123456789abcdee"
    young.write_bytes(b"of somebody who writes now")
    would = gc_sweep.sweep(vault.repo, vault.repo.store, Silent(), dry_run=True)
    assert would.removed == {"unfinished files": 1}
    assert left.exists()
    terms = gc_sweep.Terms(grace=timedelta(0), margin=timedelta(0))
    gc_sweep.sweep(vault.repo, vault.repo.store, Silent(), terms=terms)
    assert not left.exists()
    assert young.exists(), "also without a grace: its writer may be at it"


class ReadOnly(DirectoryStore):
    def now(self) -> object:  # type: ignore[override]
        raise Refused("read-only")


def test_who_may_only_look_is_told_what_gc_would_do(vault: Vault) -> None:
    repo = Repository(ReadOnly(vault.root), CLOCK, vault.repo.config, vault.repo.keys)  # type: ignore[arg-type]
    gc_sweep.sweep(repo, repo.store, Silent(), dry_run=True)
    assert gc_mark.mark(repo, Silent(), write=False).dead == 0
    with pytest.raises(Refused):
        gc_sweep.sweep(repo, repo.store, Silent())


@pytest.mark.timeout(60)
def test_a_fifo_in_the_place_of_a_pack_is_damage_and_hangs_nobody(vault: Vault) -> None:
    pack = vault.pack_of("source/stays")
    shutil.copy(pack, vault.base / "kept")
    pack.unlink()
    os.mkfifo(pack)
    assert any("is a FIFO" in d for d in vault.verify(Level.FULL).damage)
    with pytest.raises(Damage, match="FIFO"):
        vault.restores("latest")

"""A verification finds what is wrong, names who loses what by it, and never says more than it read."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backup import status
from backup.bench.scale import make as make_large
from backup.format import snapshot
from backup.format.pack import key_of
from backup.integrity.check_packs import Budget
from backup.integrity.repair import repair
from backup.integrity.report import Report
from backup.integrity.verify import verify
from backup.keys import rotation
from backup.keys.reseal import progress_of, reseal_all
from backup.repository import leases
from backup.repository.reader import Reader
from backup.repository.repository import Repository, open_repository
from backup.run import run_files
from backup.schedule.slot import Slot
from backup.writer.pack_health import Level, PackHealth
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.progress import Silent


def checked(repo: Repository, level: Level = Level.FULL, **more: object) -> Report:
    return verify(repo, level, rng=random.Random(1), progress=Silent(), **more)  # type: ignore[arg-type]


@pytest.fixture
def store(repo: Repository) -> MemoryStore:
    assert isinstance(repo.store, MemoryStore)
    return repo.store


@pytest.fixture
def many(repo: Repository, tmp_path: Path, clock: SimClock) -> Repository:
    """Twelve snapshots, so that there are packs enough to be chosen from."""
    source = tmp_path / "many"
    source.mkdir()
    for n in range(12):
        (source / f"f{n}").write_bytes(random.Random(n).randbytes(20_000))
        assert run_files([source], [repo], clock, random.Random(n), Silent()).complete
    return repo


def pack_of(repo: Repository, path: bytes) -> str:
    with Reader(repo) as reader:
        node = next(n for n in reader.nodes(repo.find("latest")) if n.path.endswith(path))
        return reader.catalogue.locations(node.blobs[0])[0].pack


def test_a_sound_repository_is_sound_at_every_level(many: Repository) -> None:
    for level in Level:
        found = checked(many, level)
        assert (found.damage, found.findings, found.notes) == ([], [], [])
        assert found.snapshots == 12
    assert found.packs_read == found.packs
    assert found.packs_unindexed == 0


def test_a_missing_pack_is_told_with_what_is_lost_and_how_to_mend_it(
    many: Repository, store: MemoryStore
) -> None:
    gone = pack_of(many, b"many/f10")
    store.remove(key_of(gone))
    (one,) = checked(many, Level.STRUCTURE).findings
    assert one.object == key_of(gone)
    assert "missing" in one.why
    assert one.snapshots == [11, 12]
    assert one.paths == ["many/f10"]
    assert one.lost == "in snapshots 11, 12: many/f10"
    assert one.mend.startswith("zaibei backup heal --from")


def test_a_pack_that_lies_elsewhere_too_loses_nothing(many: Repository, store: MemoryStore) -> None:
    """Two writers may have packed the same blob."""
    held = many.catalogue()
    name, size = next(held.packs())
    twin = store.read(key_of(name))
    held.close()
    store.create(f"packs/{'ab' * 1}/{'ab' * 32}", twin)  # under a false name: damage, but of nobody
    found = checked(many)
    (one,) = found.findings
    assert one.object == f"packs/ab/{'ab' * 32}"
    assert one.lost == "nothing that a snapshot needs"
    assert found.packs_unindexed == 1
    assert size == len(twin)


def test_a_lost_listing_names_the_snapshot_that_goes_with_it(
    many: Repository, store: MemoryStore
) -> None:
    latest = many.find("latest")
    with Reader(many) as reader:
        tree = reader.catalogue.locations(latest.content.tree[0])[0].pack
    store.corrupt(key_of(tree), store.read(key_of(tree))[:-1])
    found = checked(many, Level.STRUCTURE)
    by_object = {f.object: f for f in found.findings}
    assert by_object[key_of(tree)].snapshots == [12]
    assert "listing" in by_object[key_of(tree)].lost
    assert by_object[latest.key].lost == "snapshot 12, or a part of it"


def test_a_blob_in_no_segment_is_told_by_the_paths_that_need_it(
    many: Repository, store: MemoryStore
) -> None:
    last = [s.key for s in store.list("index/")]
    with_it = {k for k in last if _names(many, k, pack_of(many, b"many/f11"))}
    for k in with_it:
        store.remove(k)
    found = checked(many, Level.STRUCTURE)
    assert found.damage
    assert all(f.object == snapshot.key_of(12) for f in found.findings)


def _names(repo: Repository, key: str, pack: str) -> bool:
    held = repo.catalogue()
    try:
        return key.removeprefix("index/") in held.segments_naming([pack])
    finally:
        held.close()


def test_a_piece_that_two_snapshots_share_is_looked_at_once_and_damage_is_seen_in_both(
    repo: Repository, store: MemoryStore, some_files: Path, clock: SimClock
) -> None:
    for seed in (1, 2):
        run_files([some_files], [repo], clock, random.Random(seed), Silent())
    first, second = repo.snapshots()
    assert first.content.tree == second.content.tree
    assert not checked(repo, Level.STRUCTURE).damage
    store.remove(key_of(pack_of(repo, b"deep/big")))
    (one,) = checked(repo, Level.STRUCTURE).findings
    assert one.snapshots == [1, 2]


def test_samples_within_a_budget_read_every_pack_in_turn(many: Repository, clock: SimClock) -> None:
    with PackHealth.of(many) as ledger:
        total = checked(many, Level.STRUCTURE).packs
        left = total
        for _ in range(total):
            found = checked(many, Level.SAMPLE, ledger=ledger, budget=Budget(share=0.2))
            assert not found.damage
            assert found.coverage is not None
            assert found.coverage.never_verified == max(0, left - found.packs_read)
            left -= found.packs_read
            clock.sleep(timedelta(days=1))
            if left <= 0:
                break
        assert left <= 0
        assert found.coverage.days_to_full_coverage == 0
        assert found.coverage.days_a_round is not None


def test_a_sample_reads_no_more_than_its_budget(many: Repository) -> None:
    whole = checked(many, Level.FULL)
    one = checked(many, Level.SAMPLE, budget=Budget(share=None, size_bytes=1))
    assert one.packs_read == 1, "at least one, or the budget would starve it for ever"
    none_left = checked(many, Level.SAMPLE, budget=Budget(share=None, time=timedelta(0)))
    assert none_left.packs_read == 1
    half = checked(many, Level.SAMPLE, budget=Budget(share=0.5))
    assert 1 < half.packs_read < whole.packs_read
    assert half.bytes_read <= whole.bytes_read / 2
    everything = checked(many, Level.SAMPLE, budget=Budget(share=None))
    assert everything.packs_read == whole.packs_read


def test_a_healed_pack_is_damaged_no_more(many: Repository, store: MemoryStore) -> None:
    name = pack_of(many, b"many/f3")
    whole = store.read(key_of(name))
    store.corrupt(key_of(name), whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with PackHealth.of(many) as ledger:
        assert checked(many, ledger=ledger).damage
        assert ledger.damaged() == [key_of(name)]
        store.corrupt(key_of(name), whole)
        tiny = Budget(share=None, size_bytes=1)
        assert not checked(many, Level.SAMPLE, ledger=ledger, budget=tiny).damage
        assert ledger.damaged() == [], "what was damaged is read first"


def test_a_foreign_object_is_a_note_and_no_damage(many: Repository, store: MemoryStore) -> None:
    store.create("holiday.jpg", b"x")
    store.create("packs/readme", b"x")
    found = checked(many, Level.STRUCTURE)
    assert not found.damage
    assert len(found.notes) == 2


def test_names_under_the_copies_of_a_rotation_that_are_none_of_ours_are_notes(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    assert run_files([some_files], [repo], clock, random.Random(1), Silent()).complete
    new = rotation.begin(repo, why="test").repository
    assert reseal_all(new, Silent()).done
    for key in ("resealed/x", "resealed/0000000002/snapshots/.nfs1", "snapshots/.nfs1"):
        new.store.create(key, b"x")
    found = checked(new)
    assert (found.damage, len(found.notes)) == ([], 3)  # one of them: packs are marked
    assert progress_of(new).left == 0


def test_a_lease_that_nobody_of_ours_signed_is_damage_of_nothing(
    repo: Repository, store: MemoryStore, clock: SimClock
) -> None:
    slot = Slot(job="nightly", at=clock.now())
    leases.take(repo, slot.name, holds=timedelta(hours=1), holder="web-1").end(leases.End.DONE)
    leases.take(repo, slot.name, holds=timedelta(hours=1), holder="web-2")
    assert not checked(rotation.begin(repo, why="test").repository).damage, "an old key's too"
    first, end, second = (s.key for s in store.list("leases/"))
    junk, moved = f"leases/{'0' * 32}/0001", f"leases/{'1' * 32}/0001"
    store.create(junk, b"junk")
    store.create(moved, store.read(second))
    for key in (first, end):
        raw = bytearray(store.read(key))
        raw[len(raw) // 3] ^= 1
        store.corrupt(key, bytes(raw))
    found = checked(repo)
    assert {f.object for f in found.findings} == {junk, moved, first, end}
    assert all(f.lost.startswith("no data") and f.by_content for f in found.findings)
    assert not checked(repo, Level.SAMPLE).damage, "read at full only"


def test_the_status_tells_when_packs_were_read_and_not_when_they_were_only_listed(
    state: Path, clock: SimClock
) -> None:
    told = {"damaged": 0, "never_verified": 3, "coverage_days": None}
    status.verified("site-b", at=clock.now(), read=False, **told)  # type: ignore[arg-type]
    held = json.loads(status.file().read_text())["vaults"]["site-b"]
    assert held == {"damaged": 0}
    status.verified("site-b", at=clock.now(), read=True, **told)  # type: ignore[arg-type]
    held = json.loads(status.file().read_text())["vaults"]["site-b"]
    assert held["verified_at"] == clock.now().isoformat()
    assert held["coverage_days"] is None


def test_a_made_repository_is_sound_until_somebody_reads_its_holes(
    tmp_path: Path, clock: SimClock
) -> None:
    """What the memory of the index is measured on is a repository."""
    make_large(tmp_path / "r", 3000, clock)
    repo = open_repository(DirectoryStore(tmp_path / "r"), "ten million", clock=clock)
    found = checked(repo, Level.STRUCTURE)
    assert (found.damage, found.blobs) == ([], 3000 + len(repo.find("latest").content.tree))
    assert checked(repo, Level.SAMPLE, budget=Budget(share=0.01)).damage


def test_a_listing_that_lies_about_its_length_is_damage(
    make: Callable[..., Repository], some_files: Path, clock: SimClock
) -> None:
    repo = make()
    run_files([some_files], [repo], clock, random.Random(1), Silent())
    one = repo.find("latest")
    false = replace(one.content, entries=one.content.entries + 1)
    repo.create(
        snapshot.key_of(2), snapshot.encode(repo.keys, false, sequence=2, previous=one.digest)
    )
    (finding,) = checked(repo, Level.STRUCTURE).findings
    assert finding.object == snapshot.key_of(2)
    assert "entries" in finding.why


def test_an_index_that_lost_its_segments_is_mended_here_and_that_is_said(
    repo: Repository, some_files: Path, clock: SimClock
) -> None:
    assert run_files([some_files], [repo], clock, random.Random(1), Silent()).complete
    assert isinstance(repo.store, MemoryStore)
    for stat in list(repo.store.list("index/")):
        repo.store.remove(stat.key, version=stat.version)
    report = verify(repo, Level.STRUCTURE, rng=random.Random(1), progress=Silent())
    assert report.damage
    assert any("zaibei backup repair" in note for note in report.notes)
    assert repair(repo, Silent()).complete
    again = verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())
    assert not again.damage and not any("repair" in note for note in again.notes)

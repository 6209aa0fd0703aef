"""Whatever one vault loses comes back from the other, and without another what is lost is named."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from backup.integrity.heal import heal
from backup.integrity.repair import repair
from backup.integrity.verify import verify
from backup.lifecycle.forget import forget
from backup.lifecycle.gc_mark import mark
from backup.lifecycle.gc_sweep import sweep
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.wal.archive import Archive
from backup.writer.pack_health import Level
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Silent

DAY = timedelta(days=1)


def contents(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


@dataclass
class Two:
    """Two vaults of the same three runs."""

    b: Repository
    c: Repository
    base: Path
    truth: list[dict[str, bytes]]

    @property
    def store(self) -> MemoryStore:
        assert isinstance(self.b.store, MemoryStore)
        return self.b.store

    def lose(self, key: str) -> None:
        self.store.remove(key, version=self.store.stat(key).version)

    def flip(self, key: str, at: int) -> None:
        data = bytearray(self.store.read(key))
        data[at % len(data)] ^= 1
        self.store.corrupt(key, bytes(data))

    def restored(self, sequence: int) -> dict[str, bytes]:
        target = self.base / "target"
        shutil.rmtree(target, ignore_errors=True)
        with Reader(self.b) as reader:
            restore_files(reader, self.b.snapshot(sequence), target, progress=Silent())
        return contents(target / "source")

    def check(self) -> None:
        """All three are there again, under whatever number, and nothing is called damage."""
        found = sorted((self.b.snapshots()), key=lambda one: one.content.started)
        assert [self.restored(one.sequence) for one in found] == self.truth
        report = verify(self.b, Level.FULL, rng=random.Random(1), progress=Silent())
        assert not report.damage, report.damage


@pytest.fixture
def two(make: Callable[..., Repository], clock: SimClock, tmp_path: Path) -> Two:
    one = Two(make("site-b", "intl"), make("site-c", "sm"), tmp_path, [])
    source = tmp_path / "source"
    source.mkdir()
    for n in range(3):
        for name in range(6):
            (source / f"f{name}").write_bytes(random.Random(name).randbytes(5000))
        (source / f"only{n}").write_bytes(random.Random(100 + n).randbytes(9000))
        (source / "empty").touch()
        run_files([source], [one.b, one.c], clock, random.Random(n), Silent())
        one.truth.append(contents(source))
        clock.sleep(DAY)
    return one


@pytest.mark.parametrize("prefix", ["packs/", "index/", "snapshots/"])
@pytest.mark.parametrize("how", ["lost", "flipped", "emptied"])
def test_every_object_that_is_lost_or_damaged_is_healed_from_the_other_vault(
    two: Two, clock: SimClock, prefix: str, how: str
) -> None:
    rng = random.Random(prefix + how)
    for stat in list(two.store.list(prefix)):
        if how == "lost":
            two.lose(stat.key)
        elif how == "flipped":
            two.flip(stat.key, rng.randrange(stat.size_bytes))
        else:
            two.store.corrupt(stat.key, b"")
        done = heal(two.b, two.c, Silent())
        assert done.complete, done.unhealed
        two.check()
        if rng.random() < 0.3:
            clock.sleep(DAY)
            mark(two.b, Silent())
            clock.sleep(DAY)
            sweep(two.b, two.store, Silent())
            two.check()


def test_everything_at_once_but_the_keys_is_healed(two: Two, clock: SimClock) -> None:
    for stat in list(two.store.list()):
        if stat.key.startswith(("packs/", "index/")):
            two.lose(stat.key)
    with pytest.raises(Damage):
        two.restored(1)
    done = heal(two.b, two.c, Silent())
    assert done.complete and done.fetched
    two.check()


def test_one_flipped_bit_costs_one_blob_and_the_rest_of_the_pack_is_kept(two: Two) -> None:
    largest = max(two.store.list("packs/"), key=lambda s: s.size_bytes)
    two.flip(largest.key, 300)
    done = heal(two.b, two.c, Silent())
    assert done.complete and done.fetched == 1 and done.salvaged > 3
    two.check()


def test_healing_what_is_whole_writes_nothing_but_its_run(two: Two) -> None:
    before = {s.key for s in two.store.list() if not s.key.startswith("runs/")}
    done = heal(two.b, two.c, Silent())
    assert done.complete and done.wounds.none and not done.fetched
    assert {s.key for s in two.store.list() if not s.key.startswith("runs/")} == before


def test_what_both_vaults_lost_is_named_and_never_called_healed(two: Two) -> None:
    assert isinstance(two.c.store, MemoryStore)
    for store in (two.store, two.c.store):
        for stat in list(store.list("packs/")):
            store.remove(stat.key, version=stat.version)
    done = heal(two.b, two.c, Silent())
    assert not done.complete and done.unhealed_count == 3


def test_wal_comes_back_and_damaged_wal_needs_the_deleter(two: Two) -> None:
    ours, theirs = Archive(two.b, 7), Archive(two.c, 7)
    items = []
    for segment in (3, 4):
        for one in (ours, theirs):
            data = bytes([segment]) * 5000
            items.append(one.put(data, epoch=1, timeline=1, segment=segment))
    two.lose(items[0].key)
    two.flip(items[2].key, 200)
    done = heal(two.b, two.c, Silent())
    assert done.wal_objects == 1 and not done.complete
    done = heal(two.b, two.c, Silent(), deleter=two.store)
    assert done.complete and done.wal_objects == 1
    assert [ours.open(i) for i in ours.items()] == [b"\3" * 5000, b"\4" * 5000]


def test_repair_finds_everything_again_when_only_the_index_is_lost(two: Two) -> None:
    for stat in list(two.store.list("index/")):
        two.lose(stat.key)
    done = repair(two.b, Silent())
    assert done.complete and done.indexed
    two.check()


def test_repair_names_what_is_lost_and_never_calls_it_whole(two: Two) -> None:
    with Reader(two.b) as reader:
        (node,) = (n for n in reader.nodes(two.b.snapshot(2)) if n.path == b"source/only1")
        place = reader.catalogue.locations(node.blobs[0])[0]
    key = next(s.key for s in two.store.list("packs/") if s.key.endswith(place.pack))
    two.flip(key, place.entry.offset + 20)
    done = repair(two.b, Silent())
    assert not done.complete
    assert {loss.snapshot: loss.paths for loss in done.losses} == {
        2: ["source/only1"],
        3: ["source/only1"],
    }
    left = two.b.snapshots()
    assert [one.content.complete for one in left] == [True, False, False]
    assert two.restored(1) == two.truth[0]
    for one, truth in zip(left[1:], two.truth[1:], strict=True):
        assert two.restored(one.sequence) == {k: v for k, v in truth.items() if k != "only1"}
        assert one.content.problems == ("lost: source/only1",)
    report = verify(two.b, Level.FULL, rng=random.Random(1), progress=Silent())
    assert not report.damage, report.damage
    assert repair(two.b, Silent()).complete, "it was told once; now the snapshots say it themselves"


def test_repair_of_a_lost_snapshot_leaves_a_hole_that_is_explained(two: Two) -> None:
    two.flip("snapshots/0000000002", 300)
    with pytest.raises(Damage):
        two.b.snapshots()
    done = repair(two.b, Silent())
    assert not done.complete and done.losses[0].snapshot == 2
    assert [one.sequence for one in two.b.snapshots()] == [1, 3]
    report = verify(two.b, Level.FULL, rng=random.Random(1), progress=Silent())
    assert not report.damage, report.damage


def test_the_lost_end_of_a_chain_is_known_by_the_memory_of_heads(two: Two) -> None:
    two.lose("snapshots/0000000003")
    done = heal(two.b, two.c, Silent())
    assert done.complete and done.copied == {3: 4}
    two.check()


def test_a_dry_run_only_looks(two: Two) -> None:
    two.lose(next(two.store.list("packs/")).key)
    before = {s.key for s in two.store.list()}
    assert heal(two.b, two.c, Silent(), write=False).wounds.packs
    assert repair(two.b, Silent(), write=False).wounds.packs
    assert {s.key for s in two.store.list()} == before


def test_a_poorer_snapshot_never_takes_the_place_of_a_richer_one(two: Two) -> None:
    """The other vault was repaired after a loss of its own: of the run it has what we lost, and lacks what we have."""
    for name, repo in (("f1", two.c), ("f2", two.b)):
        with Reader(repo) as reader:
            (node,) = [n for n in reader.nodes(repo.snapshot(3)) if n.path.endswith(name.encode())]
            place = reader.catalogue.locations(node.blobs[0])[0]
        key = f"packs/{place.pack[:2]}/{place.pack}"
        store = repo.store
        assert isinstance(store, MemoryStore)
        data = bytearray(store.read(key))
        data[place.entry.offset + 5] ^= 1
        store.corrupt(key, bytes(data))
    assert not repair(two.c, Silent()).complete
    done = heal(two.b, two.c, Silent())
    assert done.complete and not done.copied, done.unhealed
    two.check()


def test_a_lost_snapshot_is_not_stood_for_by_a_run_that_was_another(
    make: Callable[..., Repository], clock: SimClock, tmp_path: Path
) -> None:
    """The other vault missed the run, and keeps one that was forgotten here."""
    ours, other = make("site-b"), make("site-c")
    source = tmp_path / "source"
    source.mkdir()
    for n in range(4):
        (source / "f").write_bytes(random.Random(n).randbytes(3000))
        run_files([source], [ours] if n == 2 else [ours, other], clock, random.Random(n), Silent())
        clock.sleep(DAY)
    forget(ours, [1], why="by hand")
    assert isinstance(ours.store, MemoryStore)
    ours.store.corrupt("snapshots/0000000003", b"{}")
    done = heal(ours, other, Silent())
    assert not done.complete and not done.copied
    assert "has not just what is lost here" in done.unhealed[0]


def test_a_hole_in_the_log_that_no_vault_can_fill_is_a_loss(two: Two) -> None:
    for repo in (two.b, two.c):
        archive = Archive(repo, 7)
        for segment in (1, 3):
            archive.put(bytes([segment]) * 100, epoch=1, timeline=1, segment=segment)
    looked = heal(two.b, two.c, Silent(), write=False)
    assert not looked.wounds.none
    done = heal(two.b, two.c, Silent())
    assert not done.complete and "000000010000000000000002 is missing" in done.unhealed[0]
    assert not repair(two.b, Silent()).complete

"""Garbage is marked, then swept; whatever happens between the two, what a snapshot needs stays."""

import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.errors import Incomplete
from backup.format.blob import Chunk, Kind
from backup.format.mark import Terms
from backup.format.snapshot import Content, key_of
from backup.format.wal_segment import Item
from backup.integrity.verify import verify
from backup.lifecycle.forget import forget
from backup.lifecycle.gc_mark import Marked, mark
from backup.lifecycle.gc_sweep import Swept, sweep
from backup.repository import leases, marks
from backup.repository.reader import Reader
from backup.repository.repository import Repository
from backup.restore.files import restore_files
from backup.run import run_files
from backup.schedule.slot import Slot
from backup.sources.files import backup_files
from backup.wal.archive import Archive
from backup.wal.expiry import Base, superfluous
from backup.writer import heartbeats
from backup.writer.pack_health import Level
from backup.writer.session import WriteSession
from backup.writer.writer import Writer
from infra.objectstore.memory import MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.progress import Silent

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class World:
    """One vault, one host with a few files, and time."""

    def __init__(self, repo: Repository, clock: SimClock, base: Path) -> None:
        assert isinstance(repo.store, MemoryStore)
        self.repo, self.store, self.clock, self.base = repo, repo.store, clock, base
        self.source = base / "source"
        self.source.mkdir()
        self.truth: dict[int, dict[str, bytes]] = {}

    def write(self, name: str, seed: int, size: int = 3000) -> None:
        (self.source / name).write_bytes(random.Random(seed).randbytes(size))

    def backup(self, writer: Writer | None = None) -> int:
        if writer is None:
            done = run_files([self.source], [self.repo], self.clock, random.Random(1), Silent())
            outcome = done.outcomes[0]
        else:
            outcome = backup_files([self.source], [writer], clock=self.clock, progress=Silent())[0]
        if outcome.snapshot is None:
            raise Refused(outcome.error or "unknown")
        self.truth[outcome.snapshot.sequence] = {
            p.name: p.read_bytes() for p in self.source.iterdir()
        }
        return outcome.snapshot.sequence

    def forget(self, *sequences: int) -> None:
        forget(self.repo, sequences, why="by hand", even_the_last=True)

    def mark(self, **more: float) -> Marked:
        return mark(self.repo, Silent(), rng=random.Random(1), **more)  # type: ignore[arg-type]

    def sweep(self) -> Swept:
        return sweep(self.repo, self.store, Silent())

    def gc(self) -> Swept:
        """All of it, with the days that lie between."""
        self.clock.sleep(DAY)
        self.mark()
        self.clock.sleep(DAY)
        return self.sweep()

    def packs(self) -> set[str]:
        return {s.key.rpartition("/")[2] for s in self.store.list("packs/")}

    def check(self) -> None:
        """Every snapshot that is not forgotten comes back, and nothing is called damage."""
        for one in self.repo.snapshots():
            target = self.base / "target"
            shutil.rmtree(target, ignore_errors=True)
            with Reader(self.repo) as reader:
                restore_files(reader, one, target, progress=Silent())
            found = {p.name: p.read_bytes() for p in (target / "source").iterdir()}
            assert found == self.truth[one.sequence], f"snapshot {one.sequence}"
        report = verify(self.repo, Level.FULL, rng=random.Random(1), progress=Silent())
        assert not report.damage, report.damage


@pytest.fixture
def world(repo: Repository, clock: SimClock, tmp_path: Path) -> World:
    return World(repo, clock, tmp_path)


def test_what_only_a_forgotten_snapshot_needed_is_gone_after_two_days(world: World) -> None:
    world.write("a", 1)
    world.backup()
    first = world.packs()
    world.write("a", 2)
    world.backup()
    world.forget(1)

    assert world.mark().dead == 0, "a forgotten snapshot may still be taken back"
    done = world.gc()
    assert done.removed["snapshots"] == 1 and done.removed["packs"] == len(first)
    assert not first & world.packs()
    world.check()
    world.clock.sleep(3 * DAY)
    world.sweep()
    assert not list(world.store.list("marks/")), "the mark goes last"
    assert not list(world.store.list("runs/"))
    assert world.mark() == Marked(
        dead=0,
        dead_bytes=0,
        orphans=0,
        repacked=0,
        repacked_bytes=0,
        moved_bytes=0,
        young=0,
        marks=0,
        segments=0,
    )


def test_packs_that_are_mostly_dead_are_packed_anew(world: World) -> None:
    for n in range(8):
        world.write(f"f{n}", n)
    world.backup()
    for n in range(1, 8):
        world.write(f"f{n}", 100 + n)
    world.backup()
    world.forget(1)
    before = sum(s.size_bytes for s in world.store.list("packs/"))

    world.clock.sleep(DAY)
    found = world.mark()
    assert found.repacked == 1 and 0 < found.moved_bytes < found.repacked_bytes
    world.check()
    world.clock.sleep(DAY)
    world.sweep()
    assert sum(s.size_bytes for s in world.store.list("packs/")) < before * 0.75
    world.check()


def test_a_writer_that_began_after_the_mark_relies_on_nothing_marked(world: World) -> None:
    world.write("a", 1)
    world.backup()
    world.write("b", 2)
    (world.source / "a").unlink()
    world.backup()
    world.forget(1)
    world.clock.sleep(DAY)
    assert world.mark().dead
    world.write("a", 1)  # the same bytes are back
    world.backup()
    world.clock.sleep(DAY)
    done = world.sweep()
    assert done.removed["packs"] and not done.resurrected
    world.check()


def test_a_writer_that_began_before_the_mark_is_waited_for_and_its_packs_stay(
    world: World,
) -> None:
    world.write("a", 1)
    world.backup()
    world.write("a", 2)
    world.backup()
    world.forget(1)
    world.clock.sleep(DAY)

    world.write("a", 1)
    writer = Writer(world.repo, rng=random.Random(1))
    assert world.mark().dead
    world.clock.sleep(2 * HOUR)
    world.backup(writer)  # relies on what has been marked since it began
    world.clock.sleep(DAY)
    assert world.sweep().resurrected
    world.check()
    assert not marks.standing(world.repo), "what was resurrected is nobody's garbage"
    world.gc()
    world.check()


def test_nothing_is_swept_while_a_run_lives_that_may_not_know_the_mark(world: World) -> None:
    world.write("a", 1)
    world.backup()
    world.write("a", 2)
    world.backup()
    world.forget(1)
    world.clock.sleep(DAY)
    slow = WriteSession(world.repo)
    world.mark()
    for _ in range(30):
        world.clock.sleep(HOUR)
        slow.run.beat()
    assert world.sweep().waiting == 1
    slow.run.end()
    assert world.sweep().waiting == 0
    world.check()


def test_a_machine_that_slept_through_the_grace_does_not_commit(world: World) -> None:
    world.write("a", 1)
    world.backup()
    world.write("a", 2)
    world.backup()
    world.forget(1)
    world.clock.sleep(DAY)
    world.write("a", 1)
    writer = Writer(world.repo, rng=random.Random(1))
    assert world.mark().dead
    world.clock.sleep(DAY - HOUR)  # silent for longer than anybody waits for it
    with pytest.raises(Incomplete, match="so long"):
        world.backup(writer)
    assert world.repo.sequences() == [2]
    world.clock.sleep(HOUR)
    assert not world.sweep().waiting
    world.check()


def test_a_commit_that_came_too_late_is_never_called_a_backup(world: World) -> None:
    """The machine falls asleep between its last look and the write."""
    world.write("a", 1)
    world.backup()
    world.write("a", 2)
    world.backup()
    lease = WriteSession(world.repo)
    world.forget(1)
    world.clock.sleep(DAY)
    relied = {p for m in [world.mark()] for s in marks.standing(world.repo) for p in s.packs}
    world.clock.sleep(DAY)
    world.sweep()
    assert relied and not relied & world.packs()
    world.write("b", 3)
    late = world.backup()
    with pytest.raises(Damage, match="too late"):
        lease.committed(late, relied)


def test_a_run_in_its_third_day_keeps_what_it_has_uploaded(world: World) -> None:
    """A first backup takes long, and nothing names its packs until the end."""
    writer = Writer(world.repo, rng=random.Random(1), pack_bytes=2000)
    ids = []
    for n in range(70):
        ids.append(writer.put(Chunk(random.Random(n).randbytes(1500)), Kind.DATA))
        world.clock.sleep(HOUR)
        if n % 10 == 9:
            found = world.mark()
            assert found.dead == found.orphans == 0
            world.sweep()
    writer.finish()
    present = {p for i in ids for p in (place.pack for place in writer.catalogue.locations(i))}
    assert present <= world.packs()
    now = world.clock.now()
    writer.commit(
        Content(
            kind="files",
            label="",
            host="h",
            started=now,
            finished=now,
            tree=(),
            entries=0,
            size_bytes=0,
            complete=True,
        )
    )


def test_what_a_dead_run_left_behind_goes(world: World) -> None:
    world.write("a", 1)
    world.backup()
    kept = world.packs()
    dying = Writer(world.repo, rng=random.Random(1), pack_bytes=2000)
    for n in range(5):  # packs that no segment names: it dies before one is written
        dying.put(Chunk(random.Random(n).randbytes(2500)), Kind.DATA)
    assert world.packs() > kept
    assert world.mark().orphans == 0
    world.clock.sleep(heartbeats.SILENT + HOUR)
    assert world.mark().orphans == 5
    world.clock.sleep(DAY)
    world.sweep()
    assert world.packs() == kept
    world.check()


def test_what_is_locked_stays_is_told_and_goes_when_it_unlocks(world: World) -> None:
    world.write("a", 1)
    until = world.clock.now() + timedelta(days=30)
    world.backup()
    for s in list(world.store.list()):
        if not s.key.startswith("runs/"):
            world.store.retain(s.key, until=until)
    locked = world.packs()
    world.write("a", 2)
    world.backup()
    world.forget(1)
    done = world.gc()
    assert "packs" not in done.removed and done.locked >= len(locked) + 1
    assert done.unlocks_at == until and done.complete
    world.check()
    world.clock.sleep(timedelta(days=31))
    assert world.sweep().removed["packs"] == len(locked)
    assert not marks.standing(world.repo)
    world.check()


def test_an_index_segment_that_cannot_go_yet_does_not_make_removed_packs_damage(
    world: World,
) -> None:
    world.write("a", 1)
    world.backup()
    first = next(world.store.list("index/")).key
    world.store.retain(first, until=world.clock.now() + timedelta(days=30))
    world.write("a", 2)
    world.backup()
    world.forget(1)
    assert world.gc().removed["packs"]
    assert marks.standing(world.repo), "the mark says why a pack is missing"
    world.check()
    world.write("a", 1)  # what the old segment still promises is not believed
    world.backup()
    world.check()
    world.clock.sleep(timedelta(days=31))
    world.sweep()
    assert not marks.standing(world.repo)
    world.check()


def test_where_something_is_missing_nothing_is_called_garbage(world: World) -> None:
    world.write("a", 1)
    world.backup()
    first = {s.key for s in world.store.list("index/")}
    world.write("a", 2)
    world.backup()
    world.forget(1)
    world.clock.sleep(DAY)
    for s in [s for s in world.store.list("index/") if s.key not in first]:
        world.store.remove(s.key, version=s.version)
    with pytest.raises(Damage):
        world.mark()
    assert not list(world.store.list("marks/"))


def test_a_deleter_that_may_not_delete_is_told_and_nothing_is_half_done(world: World) -> None:
    class NotAllowed(MemoryStore):
        def remove(self, key: str, *, version: str | None = None) -> None:
            raise Refused(f"{self.name}: this identity may not remove {key}")

    world.write("a", 1)
    world.backup()
    world.write("a", 2)
    world.backup()
    world.forget(1)
    world.clock.sleep(DAY)
    world.mark()
    world.clock.sleep(DAY)
    done = sweep(world.repo, NotAllowed(clock=world.clock), Silent())
    assert not done.complete and "may not remove" in (done.refused or "")
    world.check()


def test_the_stores_clock_decides_not_the_hosts(
    make: Callable[..., Repository], clock: SimClock, tmp_path: Path
) -> None:
    honest = World(make(), clock, tmp_path)
    honest.write("a", 1)
    honest.backup()
    honest.write("a", 2)
    honest.backup()
    honest.forget(1)
    clock.sleep(DAY)
    honest.mark()
    ahead = SimClock(wall=clock.wall + timedelta(days=400), elapsed_s=clock.elapsed_s)
    hasty = Repository(honest.repo.store, ahead, honest.repo.config, honest.repo.keys)
    done = sweep(hasty, honest.store, Silent())
    assert done.waiting == 1 and "packs" not in done.removed
    honest.check()


def test_a_dry_run_writes_and_removes_nothing(world: World) -> None:
    world.write("a", 1)
    world.backup()
    world.write("a", 2)
    world.backup()
    world.forget(1)
    world.clock.sleep(DAY)
    before = {s.key for s in world.store.list()}
    assert mark(world.repo, Silent(), write=False).dead
    assert {s.key for s in world.store.list()} == before
    world.mark()
    world.clock.sleep(DAY)
    before = {s.key for s in world.store.list()}
    would = sweep(world.repo, world.store, Silent(), dry_run=True)
    assert would.removed["packs"] and {s.key for s in world.store.list()} == before
    assert world.sweep().removed["packs"] == would.removed["packs"]


def test_a_reader_whose_segment_was_swept_under_its_hands_reads_the_new_one(
    world: World,
) -> None:
    """It listed the index; then the sweep replaced a segment; then it reads what it listed."""
    for n in range(3):
        world.write("a", n)
        world.write(f"keep{n}", 50 + n)
        world.backup()
    world.forget(1)
    world.clock.sleep(DAY)
    world.mark(live_share=0.99)
    world.clock.sleep(DAY)

    class Late(MemoryStore):
        swept = False

        def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
            if key.startswith("index/") and not self.swept:
                self.swept = True
                assert world.sweep().removed["index"]
            return world.store.read(key, start=start, length=length)

        def list(self, prefix: str = ""):  # type: ignore[no-untyped-def]
            return world.store.list(prefix)

    late = Repository(Late(clock=world.clock), world.clock, world.repo.config, world.repo.keys)
    with Reader(late) as reader:
        for one in world.repo.snapshots():
            assert list(reader.nodes(one))


def test_a_restore_that_outlasts_the_grace_finds_what_was_packed_anew(world: World) -> None:
    for n in range(8):
        world.write(f"f{n}", n)
    world.backup()
    for n in range(1, 8):
        world.write(f"f{n}", 100 + n)
    newest = world.backup()
    target = world.base / "slow"
    with Reader(world.repo) as slow:
        world.forget(1)
        world.clock.sleep(DAY)
        assert world.mark().repacked == 1
        world.clock.sleep(DAY)
        assert world.sweep().removed["packs"]
        restore_files(slow, world.repo.find(str(newest)), target, progress=Silent())
    assert {p.name: p.read_bytes() for p in (target / "source").iterdir()} == world.truth[newest]


def test_what_is_in_no_index_is_looked_for_once_and_not_for_each_blob(world: World) -> None:
    world.write("a", 1)
    world.backup()
    with Reader(world.repo) as reader:
        calls = world.store.calls
        for n in range(50):
            with pytest.raises(Damage, match="in no index segment"):
                reader.read(bytes([n]) * 32)
        assert world.store.calls - calls < 10


def test_the_newest_snapshot_object_is_removed_and_the_chain_goes_on(world: World) -> None:
    world.write("a", 1)
    world.backup(), world.backup()
    world.forget(1, 2)
    world.gc()
    assert not list(world.store.list("snapshots/"))
    assert world.backup() == 3
    world.check()
    assert key_of(3) in {s.key for s in world.store.list("snapshots/")}


def log(*places: tuple[int, int, int | None, int]) -> tuple[list[Item], dict[str, datetime]]:
    """Timeline, segment, part, and the hour in which it came."""
    items, times = [], {}
    for timeline, segment, part, hour in places:
        key = f"{timeline}/{segment}/{part}"
        items.append(Item(key=key, epoch=timeline, timeline=timeline, segment=segment, part=part))
        times[key] = START + hour * HOUR
    return items, times


def test_wal_before_the_oldest_kept_base_backup_goes_and_nothing_after_it() -> None:
    items, times = log((1, 1, None, 0), (1, 2, None, 1), (1, 3, None, 2), (1, 9, None, 50))
    kept = [Base(segment=3, modified=START + 3 * HOUR), Base(segment=9, modified=START + 51 * HOUR)]
    found = superfluous(items, times, kept, now=START + 100 * HOUR, grace=DAY)
    assert found == ["1/1/None", "1/2/None"]
    assert superfluous(items, times, kept, now=START + 20 * HOUR, grace=DAY) == []


def test_a_cluster_that_went_back_in_time_keeps_its_low_numbers() -> None:
    items, times = log((1, 1, None, 0), (2, 1, None, 30))
    kept = [Base(segment=7, modified=START + 5 * HOUR)]
    assert superfluous(items, times, kept, now=START + 200 * HOUR, grace=DAY) == ["1/1/None"]


@pytest.mark.parametrize("kept", [None, []])
def test_wal_of_which_nobody_knows_who_needs_it_stays(kept: list[Base] | None) -> None:
    items, times = log((1, 1, None, 0))
    assert superfluous(items, times, kept, now=START + 200 * HOUR, grace=DAY) == []


def test_increments_go_when_their_segment_is_there_whole() -> None:
    items, times = log((1, 4, 1, 0), (1, 4, 2, 1), (1, 4, None, 2), (1, 5, 1, 3))
    found = superfluous(items, times, None, now=START + 100 * HOUR, grace=DAY)
    assert found == ["1/4/1", "1/4/2"]


def test_the_sweep_removes_increments_and_leaves_the_segment(world: World) -> None:
    archive = Archive(world.repo, 7)
    archive.put(b"a" * 9000, epoch=1, timeline=1, segment=4, part=1)
    archive.put(b"a" * 9000 + b"b", epoch=1, timeline=1, segment=4)
    archive.put(b"c" * 900, epoch=1, timeline=1, segment=5, part=1)
    world.write("a", 1)
    world.backup()
    world.clock.sleep(2 * DAY)
    assert world.sweep().removed["wal"] == 1
    assert [(i.segment, i.part) for i in archive.items()] == [(4, None), (5, 1)]
    world.check()


def test_a_grace_without_its_margin_makes_no_sense() -> None:
    with pytest.raises(AssertionError):
        Terms(grace=HOUR, margin=DAY)


def test_leases_of_slots_long_past_are_swept_and_a_slot_that_is_held_is_not(world: World) -> None:
    def take(job: str) -> leases.Lease:
        slot = Slot(job=job, at=world.clock.now())
        return leases.take(world.repo, slot.name, holds=HOUR, holder="host", rng=random.Random(1))

    take("nightly").end(leases.End.DONE)
    take("died")
    world.clock.sleep(leases.KEPT - HOUR)
    mine = take("hourly")
    assert "leases" not in world.sweep().removed
    world.clock.sleep(HOUR)
    assert world.sweep().removed["leases"] == 3
    assert [s.key for s in world.store.list("leases/")] == [mine.key]


def test_the_end_of_a_lease_goes_before_the_lease(world: World) -> None:
    """Else a sweep that died between the two would leave an end, and the next lease would be over at once."""
    slot = Slot(job="nightly", at=world.clock.now())
    leases.take(world.repo, slot.name, holds=HOUR, holder="a").end(leases.End.FAILED)
    leases.take(world.repo, slot.name, holds=HOUR, holder="b").end(leases.End.DONE)
    world.clock.sleep(leases.KEPT)
    keys = leases.over(world.repo, world.clock.now())
    assert len(keys) == 4
    for n, key in enumerate(keys):
        assert key.endswith(".end") or f"{key}.end" in keys[:n]


def test_a_locked_lease_stays(world: World) -> None:
    slot = Slot(job="nightly", at=world.clock.now())
    mine = leases.take(world.repo, slot.name, holds=HOUR, holder="a")
    world.store.retain(mine.key, until=world.clock.now() + 2 * leases.KEPT)
    world.clock.sleep(leases.KEPT)
    done = world.sweep()
    assert done.locked == 1
    assert world.store.stat(mine.key)

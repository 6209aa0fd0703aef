"""The archive's names and gaps, increments laid over each other, and the archiver without a server."""

import random
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup import status
from backup.crypto.keyring import Kdf
from backup.format.wal_segment import (
    SEGMENT_BYTES,
    Item,
    gaps,
    lsn,
    missing,
    parse_segment,
    say_lsn,
    segment_name,
)
from backup.integrity.verify import verify
from backup.postgres.wal_receiver import WalArchiver
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.wal.archive import Archive, systems
from backup.writer.pack_health import Level
from infra.objectstore.memory import Fault, MemoryStore
from zaibei.kernel.clock import SimClock
from zaibei.kernel.errors import Damage
from zaibei.kernel.progress import Silent

Make = Callable[..., Repository]
OURS, THEIRS = 7300000000000000001, 7300000000000000002


def segment_of(system: int, body: bytes = b"\1") -> bytes:
    """The long page header that PostgreSQL begins a segment with, and `body`."""
    header = struct.pack("<HHIQI4xQII", 0xD110, 2, 1, 0, 0, system, SEGMENT_BYTES, 8192)
    return (header + body).ljust(SEGMENT_BYTES, b"\0")


def whole(timeline: int, *segments: int) -> list[Item]:
    return [Item(key="", epoch=1, timeline=timeline, segment=s) for s in segments]


def growing(timeline: int, segment: int) -> Item:
    return Item(key="", epoch=1, timeline=timeline, segment=segment, part=1)


@given(timeline=st.integers(1, 2**32 - 1), segment=st.integers(0, 2**40 - 1))
def test_a_segments_name_and_number_say_the_same(timeline: int, segment: int) -> None:
    assert parse_segment(segment_name(timeline, segment)) == (timeline, segment)


@given(value=st.integers(0, 2**64 - 1))
def test_an_lsn_is_read_as_it_is_written(value: int) -> None:
    assert lsn(say_lsn(value)) == value


@given(
    first=st.integers(0, 1000),
    count=st.integers(3, 40),
    hole=st.integers(0, 38),
    seed=st.integers(),
)
def test_a_segment_that_is_taken_out_is_named(first: int, count: int, hole: int, seed: int) -> None:
    segments = list(range(first, first + count))
    taken = segments[1 + hole % (count - 2)]
    held = [*whole(1, *segments[:-1]), growing(1, segments[-1])]
    random.Random(seed).shuffle(held)

    assert gaps(held) == []
    found = gaps([i for i in held if i.segment != taken])
    assert len(found) == 1
    assert segment_name(1, taken) in found[0]


def test_a_timeline_begins_where_the_one_before_had_got_to() -> None:
    assert gaps([*whole(1, 3, 4), growing(1, 5), *whole(2, 5, 6)]) == []
    assert gaps([*whole(1, 3, 4), *whole(2, 5)]) == []
    assert gaps([*whole(1, 3, 4), *whole(2, 7)]) == [
        f"wal: {segment_name(2, 5)} is missing, and up to {segment_name(2, 6)}"
    ]


def test_a_part_is_enough_only_at_the_end() -> None:
    assert gaps([*whole(1, 3), growing(1, 4), *whole(1, 5)]) == [
        f"wal: only a part of {segment_name(1, 4)}"
    ]


def test_what_a_backup_needs_is_counted_from_its_lsns() -> None:
    start, stop = lsn("0/3000028"), lsn("0/5000000")  # it ends exactly where segment 5 begins
    assert missing(whole(1, 3, 4), timeline=1, start=start, stop=stop) == []
    assert missing(whole(1, 3), timeline=1, start=start, stop=stop) == [segment_name(1, 4)]


@settings(max_examples=15)  # each assembles 16 MiB
@given(steps=st.lists(st.integers(1, 3 * 8192), min_size=1, max_size=12), seed=st.integers())
def test_increments_laid_over_each_other_are_the_segment(steps: list[int], seed: int) -> None:
    clock = SimClock()
    fast = Kdf(memory_kib=64, iterations=1, lanes=1)
    store = MemoryStore(clock=clock)
    archive = Archive(create_repository(store, "p", clock=clock, kdf=fast), OURS)
    truth = random.Random(seed).randbytes(sum(steps))
    parts, end = [], 0
    for n, step in enumerate(steps, 1):
        start = end - end % 8192
        end += step
        parts.append(
            archive.put(truth[start:end], epoch=1, timeline=1, segment=4, part=n, offset=start)
        )

    assert archive.assemble(parts) == truth.ljust(SEGMENT_BYTES, b"\0")


def test_a_second_writer_of_one_segment_is_damage(repo: Repository) -> None:
    archive = Archive(repo, OURS)
    archive.put(b"ours", epoch=1, timeline=1, segment=3)
    archive.put(b"ours", epoch=1, timeline=1, segment=3)  # a repeated put is not

    with pytest.raises(Damage, match="two writers"):
        archive.put(b"theirs", epoch=1, timeline=1, segment=3)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Our cluster's folder of it."""
    (tmp_path / "spool" / str(OURS)).mkdir(parents=True)
    return tmp_path / "spool" / str(OURS)


def archiver(repos: list[Repository], spool: Path, clock: SimClock) -> WalArchiver:
    return WalArchiver(
        conninfo="", password=None, repositories=repos, spool=spool.parent, clock=clock, system=OURS
    )


def once(wal: WalArchiver) -> None:
    wal.poll(receive=False, wait_for=timedelta(seconds=60))


def test_a_vault_that_is_away_keeps_its_wal_in_the_spool_and_its_lag_grows(
    make: Make, spool: Path, clock: SimClock
) -> None:
    b, c = make("site-b"), make("site-c")
    assert isinstance(c.store, MemoryStore)
    names = [segment_name(1, n) for n in (3, 4, 5)]
    for name in names:
        (spool / name).write_bytes(segment_of(OURS, name.encode()))
    c.store.faults = dict.fromkeys(range(c.store.calls + 1, 100000), Fault.BEFORE)

    with archiver([b, c], spool, clock) as wal:
        once(wal)
        clock.sleep(timedelta(minutes=5))
        said = wal.status()

        assert {v.vault: v.error is None for v in said.vaults} == {"site-b": True, "site-c": False}
        assert all((spool / n).exists() for n in names), "the other vault still needs them"
        worst = wal.lag()
        assert worst is not None and worst >= timedelta(minutes=5)

        c.store.faults = {}
        once(wal)

        assert [v.error for v in wal.status().vaults] == [None, None]
        assert [n for n in names if (spool / n).exists()] == names[-1:]
    for repo in (b, c):
        assert [i.file_name for i in Archive(repo, OURS).items()] == names


@dataclass
class Hanging(MemoryStore):
    """Takes what it is given and does not answer until it is let go."""

    go: threading.Event = field(default_factory=threading.Event)

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        if key.startswith("wal/"):
            assert self.go.wait(60), "nobody let it go"
        return MemoryStore.create(self, key, data, retain_until=retain_until)


def test_a_vault_that_hangs_does_not_hold_back_the_other(
    make: Make, spool: Path, clock: SimClock
) -> None:
    b = make("site-b")
    hanging = Hanging(clock=clock, name="site-c")
    fast = Kdf(memory_kib=64, iterations=1, lanes=1)
    c = create_repository(hanging, "p", clock=clock, kdf=fast)
    try:
        with archiver([b, c], spool, clock) as wal:
            for n in (3, 4, 5):
                (spool / segment_name(1, n)).write_bytes(segment_of(OURS, bytes([n])))
                wal.poll(receive=False, wait_for=timedelta(milliseconds=300))

                lags = {v.vault: v for v in wal.status().vaults}
                assert lags["site-b"].archived_lsn == say_lsn((n + 1) * SEGMENT_BYTES)
                assert lags["site-c"].archived_lsn is None
            hanging.go.set()
            once(wal)
            once(wal)
            assert len({v.archived_lsn for v in wal.status().vaults}) == 1
    finally:
        hanging.go.set()


def test_the_growing_segment_is_shipped_by_its_new_bytes(
    repo: Repository, spool: Path, clock: SimClock
) -> None:
    name = segment_name(1, 7)
    partial = spool / f"{name}.partial"
    body = segment_of(OURS, random.Random(1).randbytes(50_000))[:50_000]
    for end in (100, 20_000, 20_000, 50_000):
        partial.write_bytes(body[:end].ljust(SEGMENT_BYTES, b"\0"))
        with archiver([repo], spool, clock) as wal:
            once(wal)
            once(wal)
    items = Archive(repo, OURS).items()

    # Three sizes were seen by four processes, each of which ships what it finds once.
    assert len(items) == 4
    assert Archive(repo, OURS).assemble(items) == body.ljust(SEGMENT_BYTES, b"\0")

    with archiver([repo], spool, clock) as wal:
        once(wal)
        partial.rename(spool / name)
        once(wal)
        assert wal.status().gaps == ()
    assert any(i.part is None for i in Archive(repo, OURS).items())


def test_segments_of_another_system_are_never_shipped(
    repo: Repository, spool: Path, clock: SimClock
) -> None:
    """A rebuilt cluster counts from one again; the spool still held what the one before had sent."""
    name = segment_name(1, 3)
    theirs = spool.parent / str(THEIRS)
    theirs.mkdir()
    for place in (theirs, spool.parent):  # a folder of its own, or of the time before the folders
        (place / name).write_bytes(segment_of(THEIRS))
        (place / "0000000B.history").write_text("1\t0/3000000\tnot ours\n")

    with archiver([repo], spool, clock) as wal:
        once(wal)
        assert wal.status().received_lsn is None
        (spool / name).write_bytes(segment_of(OURS))
        once(wal)

        assert wal.status().system == OURS
        assert [v.error for v in wal.status().vaults] == [None]
    assert systems(repo) == [OURS]
    assert [i.file_name for i in Archive(repo, OURS).items()] == [name]
    assert (theirs / name).exists()


@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_a_segment_that_says_it_is_anothers_stops_the_lane(
    repo: Repository, spool: Path, clock: SimClock, suffix: str
) -> None:
    """The name says ours, the first page says theirs: the page is right."""
    (spool / f"{segment_name(1, 3)}{suffix}").write_bytes(segment_of(THEIRS))

    with archiver([repo], spool, clock) as wal:
        once(wal)

        said = wal.status().vaults[0]
        assert said.error is not None and str(THEIRS) in said.error
        assert said.archived_lsn is None
    assert systems(repo) == []


def test_nothing_is_shipped_while_nobody_says_whose_it_is(
    repo: Repository, spool: Path, clock: SimClock
) -> None:
    (spool / segment_name(1, 3)).write_bytes(segment_of(OURS))
    wal = WalArchiver(
        conninfo=f"host={spool} port=1",
        password=None,
        repositories=[repo],
        spool=spool.parent,
        clock=clock,
    )
    with wal:
        wal.poll()

        said = wal.status()
        assert (said.system, said.receiving, said.lag) == (None, False, None)
        assert said.error is not None and "IDENTIFY_SYSTEM" in said.error
    assert systems(repo) == []


def test_two_systems_in_one_repository_do_not_see_each_other(repo: Repository) -> None:
    """The same names, other bytes, and neither a second writer nor a gap of the other."""
    ours, theirs = Archive(repo, OURS), Archive(repo, THEIRS)
    ours.put(b"ours", epoch=1, timeline=1, segment=3)
    theirs.put(b"theirs", epoch=1, timeline=1, segment=3)
    theirs.put(b"theirs", epoch=11, timeline=11, segment=90)

    assert systems(repo) == [OURS, THEIRS]
    assert [ours.open(i) for i in ours.items()] == [b"ours"]
    assert gaps(ours.items()) == []
    assert len(gaps(theirs.items())) == 1
    found = verify(repo, Level.FULL, rng=random.Random(1), progress=Silent())
    assert found.wal_objects == 3
    assert len(found.damage) == 1 and str(THEIRS) in found.damage[0]


def test_a_byte_is_as_old_as_the_last_look_that_did_not_see_it(
    repo: Repository, spool: Path, clock: SimClock
) -> None:
    """Seen only now, it may have come 0.8 s ago: a lag that counted from now would always be told as none."""
    partial = spool / f"{segment_name(1, 7)}.partial"
    body = segment_of(OURS, random.Random(1).randbytes(50_000))
    partial.write_bytes(body[:20_000].ljust(SEGMENT_BYTES, b"\0"))
    with archiver([repo], spool, clock) as wal:
        once(wal)
        assert wal.lag() == timedelta(0)
        clock.sleep(timedelta(seconds=0.8))
        partial.write_bytes(body[:50_000].ljust(SEGMENT_BYTES, b"\0"))

        assert wal.lag() == timedelta(seconds=0.8)
        clock.sleep(timedelta(seconds=0.4))
        assert wal.status().vaults[0].lag == timedelta(seconds=1.2)
        once(wal)
        assert wal.lag() == timedelta(0)


def test_lag_is_unknown_before_anything_was_received(
    repo: Repository, spool: Path, clock: SimClock
) -> None:
    with archiver([repo], spool, clock) as wal:
        once(wal)

        assert wal.lag() is None
        status.wal(wal.status(), at=clock.now())
    assert status.read()["wal"]["lag_s"] is None
    assert status.read()["wal"]["system_identifier"] == str(OURS)
    assert status.read()["verified_restore"] is None

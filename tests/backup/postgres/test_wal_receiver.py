"""The archiver on a real server: what stops it is said with its reason and its age, and it goes on by itself."""

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from backup import status
from backup.format.wal_segment import SEGMENT_BYTES, segment_name
from backup.postgres import spool
from backup.postgres.wal_age import Age
from backup.postgres.wal_receiver import SLOT, WalArchiver
from backup.postgres.wal_shipper import PARTIAL
from backup.repository.repository import Repository
from backup.status import WalStatus
from backup.wal.archive import Archive
from infra.data.loopback import Loopback, postgres
from infra.objectstore.memory import Fault, MemoryStore
from infra.postgres.server import BIN
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.wait import wait_until

CLOCK = SystemClock()
Small = Callable[[Path, int], Path]


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with postgres({"max_wal_size": "1GB", "wal_keep_size": "256MB"}) as one:
        sql(one, "CREATE TABLE filler (b bytea)")
        yield one


@pytest.fixture(autouse=True)
def no_slot(server: Loopback) -> Iterator[None]:
    yield
    until(lambda: _dropped(server), "the slot")


def _dropped(server: Loopback) -> str | None:
    try:
        sql(
            server,
            f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}'",
        )
    except psycopg.errors.ObjectInUse as held:
        return str(held)
    return None


def sql(server: Loopback, text: str) -> object:
    with psycopg.connect(server.dsn("postgres", "postgres"), autocommit=True) as db:
        done = db.execute(text.encode())
        row = done.fetchone() if done.description else None
        return None if row is None else row[0]


def fill(server: Loopback, mebibytes: int) -> None:
    noise = "string_agg(sha256(random()::text::bytea), '')"
    for _ in range(mebibytes):
        sql(server, f"INSERT INTO filler SELECT {noise} FROM generate_series(1, 32768)")


def until(why_not: Callable[[], str | None], what: str, seconds: float = 60) -> None:
    wait_until(why_not, what=what, deadline=timedelta(seconds=seconds), clock=CLOCK)


@contextmanager
def archiving(server: Loopback, repo: Repository, where: Path) -> Iterator[list[WalStatus]]:
    """Runs in a thread; what it told so far, a status a round."""
    told: list[WalStatus] = []
    stop = threading.Event()
    with WalArchiver(
        conninfo=server.dsn("postgres", "postgres"),
        password=None,
        repositories=[repo],
        spool=where,
        clock=CLOCK,
    ) as wal:
        thread = threading.Thread(target=wal.run, args=(stop,), kwargs={"told": told.append})
        thread.start()
        try:
            yield told
        finally:
            stop.set()
            thread.join(60)


def streams(told: list[WalStatus]) -> str | None:
    return None if told and told[-1].receiving else f"{told[-1:]}"


def current(told: list[WalStatus], *, after: int) -> str | None:
    """Whether a status since then says that nothing is behind."""
    good = [
        t
        for t in told[after:]
        if t.receiving and t.lag is not None and t.lag < timedelta(seconds=4)
    ]
    return None if good else f"{told[-1:]}"


@pytest.mark.integration
def test_the_age_grows_while_another_program_holds_the_slot(
    server: Loopback, repo: Repository, tmp_path: Path
) -> None:
    """It once began again with each start that failed: a monitor saw seconds while nothing was archived for hours."""
    tool = [str(BIN / "pg_receivewal"), "--no-password", "-d", server.dsn("postgres", "postgres")]
    subprocess.run([*tool, "--create-slot", "-S", SLOT], check=True, timeout=30)
    (tmp_path / "theirs").mkdir()
    other = subprocess.Popen([*tool, "-S", SLOT, "-D", str(tmp_path / "theirs")])
    try:
        with archiving(server, repo, tmp_path / "spool") as told:
            until(lambda: None if told and told[-1].error else "no error yet", "a refusal")
            fill(server, 1)
            until(lambda: None if told[-1].lag else f"{told[-1]}", "a lag")
            first = len(told)
            wrote = CLOCK.monotonic()
            until(
                lambda: (
                    None if told[-1].restarts >= 0 and CLOCK.monotonic() - wrote > 25 else "wait"
                ),
                "25 s of refusals",
            )
            lags = [t.lag.total_seconds() for t in told[first:] if t.lag is not None]
            assert lags == sorted(lags), "monotonic"
            assert lags[-1] >= 24
            assert not any(t.receiving for t in told)
            assert "is active for PID" in str(told[-1].error)
            status.wal(told[-1], at=CLOCK.now())
            assert status.wal_behind(now=CLOCK.now()).total_seconds() >= 24

            other.terminate()
            other.wait(30)
            here = len(told)
            until(lambda: current(told, after=here), "the archive to be level again", 90)
            assert told[-1].error is None
    finally:
        other.kill()
        other.wait(30)


@pytest.mark.integration
def test_an_idle_server_is_not_behind(server: Loopback, repo: Repository, tmp_path: Path) -> None:
    with archiving(server, repo, tmp_path / "spool") as told:
        fill(server, 1)
        until(lambda: streams(told), "streaming")
        until(lambda: current(told, after=0), "a level archive")
        at, begun = len(told), CLOCK.monotonic()
        until(lambda: None if CLOCK.monotonic() - begun > 8 else "wait", "8 s of quiet")
        lags = [t.lag.total_seconds() for t in told[at:] if t.lag is not None]

        assert max(lags) < 5
        assert told[-1].held_bytes == 0
        assert told[-1].spool_free_bytes


@pytest.mark.integration
@pytest.mark.parametrize("torn", ["partial", "whole", "compressed"])
def test_a_torn_file_in_the_spool_is_put_aside_and_streamed_again(
    server: Loopback, repo: Repository, tmp_path: Path, torn: str
) -> None:
    """A disk that was full, a power cut or an out-of-memory kill while a segment was padded: it never resumed."""
    with archiving(server, repo, tmp_path / "spool") as told:
        fill(server, 1)
        until(lambda: streams(told), "streaming")
        until(lambda: current(told, after=0), "a level archive")
        system = told[-1].system
    assert system is not None
    place = tmp_path / "spool" / str(system)
    (partial,) = place.glob(f"*{PARTIAL}")
    if torn == "partial":
        with partial.open("r+b") as f:
            f.truncate(8 << 20)
    elif torn == "whole":
        partial.with_name(partial.name.removesuffix(PARTIAL)).write_bytes(partial.read_bytes()[:77])
        partial.unlink()
    else:
        partial.rename(partial.with_name(partial.name.removesuffix(PARTIAL) + f".gz{PARTIAL}"))
    fill(server, 1)
    sql(server, "SELECT pg_switch_wal()")
    fill(server, 1)

    with archiving(server, repo, tmp_path / "spool") as told:
        until(lambda: streams(told), "streaming")
        here = len(told)
        until(lambda: current(told, after=here), "a level archive")
        assert "put aside, and streamed again" in told[-1].notes[0]
        assert told[-1].gaps == ()
    whole = [i for i in Archive(repo, system).items() if i.part is None and i.segment is not None]
    assert whole
    assert all(len(Archive(repo, system).open(i)) == SEGMENT_BYTES for i in whole)


@pytest.mark.integration
def test_a_full_spool_says_so_and_goes_on_when_there_is_room(
    server: Loopback, repo: Repository, tmp_path: Path, small_disk: Small
) -> None:
    where = tmp_path / "spool"
    where.mkdir()
    small_disk(where, 40 << 20)
    (where / "theirs").write_bytes(random.Random(1).randbytes(1 << 20) * 20)

    with archiving(server, repo, where) as told:
        until(lambda: streams(told), "streaming")
        fill(server, 40)
        until(lambda: None if told[-1].error else "no error yet", "a full disk", 90)
        until(lambda: None if "disk is full" in str([t.error for t in told]) else "?", "why", 30)
        # The server is asked every two seconds, and a disk can be full sooner.
        until(lambda: None if any(t.held_bytes for t in told) else "none", "the slot holds it", 30)
        (where / "theirs").unlink()
        here = len(told)
        until(lambda: current(told, after=here), "the archive to be level again", 120)
    rows = sql(server, "SELECT count(*) FROM filler")
    assert rows
    assert told[-1].gaps == ()


def test_padding_is_removed_and_data_is_kept_until_every_vault_has_it(tmp_path: Path) -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    names = [segment_name(1, n) for n in range(5)]
    (tmp_path / f"{names[0]}{PARTIAL}").write_bytes(bytes(8 << 20))
    (tmp_path / f"{names[1]}{PARTIAL}").write_bytes(b"data" + bytes(1000))
    (tmp_path / f"{names[2]}{PARTIAL}").write_bytes(b"")
    (tmp_path / names[3]).write_bytes(b"")
    (tmp_path / f"{names[4]}{PARTIAL}").write_bytes(bytes(SEGMENT_BYTES))
    (tmp_path / "00000002.history").write_text("short, and right so")

    said = spool.set_right(tmp_path, now=now)

    assert [line.partition(":")[0] for line in said] == [
        f"{names[0]}{PARTIAL}",
        f"{names[1]}{PARTIAL}",
        names[3],
    ]
    assert sorted(p.name for p in tmp_path.glob("torn-*/*")) == [f"{names[1]}{PARTIAL}", names[3]]
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {
        f"{names[2]}{PARTIAL}",
        f"{names[4]}{PARTIAL}",
        "00000002.history",
    }
    assert spool.set_right(tmp_path, now=now) == []
    spool.sweep(tmp_path, lambda name: name == names[1])
    assert list(tmp_path.glob("torn-*"))
    spool.sweep(tmp_path, lambda _: True)
    assert not list(tmp_path.glob("torn-*"))


def test_the_age_is_since_the_last_word_of_a_server_that_answers_no_more() -> None:
    age = Age(known=0.0)
    age.sample(10.0, (1, 100), restart=100, ours=True, spool=(1, 90))
    age.look(10.5, (1, 90), streaming=True)
    assert (
        age.of((1, 90), 10.5) == 0.0
    )  # a record that ends in zeros: the slot says that all is there

    age.look(20.0, (1, 90), streaming=False)
    assert age.of((1, 90), 20.0) == 9.5


def test_what_another_holder_of_the_slot_took_is_not_ours() -> None:
    age = Age(known=0.0)
    age.sample(1.0, (1, 100), restart=100, ours=True, spool=(1, 100))
    age.sample(3.0, (1, 200), restart=200, ours=False, spool=(1, 100))
    age.sample(60.0, (1, 300), restart=300, ours=False, spool=(1, 100))
    assert age.of((1, 100), 60.0) == 59.0

    age.look(61.0, (1, 100), streaming=True)
    assert age.of((1, 100), 61.0) == 60.0
    age.sample(62.0, (1, 300), restart=300, ours=True, spool=(1, 100))
    assert age.of((1, 100), 62.0) == 0.0
    age.look(62.0, (1, 400), streaming=True)
    assert age.of((1, 100), 63.0) == 1.0


def test_a_new_timeline_ends_the_wait_for_what_the_old_one_had_written() -> None:
    age = Age(known=0.0)
    age.sample(1.0, (1, 900), restart=100, ours=True, spool=(1, 100))
    assert age.of((1, 100), 9.0) == 9.0
    age.sample(10.0, (2, 500), restart=500, ours=True, spool=(2, 500))
    age.look(10.0, (2, 500), streaming=True)
    assert age.of((2, 500), 10.0) == 0.0


@pytest.mark.integration
def test_an_archiver_that_is_ended_says_so_and_one_that_died_does_not(
    server: Loopback, repo: Repository, tmp_path: Path
) -> None:
    """A lab that was kept told of an archive that stands still for ever between two drills."""
    with archiving(server, repo, tmp_path / "spool") as told:
        until(lambda: streams(told), "the stream")
        fill(server, 1)
        assert told[-1].following, "what it last wrote is all that a monitor has when it dies"
    assert not told[-1].following
    status.wal(told[-1], at=CLOCK.now())
    assert status.read()["wal"]["following"] is False


@pytest.mark.integration
def test_an_archiver_that_is_ended_before_a_vault_has_all_stays_one_that_is_behind(
    server: Loopback, repo: Repository, tmp_path: Path
) -> None:
    with archiving(server, repo, tmp_path / "spool") as told:
        until(lambda: streams(told), "the stream")
        assert isinstance(repo.store, MemoryStore)
        repo.store.faults = dict.fromkeys(range(repo.store.calls + 1, 100000), Fault.BEFORE)
        fill(server, 1)
        until(lambda: None if told[-1].vaults[0].error else "well", "the vault to be unreachable")
    assert told[-1].following

"""A real primary and standby: base backup from the standby, WAL behind it, and back to a named moment."""

import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from backup.errors import WalGap
from backup.format.wal_segment import parse_segment
from backup.integrity.verify import verify
from backup.postgres.clean_room import restored
from backup.postgres.recovery_target import Action, Target
from backup.postgres.table_facts import missing_ids, table_facts
from backup.postgres.wal_receiver import WalArchiver
from backup.repository.repository import Repository
from backup.run import run_postgres
from backup.status import WalStatus
from backup.wal.archive import Archive, systems
from backup.writer.pack_health import Level
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Refused, ToolFailed
from zaibei.kernel.progress import Silent
from zaibei.kernel.wait import wait_until

pytestmark = pytest.mark.integration
BIN = Path("/usr/lib/postgresql/15/bin")
CLOCK = SystemClock()


@dataclass
class Member:
    directory: Path
    port: int
    child: "subprocess.Popen[bytes] | None" = None

    @property
    def data(self) -> Path:
        return self.directory / f"data{self.port}"

    def conninfo(self, database: str = "postgres") -> str:
        return f"host={self.directory} port={self.port} user=postgres dbname={database}"

    def start(self) -> None:
        with (self.directory / f"{self.port}.log").open("ab") as log:
            self.child = subprocess.Popen(
                as_postgres([BIN / "postgres", "-D", self.data]),
                cwd=self.directory,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

        def why_not() -> str | None:
            try:
                psycopg.connect(self.conninfo(), connect_timeout=2).close()
            except psycopg.OperationalError as bad:
                return str(bad)
            return None

        wait_until(why_not, what="postgres", deadline=timedelta(seconds=60), clock=CLOCK)

    def stop(self) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGINT)
            self.child.wait(60)
            self.child = None

    def sql(self, text: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            done = connection.execute(text.encode())
            return done.fetchall() if done.description else []


def as_postgres(argv: list[object]) -> list[str]:
    plain = [str(a) for a in argv]
    return (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *plain]
        if (os.geteuid() == 0)
        else plain
    )


def call(argv: list[object], cwd: Path) -> None:
    subprocess.run(as_postgres(argv), cwd=cwd, check=True, capture_output=True, timeout=120)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Outside pytest's own, which only root may enter; short, because a socket lives in it."""
    made = Path(tempfile.mkdtemp(prefix="zbpg-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def pair(directory: Path) -> Iterator[tuple[Member, Member]]:
    servers = directory / "s"
    servers.mkdir()
    if os.geteuid() == 0:
        who = pwd.getpwnam("postgres")
        os.chown(servers, who.pw_uid, who.pw_gid)
    a, b = Member(servers, 5501), Member(servers, 5502)
    call(
        [
            BIN / "initdb",
            "-D",
            a.data,
            "-A",
            "trust",
            "-U",
            "postgres",
            "-k",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        ],
        servers,
    )
    with (a.data / "postgresql.conf").open("a") as conf:
        conf.write(
            f"listen_addresses=''\nunix_socket_directories='{servers}'\nport=5501\n"
            "shared_buffers=16MB\nfsync=off\nwal_keep_size=128MB\nmax_connections=37\n"
            # What must not act in the clean room.
            "archive_mode=on\narchive_command='true'\n"
        )
    with ExitStack() as undo:
        undo.callback(a.stop)
        a.start()
        a.sql("CREATE TABLE sample (key text PRIMARY KEY, person text)")
        a.sql("INSERT INTO sample SELECT 'k' || n, md5(n::text) FROM generate_series(1, 2000) n")
        call(
            [
                BIN / "pg_basebackup",
                "-h",
                servers,
                "-p",
                5501,
                "-U",
                "postgres",
                "-D",
                b.data,
                "-R",
                "-c",
                "fast",
                "-X",
                "stream",
                "-N",
            ],
            servers,
        )
        with (b.data / "postgresql.conf").open("a") as conf:
            conf.write("port=5502\n")
        undo.callback(b.stop)
        b.start()
        yield a, b


def replayed(a: Member, b: Member) -> None:
    lsn = a.sql("SELECT pg_current_wal_flush_lsn()")[0][0]

    def why_not() -> str | None:
        return None if b.sql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")[0][0] else "behind"

    wait_until(why_not, what="replay", deadline=timedelta(seconds=60), clock=CLOCK)


def system(member: Member) -> int:
    found = member.sql("SELECT system_identifier FROM pg_control_system()")[0][0]
    assert isinstance(found, int)
    return found


def archived(wal: WalArchiver, member: Member) -> None:
    """Until everything the server has is in every vault."""
    # The archive's position is the last byte that is not zero; a record that ends in text shows its end.
    member.sql("SELECT pg_logical_emit_message(true, 'test', 'end')")
    lsn = member.sql("SELECT pg_current_wal_flush_lsn()")[0][0]

    def why_not() -> str | None:
        now = wal.status()
        for v in now.vaults:
            if v.archived_lsn is None:
                return f"{v.vault} has nothing: {now}"
            if member.sql(f"SELECT '{v.archived_lsn}'::pg_lsn + 64 < '{lsn}'")[0][0]:
                return f"{v.vault} at {v.archived_lsn} of {lsn}: {now}"
        return None

    wait_until(why_not, what="archive", deadline=timedelta(seconds=60), clock=CLOCK)


@pytest.fixture
def archiving() -> Iterator[Callable[[WalArchiver], WalArchiver]]:
    with ExitStack() as undo:

        def begin(wal: WalArchiver) -> WalArchiver:
            undo.enter_context(wal)
            stop = threading.Event()
            thread = threading.Thread(target=wal.run, args=(stop,))
            thread.start()
            undo.callback(thread.join, 60)
            undo.callback(stop.set)
            return wal

        yield begin


def test_a_standbys_backup_and_the_archive_bring_back_a_named_moment(
    pair: tuple[Member, Member],
    directory: Path,
    make: Callable[..., Repository],
    archiving: Callable[[WalArchiver], WalArchiver],
) -> None:
    a, b = pair
    vaults = [make("site-b"), make("site-c")]
    replayed(a, b)
    doors = f"host={a.directory},{a.directory} port=5501,5502 user=postgres dbname=postgres"
    wal = archiving(
        WalArchiver(
            conninfo=f"{doors} target_session_attrs=read-write connect_timeout=3",
            password=None,
            repositories=vaults,
            spool=directory / "spool",
            clock=CLOCK,
        )
    )
    archived(wal, a)

    run = run_postgres(b.conninfo(), None, vaults, CLOCK, random.Random(1), Silent())

    assert run.complete, run.problems
    snapshot = vaults[0].find("latest", kind="postgres")
    facts = snapshot.content.facts
    assert facts["from_standby"] is True
    assert facts["system_identifier"] == str(system(a))
    assert wal.status().system == system(a)

    # After the backup, so only the archive has it.
    a.sql("INSERT INTO sample SELECT 'late' || n, 'x' FROM generate_series(1, 500) n")
    truth = table_facts(a.conninfo())
    a.sql("SELECT pg_create_restore_point('before-the-mistake')")
    a.sql("DELETE FROM sample WHERE key LIKE 'k%'")
    archived(wal, a)
    wanted = [f"k{n}" for n in range(1, 2001)] + [f"late{n}" for n in range(1, 501)]

    for vault in vaults:
        with restored(
            vault,
            vault.find("latest"),
            target=Target.parse("name=before-the-mistake"),
            workdir=directory,
            clock=CLOCK,
            progress=Silent(),
            amcheck=vault is vaults[0],
            pages=vault is vaults[0],
        ) as room:
            assert room.recovered is not None and room.recovered.promoted
            assert room.recovered.last_commit is not None
            assert "before-the-mistake" in str(room.recovered.stopped)
            assert table_facts(room.dsn()) == truth
            assert list(missing_ids(room.dsn(), "sample", "key", [*wanted, "never"])) == ["never"]
            assert all(c.passed for c in room.checks), room.checks
            assert room.took > timedelta(0)
            with psycopg.connect(room.dsn()) as inside:
                settings = "archive_mode", "listen_addresses", "primary_conninfo"
                said = [inside.execute(f"SHOW {s}".encode()).fetchone() for s in settings]
            assert said == [("off",), ("",), ("",)], "nothing reaches out of the room"
    # The writer is lost, the standby takes over: a new timeline goes on in the same archive.
    a.stop()
    b.sql("SELECT pg_promote()")
    b.sql("INSERT INTO sample VALUES ('after-failover', 'y')")
    archived(wal, b)
    wait_until(
        lambda: None if wal.status().timeline == 2 else str(wal.status()),
        what="timeline 2",
        deadline=timedelta(seconds=60),
        clock=CLOCK,
    )
    assert any(i.segment is None and i.timeline == 2 for i in Archive(vaults[1], system(b)).items())
    with restored(
        vaults[1], vaults[1].find("latest"), workdir=directory, clock=CLOCK, progress=Silent()
    ) as room:
        assert list(missing_ids(room.dsn(), "sample", "key", ["after-failover"])) == []
        # Up to the end, so the mistake is there too.
        assert table_facts(room.dsn())["public.sample"].rows == 501
        assert room.timeline == 3
    for vault in vaults:
        found = verify(vault, Level.FULL, rng=random.Random(1), progress=Silent())
        assert found.damage == []


def test_a_paused_room_shows_the_moment_and_writes_nothing(
    pair: tuple[Member, Member], directory: Path, make: Callable[..., Repository]
) -> None:
    a, _ = pair
    vault = make()
    assert run_postgres(a.conninfo(), None, [vault], CLOCK, None, Silent()).complete
    a.sql("INSERT INTO sample VALUES ('seen', 'x')")
    lsn = a.sql("SELECT pg_create_restore_point('look')")[0][0]
    name = a.sql(f"SELECT pg_walfile_name('{lsn}')")[0][0]
    a.sql("INSERT INTO sample VALUES ('not yet', 'x')")
    a.sql("SELECT pg_switch_wal()")
    timeline, segment = parse_segment(str(name))
    data = (a.data / "pg_wal" / str(name)).read_bytes()
    Archive(vault, system(a)).put(data, epoch=1, timeline=timeline, segment=segment)

    with restored(
        vault,
        vault.find("latest"),
        workdir=directory,
        clock=CLOCK,
        progress=Silent(),
        target=Target.parse("name=look", action=Action.PAUSE),
        pages=True,
    ) as room:
        assert room.recovered is not None and not room.recovered.promoted
        assert room.timeline == 1
        assert list(missing_ids(room.dsn(), "sample", "key", ["seen", "not yet"])) == ["not yet"]
        assert [c.name for c in room.checks if not c.holds] == []
        with psycopg.connect(room.dsn()) as inside, pytest.raises(psycopg.Error, match="read-only"):
            inside.execute("DELETE FROM sample")


def test_a_page_that_the_disk_changed_ends_the_backup_with_its_files_name(
    pair: tuple[Member, Member], make: Callable[..., Repository]
) -> None:
    a, _ = pair
    vault = make()
    a.sql("CHECKPOINT")
    file = str(a.sql("SELECT pg_relation_filepath('sample')")[0][0])
    with (a.data / file).open("r+b") as table:
        table.seek(5000)
        byte = table.read(1)
        table.seek(5000)
        table.write(bytes([byte[0] ^ 1]))

    with pytest.raises(Damage, match=f"wrong page checksum in .*{file}"):
        run_postgres(a.conninfo(), None, [vault], CLOCK, None, Silent())

    assert vault.sequences() == []


def test_a_target_that_is_not_in_the_log_is_an_error_and_not_a_silent_latest(
    pair: tuple[Member, Member], directory: Path, make: Callable[..., Repository]
) -> None:
    a, _ = pair
    vault = make()
    assert run_postgres(a.conninfo(), None, [vault], CLOCK, None, Silent()).complete

    with (
        pytest.raises(Damage, match="recovery ended before configured recovery target"),
        restored(
            vault,
            vault.find("latest"),
            target=Target.parse("name=never-made"),
            workdir=directory,
            clock=CLOCK,
            progress=Silent(),
        ),
    ):
        pass


def test_a_hole_in_the_archive_is_said_and_not_taken_for_the_end(
    pair: tuple[Member, Member], directory: Path, make: Callable[..., Repository]
) -> None:
    a, _ = pair
    vault = make()
    run_postgres(a.conninfo(), None, [vault], CLOCK, None, Silent())
    # Another cluster's log in the same vault: no part of ours.
    Archive(vault, system(a) + 1).put(b"\1", epoch=11, timeline=11, segment=90)

    def point(name: str) -> tuple[str, str]:
        """A named point that ends its segment; its LSN and the segment's name."""
        a.sql(f"INSERT INTO sample VALUES ('{name}', 'x')")
        lsn = a.sql(f"SELECT pg_create_restore_point('{name}')")[0][0]
        segment = a.sql(f"SELECT pg_walfile_name('{lsn}')")[0][0]
        a.sql("SELECT pg_switch_wal()")
        return str(lsn), str(segment)

    # The form of the manual; microseconds, or the second's begin may lie before the backup's end.
    (early,) = a.sql(
        """SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    )[0]
    before, lost, after = point("before"), point("lost"), point("after")
    for _, name in (before, after):
        timeline, segment = parse_segment(name)
        Archive(vault, system(a)).put(
            (a.data / "pg_wal" / name).read_bytes(), epoch=1, timeline=timeline, segment=segment
        )

    def rows(target: str) -> set[object]:
        with (
            restored(
                vault,
                vault.find("latest"),
                target=Target.parse(target),
                workdir=directory,
                clock=CLOCK,
                progress=Silent(),
            ) as room,
            psycopg.connect(room.dsn()) as inside,
        ):
            keys = "('before', 'lost', 'after')"
            found = inside.execute(f"SELECT key FROM sample WHERE key IN {keys}".encode())
            return {key for (key,) in found}

    assert rows("name=before") == {"before"}
    assert rows(f"time={early}") == set()
    with pytest.raises(WalGap, match=f"recovery ended before .*{lost[1]} is missing"):
        rows("name=after")
    for target in ("latest", f"lsn={after[0]}", f"lsn={lost[0]}"):
        with pytest.raises(WalGap, match=f"{lost[1]} is missing"):
            rows(target)


def test_another_cluster_behind_the_same_doors_ends_the_archiver(
    pair: tuple[Member, Member], directory: Path, make: Callable[..., Repository]
) -> None:
    a, _ = pair
    vault = make()
    heard: list[WalStatus] = []
    with WalArchiver(
        conninfo=a.conninfo(),
        password=None,
        repositories=[vault],
        spool=directory / "spool",
        clock=CLOCK,
        system=system(a) + 1,
    ) as wal:
        with pytest.raises(Refused, match="another cluster"):
            wal.run(threading.Event(), told=heard.append)
        assert not heard[-1].receiving
        assert heard[-1].error is not None and str(system(a)) in heard[-1].error
    assert systems(vault) == []
    assert a.sql("SELECT count(*) FROM pg_replication_slots") == [(0,)], "not even a slot was made"


def test_a_server_that_is_not_there_leaves_no_snapshot(
    make: Callable[..., Repository], directory: Path
) -> None:
    vault = make()

    with pytest.raises(ToolFailed, match="pg_basebackup"):
        run_postgres(f"host={directory} port=1", None, [vault], CLOCK, None, Silent())

    assert vault.sequences() == []

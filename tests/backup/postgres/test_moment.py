"""A moment is reached from a backup that ended before it, or the answer is no: never the backup's own moment."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from backup.crypto.keyring import Kdf
from backup.format.snapshot import Content, Snapshot
from backup.format.wal_segment import lsn, parse_segment
from backup.postgres.clean_room import restored
from backup.postgres.moment import choose, demand, why_not_from
from backup.postgres.recovery_target import Recovered, Target, strayed
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.run import run_postgres
from backup.wal.archive import Archive
from infra.data.loopback import Loopback, postgres
from infra.objectstore.directory import DirectoryStore
from infra.postgres.server import BIN
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.progress import Silent

CLOCK = SystemClock()
END = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def base(
    number: int, *, end: datetime = END, stop: str = "0/3000100", timeline: int = 1
) -> Snapshot:
    return Snapshot(
        sequence=number,
        digest=f"d{number}",
        previous=None,
        content=Content(
            kind="postgres",
            label="zaibei",
            host="h",
            started=end - timedelta(minutes=5),
            finished=end,
            tree=(),
            entries=0,
            size_bytes=0,
            complete=True,
            facts={"system_identifier": "7", "stop_lsn": stop, "timeline": timeline},
        ),
    )


@pytest.mark.parametrize(
    ("to", "reached"),
    [
        ("latest", True),
        ("time=2026-11-29T12:00:00Z", True),  # exactly at the end
        ("time=2026-11-29T11:59:59.999999Z", False),
        ("time=2026-11-29T20:00:00+08:00", True),  # the same moment in another zone
        ("time=2026-11-29T19:59:59+08:00", False),
        ("time=0001-01-01T00:00:00Z", False),
        ("lsn=0/3000100", True),
        ("lsn=0/30000FF", False),
        ("lsn=1/0", True),
        ("name=unknown", True),  # only recovery can tell
    ],
)
def test_a_target_before_the_end_of_the_backup_is_none(to: str, *, reached: bool) -> None:
    assert (why_not_from(base(1), Target.parse(to)) is None) == reached


def test_a_name_and_a_timeline_are_held_against_the_backup_too() -> None:
    name = Target.parse("name=before")
    assert why_not_from(base(1), name, named=lsn("0/3000100")) is None
    assert "ended at 0/3000100" in str(why_not_from(base(1), name, named=lsn("0/3000000")))
    left = Target.parse("latest", timeline=1)
    assert why_not_from(base(1), left) is None
    assert "timeline 2" in str(why_not_from(base(2, timeline=2), left))


@pytest.mark.parametrize(
    "text", ["0/-3", "-1/0", "0x1/2", "1_0/0", " 1/2", "100000000/0", "1/", "/"]
)
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="not an LSN"):
        Target.parse(f"lsn={text}")


def done(**changed: object) -> Recovered:
    facts: dict[str, object] = {
        "lsn": "0/4000000",
        "timeline": 2,
        "promoted": True,
        "last_commit": END,
        "stopped": "recovery stopping x",
    }
    return Recovered(**{**facts, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("to", "came"),
    [
        ("time=2026-11-29T12:00:00Z", done(last_commit=END + timedelta(seconds=1))),
        ("time=2026-11-29T12:00:00Z", done(stopped=None)),
        ("lsn=0/5000000", done()),
        ("name=one", done(stopped='recovery stopping at restore point "another"')),
    ],
)
def test_a_recovery_that_stopped_elsewhere_has_not_passed(to: str, came: Recovered) -> None:
    assert strayed(Target.parse(to), came) is not None
    assert strayed(Target.parse("latest"), came) is None


def test_a_recovery_that_stopped_where_it_should_has_passed() -> None:
    assert strayed(Target.parse("time=2026-11-29T12:00:00Z"), done()) is None
    assert strayed(Target.parse("lsn=0/3000000"), done(), until=lsn("0/3000100")) is None


class Past:
    """A database with two base backups and the log from the first on, in a directory, and when what was."""

    def __init__(self, one: Loopback, home: Path) -> None:
        self.one, self.home = one, home
        fast = Kdf(memory_kib=64, iterations=1, lanes=1)
        store = DirectoryStore(home / "vault")
        self.vault = create_repository(store, "correct horse", clock=CLOCK, kdf=fast)
        (home / "pw").write_text("correct horse\n")
        (home / "pw").chmod(0o600)
        self.before = self.now()
        self.before_lsn = self.sql("SELECT pg_current_wal_lsn()::text")
        self.sql("CREATE TABLE visit (n int)", "population")
        self.back_up()
        self.sql("INSERT INTO visit VALUES (1)", "population")
        self.between = self.now()
        self.sql("SELECT pg_create_restore_point('between')")
        self.sql("DROP TABLE visit", "population")
        self.sql("SELECT pg_switch_wal()")
        self.back_up()
        self.sql("CREATE TABLE late (n int)", "population")
        self.sql("SELECT pg_switch_wal()")
        # At a border between two the name of the one before is given.
        self.sql("SELECT pg_logical_emit_message(true, 'test', 'on')")
        system = self.sql("SELECT system_identifier FROM pg_control_system()")
        newest = str(self.sql("SELECT pg_walfile_name(pg_current_wal_lsn())"))
        for path in sorted((one.data / "pg_wal").glob("0" * 7 + "1" + "?" * 16)):
            if path.name < newest:
                timeline, segment = parse_segment(path.name)
                Archive(self.vault, int(str(system))).put(
                    path.read_bytes(), epoch=1, timeline=timeline, segment=segment
                )

    def sql(self, text: str, database: str = "postgres") -> object:
        with psycopg.connect(self.one.dsn(database, "postgres"), autocommit=True) as db:
            done = db.execute(text.encode())
            row = done.fetchone() if done.description else None
            return None if row is None else row[0]

    def now(self) -> str:
        at = self.sql("SELECT clock_timestamp()")
        assert isinstance(at, datetime)
        return at.astimezone(UTC).isoformat().replace("+00:00", "Z")

    def back_up(self) -> None:
        run = run_postgres(
            self.one.dsn("postgres", "postgres"), None, [self.vault], CLOCK, None, Silent()
        )
        assert run.complete, run.problems

    def rehearse(self, *words: str, code: int) -> dict[str, object]:
        room = self.home / "room"
        room.mkdir(exist_ok=True, mode=0o755)
        ran = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "zaibei.cli.main", "backup", "rehearse", *words),
                *("--no-pages", "--workdir", "/var/tmp", "--json"),
                *("--repo", f"file://{self.home}/vault", "--password-file", str(self.home / "pw")),
            ],
            env={"PATH": os.environ["PATH"], "ZAIBEI_STATE": str(self.home / "state")},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ran.returncode == code, (ran.stdout, ran.stderr)
        told = json.loads(ran.stdout)
        assert isinstance(told, dict)
        return told


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    with pytest.MonkeyPatch.context() as patch, postgres({"wal_keep_size": "512MB"}) as one:
        home = tmp_path_factory.mktemp("past")
        patch.setenv("ZAIBEI_STATE", str(home / "state"))
        yield Past(one, home)


@pytest.mark.integration
def test_the_snapshot_before_the_moment_is_taken_and_that_is_said(past: Past) -> None:
    """Somebody dropped the table; last night's backup, the newest, is without it."""
    told = past.rehearse("latest", "--to", f"time={past.between}", code=0)

    assert told["snapshot"] == 1
    assert "snapshot 1 and not 2: it ended at" in str(told["note"])
    databases = told["databases"]
    assert isinstance(databases, dict)
    assert databases["population"]["public.visit"]["rows"] == 1


@pytest.mark.integration
@pytest.mark.parametrize(
    ("which", "to", "says", "hint"),
    [
        ("2", "time={between}", "snapshot 2 cannot stop at time", "old enough: 1"),
        ("latest", "time={before}", "no base backup is old enough", "--as-of"),
        ("latest", "lsn={before_lsn}", "snapshot 1 is the oldest, and it ended at 0/", "--as-of"),
        ("1", "lsn={before_lsn}", "snapshot 1 cannot stop at lsn", "another vault"),
        ("latest", "time=2099-01-01T00:00:00Z", "is still to come", "--to latest"),
    ],
)
def test_a_moment_before_the_backup_is_refused_and_what_can_be_had_is_named(
    past: Past, which: str, to: str, says: str, hint: str
) -> None:
    at = to.format(between=past.between, before=past.before, before_lsn=past.before_lsn)

    error = past.rehearse(which, "--to", at, code=2)["error"]

    assert isinstance(error, dict)
    assert says in error["message"]
    assert hint in str(error["hints"])


@pytest.mark.integration
def test_a_moment_after_the_end_of_the_log_is_no_success(past: Past) -> None:
    error = past.rehearse("latest", "--to", f"time={past.now()}", code=1)["error"]

    assert isinstance(error, dict)
    assert "its last commit is of" in error["message"]
    assert "--to latest goes as far as the log does" in error["hints"]


@pytest.mark.integration
def test_a_name_from_before_the_newest_backup_is_not_called_absent_from_the_vault(
    past: Past,
) -> None:
    error = past.rehearse("latest", "--to", "name=between", code=1)["error"]

    assert isinstance(error, dict)
    assert "does not hold it after snapshot 2" in error["message"]
    assert "give an older snapshot by its number" in str(error["hints"])
    assert past.rehearse("1", "--to", "name=between", code=0)["snapshot"] == 1


@pytest.mark.integration
def test_what_is_kept_is_the_database_as_of_the_moment_and_not_as_of_the_backup(
    past: Past,
) -> None:
    home = Path(tempfile.mkdtemp(prefix="zbk-", dir="/var/tmp"))
    home.chmod(0o755)
    kept = home / "kept"
    try:
        told = past.rehearse("latest", "--to", f"time={past.between}", "--keep", str(kept), code=0)
        assert told["kept"] == str(kept / "data")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o700
        account = "postgres" if os.geteuid() == 0 else None
        row = subprocess.run(
            [BIN / "postgres", "--single", "-D", kept / "data", "population"],
            input="SELECT n FROM visit\n",
            user=account,
            cwd=kept,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        assert 'n = "1"' in row, "dropped after the moment, made before it, filled after the backup"
        full = past.rehearse("latest", "--to", f"time={past.between}", "--keep", str(kept), code=2)
        assert "is not empty" in str(full["error"])
        past.rehearse("1", "--to", "name=nowhere", "--keep", str(home / "none"), code=1)
        assert not any((home / "none").iterdir()), "nothing that is not the moment is left there"
    finally:
        shutil.rmtree(home)


@pytest.mark.integration
@pytest.mark.parametrize("more", [("--mask",), ("--hold", "1s")])
def test_a_database_that_is_kept_is_in_plain_and_says_so(past: Past, more: tuple[str, ...]) -> None:
    told = past.rehearse("latest", "--keep", "/var/tmp/never-made", *more, code=2)
    assert "in plain" in str(told["error"])
    assert not Path("/var/tmp/never-made").exists()


@pytest.mark.integration
def test_the_library_refuses_it_too(past: Past) -> None:
    target = Target.parse(f"time={past.before}")
    with (
        pytest.raises(Usage, match="cannot stop at time"),
        restored(
            past.vault,
            past.vault.find("1"),
            target=target,
            workdir=Path("/var/tmp"),
            clock=CLOCK,
            progress=Silent(),
        ),
    ):
        pass


@pytest.mark.integration
def test_a_statement_that_does_not_open_keeps_no_moment_from_anybody(past: Past) -> None:
    class Torn:
        """The vault, with its newest statement unreadable."""

        def sequences(self) -> list[int]:
            return past.vault.sequences()

        def snapshot(self, number: int) -> Snapshot:
            if number == 2:
                raise Damage("snapshot 2 does not open")
            return past.vault.snapshot(number)

    torn: Repository = Torn()  # type: ignore[assignment]
    found = choose([torn], Target.parse(f"time={past.between}"), now=CLOCK.now())
    assert (found.snapshot.sequence, found.passed_over) == (1, ((2, "it does not open"),))
    with pytest.raises(Usage, match="still to come"):
        demand(torn, found.snapshot, Target.parse("time=2099-01-01T00:00:00Z"), now=CLOCK.now())

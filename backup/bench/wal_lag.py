"""How old is the log in each vault while the database works hard? Two answers that must agree.

The archiver's own: the age of the oldest byte it has received and not delivered, ten times a second. And one that believes
nothing it says: rows with a word of their own are committed, and afterwards the word is looked for in the objects of
each vault, whose time of arrival the store noted. Both vaults are real: a directory, and a SeaweedFS on loopback.
"""

import argparse
import dataclasses
import json
import re
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import psycopg

from backup.crypto.keyring import Kdf
from backup.format import wal_segment
from backup.postgres.wal_receiver import WalArchiver
from backup.repository.init import create_repository
from backup.repository.repository import Repository
from backup.wal import archive as wal_archive
from infra.data.loopback import Loopback, postgres
from infra.lab.loopback_store import loopback
from infra.objectstore.contract import ObjectStore
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.s3 import connect, open_store
from infra.postgres.server import BIN
from zaibei.kernel import process
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.wait import wait_until

SAMPLES: Final = timedelta(milliseconds=100)
MARKERS: Final = timedelta(milliseconds=200)
BOUND_S: Final = 2.0  # p99, in every vault
_BUCKET = "zaibei-vault"
_NAP_S = 0.02
_SETTLE = timedelta(seconds=60)
_WORD = re.compile(rb"zbmark-(\d{8})-")
_SETTINGS = {
    "fsync": "on",
    "max_wal_size": "4GB",
    "shared_buffers": "128MB",
    "wal_keep_size": "1GB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    count: int
    p50_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The nearest value at or above each rank: a percentile that was really seen."""
        assert values, "something was measured"
        order = sorted(values)

        def at(part: float) -> float:
            return round(order[min(len(order) - 1, int(part * len(order)))], 3)

        return cls(count=len(order), p50_s=at(0.5), p99_s=at(0.99), max_s=round(order[-1], 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """`commit_to_vault`: from a commit's answer to the row's bytes in the vault. `unseen`: markers of which the bytes
    lie over the edge of a page, where a search for the word cannot find them."""

    vault: str
    status_lag: Spread
    commit_to_vault: Spread
    unseen: int
    gaps: int
    objects: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    duration_s: float
    transactions_per_s: float
    wal_mib_per_s: float
    machine_late: (
        Spread  # how late a thread woke that asked for 20 ms: the machine's share of the tail
    )
    vaults: tuple[Vault, ...]

    @property
    def holds(self) -> bool:
        return all(
            v.status_lag.p99_s <= BOUND_S and v.commit_to_vault.p99_s <= BOUND_S and not v.gaps
            for v in self.vaults
        )


@dataclass(slots=True)
class Noted:
    """A store that notes when each new object was there."""

    store: ObjectStore
    clock: Clock
    arrived: dict[str, tuple[float, int]] = field(default_factory=dict)

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        out = self.store.create(key, data, retain_until=retain_until)
        self.arrived[key] = (self.clock.monotonic(), len(data))
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@contextmanager
def vaults(work: Path, clock: Clock) -> Iterator[list[tuple[Repository, Noted]]]:
    """A directory and an S3 store, a repository in each."""
    (work / "vault").mkdir()
    with loopback(work / "seaweedfs", clock=clock) as site:
        admin = connect(site.access, ca_file=site.ca_file, role="admin")
        admin.create_bucket(Bucket=_BUCKET, ObjectLockEnabledForBucket=True)
        s3 = open_store(
            site.access, ca_file=site.ca_file, bucket=_BUCKET, role="writer", site="seaweedfs"
        )
        made = []
        for store in (DirectoryStore(work / "vault", lock=False), s3):
            noted = Noted(store, clock)
            secret = secrets.token_urlsafe(16)
            light = Kdf(memory_kib=1024, iterations=1, lanes=1)
            repo = create_repository(cast("ObjectStore", noted), secret, clock=clock, kdf=light)
            made.append((repo, noted))
        yield made


def measure(
    *, seconds: float, scale: int, clients: int, rate: int | None, work: Path, clock: Clock
) -> Measured:
    """One run. Raises whatever a part of it raises: half a measurement is none."""
    with ExitStack() as undo:
        pairs = undo.enter_context(vaults(work, clock))
        server = undo.enter_context(postgres(_SETTINGS))
        dsn = server.dsn("postgres", user="postgres")
        process.run(
            [BIN / "pgbench", "-i", "-q", "-s", str(scale), *_where(server), "postgres"],
            deadline=timedelta(minutes=10),
        )
        archiver = undo.enter_context(
            WalArchiver(
                conninfo=dsn,
                password=None,
                repositories=[repo for repo, _ in pairs],
                spool=work / "spool",
                clock=clock,
            )
        )
        stop = threading.Event()
        runner = threading.Thread(target=archiver.run, args=(stop,), name="archiver")
        runner.start()
        undo.callback(runner.join, 60)
        undo.callback(stop.set)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE zaibei_marker (word text)")
        _caught_up(archiver, dsn, clock)
        loaded = _Load(server, dsn, archiver, clock)
        begun, first = clock.monotonic(), _lsn(dsn)
        said = loaded.run(seconds, clients=clients, rate=rate)
        took, last = clock.monotonic() - begun, _lsn(dsn)
        _caught_up(archiver, dsn, clock)
        found = tuple(
            _vault(repo, noted, loaded, archiver.status().system or 0) for repo, noted in pairs
        )
    return Measured(
        duration_s=round(took, 1),
        transactions_per_s=_tps(said),
        machine_late=Spread.of(loaded.late),
        wal_mib_per_s=round((last - first) / took / (1 << 20), 2),
        vaults=found,
    )


class _Load:
    """pgbench, a committer of markers, and a sampler, at once."""

    def __init__(self, server: Loopback, dsn: str, archiver: WalArchiver, clock: Clock) -> None:
        self._server, self._dsn, self._archiver, self._clock = server, dsn, archiver, clock
        self.committed: list[float] = []
        self.late: list[float] = []
        self.lags: dict[str, list[float]] = {}
        self._over = threading.Event()
        self._failed: list[BaseException] = []

    def run(self, seconds: float, *, clients: int, rate: int | None) -> str:
        threads = [
            threading.Thread(target=self._guarded, args=(work,))
            for work in (self._mark, self._sample, self._doze)
        ]
        for thread in threads:
            thread.start()
        try:
            limit = ["-R", str(rate)] if rate else []
            return process.run(
                [
                    *(BIN / "pgbench", "-n", "-c", str(clients), "-j", "1", "-T", f"{seconds:.0f}"),
                    *(*limit, *_where(self._server), "postgres"),
                ],
                deadline=timedelta(seconds=seconds) + timedelta(minutes=2),
            )
        finally:
            self._over.set()
            for thread in threads:
                thread.join(60)
            if self._failed:
                raise self._failed[0]

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as bad:  # noqa: BLE001 — raised again by the one who waits
            self._failed.append(bad)

    def _mark(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._over.wait(MARKERS.total_seconds()):
                word = f"zbmark-{len(self.committed):08d}-"
                connection.execute("INSERT INTO zaibei_marker VALUES (%s)", (word,))
                self.committed.append(self._clock.monotonic())

    def _doze(self) -> None:
        before = self._clock.monotonic()
        while not self._over.wait(_NAP_S):
            now = self._clock.monotonic()
            self.late.append(now - before - _NAP_S)
            before = now

    def _sample(self) -> None:
        while not self._over.wait(SAMPLES.total_seconds()):
            for vault in self._archiver.status().vaults:
                if vault.lag is not None:
                    self.lags.setdefault(vault.vault, []).append(vault.lag.total_seconds())


def _vault(repo: Repository, noted: Noted, load: _Load, system: int) -> Vault:
    archive = wal_archive.Archive(repo, system)
    items = {i.key: i for i in archive.items()}
    log = sorted((at, key) for key, (at, _) in noted.arrived.items() if key in items)
    seen: dict[int, float] = {}
    for at, key in log:
        for found in _WORD.finditer(archive.read(items[key])[1]):
            seen.setdefault(int(found[1]), at)
    ages = [seen[n] - at for n, at in enumerate(load.committed) if n in seen]
    return Vault(
        vault=repo.name if repo.name.startswith("seaweedfs") else "directory",
        status_lag=Spread.of(load.lags[repo.name]),
        commit_to_vault=Spread.of(ages),
        unseen=len(load.committed) - len(ages),
        gaps=len(wal_segment.gaps(items.values())),
        objects=len(log),
        stored_bytes=sum(noted.arrived[key][1] for _, key in log),
    )


def _caught_up(archiver: WalArchiver, dsn: str, clock: Clock) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        # The archive tells the last byte that is not zero; this record ends in a letter.
        connection.execute("SELECT pg_logical_emit_message(true, 'zaibei', 'end')")
    wanted = _lsn(dsn)

    def why_not() -> str | None:
        for v in archiver.status().vaults:
            if v.archived_lsn is None or wal_segment.lsn(v.archived_lsn) + 64 < wanted:
                return (
                    f"{v.vault} is at {v.archived_lsn} of {wal_segment.say_lsn(wanted)}: {v.error}"
                )
        return None

    wait_until(why_not, what="the archive", deadline=_SETTLE, clock=clock)


def _lsn(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    assert row is not None, "a function has a value"
    return wal_segment.lsn(row[0])


def _where(server: Loopback) -> list[str]:
    return ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres"]


def _tps(said: str) -> float:
    found = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    assert found is not None, "pgbench says its rate"
    return round(float(found[1]), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when p99 is within the bound in every vault, by both answers, and no vault has a gap."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=float, default=60)
    asked.add_argument("--scale", type=int, default=10)
    asked.add_argument("--clients", type=int, default=4)
    asked.add_argument("--rate", type=int, help="transactions a second; without it as many as go")
    told = asked.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="zaibei-wal-") as work:
        done = measure(
            seconds=told.seconds,
            scale=told.scale,
            clients=told.clients,
            rate=told.rate,
            work=Path(work),
            clock=SystemClock(),
        )
    print(
        json.dumps({**dataclasses.asdict(done), "bound_s": BOUND_S, "holds": done.holds}, indent=1)
    )
    return 0 if done.holds else 1


if __name__ == "__main__":
    sys.exit(main())

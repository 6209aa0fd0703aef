import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from infra.data.load import load
from infra.data.loopback import Loopback, postgres
from loadtest.healthcode.sessions import CITIZEN, COLLECTOR, Issuer
from zaibei.kernel.clock import SystemClock

IDENTITY_SERVICE = Ed25519PrivateKey.generate()
REPOSITORY = Path(__file__).resolve().parents[2]


def session(subject: str, *, role: str = CITIZEN, key: Ed25519PrivateKey = IDENTITY_SERVICE) -> str:
    """An Authorization header as of somebody who has just logged in."""
    return f"Bearer {Issuer(key).issue(subject, role=role, now=SystemClock().now())}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The service as a process of its own, and the database behind it."""

    url: str
    database: Loopback
    http: aiohttp.ClientSession

    async def register(self, key: str, **other: str) -> tuple[int, Any]:
        sample = {"person_id": "p000000001", "tube": "t1", "station": "s1", "payload": "x"} | other
        async with self.http.post(
            f"{self.url}/sample/register",
            json=sample,
            headers={"Idempotency-Key": key, "Authorization": session("station", role=COLLECTOR)},
        ) as response:
            return response.status, await response.json()

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        if path.startswith("/code/me?person=") and "Authorization" not in headers:
            headers["Authorization"] = session(path.partition("=")[2])
        async with self.http.get(self.url + path, headers=headers) as response:
            body = await response.read()
            return response.status, await response.json() if body else None

    async def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        headers.setdefault("Authorization", session("station", role=COLLECTOR))
        async with self.http.post(self.url + path, data=body, headers=headers) as response:
            return response.status, await response.json()

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """As superuser, from beside the service."""
        dsn = self.database.dsn("health_code", "postgres")
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("SET synchronous_commit = local")
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def setting(self, name: str, value: str) -> None:
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    def there(self, key: str) -> bool:
        found = self.sql(f"SELECT 1 FROM sample_registration WHERE idempotency_key = '{key}'")
        return bool(found)

    async def waiting(self) -> int:
        """The backend that waits for a second copy."""
        for _ in range(200):
            found = self.sql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            if found:
                return int(found[0][0])
            await asyncio.sleep(0.02)
        raise AssertionError("no backend waits for a second copy")

    async def lose_partner(self) -> None:
        """From here on, commits wait for a second copy that does not come.

        Sessions know the setting before the checkpointer makes them wait, so a commit is tried.
        """
        self.setting("synchronous_standby_names", "missing")
        for _ in range(50):
            trial = asyncio.create_task(asyncio.to_thread(self._commit))
            while not trial.done():
                await asyncio.sleep(0.01)
                found = self.sql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
                if found:
                    self.sql(f"SELECT pg_cancel_backend({found[0][0]})")
                    await trial
                    return
        raise AssertionError("commits do not wait")

    def _commit(self) -> None:
        dsn = self.database.dsn("health_code", "postgres")
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("SELECT pg_logical_emit_message(true, 'test', '')")

    async def recovered(self, key: str) -> tuple[int, Any]:
        """The first answer that is not 503, within a bound."""
        for _ in range(100):
            answer = await self.register(key)
            if answer[0] != 503:
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(f"still {answer}")


@pytest.fixture(scope="session")
def server() -> Iterator[Loopback]:
    with postgres() as running:
        load(running.dsn, None, None, seed=1, scale=0.001)
        yield running


@contextmanager
def started(server: Loopback, folder: Path, **settings: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "sessions.pub").write_bytes(
        IDENTITY_SERVICE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (folder / "password").write_text("loopback\n")
    told = {
        "SITE": "site-a",
        "PORT": str(port),
        "DB_HOSTS": f"127.0.0.1:{server.port}",
        "DB_PASSWORD_FILE": str(folder / "password"),
        "SIGNING_KEY_FILE": str(folder / "key.pem"),
        "SESSION_KEY_FILE": str(folder / "sessions.pub"),
        "ACQUIRE": "500ms",
        "STATEMENT": "700ms",
        "COMMAND": "1500ms",
        "REFRESH": "200ms",
        "SETTLED": "800ms",
    } | {k.upper(): v for k, v in settings.items()}
    env_file = folder / "healthcode.env"
    env_file.write_text("".join(f"ZAIBEI_HC_{k}={v}\n" for k, v in told.items()))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "loadtest.healthcode", "--env", env_file],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
            stdout=log,
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            print((folder / "log").read_text())


@pytest.fixture(scope="session")
def url(server: Loopback, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(server, tmp_path_factory.mktemp("healthcode"), pool_size="4") as where:
        yield where


@pytest.fixture
async def service(server: Loopback, url: str) -> AsyncIterator[Service]:
    """The one service, with the database as it should be before and after."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
        found = Service(url=url, database=server, http=http)
        await up(found)
        yield found
        found.setting("synchronous_standby_names", "")
        found.setting("default_transaction_read_only", "off")


async def up(service: Service) -> None:
    for _ in range(300):
        try:
            status, _ = await service.get("/healthz/ready")
        except aiohttp.ClientError:
            status = 0
        if status == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the service is not ready")


class Starter:
    """For a test that wants a service of its own."""

    def __init__(self, server: Loopback) -> None:
        self._server = server

    def __call__(self, folder: Path, **settings: str) -> AbstractContextManager[str]:
        return started(self._server, folder, **settings)

    def service(self, url: str, http: aiohttp.ClientSession) -> Service:
        return Service(url=url, database=self._server, http=http)

    async def up(self, service: Service) -> None:
        await up(service)


@pytest.fixture
def start(server: Loopback) -> Starter:
    return Starter(server)

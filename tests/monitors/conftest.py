"""Two real PostgreSQL members on loopback, and a CA with a certificate for 127.0.0.1."""

import ipaddress
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from zaibei.kernel.process import run

_BIN = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A writer and a standby that streams from it under the name `site-b`."""

    writer_dsn: str
    standby_dsn: str
    writer_data: Path

    def ask_writer(self, sql: str) -> None:
        run(["psql", self.writer_dsn, "-qXAtc", sql])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    # PostgreSQL refuses root; pytest's own folders are closed to the account it runs as.
    home = Path(tempfile.mkdtemp(prefix="zaibei-monitors-"))
    shutil.chown(home, "postgres", "postgres")
    first, second = free_port(), free_port()

    def pg(*argv: str | Path) -> None:
        run([_BIN / argv[0], *argv[1:]], user="postgres", cwd=home)

    def start(data: Path, port: int) -> None:
        options = (
            f"-p {port} -h 127.0.0.1 -k {home} -c fsync=off -c wal_receiver_status_interval=1s"
        )
        pg("pg_ctl", "-D", data, "-w", "-l", home / f"{port}.log", "-o", options, "start")

    one, two = home / "one", home / "two"
    try:
        pg("initdb", "-D", one, "-A", "trust", "-U", "postgres", "--no-sync")
        start(one, first)
        pg(
            "pg_basebackup",
            "-D",
            two,
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-d",
            f"host=127.0.0.1 port={first} user=postgres application_name=site-b",
        )
        start(two, second)
        yield Pair(
            writer_dsn=f"host=127.0.0.1 port={first} user=postgres dbname=postgres",
            standby_dsn=f"host=127.0.0.1 port={second} user=postgres dbname=postgres",
            writer_data=one,
        )
    finally:
        for data in (two, one):
            if (data / "postmaster.pid").exists():
                pg("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(home)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    ca: Path
    cert: Path
    key: Path
    expires: datetime


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "trial")])
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(expires - timedelta(days=10))
        .not_valid_after(expires)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "site.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Pki(
        ca=folder / "ca.crt", cert=folder / "ca.crt", key=folder / "site.key", expires=expires
    )

"""A rigged service on loopback, with and without TLS, and a scenario to be bent."""

import datetime as dt
import ipaddress
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loadtest import oracle
from loadtest.scenario import SurgeScenario
from zaibei.kernel.clock import SystemClock


@dataclass(frozen=True)
class Pki:
    ca_file: Path
    cert: Path
    key: Path


def _pki(folder: Path) -> Pki:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rigged")])
    now = SystemClock().now()
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    made = Pki(folder / "ca.crt", folder / "site.crt", folder / "site.key")
    made.ca_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    made.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return _pki(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture(scope="module")
def other_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return _pki(tmp_path_factory.mktemp("pki") / "theirs")


@pytest.fixture(scope="module")
def plain() -> Iterator[oracle.RiggedService]:
    with oracle.rigged() as service:
        yield service


@pytest.fixture(scope="module")
def secure(pki: Pki) -> Iterator[oracle.RiggedService]:
    with oracle.rigged(cert=pki.cert, key=pki.key) as service:
        yield service


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """Nobody listens there, and nobody else can come to: it is bound."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def scenario() -> Callable[..., SurgeScenario]:
    return scenario_of


def scenario_of(*paths: str, rate: float = 40, seconds: float = 2, **more: Any) -> SurgeScenario:
    base: dict[str, Any] = {
        "name": "bent",
        "title": {"zh": "试", "en": "trial"},
        "hazard": "H2",
        "summary": "for a test",
        "spacing": "constant",
        "shape": {"kind": "constant", "rate_rps": rate, "duration": dt.timedelta(seconds=seconds)},
        "persons": {"count": 100, "pattern": "P{index:03d}"},
        "visits": [
            {"name": p.strip("/") or "x", "weight": 1, "steps": [{"name": p, "path": p}]}
            for p in paths
        ],
        "patience": {"refresh_after": dt.timedelta(seconds=1), "refreshes_max": 1},
        "expect": {"success_ratio_min": 0.5},
        # Wide: a busy build machine is not what these tests are about.
        "caps": {"send_lag_p99": dt.timedelta(seconds=2)},
    }
    return SurgeScenario.model_validate(base | more)

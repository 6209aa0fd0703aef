"""A rigged door: an https server on loopback that does to each request what the test says."""

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from failover.clients import Door

HELD_S = 30.0  # longer than any deadline of a test


@dataclass(frozen=True)
class Pki:
    ca: Path
    cert: Path
    key: Path


def make_pki(where: Path) -> Pki:
    now = dt.datetime.now(dt.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test ca")])

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
                critical=False,
            )
        )

    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    ca = (
        build(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    site = (
        build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")]), key.public_key())
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    pki = Pki(where / "ca.crt", where / "site.crt", where / "site.key")
    pki.ca.write_bytes(ca.public_bytes(pem))
    pki.cert.write_bytes(site.public_bytes(pem))
    pki.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


Behave = Callable[[str], str]  # op id -> what to do


@dataclass
class Rigged:
    """`applied` is what this door's database holds: op id -> how often it was written."""

    site: str
    port: int
    behave: Behave
    epoch: int = 1
    applied: dict[str, str] = field(default_factory=dict)  # op id -> sha256 of its payload
    seen: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def door(self) -> Door:
        return Door(site=self.site, url=f"https://127.0.0.1:{self.port}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = {k.lower(): v for k, _, v in (x.partition(": ") for x in head.split("\r\n"))}
        body = orjson.loads(await reader.readexactly(int(fields["content-length"])))
        op_id = fields["idempotency-key"]
        assert head.startswith("POST /sample/register "), head
        self.seen.append(op_id)
        good = {"key": op_id, "epoch": self.epoch, "copies": 2}
        match self.behave(op_id):
            case "ok":
                self._apply(op_id, body)
                return await self._say(writer, 201, orjson.dumps(good))
            case "replayed":
                return await self._say(writer, 200, orjson.dumps(good))
            case "not applied":
                return await self._say(writer, 503, b'{"applied":false}')
            case "no server":
                return await self._say(writer, 503, b"<html>503 Service Unavailable</html>")
            case "nobody knows":
                self._apply(op_id, body)
                return await self._say(writer, 504, b'{"applied":null}')
            case "somebody else's":
                return await self._say(writer, 201, orjson.dumps({**good, "key": "other"}))
            case "no epoch":
                return await self._say(writer, 201, orjson.dumps({"key": op_id, "copies": 2}))
            case "true epoch":
                return await self._say(writer, 201, orjson.dumps({**good, "epoch": True}))
            case "conflict":
                return await self._say(writer, 409, b'{"error":"other body"}')
            case "redirect":
                return await self._say(writer, 302, b"{}", extra="Location: /elsewhere\r\n")
            case "endless":
                self._apply(op_id, body)
                return await self._say(writer, 201, b" " * 1_000_000)
            case "not http":
                writer.write(b"\x00\x01\x02 nonsense\r\n\r\n")
                await writer.drain()
                return False
            case "mid body":
                self._apply(op_id, body)
                whole = orjson.dumps(good)
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(whole))
                writer.write(whole[:-5])
                await writer.drain()
                return False
            case "hang up":
                self._apply(op_id, body)
                return False
            case "stall":
                self._apply(op_id, body)
                await asyncio.sleep(HELD_S)
                return False
            case other:
                raise AssertionError(other)

    def _apply(self, op_id: str, body: dict[str, str]) -> None:
        import hashlib  # noqa: PLC0415

        self.applied[op_id] = hashlib.sha256(body["payload"].encode()).hexdigest()

    async def _say(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, *, extra: str = ""
    ) -> bool:
        head = f"HTTP/1.1 {status} X\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True


class Doors:
    """Servers in a loop of their own thread, so that Traffic and async tests may both call them."""

    def __init__(self, pki: Pki) -> None:
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(pki.cert, pki.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []

    def open(self, behave: Behave | str, *, site: str = "site-a", epoch: int = 1) -> Rigged:
        how: Behave = (lambda _: behave) if isinstance(behave, str) else behave
        rigged = Rigged(site, 0, how, epoch)
        rigged.port = self._listen(rigged.serve, tls=True)
        return rigged

    def mute(self, *, site: str = "site-a") -> Rigged:
        """Takes the connection and never says a word, not even the TLS greeting."""

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            rigged.connections += 1
            await asyncio.sleep(HELD_S)
            writer.close()

        rigged = Rigged(site, 0, lambda _: "ok")
        rigged.port = self._listen(hold, tls=False)
        return rigged

    def closed(self, *, site: str = "site-a") -> Rigged:
        """Nobody listens."""
        rigged = self.open("ok", site=site)
        self._call(self._close(self._servers.pop()))
        return rigged

    def end(self) -> None:
        for server in self._servers:
            self._call(self._close(server))
        self._call(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _listen(self, serve: Callable[..., object], *, tls: bool) -> int:
        async def listen() -> asyncio.Server:
            return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self._tls if tls else None)

        server = self._call(listen())
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _close(self, server: asyncio.Server) -> None:
        server.close()

    async def _cancel_all(self) -> None:
        mine = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)

    def _call(self, coroutine):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


@pytest.fixture
def doors(pki: Pki) -> Iterator[Doors]:
    rigged = Doors(pki)
    yield rigged
    rigged.end()


@pytest.fixture(scope="session")
def other_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA that signed nothing here."""
    return make_pki(tmp_path_factory.mktemp("other-pki"))

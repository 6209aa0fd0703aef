"""An answer is the asked server's own, whole and in time: real sockets on loopback that try to pretend otherwise."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from failover.clients import row_write
from failover.clients.endpoints import Door, Doors
from failover.ledger.format import Outcome
from infra.objectstore import filersync, s3
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.reread import reread
from infra.sites import Secret, StoreAccess
from monitors.probes import doors, host
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Unreachable, ZaibeiError
from zaibei.kernel.exchange import exchange

pytestmark = pytest.mark.attack
SOON = timedelta(seconds=5)
BRIEFLY = timedelta(milliseconds=700)
Serve = Callable[[socket.socket], None]


@contextmanager
def serving(serve: Serve) -> Iterator[tuple[str, list[bytes]]]:
    """A listener that hands each connection to `serve`; the first bytes of each request are kept."""
    asked: list[bytes] = []
    ended = threading.Event()

    def one(link: socket.socket) -> None:
        with link:
            link.settimeout(5)
            try:
                asked.append(link.recv(65536))
                serve(link)
            except OSError:
                pass  # the client went away, as it should

    def loop() -> None:
        while not ended.is_set():
            try:
                link, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(link,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=loop, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        ended.set()


def says(raw: bytes) -> Serve:
    return lambda link: link.sendall(raw)


def drips(raw: bytes, *, every_s: float) -> Serve:
    def serve(link: socket.socket) -> None:
        for byte in raw * 100:
            link.sendall(bytes([byte]))
            time.sleep(every_s)

    return serve


def silent(link: socket.socket) -> None:
    while link.recv(1024):
        pass


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_the_answer_and_what_it_points_to_is_not_asked(status: int) -> None:
    healthy = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"health":"true"}'
    with serving(says(healthy)) as (elsewhere, asked):
        moved = (
            f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere}/health\r\nContent-Length: 0\r\n\r\n"
        )
        with serving(says(moved.encode())) as (url, _):
            reply = exchange(f"{url}/health", tls=None, within=SOON)
    assert (reply.status, reply.body, reply.redirects) == (status, b"", True)
    assert asked == []


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nme"
    with serving(silent) as (proxy, asked), serving(says(answer)) as (url, _):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        assert exchange(url, tls=None, within=SOON).body == b"me"
    assert asked == []


@pytest.mark.parametrize(
    "serve",
    [
        silent,
        drips(b"HTTP/1.1 200 OK\r\n", every_s=0.05),
        drips(b"HTTP/1.1 100 Continue\r\n\r\n", every_s=0.02),
        drips(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", every_s=0.01),
    ],
    ids=["silent", "slow status line", "continue for ever", "slow body"],
)
def test_the_bound_of_time_holds_for_the_whole_answer(serve: Serve) -> None:
    begun = time.monotonic()
    with serving(serve) as (url, _), pytest.raises(Unreachable, match=r"within 0\.7 s"):
        exchange(url, tls=None, within=BRIEFLY)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "6 bytes early"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "headers"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", "line"),
        (b"HTTP/1.1 999999 OK\r\n\r\n", "999999"),
    ],
)
def test_what_is_not_a_whole_answer_is_no_answer(raw: bytes, why: str) -> None:
    with serving(says(raw)) as (url, _), pytest.raises(Unreachable, match=why):
        exchange(url, tls=None, within=SOON)


def test_an_answer_that_never_ends_is_not_kept() -> None:
    def endless(link: socket.socket) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(10_000):
            link.sendall(b"x" * 65536)

    with serving(endless) as (url, _), pytest.raises(Damage, match="more than 4194304 bytes"):
        exchange(url, tls=None, within=SOON)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/",
        "https://127.0.0.1/",
        "http://",
        "http://127.0.0.1:x/",
        "http://u:p@127.0.0.1/",
        "http://[::1",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a b",
        "http://127.0.0.1:1/\r\nX: y",
    ],
)
def test_only_the_plain_address_of_a_server_is_asked(url: str) -> None:
    with pytest.raises(Unreachable):
        exchange(url, tls=None, within=BRIEFLY)


def test_a_name_with_a_dead_address_first_is_answered_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nme"
    with serving(says(answer)) as (url, _):
        port = int(url.rpartition(":")[2])
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert exchange(f"http://two.test:{port}", tls=None, within=SOON).body == b"me"


@pytest.fixture
def redirecting() -> Iterator[tuple[str, list[bytes]]]:
    """A server that sends every question on to another one: its URL, and what the other was asked."""
    with serving(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as (elsewhere, asked):
        moved = (
            f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere}/\r\nx-amz-bucket-region: other\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        with serving(says(moved.encode())) as (url, _):
            yield url, asked


def _access(url: str, tmp_path: Path) -> StoreAccess:
    (tmp_path / "secret").write_text("s" * 40)
    return StoreAccess(
        endpoint=url,
        region="us-east-1",
        keys={r: ("AKIA", Secret(file=tmp_path / "secret")) for r in ("auditor", "admin")},
    )


def test_boto3_does_not_read_from_where_a_store_points(
    redirecting: tuple[str, list[bytes]],
) -> None:
    url, asked = redirecting
    client = s3.client(
        endpoint=url,
        region="us-east-1",
        key="k",
        secret="s" * 40,
        ca_file=None,
        patience=s3.Patience(connect=SOON, read=SOON, attempts=1),
    )
    store = s3.S3Store(client=client, bucket="geo-images", prefix="", name="trial")
    with pytest.raises(ZaibeiError):
        store.read("a-key")
    assert asked == []


def test_the_second_client_does_not_read_from_where_a_store_points(
    redirecting: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    url, asked = redirecting
    first = DirectoryStore(tmp_path / "store", lock=False)
    first.create("a-key", b"hello")
    with pytest.raises(Unreachable):
        reread(
            first,
            ["a-key"],
            access=_access(url, tmp_path),
            ca_file=None,
            bucket="geo-images",
            role="auditor",
        )
    assert asked == []


async def test_a_citizen_of_a_drill_does_not_write_where_a_door_points(
    redirecting: tuple[str, list[bytes]],
) -> None:
    url, asked = redirecting
    async with row_write.session(ssl.create_default_context(), pooled=False) as http:
        answer = await row_write.write(
            http,
            Doors([Door(site="site-a", url=url)], shun_s=1),
            op_id="one",
            body=b"{}",
            limits=row_write.TimeOuts(),
            now=time.monotonic,
        )
    assert answer.outcome is not Outcome.OK
    assert asked == []


def test_the_probes_take_no_redirect_for_the_word_of_a_service(
    redirecting: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    url, asked = redirecting
    where = _access(url, tmp_path)
    with pytest.raises(Unreachable, match="status 307"):
        doors.store(where, bucket="geo-images", ca_file=tmp_path / "none", deadline=SOON)
    with pytest.raises(Unreachable, match="status 307"):
        host.object_lag(f"{url}/metrics", deadline=SOON)
    assert filersync._ask(url, SystemClock()) is None
    assert asked == []

"""Shows samples to Prometheus: a collector that refuses what is not declared, and a server for it."""

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET6, SHUT_RDWR, socket
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from monitors.metrics import BY_NAME, METRICS, Sample, Where
from zaibei.kernel.errors import Busy, Usage

_MAX_SERIES = 5000  # more is a label that escaped its bounds
_MAX_CLIENTS = 32  # at a time; a scraper or two, and people
_PATIENCE_S = 5.0  # with a client that says nothing


class Collected(Collector):
    """Shows what `ask` has, at each scrape: it must not wait for anything (see `monitors.beat`)."""

    def __init__(self, ask: Callable[[], Iterable[Sample]], *, where: Where) -> None:
        self._ask, self._where = ask, where

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Told without asking: registering must not probe the whole stack."""
        return [GaugeMetricFamily(m.name, m.help) for m in METRICS if m.where is self._where]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from families(tuple(self._ask()), where=self._where)


def families(samples: Iterable[Sample], *, where: Where) -> Iterator[GaugeMetricFamily]:
    made: dict[str, GaugeMetricFamily] = {}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for one in samples:
        declared = BY_NAME[one.metric]
        assert declared.where is where, f"{one.metric} is shown by the {declared.where} exporter"
        key = (one.metric, one.labels)
        assert key not in seen, f"{key} twice: Prometheus would refuse the whole page"
        seen.add(key)
        assert len(seen) <= _MAX_SERIES, "a label escaped its bounds"
        family = made.setdefault(
            one.metric, GaugeMetricFamily(one.metric, declared.help, labels=declared.labels)
        )
        family.add_metric(one.labels, one.value)
    yield from made.values()


def page(ask: Callable[[], Iterable[Sample]], *, where: Where) -> str:
    """The text a scrape would get."""
    return generate_latest(_registry(ask, where)).decode()


def serve(
    ask: Callable[[], Iterable[Sample]],
    *,
    where: Where,
    address: str,
    port: int,
    certificate: tuple[Path, Path] | None = None,
    client_ca: Path | None = None,
) -> tuple[int, Callable[[], None]]:
    """Serve until `stop` is called: `(port, stop)`. With `client_ca` only clients under that root are answered.

    Raises Busy when the port is taken.
    """
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
        if client_ca is not None:
            tls.load_verify_locations(client_ca)
            tls.verify_mode = ssl.CERT_REQUIRED
    registry = _registry(ask, where)
    try:
        server = _Server((address, port), registry, tls)
    except OSError as taken:
        if isinstance(taken, PermissionError):
            raise Usage(f"{address}:{port}: {taken.strerror}", hint="pass --port") from taken
        raise Busy(
            f"cannot listen on {address}:{port}: {taken.strerror}",
            hint=f"see who does: ss -ltnp 'sport = :{port}'; or pass --port",
        ) from taken
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="page", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return server.server_port, stop


class _Server(ThreadingHTTPServer):
    """A thread a client, so many at most; the handshake of TLS in that thread.

    With the handshake where connections are accepted, one client that says nothing would keep out all others.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, at: tuple[str, int], registry: CollectorRegistry, tls: ssl.SSLContext | None
    ) -> None:
        self.registry, self._tls = registry, tls
        self._places = threading.BoundedSemaphore(_MAX_CLIENTS)
        if ":" in at[0]:
            self.address_family = AF_INET6
        super().__init__(at, _Page)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        assert isinstance(request, socket)
        if self._tls is not None:
            request = self._tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
        # The time-out bounds each wait, the timer the whole: a client that sends a byte a second leaves too.
        request.settimeout(_PATIENCE_S)
        over = threading.Timer(2 * _PATIENCE_S, socket.shutdown, (request, SHUT_RDWR))
        over.daemon = True
        over.start()
        try:
            super().finish_request(request, client_address)
        finally:
            over.cancel()
            if self._tls is not None:
                self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or spoke something else is not worth a line."""


class _Page(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        page = generate_latest(self.server.registry)
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Prometheus counts its scrapes itself."""


def _registry(ask: Callable[[], Iterable[Sample]], where: Where) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Collected(ask, where=where))
    return registry

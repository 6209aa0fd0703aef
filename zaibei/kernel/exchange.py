"""Ask one HTTP server one question. No redirect is followed, no proxy is asked, time and size are bounded.

Only the host, port and scheme that were named may answer: a service that redirects has answered with a redirect,
and what lies behind it is another service's word. The bound of time holds for the whole exchange, from the
connection to the last byte: a server that sends a byte a second would keep any time-out of a single wait quiet.
(A name lookup is bounded by the resolver's own settings.)
"""

import http.client
import io
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from zaibei.kernel.errors import Damage, Unreachable

MAX_BODY_BYTES = 4 << 20  # a metrics page of SeaweedFS is about 100 kB
_REDIRECTS = range(300, 400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    body: bytes

    @property
    def redirects(self) -> bool:
        return self.status in _REDIRECTS


def exchange(
    url: str,
    *,
    tls: ssl.SSLContext | None,
    within: timedelta,
    body: bytes | None = None,
    method: str | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Reply:
    """GET, or POST of JSON when there is a body (or `method`). Any status is an answer. Without `tls`: plain HTTP.

    Raises Unreachable when there is no whole answer in time, Damage when it is too large.
    """
    scheme = "http" if tls is None else "https"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (80 if tls is None else 443)
    except ValueError as bad:
        raise Unreachable(f"{url}: not a URL: {bad}") from bad
    if parts.scheme != scheme or not host or "@" in parts.netloc:
        raise Unreachable(f"{url}: not {scheme}://HOST:PORT/…")
    limit = _Limit(within)
    link = http.client.HTTPConnection(host, port)
    try:
        with _connect(host, port, limit) as plain:
            sock = plain
            if tls is not None:
                sock = tls.wrap_socket(plain, server_hostname=host)
            with sock:
                link.sock = _Bounded(sock, limit)  # as much of a socket as is used
                target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
                headers = {"Connection": "close", "Accept-Encoding": "identity"}
                if body is not None:
                    headers["Content-Type"] = "application/json"
                link.request(method or ("GET" if body is None else "POST"), target, body, headers)
                got = link.getresponse()
                raw = got.read(max_body_bytes + 1)
    except TimeoutError as late:
        raise Unreachable(
            f"{url}: no whole answer within {within.total_seconds():g} s ({late})"
        ) from late
    except (OSError, ValueError, http.client.HTTPException) as gone:
        raise Unreachable(f"{url}: {_reason(gone)}") from gone
    if len(raw) > max_body_bytes:
        raise Damage(f"{url}: answer of more than {max_body_bytes} bytes")
    if got.length:  # what was announced and did not come
        raise Unreachable(f"{url}: the answer ends {got.length} bytes early")
    return Reply(status=got.status, body=raw)


def _reason(gone: Exception) -> str:
    text = " ".join(str(gone).split())
    return text or type(gone).__name__


class _Limit:
    """The moment at which the exchange is over."""

    def __init__(self, within: timedelta) -> None:
        self._until = time.monotonic() + within.total_seconds()

    def left_s(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("out of time")
        return left


def _connect(host: str, port: int, limit: _Limit) -> socket.socket:
    """Each address of the name in turn, as every client does; all of them within the one limit."""
    last: OSError = OSError(f"{host}: no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(limit.left_s())
            sock.connect(address)
            sock.settimeout(limit.left_s())  # the handshake of TLS is one wait
        except OSError as gone:
            sock.close()
            last = gone
            continue
        return sock
    raise last


class _Bounded:
    """As much of a socket as http.client uses; every wait ends at the limit."""

    def __init__(self, sock: socket.socket, limit: _Limit) -> None:
        self._sock, self._limit = sock, limit

    def sendall(self, data: Any) -> None:
        self._sock.settimeout(self._limit.left_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", "http.client writes through sendall"
        return io.BufferedReader(_Incoming(self._sock, self._limit))

    def close(self) -> None:
        """The owner of the socket closes it; http.client would before the body is read."""


class _Incoming(io.RawIOBase):
    def __init__(self, sock: socket.socket, limit: _Limit) -> None:
        self._sock, self._limit = sock, limit

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        self._sock.settimeout(self._limit.left_s())
        return self._sock.recv_into(into)

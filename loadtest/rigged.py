"""A service whose behaviour is known exactly: what the load engine is itself tested against.

A process of its own on loopback, stdlib only. The first segment of a path says what happens:

    /ok           200 after the base latency            /redirect   302 to an address that is not ours
    /reject       503 with Retry-After: 1               /hang       never answers
    /broken       500                                   /close      closes without an answer
    /code/...     the health code's contract, empty of meaning: a token, and its verification

On stdin it takes `freeze <monotonic s> <s>`: from that instant no answer leaves for so long, as with a
service behind a lock or a full disk. Connections and requests are taken in meanwhile, so that the thaw
costs next to nothing and the latency of everybody in it can be written down beforehand. On stdout: the
port, then each freeze as it really was. It ends when stdin does.
"""

import argparse
import asyncio
import json
import ssl
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from zaibei.kernel.clock import Clock, SystemClock

_LOOPBACK = "127.0.0.1"
_FOREIGN = "http://192.0.2.1/"  # TEST-NET-1: nobody's, and not ours
_REQUEST_MAX = 64 * 1024


class Gate:
    """Answers pass, or are held until it opens."""

    def __init__(self, *, base: timedelta) -> None:
        self._base_s = base.total_seconds()
        self._held: list[Callable[[], None]] | None = None

    def after_base(self, answer: Callable[[], None]) -> None:
        if self._held is None:
            asyncio.get_running_loop().call_later(self._base_s, self._through, answer)
        else:
            self._held.append(lambda: self.after_base(answer))  # worked on only after the thaw

    def _through(self, answer: Callable[[], None]) -> None:
        if self._held is None:
            answer()
        else:
            self._held.append(answer)  # was ready, and got caught

    def shut(self) -> None:
        self._held = []

    def open(self) -> None:
        held, self._held = self._held or [], None
        for go_on in held:
            go_on()


class Rigged(asyncio.Protocol):
    def __init__(self, *, gate: Gate, seen: Counter[str]) -> None:
        self._gate = gate
        self._seen = seen
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._seen["connections"] += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1")
            start = end + 4
            stop = start + _content_length(head)
            if len(self._buffer) < stop:
                break
            body, self._buffer = self._buffer[start:stop], self._buffer[stop:]
            self._take(head, body)
        if len(self._buffer) > _REQUEST_MAX and self._transport:
            self._transport.abort()

    def _take(self, head: str, body: bytes) -> None:
        method, target, *_ = head.split(" ", 2)
        path = target.split("?", 1)[0]
        self._seen[f"{method} {path}"] += 1
        closing = "\r\nconnection: close" in head.lower()
        match path.split("/")[1]:
            case "reject":
                self._answer(503, b'{"why":"full"}', "Retry-After: 1\r\n", closing=closing)
            case "broken":
                self._answer(500, b"{}", closing=closing)
            case "redirect":
                self._answer(302, b"", f"Location: {_FOREIGN}\r\n", closing=closing)
            case "hang":
                return
            case "close":
                assert self._transport
                self._transport.abort()
            case "seen":
                self._answer(200, json.dumps(self._seen).encode(), closing=closing)
            case "code":
                good = method == "GET" or b'"token": "rigged-' in body
                person = target.partition("person=")[2]
                said = {"token": f"rigged-{person}"} if method == "GET" else {"valid": good}
                answer = json.dumps(said).encode()
                self._gate.after_base(lambda: self._answer(200, answer, closing=closing))
            case _:
                self._gate.after_base(lambda: self._answer(200, b'{"ok":true}', closing=closing))

    def _answer(self, status: int, body: bytes, headers: str = "", *, closing: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return  # the citizen has gone
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}"
        if closing:
            head += "Connection: close\r\n"
        raw = f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body
        self._transport.write(raw)
        if closing:
            self._transport.close()


def _content_length(head: str) -> int:
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-length":
            return int(value)
    return 0


async def serve(
    *, base: timedelta, clock: Clock, told: TextIO, cert: Path | None, key: Path | None
) -> None:
    loop = asyncio.get_running_loop()
    seen: Counter[str] = Counter()
    gate = Gate(base=base)
    context = None
    if cert is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
    server = await loop.create_server(
        lambda: Rigged(gate=gate, seen=seen), _LOOPBACK, 0, ssl=context, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"port": port}), file=told, flush=True)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while order := await orders.readline():
        _, at_s, for_s = order.split()
        await asyncio.sleep(max(0.0, float(at_s) - clock.monotonic()))
        began_s = clock.monotonic()
        gate.shut()
        await asyncio.sleep(float(for_s))
        ended_s = clock.monotonic()
        gate.open()
        froze = {"froze_s": [began_s, ended_s]}
        print(json.dumps(froze), file=told, flush=True)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="a rigged service on loopback")
    parser.add_argument("--base-ms", type=float, default=0.0)
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    given = parser.parse_args()
    asyncio.run(
        serve(
            base=timedelta(milliseconds=given.base_ms),
            clock=SystemClock(),
            told=sys.stdout,
            cert=given.cert,
            key=given.key,
        )
    )


if __name__ == "__main__":
    main()

"""One GET with the stack's CA and the operator's certificate: see `zaibei.kernel.exchange` for its bounds."""

import ssl
from datetime import timedelta
from pathlib import Path

from infra.sites import StackAccess
from zaibei.kernel.errors import Unreachable
from zaibei.kernel.exchange import MAX_BODY_BYTES, Reply, exchange

_OK = 200


def context(
    *, ca_file: Path, client_cert: Path | None = None, client_key: Path | None = None
) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(ca_file))
    if client_cert is not None:
        made.load_cert_chain(client_cert, client_key)
    return made


def context_of(access: StackAccess, door: str | None = None) -> ssl.SSLContext:
    """As the stack's own client at a door that asks for one, or without a certificate at the others."""
    if door is None:
        return context(ca_file=access.ca_file)
    own = access.identity(door)
    return context(ca_file=own.ca_file, client_cert=own.cert, client_key=own.key)


def request(
    url: str,
    *,
    tls: ssl.SSLContext | None,
    deadline: timedelta,
    body: bytes | None = None,
    method: str | None = None,
) -> Reply:
    """Any status is an answer, a redirect too: it is never followed. Raises Unreachable, Damage."""
    return exchange(url, tls=tls, within=deadline, body=body, method=method)


def page(
    url: str,
    *,
    tls: ssl.SSLContext | None,
    deadline: timedelta,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> str:
    """The text of a page. Raises Unreachable for any status but 200: an error page tells no figures."""
    reply = exchange(url, tls=tls, within=deadline, max_body_bytes=max_body_bytes)
    if reply.status != _OK:
        raise Unreachable(f"{url}: status {reply.status}")
    return reply.body.decode(errors="replace")

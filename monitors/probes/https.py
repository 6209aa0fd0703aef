"""One GET with the stack's CA and the operator's certificate. Bounded in time and in size."""

import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from zaibei.kernel.errors import Damage, Unreachable

_MAX_BODY_BYTES = 4 << 20  # a metrics page of SeaweedFS is about 100 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    body: bytes


def context(
    *, ca_file: Path, client_cert: Path | None = None, client_key: Path | None = None
) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(ca_file))
    if client_cert is not None:
        made.load_cert_chain(client_cert, client_key)
    return made


def request(
    url: str,
    *,
    tls: ssl.SSLContext | None,
    deadline: timedelta,
    body: bytes | None = None,
    method: str | None = None,
) -> Reply:
    """GET, or POST of JSON when there is a body (or `method`). Any status is an answer. Without `tls`: plain HTTP.

    Raises Unreachable. The deadline bounds each wait on the socket; the survey bounds the whole.
    """
    scheme = "http://" if tls is None else "https://"
    if not url.startswith(scheme):
        raise Unreachable(f"{url}: does not begin with {scheme}")
    asked = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - the scheme was just checked
    if body is not None:
        asked.add_header("Content-Type", "application/json")
    # No proxy from the environment: a probe that asks a proxy measures the proxy.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
    )
    try:
        with opener.open(asked, timeout=deadline.total_seconds()) as got:
            raw = got.read(_MAX_BODY_BYTES + 1)
            status = got.status
    except urllib.error.HTTPError as answered:
        raw, status = answered.read(_MAX_BODY_BYTES + 1), answered.code
    except (OSError, ValueError) as gone:
        reason = getattr(gone, "reason", None) or gone
        raise Unreachable(f"{url}: {reason}") from gone
    if len(raw) > _MAX_BODY_BYTES:
        raise Damage(f"{url}: answer of more than {_MAX_BODY_BYTES} bytes")
    return Reply(status=status, body=raw)

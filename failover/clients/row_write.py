"""One row write over https: an attempt at a door, and the one further try at another.

The same id is never sent under another name. Whether a byte may have left is told by aiohttp's own
trace, which fires before the request's first byte is handed to the socket: no guess from the type of
an exception.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import aiohttp

from failover.clients.classify import BODY_MAX, Attempt, broken, classify, together
from failover.clients.endpoints import Door, Doors
from failover.ledger.format import Outcome

PATH = "/sample/register"
_IDLE_S = 2.0  # a kept connection that was not used so long is closed by us


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOuts:
    """Explicit, because with a silent drop they are the outage that a client sees."""

    connect_s: float = 1.0  # TCP and TLS
    attempt_s: float = 1.5  # one request at one door
    op_s: float = 3.0  # the op with its further try


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an op after at most two attempts."""

    outcome: Outcome
    door: str
    detail: str
    epoch: int | None
    copies: int | None


@dataclass
class _Wire:
    may_have_left: bool = False


def tls(ca_file: Path) -> ssl.SSLContext:
    """The stack's own CA and no other."""
    return ssl.create_default_context(cafile=str(ca_file))


def session(context: ssl.SSLContext, *, pooled: bool) -> aiohttp.ClientSession:
    """No limit on connections: a request that waits for a free one would be closed-loop."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_leaving)
    if not pooled:
        connector = aiohttp.TCPConnector(limit=0, ssl=context, force_close=True)
    else:
        # Shorter than the idle time-out of any server we know: a request that crosses the server's own
        # close on the wire would be INFO, on a day when nothing is wrong.
        connector = aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=_IDLE_S)
    return aiohttp.ClientSession(connector=connector, trace_configs=[trace])


async def write(
    http: aiohttp.ClientSession,
    doors: Doors,
    *,
    op_id: str,
    body: bytes,
    limits: TimeOuts,
    now: Callable[[], float],
    session: str | None = None,
) -> Answer:
    """`session`: what the clients logged in as, where the service asks."""
    deadline_s = now() + limits.op_s
    door = doors.preferred
    headers = {"Idempotency-Key": op_id, "Content-Type": "application/json"}
    if session is not None:
        headers["Authorization"] = f"Bearer {session}"
    first = await _attempt(
        http, door, headers, op_id=op_id, body=body, limits=limits, left_s=deadline_s - now()
    )
    _learn(doors, door, first, now_s=now())
    other = doors.after(door, now_s=now())
    left_s = deadline_s - now()
    if first.outcome is Outcome.OK or not _worth_a_try(first) or other is None or left_s <= 0:
        return _answer(door, first)
    second = await _attempt(
        http, other, headers, op_id=op_id, body=body, limits=limits, left_s=left_s
    )
    _learn(doors, other, second, now_s=now())
    return Answer(
        outcome=together(first, second),
        door=other.site,
        detail=f"{second.detail}; second try, {door.site} first: {first.detail}",
        epoch=second.epoch,
        copies=second.copies,
    )


async def _attempt(
    http: aiohttp.ClientSession,
    door: Door,
    headers: dict[str, str],
    *,
    op_id: str,
    body: bytes,
    limits: TimeOuts,
    left_s: float,
) -> Attempt:
    wire = _Wire()
    timeout = aiohttp.ClientTimeout(
        total=min(limits.attempt_s, left_s),
        connect=limits.connect_s,
        sock_connect=limits.connect_s,
    )
    try:
        async with http.post(
            door.url + PATH,
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            trace_request_ctx=wire,
        ) as response:
            said = b""
            async for chunk in response.content.iter_any():
                said += chunk
                if len(said) > BODY_MAX:
                    raise aiohttp.ClientPayloadError(f"more than {BODY_MAX} bytes")
            return classify(op_id=op_id, status=response.status, body=said)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return broken(error, may_have_left=wire.may_have_left)


def _answer(door: Door, attempt: Attempt) -> Answer:
    return Answer(
        outcome=attempt.outcome,
        door=door.site,
        detail=attempt.detail,
        epoch=attempt.epoch,
        copies=attempt.copies,
    )


def _worth_a_try(attempt: Attempt) -> bool:
    """A 4xx will be the same at the other door."""
    return attempt.status is None or attempt.status >= 500


def _learn(doors: Doors, door: Door, attempt: Attempt, *, now_s: float) -> None:
    if attempt.status is None:
        doors.was_silent(door, now_s=now_s)
    elif _worth_a_try(attempt):
        doors.answered_badly(door, now_s=now_s)
    else:
        doors.answered_well(door)


async def _leaving(
    http: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    context.trace_request_ctx.may_have_left = True

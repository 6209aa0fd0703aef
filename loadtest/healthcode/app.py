"""The doors of the service, after GB/T 38963: 采样登记, 亮码, 验码, and what others may ask about its health."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtest.healthcode import codes, register, trust
from loadtest.healthcode.codes import Codes
from loadtest.healthcode.gate import Gate
from loadtest.healthcode.register import Applied, Conflict, NotApplied, Sample, Unknown
from loadtest.healthcode.sessions import Sessions, Who
from loadtest.healthcode.settings import Settings, read
from loadtest.healthcode.tokens import Signer, verify
from loadtest.healthcode.trust import Trust
from loadtest.healthcode.writer import FAILURES, Writer
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.errors import Unreachable

_READY = f"SELECT {register.EPOCH} AS epoch, {register.COPIES} AS copies"
_MOST_BODY = 64 * 1024
_MOST_FIELD = 200  # characters of an id
_FIELDS = ("person_id", "tube", "station", "payload")
_RETRY_S = 2


def create() -> Gate:
    """What uvicorn starts: settings from the environment."""
    return build(read(os.environ), clock=SystemClock(), rng=random.Random())


def build(settings: Settings, *, clock: Clock, rng: random.Random) -> Gate:
    service = Service(settings, clock=clock, rng=rng)
    app = Starlette(
        routes=[
            Route("/sample/register", service.register, methods=["POST"]),
            Route("/code/me", service.show),
            Route("/code/verify", service.verify, methods=["POST"]),
            Route("/keys", service.keys),
            Route("/revocations", service.revocations),
            Route("/status", service.status),
            Route("/healthz/live", service.live),
            Route("/healthz/ready", service.ready),
        ],
        lifespan=service.lifespan,
    )
    service.gate = Gate(app, most=settings.in_flight, rng=rng)
    return service.gate


class Service:
    gate: Gate

    def __init__(self, settings: Settings, *, clock: Clock, rng: random.Random) -> None:
        self._settings = settings
        self._clock = clock
        signer = Signer.from_file(settings.signing_key_file)
        self._writer = Writer(settings, warm=(*register.WARM, *codes.WARM))
        self._codes = Codes(
            writer=self._writer, signer=signer, settings=settings, clock=clock, rng=rng
        )
        self._trust = Trust(writer=self._writer, signer=signer, settings=settings, clock=clock)
        self._sessions = Sessions.from_file(settings.session_key_file, clock)
        self._outcomes: Counter[str] = Counter()

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self._writer.open()
        keeping = asyncio.create_task(self._trust.keep())
        try:
            yield
        finally:
            await trust.stop(keeping)
            await self._writer.close()

    async def register(self, request: Request) -> Response:
        try:
            who = self._who(request)
            sample = _sample(request.headers.get("idempotency-key"), await _body(request))
            if not who.may_register(sample.person):
                raise _Bad("this session is another person's", 403)
        except _Bad as bad:
            return _json({"applied": False, "why": bad.why}, bad.status)
        answer = await register.register(self._writer, sample, settled=self._settings.settled)
        match answer:
            case Applied():
                self._outcomes["replayed" if answer.replay else "applied"] += 1
                known = {"key": answer.key, "epoch": answer.epoch, "copies": answer.copies}
                return _json(known, 200 if answer.replay else 201)
            case Conflict():
                self._outcomes["conflict"] += 1
                return _json({"applied": False, "why": "this key was used for another sample"}, 409)
            case NotApplied():
                self._outcomes["not_applied"] += 1
                return _json({"applied": False, "why": answer.why}, 503, retry=True)
            case Unknown():
                self._outcomes["unknown"] += 1
                return _json({"applied": None, "why": answer.why}, 504)

    def _who(self, request: Request) -> Who:
        who = self._sessions.who(request.headers.get("authorization"))
        if who is None:
            raise _Bad("log in first: no session, or one that is over", 401)
        return who

    async def show(self, request: Request) -> Response:
        person = request.query_params.get("person", "")
        if not 0 < len(person) <= _MOST_FIELD or "\0" in person:
            return _json({"why": "say who: ?person="}, 400)
        try:
            if not self._who(request).may_show(person):
                raise _Bad("this session is another person's", 403)
        except _Bad as bad:
            # Before the database is asked: whether that person exists is nobody else's business.
            return _json({"why": bad.why}, bad.status)
        try:
            shown = await self._codes.show(person)
        except Unreachable as error:
            self._outcomes["not_shown"] += 1
            return _json({"why": error.message}, 503, retry=True)
        if shown is None:
            return _json({"why": "no code for this person"}, 404)
        self._outcomes["shown_stale" if shown.stale else "shown"] += 1
        expires_s = int(shown.expires.timestamp())
        tag = f'"{shown.version}.{expires_s}"'
        headers = {"etag": tag, "cache-control": "private, no-cache"}
        if shown.stale:
            headers["x-stale"] = "1"
        elif request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return _json(
            {
                "person_id": person,
                "colour": shown.colour,
                "version": shown.version,
                "token": shown.token,
                "expires_s": expires_s,
                "as_of_s": int(shown.as_of.timestamp()),  # 截至时间
            },
            headers=headers,
        )

    async def verify(self, request: Request) -> Response:
        try:
            asked = _object(await _body(request))
        except _Bad as bad:
            return _json({"why": bad.why}, bad.status)
        token = asked.get("token")
        if not isinstance(token, str):
            return _json({"why": "token is missing"}, 400)
        found = verify(
            token, keys=self._trust.keys, revoked=self._trust.revoked, now=self._clock.now()
        )
        as_of = self._trust.as_of
        known = {"revocations_as_of_s": None if as_of is None else int(as_of.timestamp())}
        if isinstance(found, str):
            return _json({"valid": False, "why": found} | known)
        return _json(
            {
                "valid": True,
                "subject": found.subject,
                "colour": found.colour,
                "version": found.version,
                "expires_s": int(found.expires.timestamp()),
            }
            | known
        )

    async def keys(self, request: Request) -> Response:
        keys = {kid: public.hex() for kid, public in self._trust.keys.items()}
        return _json({"ed25519": keys}, headers={"cache-control": "max-age=3600"})

    async def revocations(self, request: Request) -> Response:
        try:
            since = int(request.query_params.get("since", "0"))
        except ValueError:
            return _json({"why": "since is a number"}, 400)
        newer = [r for r in self._trust.revocations if r[0] > since]
        return _json({"revocations": newer}, headers={"cache-control": "max-age=60"})

    async def status(self, request: Request) -> Response:
        return _json(
            {
                "site": self._settings.site,
                "level": self._trust.level,
                "inside": self.gate.inside,
                "turned_away": self.gate.turned_away,
                "outcomes": dict(self._outcomes),  # of this worker since it started
            }
        )

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(self._settings.ready.total_seconds()):
                link = await self._writer.acquire()
                try:
                    row = await link.fetchrow(_READY)
                finally:
                    self._writer.give_back(link)
        except (Unreachable, *FAILURES) as error:
            return _json({"ready": False, "epoch": None, "why": f"{error}" or "too slow"}, 503)
        return _json({"ready": True, "epoch": row["epoch"], "copies": row["copies"]})


class _Bad(Exception):
    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.why = why
        self.status = status


async def _body(request: Request) -> bytes:
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > _MOST_BODY:
            raise _Bad("the body is too long", 413)
    return bytes(found)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _Bad("the body is not JSON") from error
    if not isinstance(found, dict):
        raise _Bad("the body is not a JSON object")
    return found


def _sample(key: str | None, body: bytes) -> Sample:
    if not key or len(key) > _MOST_FIELD or not key.isascii():
        raise _Bad("Idempotency-Key is missing, too long, or not ASCII")
    found = _object(body)
    texts = []
    for field in _FIELDS:
        text = found.get(field)
        if not isinstance(text, str) or (not text and field != "payload"):
            raise _Bad(f"{field} is missing")
        if len(text) > _MOST_FIELD and field != "payload":
            raise _Bad(f"{field} is too long")
        if "\0" in text:  # PostgreSQL's text cannot hold it
            raise _Bad(f"{field} has a zero character")
        texts.append(text)
    person, tube, station, payload = texts
    return Sample(key=key, person=person, tube=tube, station=station, payload=payload)


def _json(
    value: object,
    status: int = 200,
    *,
    headers: dict[str, str] | None = None,
    retry: bool = False,
) -> Response:
    said = dict(headers or {})
    if retry:
        said["retry-after"] = str(_RETRY_S)
    return Response(orjson.dumps(value), status, said, "application/json")

"""The first thing a request meets: a bound on how many are inside, and a cheap no for the rest.

A queue without a bound is how such services die: it fills with requests whose citizens have gone. The
answer is rendered once and says that nothing was applied, which is certain: nothing was looked at.
"""

import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# How the rest of the world finds out what is going on; answered from memory or with an own bound.
NEVER_TURNED_AWAY = frozenset({"/status", "/healthz/live", "/healthz/ready"})
_BODY = b'{"applied":false,"why":"too many requests are inside"}'
_SOONEST_S, _LATEST_S = 1, 5  # spread, so that those turned away together do not come back together


class Gate:
    def __init__(self, app: App, *, most: int, rng: random.Random) -> None:
        self._app = app
        self._most = most
        self._rng = rng
        self.inside = 0
        self.turned_away = 0
        self._start = [
            {
                "type": "http.response.start",
                "status": 503,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(_BODY)).encode()),
                    (b"retry-after", str(seconds).encode()),
                ],
            }
            for seconds in range(_SOONEST_S, _LATEST_S + 1)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in NEVER_TURNED_AWAY:
            await self._app(scope, receive, send)
            return
        if self.inside >= self._most:
            self.turned_away += 1
            await send(self._rng.choice(self._start))
            await send({"type": "http.response.body", "body": _BODY})
            return
        self.inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.inside -= 1
            assert self.inside >= 0

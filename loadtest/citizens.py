"""What a citizen does. Pure: who it is, what it wants, and what it does next when it is not served.

The surge of an incident is not the arrivals; it is the arrivals times their impatience. A citizen who
sees nothing for `refresh_after` asks again (and the service still works on the first request), tries
the next published door after a failure, and goes away after `refreshes_max`.
"""

import random
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import accumulate
from pathlib import Path

from loadtest.healthcode.sessions import CITIZEN, Issuer
from zaibei.kernel.clock import SystemClock

_TOO_MANY = 429
_UNAVAILABLE = 503
_SERVER_ERROR = 500
_JITTER = (0.5, 1.5)  # people do not retry in step


class Outcome(StrEnum):
    """Of one request."""

    OK = "ok"
    REJECTED = "rejected"  # the service said "not now", and meant it: 429, or 503 with Retry-After
    ERROR = "error"  # 5xx: broken, not protecting itself
    WRONG = "wrong"  # a redirect or another 4xx: asking again would not help
    UNREACHABLE = "unreachable"  # refused, reset, no route, TLS failed, no connection in time
    TIMEOUT = "timeout"  # connected, and no whole answer while the citizen still cared


class Ending(StrEnum):
    """Of one citizen."""

    OK = "ok"
    REJECTED = "rejected"
    FAILED = "failed"


@cache
def comers(key_file: str | None) -> Callable[[str], dict[str, str]]:
    """What is known of a person who comes; with the identity service's key, logged in, at some 0.05 ms."""
    if key_file is None:
        return lambda person: {"person": person}
    issuer, clock = Issuer.from_file(Path(key_file)), SystemClock()
    return lambda person: {
        "person": person,
        "session": issuer.issue(person, role=CITIZEN, now=clock.now()),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    refresh_after_s: float  # no answer for so long: ask again
    refreshes_max: int  # so many times, then go away
    pause_s: float  # after a quick refusal, before asking again (jittered)
    connect_timeout_s: float  # a door that does not open
    obeys_retry_after: float = 0.0  # share of citizens who wait as long as they are told
    retry_after_max_s: float = 30.0

    @property
    def longest_s(self) -> float:
        """Nobody stays longer than this over one step."""
        waits = max(self.pause_s * _JITTER[1], self.retry_after_max_s * self.obeys_retry_after_any)
        return (self.refreshes_max + 1) * self.refresh_after_s + self.refreshes_max * waits

    @property
    def obeys_retry_after_any(self) -> int:
        return int(self.obeys_retry_after > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request. `{person}` and the names in `keeps` may be used in `path` and `body`."""

    name: str  # the class it is counted under: show-code
    method: str
    path: str
    body: Mapping[str, str] | None = None
    bearer: str | None = None  # who asks: `{session}` is the person's own, of the health code
    ok: tuple[int, ...] = (200,)
    keeps: tuple[str, ...] = ()  # top-level fields of the JSON answer that later steps use
    says: Mapping[str, bool | int | str] | None = None  # what the answer must say to be a good one


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    name: str
    weight: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Ask again, after so long, at that door."""

    after_s: float
    door: int


class People:
    """Zipf over `count` persons: a few are asked for all the time, most hardly ever."""

    def __init__(self, *, count: int, exponent: float, pattern: str) -> None:
        self._pattern = pattern
        self._sums = array("d", accumulate(1.0 / k**exponent for k in range(1, count + 1)))

    def draw(self, luck: random.Random) -> str:
        rank = bisect_left(self._sums, luck.random() * self._sums[-1])
        return self._pattern.format(index=rank)


def luck_of(seed: int, index: int) -> random.Random:
    """Everything about citizen `index` comes from here, whichever worker plays it."""
    return random.Random(f"citizen/{seed}/{index}")


def choose(visits: Sequence[Visit], luck: random.Random) -> Visit:
    return luck.choices(visits, weights=[v.weight for v in visits])[0]


def outcome_of(status: int, *, ok: Sequence[int], retry_after: bool) -> Outcome:
    if status in ok:
        return Outcome.OK
    # A bare 503 is a load balancer that found nobody behind it. Counting it as a rejection would
    # show a dead service as one that protects itself.
    if status == _TOO_MANY or (status == _UNAVAILABLE and retry_after):
        return Outcome.REJECTED
    return Outcome.ERROR if status >= _SERVER_ERROR else Outcome.WRONG


def next_move(
    patience: Patience,
    *,
    outcome: Outcome,
    asked: int,
    door: int,
    doors: int,
    luck: random.Random,
    retry_after_s: float | None = None,
) -> Move | None:
    """What a citizen does after attempt number `asked` (from 1); None: it is served or goes away."""
    assert asked >= 1, "a move answers an attempt"
    assert 0 <= door < doors, "door is one of the doors"
    if outcome in (Outcome.OK, Outcome.WRONG) or asked > patience.refreshes_max:
        return None
    pause_s = patience.pause_s * luck.uniform(*_JITTER)
    elsewhere = (door + 1) % doors
    if outcome is Outcome.REJECTED:
        if retry_after_s is not None and luck.random() < patience.obeys_retry_after:
            pause_s = min(max(0.0, retry_after_s), patience.retry_after_max_s)
        return Move(after_s=pause_s, door=elsewhere)
    if outcome is Outcome.TIMEOUT:
        return Move(after_s=0.0, door=elsewhere)  # the waiting was the pause
    # The next published address is tried at once, as a browser does with the next A record; only
    # when every door has been tried does the citizen pause.
    return Move(after_s=pause_s if asked % doors == 0 else 0.0, door=elsewhere)


def ending_of(outcome: Outcome) -> Ending:
    match outcome:
        case Outcome.OK:
            return Ending.OK
        case Outcome.REJECTED:
            return Ending.REJECTED
        case _:
            return Ending.FAILED

"""亮码, P1: a person's colour as a signed code: one indexed read, and a signature only for a new version.

Without a database, a code that was read within the last minutes is shown with the time it is of.
"""

import random
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime
from time import thread_time_ns

from loadtest.healthcode.settings import Settings
from loadtest.healthcode.tokens import Code, Signer, expiry, subject_of
from loadtest.healthcode.writer import FAILURES, Writer
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Unreachable

_READ = "SELECT colour, version, valid_until FROM code_state WHERE person_id = $1::text"
WARM = ((_READ, 1),)
_MOST_KEPT = 50_000
_NS_PER_US = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    colour: str
    version: int
    token: str
    expires: datetime
    as_of: datetime  # when the database said so
    stale: bool = False


class Codes:
    def __init__(
        self,
        *,
        writer: Writer,
        signer: Signer,
        settings: Settings,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._writer = writer
        self._signer = signer
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._kept: OrderedDict[str, Shown] = OrderedDict()

    async def show(self, person: str) -> Shown | None:
        """None: nobody of that id, or a colour that has to be computed again. Raises Unreachable."""
        _burn(self._settings.cpu_us)
        try:
            row = await self._read(person)
        except Unreachable:
            kept = self._kept.get(person)
            now = self._clock.now()
            if kept is None or now - kept.as_of > self._settings.stale_show or kept.expires <= now:
                raise
            return replace(kept, stale=True)
        now = self._clock.now()
        if row is None or (row[2] is not None and row[2] <= now):
            self._kept.pop(person, None)
            return None
        shown = self._current(person, *row, now=now)
        self._kept[person] = shown
        self._kept.move_to_end(person)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return shown

    def _current(
        self, person: str, colour: str, version: int, valid_until: datetime | None, *, now: datetime
    ) -> Shown:
        kept = self._kept.get(person)
        if (
            kept is not None
            and (kept.version, kept.colour) == (version, colour)
            and kept.expires - now > self._settings.token_life / 2
        ):
            return replace(kept, as_of=now)
        expires = expiry(now, self._settings.token_life, self._rng)
        if valid_until is not None:
            expires = min(expires, valid_until)
        code = Code(
            subject=subject_of(person),
            colour=colour,
            version=version,
            issued=now,
            expires=expires,
        )
        token = self._signer.sign(code)
        return Shown(colour=colour, version=version, token=token, expires=expires, as_of=now)

    async def _read(self, person: str) -> tuple[str, int, datetime | None] | None:
        link = await self._writer.acquire()
        age = link.age
        try:
            row = await link.fetchrow(_READ, person)
        except FAILURES as error:
            await self._writer.suspect(age, str(error))
            raise Unreachable(f"code not read: {type(error).__name__}: {error}") from error
        finally:
            self._writer.give_back(link)
        return None if row is None else (row[0], row[1], row[2])


def _burn(us: int) -> None:
    """CPU time of this thread, not time on the clock: a busy machine must not make it cheaper."""
    end = thread_time_ns() + us * _NS_PER_US
    while thread_time_ns() < end:
        pass

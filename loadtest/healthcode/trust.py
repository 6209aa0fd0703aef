"""What verification needs, kept in memory: the keys of all sites, revocations, and the ladder's level.

Refreshed in the background; when the database is away, the last that was read goes on being used.
"""

import asyncio
from contextlib import suppress
from datetime import datetime

import structlog

from loadtest.healthcode.settings import Settings
from loadtest.healthcode.tokens import Signer
from loadtest.healthcode.writer import FAILURES, Writer
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Unreachable

_log = structlog.get_logger()
_PUBLISH = """
INSERT INTO signing_key (kid, public_key, site) VALUES ($1, $2, $3) ON CONFLICT (kid) DO NOTHING
"""


class Trust:
    def __init__(self, *, writer: Writer, signer: Signer, settings: Settings, clock: Clock) -> None:
        self._writer = writer
        self._signer = signer
        self._settings = settings
        self._clock = clock
        self.keys: dict[str, bytes] = {signer.kid: signer.public}
        self.revoked: dict[str, int] = {}
        self.revocations: list[tuple[int, str, int]] = []  # number, subject, below
        self.level = 0
        self.as_of: datetime | None = None  # None: nothing but the own key is known yet
        self._published = False

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.refresh()
            except (Unreachable, *FAILURES) as error:
                _log.warning("trust.stale", why=str(error), as_of=str(self.as_of))
            await asyncio.sleep(self._settings.refresh.total_seconds())

    async def refresh(self) -> None:
        link = await self._writer.acquire()
        try:
            if not self._published:
                # Other sites can check this site's codes from the first refresh that succeeds.
                site = self._settings.site
                await link.execute(_PUBLISH, self._signer.kid, self._signer.public, site)
            keys = await link.fetch("SELECT kid, public_key FROM signing_key")
            last = self.revocations[-1][0] if self.revocations else 0
            new = await link.fetch(
                "SELECT number, subject, below FROM revocation WHERE number > $1 ORDER BY number",
                last,
            )
            level = await link.fetchval("SELECT level FROM ladder_state")
        finally:
            self._writer.give_back(link)
        self._published = True
        self.keys = {self._signer.kid: self._signer.public} | {k: bytes(p) for k, p in keys}
        for number, subject, below in new:
            self.revocations.append((number, subject, below))
            self.revoked[subject] = max(below, self.revoked.get(subject, 0))
        self.level = int(level or 0)
        self.as_of = self._clock.now()


async def stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

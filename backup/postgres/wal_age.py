"""Bound the age of what is not archived, from the server's own position: never less than it is.

Two observers: a *sample* asks the server how far its log is, a *look* sees how far the spool is. A byte that is seen
for the first time may have come right after the observation before, and is given that age. A look counts as such an
observation only while the receiver is known to stream: one that fails to start, or waits for a slot that another
program holds, would otherwise look fresh each time it is started again.
"""

import threading
from collections import deque
from typing import Final

from backup.format.wal_segment import SEGMENT_BYTES
from backup.postgres.wal_shipper import Position

_KEPT_MAX: Final = 100_000


class Age:
    """Thread-safe; all times are one monotonic clock's. `known`: when all there was was last known to be archived."""

    def __init__(self, *, known: float) -> None:
        self._lock = threading.Lock()
        self._known = known
        self._flush: Position | None = None
        self._spooled: deque[tuple[Position, float]] = deque()
        self._unreceived: deque[tuple[Position, float]] = deque()

    def sample(
        self, at: float, flush: Position, *, restart: int | None, ours: bool, spool: Position | None
    ) -> None:
        """The server's position when it was asked `at`; `restart`: up to where its slot's holder has the log, and
        whether that is `ours`. A record may end in zeros, so the spool alone cannot tell that it has all of it."""
        with self._lock:
            if self._flush is None or self._flush < flush:
                self._flush = flush
                _add(self._unreceived, flush, self._known)
            self._known = max(self._known, at)
            if ours and restart is not None and spool is not None:
                low = min((flush[0], restart), (spool[0], spool[1] + SEGMENT_BYTES))
                while self._unreceived and self._unreceived[0][0] <= low:
                    self._unreceived.popleft()

    def look(self, at: float, spool: Position, *, streaming: bool) -> None:
        """How far the spool is. `streaming`: what the server writes is known to get there at once."""
        with self._lock:
            since = min(at, self._known, *(s for _, s in list(self._unreceived)[:1]))
            if not self._spooled or self._spooled[-1][0] < spool:
                _add(self._spooled, spool, since)
            if streaming:
                while self._unreceived and self._unreceived[0][0] <= spool:
                    self._unreceived.popleft()
                if not self._unreceived:
                    self._known = max(self._known, at)

    def forget(self, low: Position) -> None:
        """Every vault has it up to here."""
        with self._lock:
            while len(self._spooled) > 1 and self._spooled[0][0] <= low:
                self._spooled.popleft()

    def of(self, archived: Position | None, now: float) -> float | None:
        """Of a vault that is at `archived`. None: nothing was ever seen."""
        with self._lock:
            if not self._spooled and not self._unreceived:
                return None
            waiting = (s for p, s in self._spooled if archived is None or p > archived)
            oldest = [next(waiting, now), *(s for _, s in list(self._unreceived)[:1])]
            return now - min(now, self._known, *oldest)

    @property
    def newest(self) -> Position | None:
        with self._lock:
            return self._spooled[-1][0] if self._spooled else None


def _add(kept: deque[tuple[Position, float]], position: Position, since: float) -> None:
    """The oldest stays when there are too many: it is what the age is told by."""
    if len(kept) >= _KEPT_MAX:
        kept[-1] = position, kept[-1][1]
    else:
        kept.append((position, since))

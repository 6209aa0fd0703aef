"""When a version was written, where the store's answer is about something else. Pure.

SeaweedFS 4.48 moves `Last-Modified` of a version when its lock is extended: measured, a version of 08:01:35 was
told as of 08:01:42 after one PutObjectRetention. Anybody who may extend a lock could so move every object
out of the past, and a daily backup that extends its locks does it without meaning to. The version's id
keeps the truth there: its first 16 digits are the nanosecond it was made in, counted down since release 4,
up before.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_ID: Final = re.compile(r"[0-9a-f]{32}")
_DIGITS: Final = 16
_MAX: Final = 2**63 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = datetime(2015, 1, 1, tzinfo=UTC)  # SeaweedFS is not older
_SLACK: Final = timedelta(seconds=2)  # the header tells whole seconds


def written_at(version: str | None, told: datetime) -> datetime:
    """The time inside the id, when there is one that fits: never after what the store tells."""
    if version is None or _ID.fullmatch(version) is None:
        return told
    number = int(version[:_DIGITS], 16)
    for nanoseconds in (_MAX - number, number):
        if 0 <= nanoseconds <= _MAX:
            at = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
            if _EARLIEST <= at <= told + _SLACK:
                return at
    return told

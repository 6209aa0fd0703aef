"""Which door a client knocks at: sticky, in published order, and off a door that does not answer.

Pure: times come in as numbers. A door that was silent is shunned for a while. Without that, clients
of a lost site would go back to it whenever the other door says "not yet", pay its time-out again,
and the outage that is measured would be theirs and not the service's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zaibei.kernel.errors import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    site: str
    url: str  # https://10.77.0.11:8443


class Doors:
    """One client's view of the doors."""

    def __init__(self, doors: Sequence[Door], *, shun_s: float) -> None:
        if not doors:
            raise Usage("no door to write through")
        self._doors = tuple(doors)
        self._silent_until_s = [float("-inf")] * len(doors)
        self._shun_s = shun_s
        self._at = 0

    @property
    def preferred(self) -> Door:
        return self._doors[self._at]

    def after(self, door: Door, *, now_s: float) -> Door | None:
        """The door for the one further try of an op that did not get through at `door`."""
        for step in range(1, len(self._doors)):
            i = (self._doors.index(door) + step) % len(self._doors)
            if self._silent_until_s[i] <= now_s:
                return self._doors[i]
        return None

    def answered_well(self, door: Door) -> None:
        self._silent_until_s[self._doors.index(door)] = float("-inf")

    def answered_badly(self, door: Door, *, now_s: float) -> None:
        """It is there, but it could not serve (5xx)."""
        self._silent_until_s[self._doors.index(door)] = float("-inf")
        self._leave(door, now_s=now_s)

    def was_silent(self, door: Door, *, now_s: float) -> None:
        """No connection, a time-out, a reset."""
        self._silent_until_s[self._doors.index(door)] = now_s + self._shun_s
        self._leave(door, now_s=now_s)

    def _leave(self, door: Door, *, now_s: float) -> None:
        # Many ops fail at once at the door that was lost. Only the first of them moves the client:
        # the second would move it on, back to the lost door.
        if self._doors[self._at] != door:
            return
        other = self.after(door, now_s=now_s)
        if other is not None:
            self._at = self._doors.index(other)

"""Reports marks and forget statements that cannot be read: a flipped bit, or junk from a writer.

A run or a restore goes on and warns; a removal stops. An unreadable statement forgets nothing, so
its snapshots are there again, and where they were removed already there is an unexplained hole. An
unreadable mark may name any pack that was there before it, so none of those is relied on: they are
stored again.
"""

from collections.abc import Callable
from functools import lru_cache

from backup.hints import CLEAR_UNREADABLE
from backup.repository.vault import OpenVault
from zaibei.kernel.errors import Damage
from zaibei.kernel.log import logger

Damaged = Callable[[str, Damage], object]
_log = logger("backup")


def with_hint(bad: Damage) -> Damage:
    return Damage(bad.message, hint=(*bad.hints, CLEAR_UNREADABLE))


class WarnOnce:
    """For who goes on without what cannot be read."""

    def __init__(self, repo: OpenVault) -> None:
        self._vault = repo.name
        self.keys: list[str] = []

    def __call__(self, key: str, bad: Damage) -> None:
        self.keys.append(key)
        say(self._vault, key, bad.message)

    def hole(self, sequence: int) -> None:
        why = "missing, and a statement that cannot be read may say why"
        say(self._vault, f"snapshot {sequence}", why)


@lru_cache(maxsize=256)
def say(vault: str, what: str, why: str) -> None:
    """Once a process: a run asks several times."""
    _log.warning(
        "backup.unreadable", vault=vault, object=what, why=why, hint="zaibei backup verify"
    )

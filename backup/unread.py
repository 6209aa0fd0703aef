"""Marks and forget statements that cannot be read: a flipped bit, or junk of somebody who may write.

Whoever stores or reads goes on and says so; whoever removes does not. An unreadable statement forgets nothing, so
its snapshots are there again, and where they were removed already there is a hole that nobody explains. An
unreadable mark may name any pack that was there before it, so none of those is relied on: they are stored again.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from backup import forgotten
from backup.errors import Retired
from backup.forgotten import Forgotten, Statement
from zaibei.kernel.errors import Damage
from zaibei.kernel.log import logger

if TYPE_CHECKING:
    from datetime import datetime

    from backup.repository import Repository

Damaged = Callable[[str, Damage], object]
HINT: Final = (
    "whoever may delete takes it away, while no other gc runs: zaibei backup gc --clear-damaged"
)
_log = logger("backup")


def statements(repo: "Repository", damaged: Damaged | None) -> dict[int, Forgotten]:
    """What is forgotten, as far as it can be read. Without `damaged` the first that cannot be raises."""
    said: list[tuple[Statement, datetime]] = []
    for stat in repo.listed(forgotten.PREFIX):
        try:
            number = forgotten.number_of(stat.key)
            said.append(
                (forgotten.decode(repo.keys, repo.read(stat.key), number=number), stat.modified)
            )
        except Retired:
            continue  # the word of a key that was retired, maybe because it was stolen, forgets nothing
        except Damage as bad:
            if damaged is None:
                raise with_hint(bad) from bad
            damaged(stat.key, bad)
    return forgotten.in_force(said)


def with_hint(bad: Damage) -> Damage:
    return Damage(bad.message, hint=(*bad.hints, HINT))


class Told:
    """For who goes on without what cannot be read."""

    def __init__(self, repo: "Repository") -> None:
        self._vault = repo.name
        self.keys: list[str] = []

    def __call__(self, key: str, bad: Damage) -> None:
        self.keys.append(key)
        say(self._vault, key, bad.message)

    def hole(self, sequence: int) -> None:
        why = "missing, and a statement that cannot be read may say why"
        say(self._vault, f"snapshot {sequence}", why)


def all_of(repo: "Repository") -> Iterator[str]:
    """Keys of the marks and statements that cannot be read."""
    from backup import marks  # noqa: PLC0415 - it imports the repository, which imports us

    found: list[str] = []
    statements(repo, lambda key, _: found.append(key))
    marks.standing(repo, lambda stat, _: found.append(stat.key))
    yield from found


@lru_cache(maxsize=256)
def say(vault: str, what: str, why: str) -> None:
    """Once a process: a run asks several times."""
    _log.warning(
        "backup.unreadable", vault=vault, object=what, why=why, hint="zaibei backup verify"
    )

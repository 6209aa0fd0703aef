"""The result of a verification: each damaged object, what is lost with it, and the command that
mends it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from backup import hints as mends
from backup.format.snapshot import PREFIX as SNAPSHOTS
from backup.hints import CLEAR, HEAL, KEY, REPAIR
from backup.writer.pack_health import Coverage, Level
from zaibei.kernel.errors import Damage

FINDINGS_MAX: Final = 1000
NOTES_MAX: Final = 100
_MEND: Final = {
    "index": REPAIR,
    "forgets": CLEAR,
    "marks": CLEAR,
    "keys": KEY,
    "revoked": mends.MEND_REVOCATION,
}
_LOST: Final = {
    "config": "this repository does not open from this vault",
    "keys": "one recipient: whoever holds only that key cannot open the repository",
    "revoked": "no data: it lets nobody out; whom it had let out may be in again",
    "epochs": "what is sealed under that root",
    "index": "no data: every pack holds its own part of the index",
    "forgets": "some snapshots are not forgotten any more; nothing is collected",
    "marks": "no data: what was there before it is stored again; nothing is collected",
    "runs": "no data: it says only when a run began",
    "wal": "recovery through this place; snapshots after it are whole",
}


@dataclass(slots=True, kw_only=True)
class Finding:
    """One damaged or missing object. `snapshots` and `paths`: who reaches it, the first few."""

    object: str
    why: str
    lost: str
    mend: str
    by_content: bool = False  # found by reading it, so only reading it again can clear it
    snapshots: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)  # beside `mend`, of this case alone


@dataclass(slots=True, kw_only=True)
class Report:
    """`damage` empty means: nothing wrong was found by this level, on what it read."""

    repository: str
    level: Level
    snapshots: int = 0
    packs: int = 0
    packs_read: int = 0
    packs_unindexed: int = 0  # of runs that died: not damage
    blobs: int = 0
    wal_objects: int = 0
    bytes_read: int = 0
    damage: list[str] = field(default_factory=list)
    damage_count: int = 0
    findings: list[Finding] = field(default_factory=list)
    coverage: Coverage | None = None  # None: no pack was to be read
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self, key: str, *, by_content: bool = False) -> Iterator[None]:
        """One damaged object does not end the search: the person on call needs the whole list."""
        try:
            yield
        except Damage as bad:
            self.found(key, bad, by_content=by_content)

    def found(self, key: str, bad: Damage, *, by_content: bool = False) -> Finding:
        self.damage_count += 1
        one = Finding(
            object=key,
            why=bad.message,
            lost=_lost(key),
            mend=_MEND.get(key.partition("/")[0], HEAL),
            by_content=by_content,
            hints=list(bad.hints),
        )
        # Beyond the bound the count goes on: a list of a million lines helps nobody.
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(one)
            self.damage.append(bad.message)
        return one

    def note(self, text: str) -> None:
        if len(self.notes) < NOTES_MAX:
            self.notes.append(text)


def _lost(key: str) -> str:
    if key == SNAPSHOTS:
        return "a snapshot, or that nobody left one out"
    if key.startswith(SNAPSHOTS):
        return f"snapshot {key.removeprefix(SNAPSHOTS).lstrip('0')}, or a part of it"
    return _LOST.get(key.partition("/")[0], "unknown")

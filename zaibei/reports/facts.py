"""Reading a drill's outcome: each figure by its path, with the entry it comes from. Unknown is a value.

Nothing here fills a gap: a key that is absent, null or of the wrong shape is unknown, never 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zaibei.evidence import Entry

# Of one second: more than any drill counts, and far from where a chart overflows.
_MEASURE_MAX = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    entry: Entry  # the verified outcome

    @property
    def index(self) -> int:
        return self.entry.index

    def get(self, path: str) -> Any:
        """The value at `surge.p99_ms`, or None."""
        found: Any = self.entry.statement.predicate
        for part in path.split("."):
            if not isinstance(found, Mapping):
                return None
            found = found.get(part)
        return found

    def number(self, path: str) -> float | None:
        found = self.get(path)
        good = isinstance(found, int | float) and not isinstance(found, bool)
        return found if good and math.isfinite(found) else None

    def text(self, path: str) -> str | None:
        found = self.get(path)
        return found if isinstance(found, str) and found else None

    def flag(self, path: str) -> bool | None:
        found = self.get(path)
        return found if isinstance(found, bool) else None

    def items(self, path: str) -> list[Any]:
        found = self.get(path)
        return list(found) if isinstance(found, Sequence) and not isinstance(found, str) else []

    def series(self, name: str) -> list[float | None]:
        """One row of `series`: counts or latencies. A gap stays a gap, and what can be neither is one."""
        return [
            v
            if isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= _MEASURE_MAX
            else None
            for v in self.items(f"series.{name}")
        ]

    def named(self, path: str) -> dict[str, str]:
        """Text in both languages; one given language serves for both."""
        found = self.get(f"{path}_i18n")
        return both(self.get(path) if found is None else found)

    def texts(self, path: str) -> list[dict[str, str]]:
        """A list of texts in both languages. Outcomes of an earlier version have one language only."""
        found, plain = self.items(f"{path}_i18n"), self.items(path)
        return [both(t) for t in (found if len(found) == len(plain) else plain)]


def both(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        return {"zh": value, "en": value}
    if isinstance(value, Mapping):
        zh, en = value.get("zh"), value.get("en")
        if isinstance(zh, str) or isinstance(en, str):
            return {"zh": str(zh or en), "en": str(en or zh)}
    return {"zh": "", "en": ""}


def met(measured: float | None, objective: float | None) -> bool | None:
    """Whether an objective was met; None when one of the two is not known."""
    return None if measured is None or objective is None else measured <= objective

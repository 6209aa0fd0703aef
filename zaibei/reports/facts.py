"""Reading a drill's outcome: each figure by its path, with the entry it comes from. Unknown is a value.

Nothing here fills a gap: a key that is absent, null or of the wrong shape is unknown, never 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zaibei.evidence import Entry


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
        """One row of `series`; a gap stays a gap."""
        return [
            v if isinstance(v, int | float) and not isinstance(v, bool) else None
            for v in self.items(f"series.{name}")
        ]

    def named(self, path: str) -> dict[str, str]:
        """Text in both languages; one given language serves for both."""
        found = self.get(path)
        return both(found)


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


def contradictions(facts: Facts) -> list[dict[str, str]]:
    """What stands in the outcome against a PASS. A report must not repeat a pass that its own data deny."""
    if facts.text("verdict") != "PASS":
        return []
    found: list[tuple[str, str]] = []
    lost, lost_objects = facts.number("lost"), facts.number("objects.lost")
    if facts.number("objective.rpo_s") == 0 and (lost or lost_objects):
        found.append(
            (
                "目标为零丢失，却有已确认的写入丢失",
                "acknowledged writes were lost and the objective is zero",
            )
        )
    if lost is None:
        found.append(("丢失的写入数没有测得", "the number of lost writes was not measured"))
    found += [
        (f"{key} 超过目标", f"{key} is over the objective")
        for key in ("rto_first_s", "rto_stable_s")
        if met(facts.number(key), facts.number("objective.rto_s")) is False
    ]
    if facts.number("rto_stable_s") is None:
        found.append(("稳定恢复时间没有测得", "the time to stable recovery was not measured"))
    if facts.number("phantoms"):
        found.append(("出现从未提交却存在的写入", "writes exist that nobody made"))
    if facts.flag("negative_control.condemned") is not True:
        found.append(("反向对照没有被判为失败", "the negative control was not condemned"))
    for check in facts.items("checks"):
        name = check.get("name", "?") if isinstance(check, Mapping) else "?"
        if not isinstance(check, Mapping) or check.get("ran") is not True:
            found.append((f"检查未执行：{name}", f"a check did not run: {name}"))
        elif check.get("passed") is not True:
            found.append((f"检查未通过：{name}", f"a check did not pass: {name}"))
    return [{"zh": zh, "en": en} for zh, en in found]

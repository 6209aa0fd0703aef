"""Decides clean, anomalous or unknown from numbers. Pure.

Each rule has a floor below which it never fires and a minimum count. Between floor and `hard` the
group's own history decides: the limit is the median of the last runs plus six robust deviations, so
a tree where a tenth of the files vanishes every night is not called attacked every night. `hard`
bounds that: an attacker who trains the guard with small attacks cannot get beyond it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any, Final

from backup.format.facts import Verdict

HISTORY_MAX: Final = 14  # runs that the past is made of
HISTORY_MIN: Final = 5  # fewer: nothing can be called usual, and so nothing clean
DEVIATIONS: Final = 6.0  # robust ones, of 1.4826 MAD: 1 in 10⁸ of normal noise
_TO_SIGMA: Final = 1.4826
DECAY: Final = 0.97  # a file struck 23 runs ago counts half
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One run against the last good one of its group. Counts are estimates when `sampled` is above 1."""

    entries: int = 0
    entries_before: int = 0
    size_bytes: int = 0
    size_before_bytes: int = 0
    added: int = 0
    changed: int = 0  # same path, other content
    deleted: int = 0
    renamed: int = 0  # an extension added or exchanged, and other content
    struck: int = (
        0  # content that compressed and does not any more, or a known format without its head
    )
    struck_bytes: int = 0
    struck_carried: float = 0.0  # this run's and, fading, all before
    shifted_ratio: float = 0.0  # median change of stored/raw over files that compress
    shifted_of: int = 0  # files behind that median
    rewritten: int = 0  # dense before and after, and all grew by the same number of bytes
    lost_bytes: int = 0
    gained_bytes: int = 0
    gained_dense_bytes: int = 0  # does not compress, and no known format says why
    dense_ratio: float = 0.0  # of the whole: the level, carried from run to run
    dense_before_ratio: float = 0.0
    relations: int = 0  # of PostgreSQL: user relations with at least a page
    relations_before: int = 0
    notes: int = 0  # directories that got the same new small file
    sampled: int = 1  # one entry in so many was looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`value` against a limit in floor..hard; silent unless `enough`."""

    name: str
    value: Callable[[Features], float]
    floor: float
    hard: float
    enough: Callable[[Features], bool]
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    verdict: Verdict
    reasons: tuple[str, ...]
    values: Mapping[str, float]  # of every rule: what the next runs' past is made of


def _of(part: float, whole: float) -> float:
    # Never more than all of it: what was lost is counted from listings, and those were made at other moments.
    return min(1.0, part / whole) if whole > 0 else 0.0


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        name="struck",
        value=lambda f: _of(f.struck, f.entries_before),
        floor=0.01,
        hard=0.2,
        enough=lambda f: f.struck >= 10,
        says="{:.1%} of the entries turned into noise (limit {:.1%})",
    ),
    Rule(
        name="struck_bytes",
        value=lambda f: _of(f.struck_bytes, f.size_before_bytes),
        floor=0.05,
        hard=0.4,
        enough=lambda f: f.struck_bytes >= _MIB,
        says="{:.1%} of the bytes turned into noise (limit {:.1%})",
    ),
    Rule(
        name="struck_slowly",
        value=lambda f: _of(f.struck_carried, f.entries_before),
        floor=0.03,
        hard=0.03,  # its past is the attack itself: it must not get used to it
        enough=lambda f: f.struck_carried >= 25,
        says="{:.1%} of the entries turned into noise over the last runs (limit {:.1%})",
    ),
    Rule(
        name="shifted",
        value=lambda f: f.shifted_ratio,
        floor=0.04,
        hard=0.15,
        enough=lambda f: f.shifted_of >= 50 and f.shifted_of >= 0.05 * f.entries_before,
        says="changed files compress {:.1%} worse than before, in the median (limit {:.1%})",
    ),
    Rule(
        name="renamed",
        value=lambda f: _of(f.renamed, f.entries_before),
        floor=0.1,
        hard=0.4,
        enough=lambda f: f.renamed >= 10,
        says="{:.1%} of the entries have another extension and other content (limit {:.1%})",
    ),
    Rule(
        name="shrunk",
        value=lambda f: max(0.0, _of(f.entries_before - f.entries, f.entries_before)),
        floor=0.3,
        hard=0.7,
        enough=lambda f: f.entries_before - f.entries >= 20,
        says="{:.1%} of the entries are gone (limit {:.1%})",
    ),
    Rule(
        name="emptied",
        value=lambda f: max(0.0, _of(f.lost_bytes - f.gained_bytes, f.size_before_bytes)),
        floor=0.6,  # VACUUM FULL may halve a database
        hard=0.9,
        enough=lambda f: f.lost_bytes - f.gained_bytes >= _MIB,
        says="{:.1%} of the bytes are gone, and nothing came in their place (limit {:.1%})",
    ),
    Rule(
        name="relations_gone",
        value=lambda f: max(0.0, _of(f.relations_before - f.relations, f.relations_before)),
        floor=0.2,
        hard=0.6,
        enough=lambda f: f.relations_before - f.relations >= 5,
        says="{:.1%} of the database's relations are gone or empty (limit {:.1%})",
    ),
    Rule(
        name="rewritten",
        value=lambda f: _of(f.rewritten, f.entries_before),
        floor=0.2,
        hard=0.6,
        enough=lambda f: f.rewritten >= 20,
        says="{:.1%} of the entries are compressed files rewritten to the same length (limit {:.1%})",
    ),
    Rule(
        name="replaced",
        value=lambda f: max(0.0, _of(f.gained_dense_bytes, f.gained_bytes) - f.dense_before_ratio),
        floor=0.5,
        hard=0.8,
        enough=lambda f: (
            f.lost_bytes >= 0.3 * f.size_before_bytes
            and f.gained_dense_bytes >= max(0.3 * f.lost_bytes, _MIB)
        ),
        says="what was lost was replaced by data that does not compress: {:.1%} above the level (limit {:.1%})",
    ),
)


def judge(now: Features, past: Sequence[Mapping[str, float]], *, compared: bool) -> Judgement:
    """`past`: the values of earlier runs that were not anomalous, oldest first. `compared`: there was a
    last good run to compare with; without it nothing can be said."""
    values = {r.name: round(r.value(now), 6) for r in RULES}
    if not compared:
        return Judgement(
            verdict=Verdict.UNKNOWN, reasons=("nothing to compare with",), values=values
        )
    reasons = []
    for rule in RULES:
        limit = limit_of(rule, past)
        if values[rule.name] >= limit and rule.enough(now):
            reasons.append(rule.says.format(values[rule.name], limit))
    if reasons:
        if now.notes:
            reasons.append(f"the same new small file is in {now.notes} directories")
        return Judgement(verdict=Verdict.ANOMALOUS, reasons=tuple(reasons), values=values)
    if len(past) < HISTORY_MIN:
        why = f"{len(past)} of {HISTORY_MIN} runs that say what is usual"
        return Judgement(verdict=Verdict.UNKNOWN, reasons=(why,), values=values)
    return Judgement(verdict=Verdict.CLEAN, reasons=(), values=values)


def limit_of(rule: Rule, past: Sequence[Mapping[str, float]]) -> float:
    seen = [run[rule.name] for run in past[-HISTORY_MAX:] if rule.name in run]
    if len(seen) < HISTORY_MIN:
        return rule.floor
    middle = median(seen)
    spread = _TO_SIGMA * median(abs(v - middle) for v in seen)
    return max(rule.floor, min(rule.hard, middle + DEVIATIONS * spread))


def plain(features: Features) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(features).items()}


def features_of(told: Mapping[str, Any]) -> Features:
    """Of an older or newer zaibei's snapshot: what is missing is zero, what is unknown is left."""
    known = {f.name for f in fields(Features)}
    given: dict[str, Any] = {
        k: v for k, v in told.items() if k in known and isinstance(v, int | float)
    }
    return Features(**given)

"""The alert rules, evaluated here and now without a Prometheus.

The files in `alerts/` are the only place where a condition is written. They keep to a small part of
PromQL, so that `zaibei monitor check` asks the same question as the Prometheus of the house; every case of
the promtool tests is also put to this evaluator. `for:` is not waited for: a condition is told at once.

    expr    = compared ["unless" "on" "(" labels ")" selector]
    compared = operand OP ["on" "(" labels ")"] operand        OP: > >= < <= == !=
    operand = NUMBER | selector | AGG ["by" "(" labels ")"] "(" operand ")"     AGG: sum max min count absent
    selector = name ["{" label (= != =~ !~) "text" , … "}"]
"""

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from ruamel.yaml import YAML

from monitors.metrics import BY_NAME, Sample
from zaibei.kernel.errors import Usage

_TOKEN = re.compile(
    r'\s*(?:(?P<str>"[^"]*")|(?P<num>\d+(?:\.\d+)?)|(?P<id>[a-z_][a-z0-9_]*)|(?P<op>=~|!~|==|!=|>=|<=|[><={}(),]))'
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_AGGREGATE: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "max": max,
    "min": min,
    "count": len,
}
_ABSENT = "absent"  # 1 when the selector finds nothing, with the labels that it asked for
_MATCH: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "=~": lambda value, text: re.fullmatch(text, value) is not None,
    "!~": lambda value, text: re.fullmatch(text, value) is None,
}

_DRILL = "zaibei_drill_in_progress"

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Series = Mapping[str, Vector]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    alert: str
    expr: str
    for_s: float
    severity: str
    runbook: str
    summary: Mapping[str, str]  # zh, en
    description: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    alert: str
    severity: str
    labels: dict[str, str]
    value: float
    summary: dict[str, str]
    runbook: str
    drill: str = ""  # the scenario of the drill that ran meanwhile: perhaps made on purpose


def all_rules() -> tuple[Rule, ...]:
    found = []
    for file in sorted(files("monitors").joinpath("alerts").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".rules.yml"):
            found += rules(file.read_text(encoding="utf-8"), name=file.name)
    return tuple(found)


def rules(text: str, *, name: str) -> list[Rule]:
    found = []
    for group in YAML(typ="safe").load(text)["groups"]:
        for raw in group["rules"]:
            notes = raw["annotations"]
            found.append(
                Rule(
                    alert=raw["alert"],
                    expr=" ".join(str(raw["expr"]).split()),
                    for_s=_prometheus_seconds(raw.get("for", "0s"), name),
                    severity=raw["labels"]["severity"],
                    runbook=notes["runbook"],
                    summary={"zh": notes["summary_zh"], "en": notes["summary_en"]},
                    description={"zh": notes["description_zh"], "en": notes["description_en"]},
                )
            )
    return found


def series(samples: Iterable[Sample]) -> dict[str, Vector]:
    made: dict[str, Vector] = defaultdict(dict)
    for one in samples:
        labels = frozenset(zip(BY_NAME[one.metric].labels, one.labels, strict=True))
        made[one.metric][labels] = one.value
    return made


def firing(rule: Rule, seen: Series) -> list[Firing]:
    """Every label set for which the rule's condition is true now."""
    running = sorted(dict(labels)["scenario"] for labels in seen.get(_DRILL, {}))
    return [
        Firing(
            alert=rule.alert,
            severity=rule.severity,
            labels=dict(sorted(labels)),
            value=value,
            summary=_filled(rule.summary, labels),
            runbook=rule.runbook,
            drill=", ".join(running),
        )
        for labels, value in sorted(evaluate(rule.expr, seen).items(), key=lambda i: sorted(i[0]))
    ]


def metrics_named(expr: str) -> frozenset[str]:
    return frozenset(re.findall(r"\bzaibei_\w+|\bup\b", expr))


def evaluate(expr: str, seen: Series) -> Vector:
    """Raises Usage for an expression outside the grammar."""
    return _Parser(expr, seen).whole()


def _filled(texts: Mapping[str, str], labels: Labels) -> dict[str, str]:
    filled = dict(texts)
    for language, text in texts.items():
        done = text
        for label, value in labels:
            done = done.replace(f"{{{{ $labels.{label} }}}}", value)
        filled[language] = done
    return filled


def _prometheus_seconds(text: str, name: str) -> float:
    match = re.fullmatch(r"(\d+)([smhd])", str(text))
    if match is None:
        raise Usage(f"{name}: not a duration of one unit: {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


class _Parser:
    """Parses and evaluates in one pass: an expression is a few words long."""

    def __init__(self, expr: str, seen: Series) -> None:
        self._expr, self._seen = expr, seen
        self._tokens = self._split(expr)
        self._at = 0

    def whole(self) -> Vector:
        found = self._comparison()
        if self._taken("unless"):
            self._expect("on")
            on = self._labels()
            others = self._operand()
            if isinstance(others, float):
                raise self._outside("unless a number")
            there = {_only(labels, on) for labels in others}
            found = {k: v for k, v in found.items() if _only(k, on) not in there}
        if self._at != len(self._tokens):
            raise self._outside(self._tokens[self._at])
        return found

    def _comparison(self) -> Vector:
        left = self._operand()
        compare = _COMPARE.get(sign := self._next())
        if compare is None:
            raise self._outside(sign)
        on = self._labels() if self._taken("on") else None
        right = self._operand()
        if isinstance(left, float):
            raise self._outside("a number on the left")
        if isinstance(right, float):
            return {k: v for k, v in left.items() if compare(v, right)}
        facing: Vector = {}
        for labels, value in right.items():
            key = _only(labels, on)
            if key in facing:
                raise Usage(f"{self._expr}: many series on the right for {sorted(key)}")
            facing[key] = value
        return {
            _only(k, on): v
            for k, v in left.items()
            if (key := _only(k, on)) in facing and compare(v, facing[key])
        }

    def _operand(self) -> Vector | float:
        token = self._next()
        if token[0].isdigit():
            return float(token)
        if token == _ABSENT:
            return self._absent()
        if token in _AGGREGATE:
            by = frozenset(self._labels()) if self._taken("by") else frozenset()
            self._expect("(")
            inner = self._operand()
            self._expect(")")
            if isinstance(inner, float):
                raise self._outside("an aggregate of a number")
            groups: dict[Labels, list[float]] = defaultdict(list)
            for labels, value in inner.items():
                groups[_only(labels, by)].append(value)
            return {k: float(_AGGREGATE[token](v)) for k, v in groups.items()}
        if token not in BY_NAME:
            raise Usage(f"{self._expr}: no metric {token!r}", hint="see docs/reference/metrics.md")
        return self._selected(token)

    def _absent(self) -> Vector:
        self._expect("(")
        begun = self._at
        inner = self._operand()
        asked = self._tokens[begun : self._at]
        self._expect(")")
        if inner:
            return {}
        equal = {
            (asked[i - 1], asked[i + 1][1:-1]) for i, token in enumerate(asked) if token == "="
        }
        return {frozenset(equal): 1.0}

    def _selected(self, metric: str) -> Vector:
        wanted: list[tuple[str, Callable[[str, str], bool], str]] = []
        if self._taken("{"):
            while not self._taken("}"):
                label, sign, text = self._next(), self._next(), self._next()
                if sign not in _MATCH or not text.startswith('"'):
                    raise self._outside(f"{label}{sign}{text}")
                wanted.append((label, _MATCH[sign], text[1:-1]))
                self._taken(",")
        return {
            labels: value
            for labels, value in self._seen.get(metric, {}).items()
            if all(match(dict(labels).get(label, ""), text) for label, match, text in wanted)
        }

    def _labels(self) -> frozenset[str]:
        self._expect("(")
        names = set()
        while not self._taken(")"):
            names.add(self._next())
            self._taken(",")
        return frozenset(names)

    def _taken(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._taken(token):
            raise self._outside(self._tokens[self._at] if self._at < len(self._tokens) else "end")

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise self._outside("end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _split(self, expr: str) -> list[str]:
        tokens, at, text = [], 0, expr.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._outside(text[at:])
            tokens.append(match[0].strip())
            at = match.end()
        return tokens

    def _outside(self, what: str) -> Usage:
        return Usage(
            f"{self._expr}: {what!r} is outside the grammar of monitors.rules",
            hint="write it simpler, or as two alerts: `zaibei monitor check` must be able to ask it",
        )


def _only(labels: Labels, names: Iterable[str] | None) -> Labels:
    if names is None:
        return labels
    kept = set(names)
    return frozenset((k, v) for k, v in labels if k in kept)

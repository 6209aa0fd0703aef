"""`{site}` in the arguments of a step: which parameters it uses, and their values put in.

A value is looked up before anything runs: a parameter of type site, database or bucket names one that
the stack has. An alphabet alone would let `all` through, which is a pattern to Ansible.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from runbooks.model import Action, Args, Check, Parameter, Play, Runbook, Step, Value
from zaibei.config.model import Stack
from zaibei.kernel.errors import Refused, Usage

_HOLE = re.compile(r"\{([a-z][a-z0-9-]*)\}")
_SAFE = re.compile(r"[A-Za-z0-9_.:=+/][A-Za-z0-9_.:=+/@-]{0,199}")
_INTEGER = re.compile(r"[0-9]{1,18}")
NAMED = ("site", "database", "bucket")  # types whose values are looked up in the stack
# Arguments that are regular expressions: a value put into one stands for itself, or `.+` would make a
# proof hold for anything.
_PATTERNS = frozenset({"expect"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The names that a parameter may take. None: they are not known here, and none is accepted."""

    sites: frozenset[str]
    databases: frozenset[str] | None = None
    buckets: frozenset[str] | None = None

    @classmethod
    def of(cls, stack: Stack) -> Self:
        return cls(
            sites=frozenset(s.name for s in stack.sites),
            databases=frozenset(d.name for d in stack.databases),
            buckets=frozenset(b.name for b in stack.buckets),
        )

    def named(self, kind: str) -> frozenset[str] | None:
        return {"site": self.sites, "database": self.databases, "bucket": self.buckets}[kind]


def used(runbook: Runbook) -> frozenset[str]:
    found: set[str] = set()
    for check in runbook.preconditions:
        found |= _holes(check.args)
    for step in runbook.steps:
        for part in parts(step):
            found |= _holes(part.args)
            if isinstance(part, Play):
                found |= set(_HOLE.findall(part.limit))
    return frozenset(found)


def parts(step: Step) -> Iterator[Action | Check]:
    yield step.action
    if isinstance(step.undo, Action):
        yield step.undo
    yield step.proof


def filled(args: Args, values: Mapping[str, str]) -> Args:
    escaped = {name: re.escape(value) for name, value in values.items()}
    return {k: _fill(v, escaped if k in _PATTERNS else values) for k, v in args.items()}


def fill(text: str, values: Mapping[str, str]) -> str:
    return _HOLE.sub(lambda m: values.get(m[1], m[0]), text)


def given(runbook: Runbook, asked: Mapping[str, str]) -> dict[str, str]:
    """The value of every declared parameter. Raises Usage for one that is missing, unknown or odd."""
    if unknown := sorted(asked.keys() - runbook.parameters.keys()):
        known = ", ".join(sorted(runbook.parameters)) or "none"
        raise Usage(f"{runbook.id} has no parameter {unknown[0]!r}", hint=f"it has: {known}")
    values: dict[str, str] = {}
    for name, parameter in runbook.parameters.items():
        raw = asked.get(name, parameter.default)
        if raw is None:
            flag = "--site" if name == "site" else f"--set {name}="
            raise Usage(f"{runbook.id} needs {name!r} ({parameter.title.en})", hint=f"pass {flag}")
        values[name] = check_value(name, parameter, str(raw))
    return values


def check_value(name: str, parameter: Parameter, text: str) -> str:
    """Raises Usage for a text that a parameter of this type cannot be, whatever the stack has."""
    # Values reach playbooks and programs: no braces (templates), no blanks, no dash (a flag) and no
    # at sign (a file to read) in front.
    if _SAFE.fullmatch(text) is None:
        raise Usage(f"{name}: {text!r} has characters that a runbook does not pass on")
    if parameter.type == "integer" and _INTEGER.fullmatch(text) is None:
        raise Usage(f"{name}: not a whole number: {text!r}")
    if parameter.type == "time":
        _check_time(name, text)
    return text


def check_names(runbook: Runbook, values: Mapping[str, str], declared: Declared) -> None:
    """Raises Usage for a site, database or bucket that the stack does not have, Refused when it is
    not known what the stack has.
    """
    for name, parameter in runbook.parameters.items():
        if parameter.type not in NAMED:
            continue
        known, value = declared.named(parameter.type), values[name]
        if known is None:
            raise Refused(
                f"{name}: whether {value!r} is a {parameter.type} of the stack cannot be checked",
                hint="pass --stack: the file that declares it",
            )
        if value not in known:
            near = difflib.get_close_matches(value, sorted(known), n=1)
            listed = ", ".join(sorted(known)) or "none"
            raise Usage(
                f"{name}: no {parameter.type} {value!r} in this stack",
                hint=f"did you mean {near[0]}?" if near else f"there are: {listed}",
            )


def _check_time(name: str, text: str) -> None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as wrong:
        raise Usage(f"{name}: not a time: {text!r}", hint="as in 2026-11-30T08:00:00Z") from wrong
    if moment.tzinfo is None:
        raise Usage(f"{name}: {text!r} has no offset", hint="as in 2026-11-30T08:00:00+08:00")


def _fill(value: Value, values: Mapping[str, str]) -> Value:
    if isinstance(value, str):
        return fill(value, values)
    if isinstance(value, list):
        return [fill(v, values) for v in value]
    return value


def _holes(args: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for value in args.values():
        for text in value if isinstance(value, list) else [value]:
            found |= set(_HOLE.findall(str(text)))
    return found

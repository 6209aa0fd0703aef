"""`{site}` in the arguments of a step: which parameters it uses, and their values put in."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from runbooks.model import Action, Args, Check, Play, Runbook, Step, Value
from zaibei.kernel.errors import Usage

_HOLE = re.compile(r"\{([a-z][a-z0-9-]*)\}")
_SAFE = re.compile(r"[A-Za-z0-9_.:=+/@-]{1,200}")


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
    return {k: _fill(v, values) for k, v in args.items()}


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
        text = str(raw)
        # Values reach playbooks and programs: no braces (templates), no blanks, no leading dash (flags).
        if _SAFE.fullmatch(text) is None or text.startswith("-"):
            raise Usage(f"{name}: {text!r} has characters that a runbook does not pass on")
        if parameter.type == "integer" and not text.isdigit():
            raise Usage(f"{name}: not a whole number: {text!r}")
        values[name] = text
    return values


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

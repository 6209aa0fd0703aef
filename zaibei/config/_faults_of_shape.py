"""Pydantic's findings, said so that somebody who has never heard of pydantic can mend the file."""

import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from zaibei.config._fault import FAULT_LIMIT, Fault, Where
from zaibei.config._shape import FORMS, StackDoc

_KNOWN = "known here:"
_SHORT = 80  # characters of what was written: enough to find it
_KINDS = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
}


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the nearest one, else all there are."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"{_KNOWN} {', '.join(names)}" if names else "nothing is declared here"


def faults_of(error: ValidationError) -> list[Fault]:
    """Of the first ones: a slip made in every line of a large file is known after a few."""
    return [_fault(e) for e in error.errors(include_url=False)[:FAULT_LIMIT]]


def _fault(error: Mapping[str, Any]) -> Fault:
    where = tuple(part for part in error["loc"] if part != "[key]")
    what, hint = _said(error, where)
    return Fault(what=what, hint=hint or _meaning(where), where=where)


def _said(error: Mapping[str, Any], where: Where) -> tuple[str, str]:
    """What is wrong, and a hint if the kind of error has one."""
    kind, context, said = error["type"], error.get("ctx", {}), say_where(where)
    if kind == "extra_forbidden":
        inside = f" in {say_where(where[:-1])}" if len(where) > 1 else ""
        known = keys_at(StackDoc, where[:-1])
        return f"unknown key {_short(where[-1])}{inside}", nearest(str(where[-1]), known)
    if kind == "missing":
        return f"{said} is missing", ""
    if kind in _KINDS:
        quoted = isinstance(error["input"], str) and kind in ("bool_type", "int_type", "float_type")
        return f"{said}: expected {_KINDS[kind]}", "without quotes" if quoted else ""
    if kind in ("enum", "literal_error"):
        wanted = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        hint = nearest(str(error["input"])[:_SHORT], wanted.split(", "))
        # What there is to choose from stands in the message already.
        near = "" if hint.startswith(_KNOWN) else hint
        return f"{said}: {_short(error['input'])} is not one of {wanted}", near
    if kind == "string_pattern_mismatch":
        return f"{said}: not in the form this takes", FORMS[context["pattern"]]
    message = str(error["msg"]).removeprefix("Input ")
    return f"{said}: {message[0].lower()}{message[1:]}", str(context.get("hint", ""))


def _short(said: object) -> str:
    text = repr(said if not isinstance(said, str) else said[: _SHORT + 1])
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def _meaning(where: Where) -> str:
    """What the innermost key that has a name is for."""
    named = where
    while named and isinstance(named[-1], int):
        named = named[:-1]
    return keys_at(StackDoc, named[:-1]).get(str(named[-1]), "") if named else ""


def say_where(where: Where) -> str:
    """`data.databases[2].owner`."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the file"


def keys_at(model: type[BaseModel], where: Where) -> dict[str, str]:
    """The keys that may stand at `where`, each with what it means."""
    at: Any = model
    for part in where:
        at = _model_in(at)
        if at is None:
            return {}
        if isinstance(part, int):
            continue
        found = [f for n, f in at.model_fields.items() if part in (n, f.alias)]
        # Under a mapping with free keys (`secrets`) the annotation is already the value's model.
        at = found[0].annotation if found else at
    inner = _model_in(at)
    if inner is None:
        return {}
    return {f.alias or n: f.description or "" for n, f in inner.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The document model inside `list[X]`, `X | None`, `dict[str, X]`, `Annotated[X, …]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, dict, Union, UnionType, Annotated):
        for inner in get_args(annotation):
            if (model := _model_in(inner)) is not None:
                return model
    return None

"""The form of stack.yaml for editors (JSON Schema) and for people (docs/reference/stack.md)."""

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from zaibei.config._shape import DURATION_PATTERN, StackDoc

Schema: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_HEAD = """\
# Reference: stack.yaml

Made from the schema: do not edit. `zaibei stack schema --markdown` prints it, `zaibei stack schema`
prints the JSON Schema (draft 2020-12) for editors. How to write the file: `docs/guides/declare-your-stack.md`.

Unknown keys are refused, and so are numbers without a unit: durations are written `200ms`, `60s`, `15min`, `4h`,
`35d`, `2w`. A name in *italics* is required.
"""


def json_schema() -> Schema:
    return {"$schema": DIALECT, **StackDoc.model_json_schema(by_alias=True)}


def reference() -> str:
    """docs/reference/stack.md, whole."""
    schema = json_schema()
    defs = schema["$defs"]
    parts = [_HEAD, *_section("The file", schema, defs)]
    for path, name in _models(schema):
        parts += _section(f"`{path}`", defs[name], defs)
    return "\n".join(parts)


def _models(schema: Schema) -> Iterator[tuple[str, str]]:
    """Each model once, at the first place it is met, breadth first: the order of the file."""
    seen: set[str] = set()
    queue: list[tuple[str, Schema]] = [("", schema)]
    while queue:  # ends: a model is queued once
        path, model = queue.pop(0)
        for key, field in model["properties"].items():
            name, how_on = _target(field)
            if name in seen or "properties" not in schema["$defs"].get(name, {}):
                continue
            seen.add(name)
            below = f"{path}.{key}".removeprefix(".") + how_on
            yield below, name
            queue.append((below, schema["$defs"][name]))


def _target(field: Schema) -> tuple[str, str]:
    """The definition a field leads to ('' for none), and how the path goes on from there."""
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[1], ""
    if "anyOf" in field:
        return _target(_not_null(field))
    if field.get("type") == "array":
        return _target(field["items"])[0], "[]"
    if field.get("type") == "object":
        return _target(_named(field))[0], ".NAME"
    return "", ""


def _not_null(field: Schema) -> Schema:
    return next(f for f in field["anyOf"] if f != {"type": "null"})


def _named(field: Schema) -> Schema:
    """What the free keys of a mapping lead to."""
    (inner,) = field["patternProperties"].values()
    return dict(inner)


def _section(title: str, model: Schema, defs: Schema) -> list[str]:
    lines = [f"## {title}", ""]
    if about := model.get("description"):
        lines += [about.replace("\n", " "), ""]
    lines += ["| key | takes | default | meaning |", "|---|---|---|---|"]
    required = model.get("required", [])
    for key, field in model["properties"].items():
        shown = f"*{key}*" if key in required else key
        default = "" if key in required else _default(field)
        lines.append(f"| {shown} | {_takes(field, defs)} | {default} | {field['description']} |")
    return [*lines, ""]


def _takes(field: Schema, defs: Schema) -> str:
    if "anyOf" in field:
        return _takes(_not_null(field), defs)
    if "$ref" in field:
        target = defs[_target(field)[0]]
        return _takes(target, defs) if "enum" in target else "keys below"
    if "enum" in field:
        return ", ".join(f"`{v}`" for v in field["enum"])
    if field.get("pattern") == DURATION_PATTERN:
        return "duration"
    if field["type"] == "array":
        return f"list of {_takes(field['items'], defs)}"
    if field["type"] == "object":
        return f"NAME: {_takes(_named(field), defs)}"
    return {
        "string": "text",
        "number": "number",
        "integer": "whole number",
        "boolean": "true or false",
    }[field["type"]]


def _default(field: Schema) -> str:
    value = field.get("default")
    return "" if value is None or isinstance(value, dict | list) else f"`{json.dumps(value)}`"

"""Each value in force and where it comes from: a line of the file, a default, or a secret's keeper."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from zaibei.config import _shape as shape
from zaibei.config._fault import Where, bad_stack
from zaibei.config._load import judge, origin_of
from zaibei.config._yaml import Source
from zaibei.config.model import Hazard
from zaibei.kernel.units import say_duration

Value: TypeAlias = str | int | float | bool | tuple[str, ...] | None

NOT_SHOWN = "(not shown)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    path: str  # data.databases.population.objectives.H1.rto
    value: Value
    origin: str  # stack.yaml:12 | default | env NAME | file PATH | command PROGRAM


def explain(path: Path) -> list[Explained]:
    """Every value in force, in the order of the reference. Raises BadStack."""
    checked, doc, source = judge(path)
    if doc is None:
        raise bad_stack(checked.faults)
    walk = _Walk(file=path, source=source, whole=doc)
    return list(walk.model(doc, (), ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    file: Path
    source: Source
    whole: shape.StackDoc

    def model(self, doc: BaseModel, where: Where, names: tuple[str, ...]) -> Iterator[Explained]:
        for field, info in type(doc).model_fields.items():
            key = info.alias or field
            value = self._in_force(doc, field, getattr(doc, field))
            yield from self._value(value, (*where, key), (*names, key))

    def _in_force(self, doc: BaseModel, field: str, value: Any) -> Any:
        """What holds where the file says nothing and another place does."""
        match doc, field:
            case shape.DatabaseDoc(backup=None), "backup":
                return self.whole.data.backup
            case shape.SiteDoc(hosts=None, name=name), "hosts":
                return [name]
            case ((shape.DatabaseDoc() | shape.BucketDoc() | shape.ServiceDoc()), "objectives"):
                common = self.whole.objectives
                missing = [h.value for h in Hazard if getattr(value, h.value) is None]
                return value.model_copy(update={h: getattr(common, h) for h in missing})
            case _:
                return value

    def _value(self, value: Any, where: Where, names: tuple[str, ...]) -> Iterator[Explained]:
        if isinstance(value, shape.SecretDoc):
            yield Explained(path=".".join(names), value=NOT_SHOWN, origin=_keeper(value))
        elif isinstance(value, BaseModel):
            yield from self.model(value, where, names)
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from self._value(inner, (*where, key), (*names, key))
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            for i, entry in enumerate(value):
                yield from self.model(entry, (*where, i), (*names, _called(entry)))
        else:
            yield self._row(value, where, names)

    def _row(self, value: Any, where: Where, names: tuple[str, ...]) -> Explained:
        path = ".".join(names)
        written = origin_of(where, self.source)
        line = self.source.lines.get(written)
        if line is None:
            return Explained(path=path, value=_said(value), origin="default")
        if isinstance(value, timedelta):
            # As it is written: 60s said as 1min would look like another value.
            value = _at(self.source.tree, written)
        return Explained(path=path, value=_said(value), origin=f"{self.file}:{line}")


def _at(tree: Any, where: Where) -> Any:
    for part in where:
        tree = tree[part]
    return tree


def _called(entry: BaseModel) -> str:
    """What people call an entry of a list."""
    for field in ("name", "action", "scenario"):
        if field in type(entry).model_fields:
            return str(getattr(entry, field))
    raise AssertionError(f"an entry without a name: {type(entry).__name__}")


def _said(value: Any) -> Value:
    if isinstance(value, list):
        return tuple(str(v) for v in value)
    if isinstance(value, timedelta):
        return say_duration(value)
    if isinstance(value, Enum):
        return str(value.value)
    assert value is None or isinstance(value, str | int | float | bool), value
    return value


def _keeper(secret: shape.SecretDoc) -> str:
    if secret.env is not None:
        return f"env {secret.env}"
    if secret.file is not None:
        return f"file {secret.file}"
    assert secret.command is not None, "the form asks for exactly one"
    return f"command {secret.command[0]}"  # its arguments may say more than they should

"""stack.yaml to a `Stack`, or to all of its faults at once."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from zaibei.config import _promises, _references, _shape
from zaibei.config._build import build, inherited
from zaibei.config._fault import FAULT_LIMIT, Fault, Located, Where, bad_stack
from zaibei.config._faults_of_shape import faults_of
from zaibei.config._rest import Rest
from zaibei.config._yaml import Source, Tree, read
from zaibei.config.model import Stack

NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """`stack` is there exactly when there is no fault."""

    stack: Stack | None
    faults: tuple[Located, ...]


def load(path: Path) -> Stack:
    """Raises BadStack with every fault of the file."""
    checked = check(path)
    if checked.stack is None:
        raise bad_stack(checked.faults)
    return checked.stack


def check(path: Path) -> Checked:
    return judge(path)[0]


def judge(path: Path) -> tuple[Checked, _shape.StackDoc | None, Source]:
    source = read(path)
    found = list(source.faults)
    doc: _shape.StackDoc | None = None
    stack: Stack | None = None
    if source.lines:  # it was YAML
        if isinstance(source.tree, dict):
            try:
                doc = _shape.StackDoc.model_validate(source.tree)
            except ValidationError as error:
                found += faults_of(error)
                found += _meaning_of_the_rest(source.tree, error)
            else:
                stack = build(doc)
                found += _references.faults(stack, also_sites=NONE, also_people=NONE)
                found += _promises.faults(stack)
        else:
            found.append(
                Fault(
                    what="the file is not a mapping of keys to values",
                    hint="`zaibei init` writes a commented sample to start from",
                )
            )
    if not found:
        assert stack is not None, "no fault and no stack"
        return Checked(stack=stack, faults=()), doc, source
    located = {
        Located(
            file=str(path),
            line=f.line or source.line(origin_of(f.where, source)),
            what=f.what,
            hint=f.hint,
        )
        for f in found
    }
    in_order = sorted(located, key=lambda f: (f.line, f.what))
    return Checked(stack=None, faults=tuple(in_order)), None, source


def _meaning_of_the_rest(tree: dict[str, Tree], error: ValidationError) -> list[Fault]:
    if error.error_count() > FAULT_LIMIT:
        return []
    rest = Rest(tree)
    for found in error.errors(include_url=False, include_input=False):
        where = tuple(found["loc"])
        if found["type"] == "extra_forbidden":
            rest.drop_key(where)
        elif not rest.drop(where):
            return []
    try:
        stack = build(_shape.StackDoc.model_validate(rest.tree()))
    except ValidationError:
        return []
    lost = rest.lost()
    found_there = _references.faults(stack, also_sites=lost.sites, also_people=lost.people)
    if rest.promises_are_whole:
        found_there += _promises.faults(stack)
    return [Fault(what=f.what, hint=f.hint, where=rest.where_it_was(f.where)) for f in found_there]


def origin_of(where: Where, source: Source) -> Where:
    """Where the value at `where` is written: there, or where it is inherited from."""
    match inherited(where):
        case (block, elsewhere) if block not in source.lines:
            return elsewhere
        case _:
            return where

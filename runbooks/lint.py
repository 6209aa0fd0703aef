"""What is wrong with a runbook before the night it is needed. Findings with file and line; nothing is run.

The model already refuses a step without proof, undo (or the reason why there is none) and fallback. Here is
what a schema cannot see: names that point nowhere, and texts that say nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from runbooks.actions import Native as Registered
from runbooks.actions import registered
from runbooks.library import BadRunbook, Source, line_of, playbooks_dir, read, runbook_files
from runbooks.model import Check, Native, NoUndo, Play, Step, Text
from runbooks.values import used

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_HOLE = re.compile(r"\{([^}]*)\}")
_VERB_OBJECT = re.compile(r"[a-z]+(-[a-z]+)+")
Where = tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    file: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.what}"


def lint(
    *,
    scenarios: frozenset[str] | None,
    commands: frozenset[str] | None = None,
    folder: Path | None = None,
    playbooks: Path | None = None,
) -> list[Finding]:
    """Every finding of every runbook.

    `scenarios` are the drills that exist, `commands` those of the command line (`backup restore`);
    with None that question is not asked.
    """
    found: list[Finding] = []
    for file in runbook_files(folder):
        try:
            source = read(file)
        except BadRunbook as bad:
            found += [
                Finding(file=file.name, line=line, rule="schema", what=what)
                for line, what in bad.faults
            ]
            continue
        found += lint_one(
            source, scenarios=scenarios, commands=commands, playbooks=playbooks or playbooks_dir()
        )
    return found


def lint_one(
    source: Source,
    *,
    scenarios: frozenset[str] | None,
    commands: frozenset[str] | None,
    playbooks: Path,
) -> list[Finding]:
    faults = [
        *_name(source),
        *_parameters(source),
        *_texts(source),
        *_steps(source, commands, playbooks),
    ]
    if scenarios is not None and source.runbook.drill not in scenarios:
        faults.append((("drill",), "drill", f"no scenario {source.runbook.drill!r}"))
    return sorted(
        (
            Finding(file=source.file.name, line=line_of(source.tree, at), rule=rule, what=what)
            for at, rule, what in faults
        ),
        key=lambda f: (f.line, f.rule, f.what),
    )


def _name(source: Source) -> Iterator[tuple[Where, str, str]]:
    name = source.runbook.id
    if name != source.file.stem:
        yield ("id",), "id", f"{name!r} lies in {source.file.name}"
    if _VERB_OBJECT.fullmatch(name) is None:
        yield ("id",), "id", f"{name!r} is not verb-object"


def _parameters(source: Source) -> Iterator[tuple[Where, str, str]]:
    declared, holes = source.runbook.parameters.keys(), used(source.runbook)
    for name in sorted(declared - holes):
        # `site` of a destructive runbook is what a person must type: that is a use.
        if not (name == "site" and source.runbook.danger.level == "destructive"):
            yield ("parameters", name), "parameter", f"{name!r} is declared and never used"
    for name in sorted(holes - declared):
        yield ("steps",), "parameter", f"{{{name}}} is used and not declared"


def _texts(source: Source) -> Iterator[tuple[Where, str, str]]:
    declared = source.runbook.parameters.keys()
    for at, text in _all_texts(source.runbook, ()):
        if _CHINESE.search(text.zh) is None:
            yield (*at, "zh"), "language", f"no Chinese in {text.zh!r}"
        if _CHINESE.search(text.en) is not None:
            yield (*at, "en"), "language", f"Chinese in the English text {text.en!r}"
        for name in sorted(set(_HOLE.findall(text.zh + text.en)) - declared):
            yield at, "parameter", f"{{{name}}} in a text is not declared"


def _all_texts(node: Any, at: Where) -> Iterator[tuple[Where, Text]]:
    if isinstance(node, Text):
        yield at, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _all_texts(value, (*at, key))
    elif isinstance(node, tuple):
        for index, value in enumerate(node):
            yield from _all_texts(value, (*at, index))
    elif hasattr(node, "__pydantic_fields__"):
        for name in type(node).model_fields:
            yield from _all_texts(getattr(node, name), (*at, name))


def _steps(
    source: Source, commands: frozenset[str] | None, playbooks: Path
) -> Iterator[tuple[Where, str, str]]:
    runbook, known = source.runbook, registered()
    for index, check in enumerate(runbook.preconditions):
        yield from _native(("preconditions", index), check.check, check.args, known, asks=True)
    for index, step in enumerate(runbook.steps):
        at: Where = ("steps", index)
        for key, part in _parts(step):
            where = (*at, key)
            if isinstance(part, Play):
                yield from _play(where, part, playbooks)
            elif isinstance(part, Check):
                yield from _native(where, part.check, part.args, known, asks=True)
            else:
                yield from _native(where, part.native, part.args, known, asks=False)
            if commands is not None:
                yield from _command(where, part.args.get("argv"), commands)
        if _destroys(step, known, playbooks) and runbook.danger.level != "destructive":
            yield (*at, "action"), "danger", "destructive, and the runbook's danger does not say so"


def _parts(step: Step) -> Iterator[tuple[str, Native | Play | Check]]:
    yield "action", step.action
    if not isinstance(step.undo, NoUndo):
        yield "undo", step.undo
    yield "proof", step.proof


def _native(
    at: Where, name: str, args: dict[str, Any], known: Any, *, asks: bool
) -> Iterator[tuple[Where, str, str]]:
    kind = "check" if asks else "action"
    found: Registered | None = known.get(name)
    if found is None or found.asks is not asks:
        yield at, "action", f"no native {kind} {name!r}"
        return
    wanted = found.parameters()
    given = {k.replace("-", "_") for k in args}
    for missing in sorted(n for n, required in wanted.items() if required and n not in given):
        yield at, "action", f"{name} needs the argument {missing!r}"
    for odd in sorted(given - wanted.keys()):
        yield at, "action", f"{name} takes no argument {odd!r}"


def _play(at: Where, part: Play, playbooks: Path) -> Iterator[tuple[Where, str, str]]:
    file = playbooks / part.play
    if not file.is_file():
        yield at, "action", f"no playbook {part.play!r}"
        return
    text = file.read_text(encoding="utf-8")
    for name in sorted(part.args):
        if re.search(rf"\b{re.escape(name)}\b", text) is None:
            yield at, "action", f"{part.play} does not use the variable {name!r}"


def _command(at: Where, argv: object, commands: frozenset[str]) -> Iterator[tuple[Where, str, str]]:
    if isinstance(argv, list) and " ".join(argv[:2]) not in commands:
        yield at, "action", f"no command `zaibei {' '.join(argv[:2])}`"


def _destroys(step: Step, known: Any, playbooks: Path) -> bool:
    if isinstance(step.action, Play):
        file = playbooks / step.action.play
        if not file.is_file():
            return False  # told as an unknown action
        plays = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
        return any(p.get("vars", {}).get("zaibei_destructive") for p in plays)
    found = known.get(step.action.native)
    return found is not None and found.destructive

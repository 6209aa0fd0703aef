"""What is wrong with a runbook before the night it is needed. Findings with file and line; nothing is run.

The model already refuses a step without proof, undo (or the reason why there is none) and fallback. Here is
what a schema cannot see: names that point nowhere, and texts that say nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from runbooks.actions import Native as Registered
from runbooks.library import BadRunbook, Source, library_dir, playbooks_dir, read
from runbooks.model import Action, Check, Native, NoUndo, Play, Runbook, Step, Text
from runbooks.placeholders import NAMED, check_value, used
from runbooks.registry import registered
from zaibei.kernel.errors import Usage

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_HOLE = re.compile(r"\{([^}]*)\}")
_PROSE = (".md", ".txt")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    runbooks: tuple[str, ...]  # the files that were read
    findings: tuple[Finding, ...]


def lint(
    *,
    scenarios: frozenset[str] | None,
    commands: frozenset[str] | None = None,
    path: Path | None = None,
    playbooks: Path | None = None,
) -> Report:
    """Every finding of one runbook or of a folder of them.

    `scenarios` are the drills that exist, `commands` those of the command line (`backup restore`);
    with None that question is not asked. What lies in the folder and was not read is a finding too,
    and a path without any runbook raises Usage: nothing that was not looked at passes.
    """
    files, findings = _files(path or library_dir())
    for file in files:
        try:
            source = read(file)
        except BadRunbook as bad:
            findings += [
                Finding(file=file.name, line=line, rule="schema", what=what)
                for line, what in bad.faults
            ]
            continue
        findings += lint_one(
            source, scenarios=scenarios, commands=commands, playbooks=playbooks or playbooks_dir()
        )
    return Report(runbooks=tuple(f.name for f in files), findings=tuple(findings))


def _files(path: Path) -> tuple[list[Path], list[Finding]]:
    """The runbooks to read, and a finding for everything beside them that may have been meant as one."""
    try:
        if not path.is_dir():
            if path.is_file():
                return [path], []
            raise Usage(f"{path}: no such file or folder")
        lying = sorted(path.iterdir())
    except OSError as gone:
        raise Usage(f"{path}: cannot be read: {gone.strerror}") from gone
    files, findings = [], []
    for one in lying:
        if one.suffix == ".yml" and not one.is_dir():
            files.append(one)
        elif not (one.name.startswith(".") or one.suffix.lower() in _PROSE):
            what = "not looked at: a runbook is a file whose name ends in .yml"
            findings.append(Finding(file=one.name, line=1, rule="file", what=what))
    if not files:
        raise Usage(f"{path}: no runbook in it", hint="a runbook is a file that ends in .yml")
    return files, findings


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
            Finding(file=source.file.name, line=source.text.line(at), rule=rule, what=what)
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
    for name, parameter in source.runbook.parameters.items():
        if parameter.default is not None and parameter.type in NAMED:
            # The library serves every stack: which names one has is known when it runs.
            yield ("parameters", name), "parameter", f"{name!r}: a {parameter.type} has no default"
        elif parameter.default is not None:
            try:
                check_value(name, parameter, str(parameter.default))
            except Usage as wrong:
                yield ("parameters", name), "parameter", f"the default of {wrong.message}"


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
                yield from _play(where, part, runbook, playbooks)
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


def _play(
    at: Where, part: Play, runbook: Runbook, playbooks: Path
) -> Iterator[tuple[Where, str, str]]:
    hole = _HOLE.fullmatch(part.limit)
    limited_to = runbook.parameters.get(hole[1]) if hole else None
    if limited_to is not None and limited_to.type != "site":
        yield at, "action", f"limit {part.limit} is of type {limited_to.type}, not a site"
    file = playbooks / part.play
    if not file.is_file():
        yield at, "action", f"no playbook {part.play!r}"
        return
    if _plays(file) is None:
        yield at, "action", f"{part.play} is not a list of plays"
        return
    text = file.read_text(encoding="utf-8")
    for name in sorted(part.args):
        if re.search(rf"\b{re.escape(name)}\b", text) is None:
            yield at, "action", f"{part.play} does not use the variable {name!r}"


def _command(at: Where, argv: object, commands: frozenset[str]) -> Iterator[tuple[Where, str, str]]:
    if not isinstance(argv, list):
        return
    words = list(takewhile(lambda word: not word.startswith("-"), argv))
    if not any(" ".join(words[:n]) in commands for n in range(1, len(words) + 1)):
        yield at, "action", f"no command `zaibei {' '.join(words[:2])}`"


def _destroys(step: Step, known: Any, playbooks: Path) -> bool:
    """Whether the step, or taking it back, stops or removes something."""
    return any(
        _is_destructive(part, known, playbooks)
        for part in (step.action, step.undo)
        if not isinstance(part, NoUndo)
    )


def _is_destructive(part: Action, known: Any, playbooks: Path) -> bool:
    if isinstance(part, Play):
        plays = _plays(playbooks / part.play) or []  # an unknown or odd one is a finding by itself
        return any((p.get("vars") or {}).get("zaibei_destructive") for p in plays)
    found = known.get(part.native)
    return found is not None and found.destructive


def _plays(file: Path) -> list[dict[str, Any]] | None:
    try:
        plays = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError):
        return None
    whole = isinstance(plays, list) and all(isinstance(p, dict) for p in plays)
    return plays if whole else None

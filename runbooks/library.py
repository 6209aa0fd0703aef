"""Where runbooks lie, and how one is read: text, digest, model. Raises Usage with file and line."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from runbooks.model import Runbook
from zaibei.kernel.errors import Usage


class BadRunbook(Usage):
    """A runbook file that cannot be run; `faults` are (line, what)."""

    def __init__(self, file: Path, faults: list[tuple[int, str]]) -> None:
        told = "\n".join(f"{file.name}:{line}: {what}" for line, what in faults)
        super().__init__(told, hint="see docs/guides/runbooks.md")
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A runbook and the text it was read from; runs bind to the digest."""

    file: Path
    digest: str
    runbook: Runbook
    tree: CommentedBase  # remembers the lines


def library_dir() -> Path:
    return Path(str(files("runbooks"))) / "library"


def playbooks_dir() -> Path:
    return Path(str(files("runbooks"))) / "playbooks"


def runbook_files(folder: Path | None = None) -> list[Path]:
    return sorted((folder or library_dir()).glob("*.yml"))


def find(name: str, folder: Path | None = None) -> Source:
    """By id, or by path to a file of one's own."""
    known = runbook_files(folder)
    for file in known:
        if name in (file.stem, file.name):
            return read(file)
    if name.endswith((".yml", ".yaml")) and Path(name).is_file():
        return read(Path(name))
    listed = ", ".join(f.stem for f in known)
    raise Usage(f"no runbook {name!r}", hint=f"there are: {listed}")


def read(file: Path) -> Source:
    try:
        raw = file.read_bytes()
    except OSError as gone:
        raise BadRunbook(file, [(1, f"cannot be read: {gone.strerror}")]) from gone
    try:
        tree = YAML(typ="rt").load(raw)
        plain = YAML(typ="safe").load(raw)
    except MarkedYAMLError as wrong:
        at = wrong.problem_mark
        line = at.line + 1 if at is not None else 1
        raise BadRunbook(file, [(line, str(wrong.problem))]) from wrong
    except (
        YAMLError,
        ValueError,
        RecursionError,
    ) as wrong:  # a byte that is no text, a tag, a nest
        reason = " ".join(str(wrong).split())[:200]
        raise BadRunbook(file, [(1, f"not YAML: {reason}")]) from wrong
    if not isinstance(tree, CommentedBase):
        raise BadRunbook(file, [(1, "not a mapping")])
    try:
        runbook = Runbook.model_validate(plain)
    except ValidationError as wrong:
        faults = [(line_of(tree, e["loc"]), _say(e["loc"], e["msg"])) for e in wrong.errors()]
        raise BadRunbook(file, sorted(set(faults))) from wrong
    return Source(file=file, digest=hashlib.sha256(raw).hexdigest(), runbook=runbook, tree=tree)


def line_of(tree: object, where: tuple[int | str, ...]) -> int:
    """The line of the deepest part of `where` that is in the file."""
    node, line = tree, 1
    for key in where:
        if isinstance(node, dict) and key in node:
            line = node.lc.key(key)[0] + 1  # type: ignore[attr-defined]
            node = node[key]
        elif isinstance(node, list) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0] + 1  # type: ignore[attr-defined]
            node = node[key]
    return line


def _say(where: tuple[int | str, ...], message: str) -> str:
    # pydantic puts the arm of a union (`native`, `play`) into the path; people look for the keys.
    path = ".".join(str(p) for p in where if p not in ("native", "play", "none"))
    return f"{path or 'runbook'}: {message[:1].lower()}{message[1:]}"

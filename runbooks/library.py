"""Where runbooks lie, and how one is read: text, digest, model. Raises Usage with file and line."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from runbooks.model import Runbook
from zaibei import config
from zaibei.kernel.errors import Usage

_SHOWN = 200  # faults; a slip in every line is known after a few
_PATH_CHARS = 120
_ARMS = ("native", "play", "none")


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
    text: config.Source  # remembers the lines


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
        with file.open("rb") as opened:
            raw = opened.read(config.SIZE_LIMIT_BYTES + 1)
    except OSError as gone:
        raise BadRunbook(file, [(1, f"cannot be read: {gone.strerror}")]) from gone
    source = config.parse_bytes(raw)
    if source.faults:
        faults = [(f.line or source.line(f.where), f.what) for f in source.faults[:_SHOWN]]
        raise BadRunbook(file, faults)
    if not isinstance(source.tree, dict):
        raise BadRunbook(file, [(1, "not a mapping")])
    try:
        runbook = Runbook.model_validate(source.tree)
    except ValidationError as wrong:
        errors = wrong.errors(include_url=False)[:_SHOWN]
        faults = [(source.line(_plain(e["loc"])), _say(e["loc"], e["msg"])) for e in errors]
        raise BadRunbook(file, sorted(set(faults))) from wrong
    return Source(file=file, digest=hashlib.sha256(raw).hexdigest(), runbook=runbook, text=source)


def _plain(where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic puts the arm of a union (`native`, `play`) into the path; people look for the keys."""
    return tuple(p for p in where if p not in _ARMS)


def _say(where: tuple[int | str, ...], message: str) -> str:
    path = ".".join(str(p) for p in _plain(where))
    if len(path) > _PATH_CHARS:
        path = f"{path[:_PATH_CHARS]}…"
    return f"{path or 'runbook'}: {message[:1].lower()}{message[1:]}"

"""Every module that prose names exists: a page that sends a reader to a room that is gone is worse than none."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOTS = ("zaibei", "infra", "backup", "failover", "loadtest", "monitors", "runbooks")
_NAMED = re.compile(r"``?((?:" + "|".join(ROOTS) + r")(?:\.[a-z_][a-z0-9_]*)+)``?")


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def _is_there(dotted: str) -> bool:
    """A package, a module, or a name that a module defines."""
    parts = dotted.split(".")
    for cut in (len(parts), len(parts) - 1):
        path = ROOT.joinpath(*parts[:cut])
        if cut == len(parts) and (path.is_dir() or path.with_suffix(".py").is_file()):
            return True
        if cut < len(parts):
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.is_file() and parts[cut] in _names(file):
                    return True
    return False


def _names(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
    return found


def _missing(files: list[Path]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}: {dotted}"
        for file in files
        if file.is_file()
        for dotted in sorted(set(_NAMED.findall(file.read_text("utf-8"))))
        if not dotted.endswith((".py", ".yml", ".md", ".json")) and not _is_there(dotted)
    ]


def test_every_module_that_a_page_names_exists() -> None:
    pages = [
        page for page in _tracked("*.md") if not {"changes", "adr"} & set(page.parts)
    ]  # history
    assert pages, "no page is looked at"
    assert _missing(pages) == []


def test_every_module_that_a_docstring_or_comment_names_exists() -> None:
    sources = _tracked(*(f"{root}/*.py" for root in ROOTS), "tests/*.py")
    assert sources, "no source is looked at"
    assert _missing(sources) == []


def test_the_architecture_page_names_every_room_of_every_area() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rooms = {
        ".".join(file.relative_to(ROOT).parts[:-1]) for file in _tracked("backup/*/__init__.py")
    }
    assert rooms, "there are no rooms"
    assert sorted(room for room in rooms if f"`{room}`" not in page) == []

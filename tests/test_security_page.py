"""docs/security.md claims nothing that no test shows, and no attack test is left out of it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_ROW = re.compile(r"^\|(?! *an attacker who|-)(.+)\|$", re.MULTILINE)


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_claim_of_the_security_page_names_a_test_that_exists() -> None:
    missing = [
        f"{file}::{name}"
        for file, name in _TEST.findall(PAGE)
        if not (ROOT / file).is_file() or name not in _functions(ROOT / file)
    ]
    assert missing == []


def test_every_row_of_the_security_page_has_a_test() -> None:
    bare = [row.strip() for row in _ROW.findall(PAGE) if not _TEST.search(row)]
    assert bare == []


def test_every_attack_test_is_named_on_the_security_page() -> None:
    named = {file for file, _ in _TEST.findall(PAGE)}
    marked = {
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if re.search(r"pytest\.mark\.attack|pytestmark = .*attack", path.read_text("utf-8"))
        and path.name != "test_security_page.py"
    }
    assert sorted(marked - named) == []

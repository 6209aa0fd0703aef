"""The manual is read by a machine before it is read by a person at 3 a.m."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.exceptions import TyperException

from zaibei.cli import reference
from zaibei.cli.main import app

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(
    r"^(?: {4})?(?:\$ )?(?:sudo )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(zaibei [^|>]*)"
)
_SPAN = re.compile(r"`(?:\$ )?(zaibei [^`]*)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<(?:img|source)[^>]+src(?:set)?=\"([^\"]+)\"")


@dataclass(frozen=True)
class Shown:
    """A command line as a page shows it. `whole`: it could be typed as it is."""

    where: str
    words: tuple[str, ...]
    whole: bool


def pages() -> list[Path]:
    """The project's own Markdown: what git knows, or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    names = listed.stdout.decode().split("\0")
    return sorted(ROOT / n for n in set(names) if n and (ROOT / n).is_file())


def shown(page: Path) -> Iterator[Shown]:
    text = page.read_text("utf-8")
    fences = [m[0] for m in _FENCE.finditer(text)]
    rest = _FENCE.sub("", text)
    indented = [line for line in rest.splitlines() if line.startswith("    ")]
    name = str(page.relative_to(ROOT))
    for line in [x for f in fences for x in f.splitlines()] + indented:
        if found := _COMMAND.match(line.rstrip()):
            yield Shown(name, _words(found[1]), whole="…" not in found[1])
    for found in _SPAN.finditer(rest):
        yield Shown(name, _words(found[1]), whole=False)


def _words(line: str) -> tuple[str, ...]:
    told = line.replace("…", " ").removesuffix("...")
    try:
        return tuple(shlex.split(told, comments=True))
    except ValueError:  # a quote that ends on the next line
        return tuple(told.split())


def why_not(said: Shown, tree: Any) -> str | None:
    """None when the command and all its options exist, and a whole one would be accepted."""
    command, rest = tree, list(said.words[1:])
    path = "zaibei"
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"no command {path} {name}"
        command, path = command.commands[name], f"{path} {name}"
    if hasattr(command, "commands"):  # a group by its name
        return None
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in rest:
        if word.startswith("--") and word != "--" and word.partition("=")[0] not in known:
            return f"{path} has no {word}"
    if said.whole:
        try:
            command.make_context(path, rest)
        except typer.Exit:
            return None
        except TyperException as wrong:
            return wrong.format_message()
    return None


@pytest.fixture(scope="module")
def tree() -> Any:
    return typer.main.get_command(app)


def test_the_generated_pages_are_what_their_sources_say() -> None:
    old = reference.stale(ROOT / "docs" / "reference")
    assert not old.keys(), "make docs"


def test_a_page_that_was_edited_by_hand_is_stale(tmp_path: Path) -> None:
    made = {name: make() for name, make in reference.pages().items()}
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "errors.md").write_text(made["errors.md"].replace("| 4 |", "| 14 |", 1))
    (tmp_path / "stack.md").unlink()
    assert set(reference.stale(tmp_path)) == {"errors.md", "stack.md"}


def test_every_command_that_a_page_shows_can_be_typed(tree: Any) -> None:
    found = [s for page in pages() for s in shown(page)]
    assert len(found) > 50, "a test that finds no commands passes for ever"
    wrong = [f"{s.where}: {' '.join(s.words)}: {why}" for s in found if (why := why_not(s, tree))]
    assert not wrong


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("zaibei drill run site-power-loss --seed 7", None),
        ("zaibei drill run --seed 7", "Missing argument"),
        ("zaibei drill run x --sed 7", "no --sed"),
        ("zaibei drill start", "no command zaibei drill start"),
        ("zaibei surge run x --workers 99", "range 1<=x<=16"),
        ("zaibei lab", None),
        ("zaibei backup list --json # all of them", None),
    ],
)
def test_a_wrong_command_line_is_seen(tree: Any, line: str, why: str | None) -> None:
    said = why_not(Shown("here", _words(line), whole=True), tree)
    assert said is None if why is None else said is not None and why in said


def test_every_relative_link_leads_somewhere() -> None:
    wrong, seen = [], 0
    for page in pages():
        for found in _LINK.finditer(_FENCE.sub("", page.read_text("utf-8"))):
            target = found[1] or found[2]
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            seen += 1
            there = page.parent / path if path else page
            if not there.exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
            elif anchor and there.suffix == ".md" and anchor not in anchors(there):
                wrong.append(f"{page.relative_to(ROOT)}: {target}: no such heading")
    assert seen > 30
    assert not wrong


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, letters, digits and hyphens."""
    text = page.read_text("utf-8")
    named = set(re.findall(r"<a id=\"([^\"]+)\">", text))
    for heading in re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE):
        named.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return named


def test_the_index_names_every_page_of_the_manual() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = {m[1].partition("#")[0] for m in _LINK.finditer(index) if m[1]}
    there = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")} - {
        "README.md"
    }
    assert sum(name.startswith("adr/") for name in there) >= 5
    assert not there - linked, "docs/README.md lists every page, and every decision"


def test_both_readmes_show_the_same_drill() -> None:
    """The figures were measured once; two languages must not tell two stories."""

    def output(name: str) -> str:
        after = (ROOT / name).read_text("utf-8").partition("<!-- drill-output -->")[2]
        fence = _FENCE.search(after)
        assert fence, f"{name}: no fenced block below <!-- drill-output -->"
        return fence[0]

    assert output("README.md") == output("README.zh-CN.md")
    assert re.search(r"^(PASS|FAIL|INVALID)  ", output("README.md"), re.MULTILINE)

"""What a reviewer would say twice, said by a machine."""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("zaibei", "infra", "backup", "failover", "loadtest", "monitors", "runbooks")
LINE_LIMIT = 400

# Who may ask the machine for the time, and why. An entry that is no longer needed fails the test.
MAY_ASK_THE_TIME: dict[str, str] = {}

# Who may start a program without zaibei.kernel.process, which alone lets nothing outlive its deadline or parent.
MAY_START_PROGRAMS = {
    "zaibei/kernel/process.py": "it is the way",
    "infra/faults/deadman.py": "the guard must outlive what it guards",
    "infra/lab/host.py": "a host is a machine, and lives on",
}

# Modules past the limit, each with why it is one thing, or where it would come apart. An entry that is
# no longer needed fails the test.
MAY_BE_LONG: dict[str, str] = {
    "failover/clients/traffic.py": "one schedule and the one thread that keeps it",
    "failover/drill.py": "a drill in the order it happens: split, the order would have to be looked for",
    "infra/data/world.py": "a stanza a table; it grows with the tables and not in depth",
    "infra/objectstore/admission.py": "a function a question; it grows with the questions and not in depth",
    "infra/objectstore/s3.py": "one implementation of one contract",
}

_TIME = {
    ("time", "sleep"),
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
}


@dataclass(frozen=True)
class Module:
    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)


def tracked(*patterns: str) -> list[str]:
    """Paths that are in the repository: what is being written beside it is nobody's fault yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    names = listed.stdout.decode().split("\0")
    return sorted(n for n in names if n and (ROOT / n).is_file())


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    names = tracked(*(f"{p}/**.py" for p in PACKAGES), *(f"{p}/*.py" for p in PACKAGES))
    found = [Module(n, (ROOT / n).read_text("utf-8")) for n in dict.fromkeys(names)]
    assert len(found) > 40, "a tidy test that reads nothing passes for ever"
    return found


def asks_for_time(tree: ast.Module) -> Iterator[int]:
    """Lines that name one of `_TIME`, called or passed on, however it was imported."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name: a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: a.name for a in node.names}
            if any((node.module, a.name) in _TIME for a in node.names):
                yield node.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            last = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if (names.get(last, last), node.attr) in _TIME:
                yield node.lineno


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(1)",
        "import time as t\nt.time()",
        "from time import sleep",
        "from datetime import datetime\ndatetime.now(UTC)",
        "from datetime import datetime as dt\ndt.now()",
        "import datetime\ndatetime.datetime.utcnow()",
        "import time\nclock = time.time",
        "from datetime import date\ndate.today()",
    ],
)
def test_every_way_to_ask_for_the_time_is_seen(code: str) -> None:
    assert list(asks_for_time(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "clock.now()",
        "clock.sleep(x)",
        "import time\ntime.monotonic()",
        "row.time",
        "self.clock.now()",
    ],
)
def test_a_clock_that_was_passed_in_is_fine(code: str) -> None:
    assert not list(asks_for_time(ast.parse(code)))


def test_nobody_asks_the_machine_for_the_time(modules: list[Module]) -> None:
    found = {
        m.path: lines
        for m in modules
        if not m.path.startswith("zaibei/kernel/") and (lines := sorted(set(asks_for_time(m.tree))))
    }
    wrong = [f"{p}:{n}" for p, lines in found.items() if p not in MAY_ASK_THE_TIME for n in lines]
    assert not wrong, "take a Clock (zaibei.kernel.clock), or argue in MAY_ASK_THE_TIME"
    assert not MAY_ASK_THE_TIME.keys() - found.keys(), "no longer needed"


def test_every_program_is_started_where_it_cannot_outlive_its_parent(modules: list[Module]) -> None:
    starts = re.compile(
        r"subprocess\.(Popen|run|call|check_\w+)\(|create_subprocess_|os\.(fork|popen|system)\("
    )
    found = {m.path for m in modules if starts.search(m.text)}
    assert found == set(MAY_START_PROGRAMS), "use zaibei.kernel.process: run, or start and end"


def test_every_module_opens_with_its_promise(modules: list[Module]) -> None:
    mute = [m.path for m in modules if m.text.strip() and not ast.get_docstring(m.tree)]
    assert not mute, "say first what the module is for"


def test_modules_stay_short_enough_to_be_read_at_one_sitting(modules: list[Module]) -> None:
    long = {m.path: n for m in modules if (n := m.text.count("\n")) > LINE_LIMIT}
    wrong = {p: n for p, n in long.items() if p not in MAY_BE_LONG}
    assert not wrong, f"over {LINE_LIMIT} lines: split it, or argue in MAY_BE_LONG"
    short = [p for p in MAY_BE_LONG if (ROOT / p).read_text().count("\n") <= LINE_LIMIT]
    assert not short, "no longer needed"


def test_there_is_no_package_under_tests() -> None:
    """`tests/backup/__init__.py` would make pytest import tests/backup as `backup`, in place of ours."""
    assert not tracked("tests/**/__init__.py", "tests/__init__.py")


def test_tests_are_named_as_sentences() -> None:
    short = [
        f"{path}: {node.name}"
        for path in tracked("tests/**/test_*.py", "tests/test_*.py")
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and node.name.count("_") < 3
    ]
    assert not short, "say what happens: test_a_truncated_pack_is_damage_not_silence"


def test_no_test_patches_our_own_code() -> None:
    """A patched import tests the import; what needs a fake takes it as an argument."""
    ours = tuple(f"{quote}{p}." for p in PACKAGES for quote in "'\"")
    wrong = [
        f"{path}:{node.lineno}"
        for path in tracked("tests/**.py", "tests/*.py")
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("mock.patch", "patch.object", "monkeypatch.setattr"))
        and node.args
        and ast.unparse(node.args[0]).startswith(ours)
    ]
    assert not wrong


def test_the_product_stands_on_nothing_beside_the_repository(modules: list[Module]) -> None:
    """Neither a folder next to it nor a path of the machine it was written on."""
    outside = ("../" + "shared", "/work" + "/main", "/work" + "/shared")
    names = tracked("*.py", "*.md", "*.yml", "*.yaml", "*.j2", "*.toml", "*.sh", "Makefile")
    assert len(names) > len(modules)
    wrong = [n for n in names if any(o in (ROOT / n).read_text("utf-8") for o in outside)]
    assert not wrong

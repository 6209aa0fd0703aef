"""A file of a megabyte is answered within two seconds of CPU, whatever it says, and without a warning."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest import scenario as surges
from zaibei.config import parse, sample

pytestmark = pytest.mark.attack
MIB = 1 << 20
CPU_S = 2.0


def fill(unit: str, head: str = "", tail: str = "") -> str:
    """A megabyte of it."""
    return head + unit * ((MIB - len(head) - len(tail)) // len(unit.encode())) + tail


def num(form: str, head: str = "", most: int = MIB) -> str:
    """A megabyte of lines that differ by a number."""
    lines, size = [head], len(head)
    for i in range(most):
        line = form.format(i=i)
        size += len(line.encode())
        if size > MIB - 64:
            break
        lines.append(line)
    return "".join(lines)


def within(after: str, form: str, count: int) -> str:
    """The sample, with so many entries more in one of its lists."""
    text = sample()
    at = text.index(after) + len(after)
    return text[:at] + "".join(form.format(i=i) for i in range(count)) + text[at:]


HOSTILE: dict[str, Callable[[], str]] = {
    "yaml11 sexagesimal": lambda: fill(":1", "%YAML 1.1\n---\na: 1"),
    "yaml11 many sexagesimal": lambda: num("a{i}: 1:1:1:1:1\n", "%YAML 1.1\n---\n"),
    "sexagesimal no directive": lambda: fill(":1", "a: 1"),
    "underscored int": lambda: fill("_1", "a: 1"),
    "huge int": lambda: fill("9", "a: "),
    "huge hex": lambda: fill("f", "a: 0x"),
    "timestampish": lambda: fill("0", "a: 2001-01-01 00:00:00."),
    "complex keys": lambda: fill("? a\n"),
    "complex keys with values": lambda: num("? a{i}\n: b\n"),
    "nested complex": lambda: fill("? "),
    "complex flow keys": lambda: num("? [a{i}]\n: b\n"),
    "flow key pairs": lambda: "{" + num("? a{i} : b, ") + "}",
    "60000 anchors": lambda: num("- &b{i} c\n", most=60_000),
    "same anchor": lambda: fill("- &a b\n"),
    "anchors no value": lambda: num("- &b{i}\n"),
    "aliases": lambda: fill("- *a\n", "- &a b\n"),
    "alias bomb": lambda: (
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    ),
    "self alias": lambda: "a: &a [*a]\n",
    "merge keys": lambda: fill("<<: *a\n", "a: &a {b: c}\nd:\n  e: f\n"),
    "merge list": lambda: num("k{i}: {{<<: *a}}\n", "a: &a {b: c}\n"),
    "tags": lambda: num("a{i}: !t{i} b\n"),
    "int tags": lambda: num("a{i}: !!int ninety\n"),
    "tag directive": lambda: num("%TAG !e{i}! tag:x,2000:\n") + "---\na: b\n",
    "long tag": lambda: "a: !" + "x" * (MIB - 20) + " b\n",
    "deep block": lambda: "".join(" " * i + "a:\n" for i in range(1400)),
    "deep sequences on a line": lambda: fill("- "),
    "deep flow open": lambda: fill("["),
    "deep flow map": lambda: fill("{a: "),
    "flow across lines": lambda: fill("[\n"),
    "unclosed flow long": lambda: num("a{i}, ", "a: ["),
    "closed flow long": lambda: num("a{i}, ", "a: [") + "]",
    "flow pairs": lambda: num("a{i}: b, ", "a: {{".replace("{{", "{")) + "}",
    "empty flows": lambda: fill("- []\n"),
    "colons": lambda: fill(":", "a: "),
    "colon lines": lambda: fill(":\n"),
    "dash lines": lambda: fill("-\n"),
    "long plain": lambda: fill("x", "a: "),
    "long key": lambda: fill("x", "", ": b"),
    "long double quoted": lambda: fill("\\n", 'a: "', '"'),
    "double quoted lines": lambda: fill("x\n ", 'a: "', '"'),
    "unclosed double lines": lambda: fill("x\n", 'a: "'),
    "folded more indent": lambda: fill("  x\n   y\n", "a: >\n"),
    "literal blank": lambda: fill("\n", "a: |\n"),
    "comments": lambda: fill("# x\n", "a: b\n"),
    "comments eol": lambda: num("a{i}: b # c\n"),
    "blank lines": lambda: fill("\n", "a: b\n"),
    "tab lines": lambda: fill("\ta: b\n"),
    "crs": lambda: fill("a: b\r"),
    "only crs": lambda: fill("\r", "a: b"),
    "nel": lambda: fill("\u0085", "a: b"),
    "bom floods": lambda: fill("\ufeff"),
    "many documents": lambda: fill("---\n"),
    "document ends": lambda: fill("...\n", "a: b\n"),
    "duplicate keys": lambda: fill("a: b\n"),
    "distinct keys": lambda: num("a{i}: b\n"),
    "numbers": lambda: num("- {i}\n"),
    "control": lambda: fill("\x01", "a: "),
    "percent": lambda: fill("%", "a: b\n"),
    "indent ladder": lambda: "".join(" " * (i % 700) + f"a{i}:\n" for i in range(2900)),
    "bars": lambda: fill("- |\n"),
    # Below every limit of the text: what comes after it must not take long either.
    "unknown keys": lambda: sample() + num("zz{i}: b\n", most=14_000),
    "a repeated key": lambda: sample() + num("name: b\n", most=14_000),
    "sites that lack everything": lambda: within("sites:\n", "  - {{}}\n", 14_000),
    "sites in hundreds of cities": lambda: within(
        "sites:\n", "  - {{name: s{i}, city: c{i}, role: production, owner: duty-data}}\n", 400
    ),
    "people": lambda: within("people:\n", "  - {{name: p, title: x}}\n", 9_000),
    "databases": lambda: within(
        "databases:\n",
        "    - {{name: d{i}, title: x, owner: q{i}, grade: 一般, personal_data: false}}\n",
        4_500,
    ),
    "a role of a megabyte": lambda: sample().replace(
        "role: production", "role: " + "x" * 900_000, 1
    ),
    "a duration of a megabyte": lambda: sample().replace("rto: ", f"rto: {'1' * 900_000}s #", 1),
}

_ASKED = """
import json, resource, sys, time, warnings
from pathlib import Path
from failover import scenario as drills
from loadtest import scenario as surges
from runbooks import library
from zaibei import config
from zaibei.kernel.errors import ZaibeiError
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
warnings.simplefilter("error")
def told(ask):
    begun = time.process_time()
    try:
        ask()
        said = ""
    except ZaibeiError as error:
        said = str(error)
    return [time.process_time() - begun, said[:2000], len(said)]
for line in sys.stdin:
    file = Path(line.strip())
    asked = {
        "stack": lambda: config.load(file),
        "runbook": lambda: library.read(file),
        "surge": lambda: surges.load(file),
        "drill": lambda: drills.parse(file.read_text("utf-8"), where=file.name),
    }
    # They share one reader of text: what differs is what each makes of a tree that is whole.
    kinds = asked if int(file.stem) % 6 == 0 else ["stack"]
    print(json.dumps({kind: told(asked[kind]) for kind in kinds}), flush=True)
"""


def test_no_megabyte_of_text_takes_long_in_any_reader_of_text_from_people(tmp_path: Path) -> None:
    files = []
    for number, (name, made) in enumerate(HOSTILE.items()):
        text = made()
        assert len(text.encode()) <= MIB, name
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_bytes(text.encode())
    done = subprocess.run(
        [sys.executable, "-P", "-c", _ASKED],
        input="\n".join(map(str, files)),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(HOSTILE) >= 40
    for (name, _), answer, file in zip(HOSTILE.items(), answers, files, strict=True):
        for kind, (cpu_s, said, length) in answer.items():
            assert cpu_s < CPU_S, (name, kind, cpu_s)
            assert length < 100_000, (name, kind, "the error is read by a person")
            assert said == "" or f"{file.name}:" in said, (name, kind, said)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: b\n%YAML 1.1\n---\nc: 1:30\n", 2, "a directive (%) is not allowed"),
        ("a: b\nc: d\u2028e: f\n", 2, "a line separator that no editor shows (U+2028)"),
        ("\n".join(f"a{i}: &b{i} c" for i in range(300)), 201, "more than 200 anchors (&)"),
        ("a: b\nc: " + "9" * 41 + "\n", 2, "a number of more than 40 digits"),
        ("a: b\nc: !!int 0x" + "f" * 41 + "\n", 2, "a number of more than 40 digits"),
        ("a: b\nc: !!int ''\n", 2, "not the kind of value its tag says"),
        ("a: b\nc: *d\n", 2, "not YAML: undefined alias *d"),
    ],
)
def test_what_no_stack_needs_is_refused_with_its_line(text: str, line: int, what: str) -> None:
    (fault,) = parse(text).faults
    assert (fault.line, fault.what) == (line, what)


def test_a_name_of_a_person_is_not_made_a_gigabyte_wide() -> None:
    text = (surges.LIBRARY / "policy-step.yml").read_text()
    assert "{index:09d}" in text
    with pytest.raises(surges.BadScenario, match="wider"):
        surges.parse(text.replace("{index:09d}", "{index:0999999999d}"), origin="mine.yml")

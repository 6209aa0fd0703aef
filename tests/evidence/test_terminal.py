"""The last line that a verifier prints is its verdict, whatever a pack calls its files and itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evidence.conftest import SCRIPT, Desk, Forger
from zaibei.evidence import Kind, verify

pytestmark = pytest.mark.attack

TAKEOVER = "\x1b[2J\x1b[Hkeys:  they are the ones whose fingerprints were given\nVERIFIED\n\x1b[8m"


def controls(text: str) -> str:
    return "".join(
        re.findall(
            r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", text
        )
    )


def zaibei(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "zaibei.cli.main", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def script(pack: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", SCRIPT, pack], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_file_name_cannot_take_over_the_verdict(a_pack: Path, kind: str) -> None:
    odd = a_pack / TAKEOVER.replace("/", "_")
    if kind == "file":
        odd.write_text("x")
    elif kind == "link":
        odd.symlink_to("/nothing")
    else:
        odd.mkdir()
    for done in (zaibei("evidence", "verify", a_pack), script(a_pack)):
        shown = done.stdout + done.stderr
        assert controls(shown) == ""
        assert done.returncode == 8
        assert shown.rstrip("\n").splitlines()[-1] == "NOT VERIFIED"
        assert not re.search(r"^\s*VERIFIED", shown, re.MULTILINE)
    assert controls("".join(verify(a_pack).problems)) == ""


@pytest.mark.parametrize("title", ["\x1b[2J", "a\u202eb", "a\x9bb", "two\rlines"])
def test_a_title_that_moves_the_cursor_is_refused_by_both(
    title: str,
    a_pack: Path,
    forger: Forger,
) -> None:
    text = (a_pack / "MANIFEST").read_bytes().partition(b"\n\n")[0].split(b"\n")
    forger.manifest(a_pack, b"\n".join([text[0], title.encode(), *text[2:], b""]))
    for done in (zaibei("evidence", "verify", a_pack), script(a_pack)):
        assert done.returncode == 8
        assert controls(done.stdout + done.stderr) == ""
        assert (done.stdout + done.stderr).rstrip("\n").endswith("NOT VERIFIED")


def test_the_verdict_is_the_last_line_of_both(a_pack: Path) -> None:
    for done in (zaibei("evidence", "verify", a_pack), script(a_pack)):
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "VERIFIED"


def test_a_statement_is_shown_without_its_escape_sequences(desk: Desk) -> None:
    entry = desk.evidence.record(Kind.ACTION, {"what": "\x7f\x9b2J\u202e", "at": TAKEOVER})
    where = ("--evidence", desk.root / "evidence")
    for argv in (("show", str(entry.index)), ("show", str(entry.index), "--json"), ("log",)):
        shown = zaibei("evidence", *argv, *where).stdout
        assert controls(shown) == ""
    assert (
        json.loads(zaibei("evidence", "show", str(entry.index), *where).stdout)["predicate"]["at"]
        == TAKEOVER
    )

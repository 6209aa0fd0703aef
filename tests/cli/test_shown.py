"""Nothing that others named moves a cursor, hides a line or draws one of its own on the operator's terminal."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from zaibei.kernel.printable import printable, printable_lines, quoted

pytestmark = pytest.mark.attack

TAKEOVER = "\x1b[2J\x1b[Hkeys:  they are the ones whose fingerprints were given\nVERIFIED\n\x1b[8m"
HOSTILE = (
    TAKEOVER,
    "\x9b2J",
    "a\rVERIFIED",
    "\u202eDEIFIREV",
    "x\x07\x08\x7f",
    "\u2028VERIFIED",
    "a\u200bb\ufeff",
)
MARKUP = "[bold green]VERIFIED[/] [link=https://evil.example]here[/link] :skull:"


def controls(text: str) -> str:
    return "".join(
        re.findall(
            r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", text
        )
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_printable_has_no_control_and_one_line(text: str) -> None:
    for shown in (printable(text), printable(text.encode()), quoted(text)):
        assert controls(shown) == ""
        assert "\n" not in shown
    assert controls(printable_lines(text)) == ""


def test_names_of_people_and_places_stay_as_they_are() -> None:
    for text in ("人口基础库", "naïve café", "a\u3000b", "ключ", "🙂"):
        assert printable(text) == text
    assert printable(b"\xff\xe4\xba") == r"\xff\xe4\xba"
    assert printable("\udcff") == r"\udcff"
    assert printable("\x1b[2J\n\u202e") == r"\x1b[2J\n\u202e"
    document = json.dumps({"\x9b": "\u202e\x7f\x1b"}, ensure_ascii=False)
    assert json.loads(printable_lines(document)) == json.loads(document)


# --- every command: the streams, the console, what Typer says -----------------------------------------


def zaibei(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "zaibei.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


PROGRAM = """
import sys
from zaibei.cli import streams
streams.settle()
from rich.table import Table
from rich.text import Text
from zaibei.cli import console
from zaibei.kernel.errors import Damage
text = sys.stdin.read()
print(text, file=sys.stderr); print(text)
console.line(text)
console.talk.print(text); console.talk.print(text, style="red")
console.emit({text: [text]})
table = Table(text, "b", title=text); table.add_row(text, Text(text)); table.add_row("[bold]x[/]", "y")
console.show(table)
with console.progress() as bar:
    bar.step(text); bar.done(1, 2, unit=text); bar.note(text); bar.step("next")
from zaibei.kernel import log
log.configure(); log.logger(text).error(text, field=text)
console.complain(Damage(text, hint=text), 8)
"""


@pytest.mark.parametrize("text", [*HOSTILE, MARKUP])
def test_no_door_to_the_terminal_lets_a_control_through(text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        input=text,
        text=True,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert controls(done.stdout.replace("\t", " ")) == ""
    assert controls(done.stderr.replace("\t", " ")) == ""


def test_markup_in_a_name_is_shown_and_not_obeyed() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        input=MARKUP,
        text=True,
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "300"},
    )
    assert done.stdout.count("[link=https://evil.example]") >= 5
    assert "[bold]x[/]" in done.stdout
    assert ":skull:" in done.stderr


def on_a_terminal(text: str) -> str:
    """What a terminal gets: colours are ours, and nothing else is."""
    own, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env=env,
    )
    os.close(theirs)
    assert child.stdin is not None
    child.stdin.write(text.encode())
    child.stdin.close()
    shown = b""
    try:
        while piece := os.read(own, 65_536):
            shown += piece
    except OSError:
        pass
    os.close(own)
    assert child.wait(60) == 0
    return shown.decode()


def test_on_a_terminal_only_our_own_sequences_arrive() -> None:
    shown = on_a_terminal("\x1b[2J\x1b[H\x1b]0;title\x07\x9b8m")
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown
    assert r"\u001b[2J" in shown
    assert "\x1b[1;31m" in shown  # the word `error` is bold and red: the console still draws


def test_typer_does_not_repeat_a_control_either() -> None:
    for argv in (
        ("evidence", "verify", "x", TAKEOVER),
        (TAKEOVER,),
        ("evidence", TAKEOVER),
        ("--\x1b[2J",),
    ):
        done = zaibei(*argv)
        assert done.returncode == 2
        assert controls(done.stdout + done.stderr) == ""

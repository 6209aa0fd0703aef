"""What a person reads when something went wrong: word for word."""

import pytest

from zaibei.cli.console import complain
from zaibei.kernel.errors import BadStack, Refused


def test_a_line_with_file_and_number_is_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"/etc/zaibei/stack.yaml:12: databases.0.objectives: {'a long reason, ' * 30}the end"
    complain(BadStack(f"{line}\n{line}", hint=f"{line}: hint"))
    said = capsys.readouterr()
    assert said.err == f"usage: {line}\n{line}\nhint: {line}: hint\n"
    assert said.out == ""


def test_brackets_and_colons_of_a_message_are_not_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    complain(Refused("site-a:key:[bold]x[/]:fire: differs", hint="see [red]there"))
    assert capsys.readouterr().err == (
        "refused: site-a:key:[bold]x[/]:fire: differs\nhint: see [red]there\n"
    )

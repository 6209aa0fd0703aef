"""What a program reads while a backup runs."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.repository.repository import Repository
from backup.sources.files import backup_files
from backup.writer.writer import Writer
from zaibei.cli import console
from zaibei.kernel.clock import SimClock


class Heard:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.totals: list[int | None] = []

    def step(self, what: str) -> None: ...

    def done(self, amount: int, total: int | None = None, *, unit: str = "") -> None:
        assert total is None or amount <= total
        self.totals.append(total)

    def note(self, what: str) -> None: ...


def test_lines_are_objects_with_an_eta_once_the_total_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_EVERY_S", 0.0)
    with console.progress(programs=True) as bar:
        assert isinstance(bar, console.JsonLines)
        bar.step("reading /srv")
        bar.done(10, None, unit="B")
        bar.done(50, 100, unit="B")
        bar.note("site-c: given up")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["step"] for line in lines] == ["reading /srv"] * 4
    assert lines[1]["eta_s"] is None, "unknown is no number"
    assert (lines[2]["done"], lines[2]["total"]) == (50, 100)
    assert lines[2]["eta_s"] >= 0
    assert lines[3]["note"] == "site-c: given up"


def test_a_second_run_expects_what_the_first_one_found(
    make: Callable[..., Repository], clock: SimClock, some_files: Path
) -> None:
    repo, first, second = make(), Heard(), Heard()
    rng = random.Random(1)
    (made,) = backup_files([some_files], [Writer(repo, rng=rng)], clock=clock, progress=first)
    backup_files([some_files], [Writer(repo, rng=rng)], clock=clock, progress=second)
    assert made.snapshot is not None
    assert set(first.totals) == {None}
    assert set(second.totals) == {made.snapshot.content.size_bytes}

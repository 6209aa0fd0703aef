"""The measuring, on tools so simple that the answer is known."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from backup.bench.dataset import generate
from backup.bench.measure import Sample, measure
from backup.bench.race import Lap, Race, race, summary
from backup.bench.tools import Phase, Place
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Damage, Missing, NoSpace, ToolFailed
from zaibei.kernel.progress import Silent

CLOCK = SystemClock()


@dataclass(frozen=True)
class Copy:
    """A backup program of four lines."""

    name: str = "copy"
    spoils: bool = False
    there: bool = True

    def version(self) -> str | None:
        return "1" if self.there else None

    def init(self, at: Place) -> Sequence[str]:
        return ["mkdir", str(at.repository)]

    def command(self, phase: Phase, at: Place) -> Sequence[str]:
        if phase is Phase.FIRST:
            return ["cp", "-a", str(at.source), str(at.repository)]
        if phase is Phase.RESTORE:
            copied = ["cp", "-a", str(at.repository / at.source.name), str(at.restored)]
            spoil = f"&& cd {at.restored}/set && printf x >> $(find . -type f | head -1)"
            return ["sh", "-c", f"{' '.join(copied)} {spoil}"] if self.spoils else copied
        return ["true"]

    def env(self, at: Place) -> Mapping[str, str]:
        return os.environ

    def came_back(self, at: Place) -> Path:
        return at.restored / at.source.name


def run(tmp_path: Path, *tools: Copy, rounds: int = 2) -> Race:
    return race(
        tools, tmp_path, size_bytes=2_000_000, rounds=rounds, clock=CLOCK, progress=Silent()
    )


def digest(top: Path) -> str:
    one = hashlib.sha256()
    for path in sorted(p for p in top.rglob("*") if p.is_file()):
        one.update(f"{path.relative_to(top)} {path.stat().st_mtime_ns}\n".encode())
        one.update(path.read_bytes())
    return one.hexdigest()


def test_the_set_is_the_same_from_the_same_seed_and_about_as_large_as_asked(tmp_path: Path) -> None:
    made = generate(tmp_path / "a", size_bytes=6_000_000)
    assert generate(tmp_path / "b", size_bytes=6_000_000) == made
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    generate(tmp_path / "c", size_bytes=6_000_000, seed=2)
    assert digest(tmp_path / "c") != digest(tmp_path / "a")
    assert 0.9 < made.size_bytes / 6_000_000 < 1.3, "half a relation more or less, when it is small"
    parts = {p.name for p in (tmp_path / "a").iterdir()}
    assert parts == {"database", "text", "image", "small", "copy", "shifted"}


def test_every_round_has_every_tool_in_every_phase_and_who_begins_turns(tmp_path: Path) -> None:
    done = run(tmp_path, Copy("one"), Copy("two"))
    assert [x.tool for x in done.laps if x.round == 0][:2] == ["one", "two"]
    assert [x.tool for x in done.laps if x.round == 1][:2] == ["two", "one"]
    assert len(done.laps) == 2 * 2 * len(Phase)
    assert all(x.repository_bytes == done.set.size_bytes for x in done.laps)
    rows = summary(done, against="two")
    assert len(rows) == 2 * len(Phase)
    assert all(r.times_faster is not None and r.size_ratio == 1.0 for r in rows)
    assert not list(tmp_path.glob("round-*")), "a round leaves no gigabytes behind"


def test_a_tool_that_restores_something_else_has_no_time(tmp_path: Path) -> None:
    with pytest.raises(Damage, match="restored something else"):
        run(tmp_path, Copy(spoils=True))


def test_a_tool_that_is_not_there_is_said_and_not_raced(tmp_path: Path) -> None:
    done = run(tmp_path, Copy(), Copy("gone", there=False), rounds=1)
    assert done.absent == ("gone",)
    assert {x.tool for x in done.laps} == {"copy"}
    with pytest.raises(Missing):
        run(tmp_path / "again", Copy("gone", there=False))


def test_a_ratio_is_of_runs_of_the_same_round_and_unknown_without_the_peer(tmp_path: Path) -> None:
    done = run(tmp_path, Copy("one"), rounds=1)
    assert all(r.times_faster is None for r in summary(done))

    def lap(round_: int, tool: str, wall_s: float) -> Lap:
        took = timedelta(seconds=wall_s)
        sample = Sample(wall=took, cpu=took, peak_bytes=1, others_cores=0.0)
        return Lap(round=round_, tool=tool, phase=Phase.FIRST, sample=sample, repository_bytes=10)

    # The machine was ten times slower in the second round, for both: the ratio is two all the same.
    laps = (lap(0, "a", 1), lap(0, "restic", 2), lap(1, "a", 10), lap(1, "restic", 20))
    noisy = Race(**{f: getattr(done, f) for f in Race.__slots__ if f != "laps"}, laps=laps)
    (mine, theirs) = summary(noisy)
    assert (mine.times_faster, theirs.times_faster) == (2.0, 1.0)


def test_cpu_of_children_counts_and_a_failure_is_told_with_its_last_words(tmp_path: Path) -> None:
    burn = "for i in range(3 * 10**6): pass"
    argv = ["sh", "-c", f"python3 -c '{burn}'; python3 -c '{burn}'"]
    one = measure(argv, env=os.environ, cwd=tmp_path, clock=CLOCK, deadline=timedelta(seconds=60))
    assert one.cpu > timedelta(milliseconds=20), "two children burnt it, not the shell"
    with pytest.raises(ToolFailed, match="no such luck"):
        measure(
            ["sh", "-c", "echo no such luck; exit 3"],
            env=os.environ,
            cwd=tmp_path,
            clock=CLOCK,
            deadline=timedelta(seconds=60),
        )


def test_a_disk_that_would_be_filled_is_refused_before_the_first_lap(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="the race may take"):
        race([Copy()], tmp_path, size_bytes=10**18, rounds=1, clock=CLOCK, progress=Silent())
    assert not list(tmp_path.iterdir())

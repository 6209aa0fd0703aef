"""Rounds of the same work by every tool, in turning order, and what the numbers then say.

Within a round all tools do a phase one after the other before the next phase begins, so what is compared was
measured within minutes; a ratio is the median of the rounds' own ratios, so a machine that is slow for one round is slow for both
sides. The set is read before each lap: the page cache is warm for everybody, also after a tool that asks the kernel to
forget what it has read. Every first restore is compared with the source byte by byte: a tool that restores something else has no time.
What a lap has written is emptied after it and deleted after the last: emptied, so that the next lap finds the memory
that this one had (a virtual machine pays for memory that it has not touched lately); not deleted, because ext4 looks
for five minutes at each inode that was just freed before it gives out another.
"""

import filecmp
import json
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup.bench.dataset import Made
from backup.bench.measure import Sample, floor_bytes, measure
from backup.bench.tools import Phase, Place, Tool
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Missing, NoSpace, Usage
from zaibei.kernel.process import run
from zaibei.kernel.progress import Progress
from zaibei.kernel.units import say_bytes

STEP_DEADLINE: Final = timedelta(minutes=30)
_PASSWORD = "a benchmark protects nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """One tool, one phase, one round."""

    round: int
    tool: str
    phase: Phase
    sample: Sample
    repository_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    at: datetime
    machine: str
    versions: dict[str, str]
    absent: tuple[str, ...]
    set: Made
    rounds: int
    floor_bytes: int
    laps: tuple[Lap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One tool in one phase over all rounds. Ratios: above 1 the tool is better than `against`."""

    tool: str
    phase: Phase
    wall_s: float
    wall_s_min: float
    wall_s_max: float
    cpu_s: float
    peak_bytes: int
    repository_bytes: int
    others_cores: float
    times_faster: float | None
    cpu_ratio: float | None
    size_ratio: float | None


def race(
    tools: Sequence[Tool],
    work: Path,
    *,
    size_bytes: int,
    rounds: int,
    clock: Clock,
    progress: Progress,
    seed: int = 1,
) -> Race:
    """Raises ToolFailed when a tool fails, Damage when one restores other bytes."""
    if rounds < 1:
        raise Usage("at least one round")
    versions = {t.name: v for t in tools if (v := t.version()) is not None}
    running = [t for t in tools if t.name in versions]
    if not running:
        raise Missing(
            "none of these tools is on this machine", hint="apt install restic borgbackup"
        )
    most = size_bytes * (2 + len(running))  # the set, a repository each, one restored set
    if (free := shutil.disk_usage(work).free) < most:
        raise NoSpace(
            f"{work}: {say_bytes(free)} free, and the race may take {say_bytes(most)}",
            hint="fewer --rounds, a smaller --size, fewer tools, or --work on a larger disk",
        )
    progress.step(f"making a set of {size_bytes} bytes")
    source = work / "set"
    made = _generated(source, size_bytes, seed)
    password = work / "password"
    password.write_text(_PASSWORD + "\n")
    password.chmod(0o600)
    laps: list[Lap] = []
    for number in range(rounds):
        # Who goes first finds another machine than who goes last.
        turn = number % len(running)
        order = running[turn:] + running[:turn]
        progress.step(f"round {number + 1} of {rounds}: {', '.join(t.name for t in order)}")
        laps += _round(number, order, work / f"round-{number}", source, password, clock, progress)
    for number in range(rounds):
        shutil.rmtree(work / f"round-{number}")
    return Race(
        at=clock.now(),
        machine=_machine(),
        versions=versions,
        absent=tuple(t.name for t in tools if t.name not in versions),
        set=made,
        rounds=rounds,
        floor_bytes=floor_bytes(),
        laps=tuple(laps),
    )


def summary(race: Race, *, against: str = "restic") -> list[Summary]:
    """Pure. Empty phases are left out: what was not measured is not shown."""
    found = []
    for phase in Phase:
        for tool in dict.fromkeys(lap.tool for lap in race.laps):
            mine = [x for x in race.laps if (x.tool, x.phase) == (tool, phase)]
            peers = [x for x in race.laps if (x.tool, x.phase) == (against, phase)]
            pairs = [(m, p) for m in mine for p in peers if m.round == p.round]
            if not mine:
                continue
            wall = [m.sample.wall.total_seconds() for m in mine]
            found.append(
                Summary(
                    tool=tool,
                    phase=phase,
                    wall_s=statistics.median(wall),
                    wall_s_min=min(wall),
                    wall_s_max=max(wall),
                    cpu_s=statistics.median(m.sample.cpu.total_seconds() for m in mine),
                    peak_bytes=max(m.sample.peak_bytes for m in mine),
                    repository_bytes=int(statistics.median(m.repository_bytes for m in mine)),
                    others_cores=statistics.median(m.sample.others_cores for m in mine),
                    times_faster=_median([p.sample.wall / m.sample.wall for m, p in pairs]),
                    cpu_ratio=_median([m.sample.cpu / p.sample.cpu for m, p in pairs]),
                    size_ratio=_median([m.repository_bytes / p.repository_bytes for m, p in pairs]),
                )
            )
    return found


def _round(
    number: int,
    tools: Sequence[Tool],
    work: Path,
    source: Path,
    password: Path,
    clock: Clock,
    progress: Progress,
) -> list[Lap]:
    laps: list[Lap] = []
    at = {}
    for tool in tools:
        here = work / tool.name.replace(" ", "-")
        at[tool.name] = place = Place(
            home=here / "home",
            repository=here / "repository",
            password=password,
            source=source,
            restored=here / "restored",
        )
        place.home.mkdir(parents=True)
        measure(
            tool.init(place), env=tool.env(place), cwd=here, clock=clock, deadline=STEP_DEADLINE
        )
    for phase in Phase:
        for tool in tools:
            place = at[tool.name]
            # Before each lap: borg asks the kernel to forget what it has read, and whoever came next read the disk.
            _warm(source)
            if phase is Phase.RESTORE:
                place.restored.mkdir()
            sample = measure(
                tool.command(phase, place),
                env=tool.env(place),
                cwd=place.home.parent,
                clock=clock,
                deadline=STEP_DEADLINE,
            )
            laps.append(
                Lap(
                    round=number,
                    tool=tool.name,
                    phase=phase,
                    sample=sample,
                    repository_bytes=_size(place.repository),
                )
            )
            progress.note(
                f"{tool.name} {phase.value}: {sample.wall.total_seconds():.2f} s,"
                f" {sample.cpu.total_seconds():.2f} CPU s, {sample.peak_bytes >> 20} MiB"
            )
            compared = phase is Phase.RESTORE and number == 0
            if compared and (why := _differs(source, tool.came_back(place))) is not None:
                raise Damage(f"{tool.name} restored something else: {why}")
            if phase is Phase.RESTORE:
                _empty(place.restored)
    _empty(work)
    return laps


def _empty(top: Path) -> None:
    for path in _files(top):
        os.truncate(path, 0)


def _generated(target: Path, size_bytes: int, seed: int) -> Made:
    said = run(
        [sys.executable, "-P", "-m", "backup.bench.dataset", target, str(size_bytes), str(seed)],
        deadline=STEP_DEADLINE,
    )
    made = json.loads(said)
    return Made(files=made["files"], size_bytes=made["size_bytes"])


def _warm(source: Path) -> None:
    for path in _files(source):
        with path.open("rb", buffering=0) as one:
            while one.read(1 << 20):
                pass


def _differs(left: Path, right: Path) -> str | None:
    """Why two trees are not the same in names, sizes, times and bytes."""
    ours = sorted(p.relative_to(left) for p in _files(left))
    theirs = sorted(p.relative_to(right) for p in _files(right))
    if ours != theirs:
        return f"{len(ours)} files here, {len(theirs)} there"
    for name in ours:
        if not filecmp.cmp(left / name, right / name, shallow=False):
            return str(name)
        if (left / name).stat().st_mtime_ns != (right / name).stat().st_mtime_ns:
            return f"{name}: another time"
    return None


def _files(top: Path) -> list[Path]:
    return [Path(d) / f for d, _, files in os.walk(top) for f in files]


def _size(top: Path) -> int:
    return sum(p.stat().st_size for p in _files(top))


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _machine() -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown CPU",
    )
    return f"{os.cpu_count()} cores, {cpu}, Linux {os.uname().release}"

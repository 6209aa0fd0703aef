"""Does the engine tell the truth? A service that freezes once, at a constant rate, has percentiles that
can be written down; the engine must report those.

Stock, closed-loop load tests do not: their users stand in the frozen service and send nothing, so a stall
of a second that hit every sixtieth citizen shows up as a handful of slow requests. `beside` runs stock
locust against the same service in the same minute and reports what it believed.
"""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from loadtest import run
from loadtest.results import SurgeResult
from loadtest.scenario import SurgeScenario
from loadtest.shapes import Spacing, constant, intended_by
from loadtest.verdict import Verdict
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import ToolFailed
from zaibei.kernel.wait import wait_until

STOCK_USERS = 10
_MARGIN = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class StallTest:
    """Constant `rate_rps` for `length`; the service answers after `base` and freezes in the middle."""

    rate_rps: float
    length: timedelta
    base: timedelta
    freeze: timedelta
    send_lag_p99_max: timedelta = timedelta(milliseconds=10)  # later, and the run is no judge


FULL = StallTest(
    rate_rps=100,
    length=timedelta(seconds=60),
    base=timedelta(milliseconds=10),
    freeze=timedelta(seconds=1),
    send_lag_p99_max=timedelta(milliseconds=4),  # as late as p99 may be off: no judge
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    p50: timedelta
    p99: timedelta
    p999: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleReport:
    verdict: Verdict
    truth: Percentiles
    measured: Percentiles | None
    error: Percentiles | None  # measured - truth
    tolerance_ratio: float
    tolerance: timedelta  # whichever of the two is wider
    froze: timedelta
    stock: Percentiles | None  # stock locust beside it, closed loop
    result: SurgeResult


def truth_of(
    due_s: Sequence[float], *, froze_s: float, thawed_s: float, base: timedelta
) -> list[float]:
    """The latency of every citizen, sorted.

    One who comes in the freeze waits for its end and then the base latency. One who came up to a base
    latency before it had its answer ready inside the freeze, and gets it at the thaw.
    """
    base_s = base.total_seconds()

    def answered_s(at_s: float) -> float:
        if froze_s <= at_s < thawed_s:
            return thawed_s + base_s
        ready_s = at_s + base_s
        return thawed_s if froze_s <= ready_s < thawed_s else ready_s

    return sorted(answered_s(at_s) - at_s for at_s in due_s)


def percentile(ordered_s: Sequence[float], percent: float) -> timedelta:
    """Nearest rank."""
    rank = max(1, math.ceil(round(len(ordered_s) * percent / 100, 6)))
    return timedelta(seconds=ordered_s[rank - 1])


def percentiles(ordered_s: Sequence[float]) -> Percentiles:
    p50, p99, p999 = (percentile(ordered_s, p) for p in (50, 99, 99.9))
    return Percentiles(p50=p50, p99=p99, p999=p999)


def within(error: Percentiles, truth: Percentiles, *, ratio: float, tolerance: timedelta) -> bool:
    """p99 and p99.9, each to `ratio` of the truth or to `tolerance`, whichever is wider."""
    return all(
        abs(off) <= max(tolerance, abs(true) * ratio)
        for off, true in ((error.p99, truth.p99), (error.p999, truth.p999))
    )


class RiggedService:
    """The rigged service as a child process."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, tls: bool) -> None:
        self._process = process
        self.port = int(self._next()["port"])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def freeze(self, *, at_s: float, duration: timedelta) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"freeze {at_s!r} {duration.total_seconds()!r}\n".encode())
        self._process.stdin.flush()

    def froze_s(self) -> tuple[float, float]:
        began_s, ended_s = self._next()["froze_s"]
        return float(began_s), float(ended_s)

    def _next(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ToolFailed("the rigged service ended without a word")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *gone: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()  # its sign to end
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        process.end(self._process)


def rigged(
    *, base: timedelta = timedelta(0), cert: Path | None = None, key: Path | None = None
) -> RiggedService:
    argv = [sys.executable, "-P", "-m", "loadtest.rigged"]
    argv += ["--base-ms", f"{base.total_seconds() * 1000:g}"]
    if cert is not None and key is not None:
        argv += ["--cert", str(cert), "--key", str(key)]
    return RiggedService(
        process.start(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(Path(__file__).parents[1])},
        ),
        tls=cert is not None,
    )


def scenario_of(test: StallTest) -> SurgeScenario:
    """Citizens without impatience: every one waits for the one answer, as the arithmetic assumes."""
    return SurgeScenario.model_validate(
        {
            "name": "stall-oracle",
            "title": {"zh": "停顿基准", "en": "stall oracle"},
            "hazard": "H2",
            "summary": "a service that stands still once",
            "spacing": "constant",
            "shape": {"kind": "constant", "rate_rps": test.rate_rps, "duration": test.length},
            "persons": {"count": 1},
            "visits": [{"name": "ask", "weight": 1, "steps": [{"name": "ask", "path": "/ok"}]}],
            "connections": "pooled",
            "patience": {"refresh_after": timedelta(seconds=30), "refreshes_max": 0},
            "expect": {"success_ratio_min": 1},
            "caps": {"send_lag_p99": test.send_lag_p99_max},
        }
    )


def ask(
    test: StallTest,
    *,
    run_dir: Path,
    clock: Clock,
    tolerance_ratio: float,
    tolerance: timedelta,
    beside: bool,
) -> OracleReport:
    """Run the test. INVALID when the generator's own check says so; its figures are still told."""
    scenario = scenario_of(test)
    with rigged(base=test.base) as service:
        with run.start(
            scenario,
            doors=[service.url],
            ca_file=None,
            run_dir=run_dir / "open-loop",
            seed=0,
            clock=clock,
            declared=(),
        ) as surge:
            service.freeze(
                at_s=surge.start_s + test.length.total_seconds() / 2, duration=test.freeze
            )
            if beside:
                with _stock(test, service.url, run_dir / "closed-loop") as locust:
                    result = surge.wait()
                    stock = _stock_percentiles(locust, run_dir / "closed-loop", clock)
            else:
                result, stock = surge.wait(), None
        froze_s, thawed_s = service.froze_s()
    shape = constant(rate_rps=test.rate_rps, duration_s=test.length.total_seconds())
    due_s = intended_by(shape, Spacing.CONSTANT, seed=0, until_s=shape.duration_s)
    truth = percentiles(
        truth_of(
            due_s,
            froze_s=froze_s - surge.start_s,
            thawed_s=thawed_s - surge.start_s,
            base=test.base,
        )
    )
    measured = error = None
    if result.p50 is not None and result.p99 is not None and result.p999 is not None:
        measured = Percentiles(p50=result.p50, p99=result.p99, p999=result.p999)
        error = Percentiles(
            p50=result.p50 - truth.p50, p99=result.p99 - truth.p99, p999=result.p999 - truth.p999
        )
    if not result.generator_verdict.valid:
        verdict = Verdict.INVALID
    elif error is not None and within(error, truth, ratio=tolerance_ratio, tolerance=tolerance):
        verdict = Verdict.PASS
    else:
        verdict = Verdict.FAIL
    return OracleReport(
        verdict=verdict,
        truth=truth,
        measured=measured,
        error=error,
        tolerance_ratio=tolerance_ratio,
        tolerance=tolerance,
        froze=timedelta(seconds=thawed_s - froze_s),
        stock=stock,
        result=result,
    )


@contextmanager
def _stock(test: StallTest, url: str, run_dir: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Stock locust, ten users that together ask at the same rate."""
    home = run_dir / "home"
    home.mkdir(parents=True)
    with (run_dir / "locust.log").open("wb") as log:
        locust = process.start(
            run.locust_argv(
                "closed_loop.py",
                *("-u", str(STOCK_USERS), "-r", str(STOCK_USERS), "--host", url),
                *("-t", f"{test.length.total_seconds():g}s", "--csv", str(run_dir / "stock")),
            ),
            cwd=home,
            env=run.locust_env(home, ZAIBEI_STOCK_RPS=str(test.rate_rps / STOCK_USERS)),
            stdout=log,
            stderr=log,
        )
        try:
            yield locust
        finally:
            process.end(locust)


def _stock_percentiles(
    locust: "subprocess.Popen[bytes]", run_dir: Path, clock: Clock
) -> Percentiles:
    wait_until(
        lambda: "it is running" if locust.poll() is None else None,
        what="stock locust to end",
        deadline=_MARGIN,
        clock=clock,
    )
    with (run_dir / "stock_stats.csv").open(newline="") as file:
        total = next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
    p50, p99, p999 = (timedelta(milliseconds=float(total[c])) for c in ("50%", "99%", "99.9%"))
    return Percentiles(p50=p50, p99=p99, p999=p999)

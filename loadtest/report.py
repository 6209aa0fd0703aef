"""A surge judged: the scenario's claims against its result."""

from dataclasses import dataclass
from pathlib import Path

from loadtest.results import SurgeResult
from loadtest.scenario import SurgeScenario
from loadtest.verdict import Clause, Verdict, clauses, judge, undeniable_harm


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeReport:
    verdict: Verdict
    clauses: tuple[Clause, ...]
    run_dir: Path
    result: SurgeResult
    harm: str | None = None  # proven whatever the generator did; it makes the verdict FAIL


def judged(scenario: SurgeScenario, result: SurgeResult, *, run_dir: Path) -> SurgeReport:
    expect = scenario.expectation()
    harm = undeniable_harm(
        expect,
        offered=result.offered,
        gave_up=result.rejected + result.failed,
        lag_p99=result.send_lag_p99,
        refresh_after=scenario.patience.refresh_after,
    )
    found = clauses(
        expect,
        success_ratio=result.success_ratio,
        p50=result.p50,
        p99=result.p99,
        longest_silence=result.longest_silence,
        amplification=result.amplification,
    )
    return SurgeReport(
        verdict=judge(result.generator_verdict, found, harm=harm),
        clauses=found,
        run_dir=run_dir,
        result=result,
        harm=harm,
    )

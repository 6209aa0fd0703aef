"""A surge judged: the scenario's claims against its result."""

from dataclasses import dataclass
from pathlib import Path

from loadtest.results import SurgeResult
from loadtest.scenario import SurgeScenario
from loadtest.verdict import Clause, Verdict, clauses, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeReport:
    verdict: Verdict
    clauses: tuple[Clause, ...]
    run_dir: Path
    result: SurgeResult


def judged(scenario: SurgeScenario, result: SurgeResult, *, run_dir: Path) -> SurgeReport:
    found = clauses(
        scenario.expectation(),
        success_ratio=result.success_ratio,
        p50=result.p50,
        p99=result.p99,
        longest_silence=result.longest_silence,
        amplification=result.amplification,
    )
    return SurgeReport(
        verdict=judge(result.generator_verdict, found),
        clauses=found,
        run_dir=run_dir,
        result=result,
    )

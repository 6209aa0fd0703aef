"""PASS, FAIL or INVALID. A pure decision, and a suspicious one.

PASS is the only word that needs everything: every check that is required ran and held, the
measurement can be trusted, and the objective was met. Harm that was seen outranks doubt: a lost
write does not come back because the generator was slow. A time that was too long does not: a busy
host makes times long. (docs/design/ledger.md argues the order.)
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from failover.check import Findings
from failover.ledger import Ending
from failover.measure import Measures, rpo
from zaibei.config.model import Objective


class Ruling(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    INVALID = "INVALID"  # the measurement cannot be trusted; never shown as a pass


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One more thing that was looked at: replicas compared, nothing left behind, the control."""

    name: str
    ran: bool
    passed: bool
    detail: str = ""
    if_failed: Ruling = Ruling.FAIL  # INVALID where its failure spoils the measurement only


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a measurement may suffer and still be one."""

    ok_before: int = 5  # acknowledged in the last second before the fault
    ok_after: int = 5  # acknowledged in the first second after recovery
    lag_p99: timedelta = timedelta(milliseconds=50)
    lag_max: timedelta = timedelta(milliseconds=250)
    host_cpu_some_pct: float = 60.0  # PSI cpu some avg10, the largest seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    ruling: Ruling
    reasons: tuple[str, ...]  # of the ruling first, then what else was seen; empty only for PASS


def judge(
    findings: Findings | None,
    measures: Measures | None,
    objective: Objective,
    checks: Sequence[CheckResult],
    *,
    required: Collection[str],
    host_cpu_some_pct: float | None,
    bounds: Bounds | None = None,
) -> Verdict:
    """`required` names the checks without which there is no PASS. None is "was not done"."""
    assert required, "a verdict that requires nothing proves nothing"
    bounds = bounds or Bounds()
    harm = [*_harm(findings, measures, objective), *_failed(checks, Ruling.FAIL)]
    doubt = [
        *_missing(findings, measures, checks, required),
        *_failed(checks, Ruling.INVALID),
        *_vacuous(findings, measures, objective, bounds),
        *_disturbed(measures, host_cpu_some_pct, bounds),
    ]
    slow = _slow(measures, objective)
    if harm:
        return Verdict(ruling=Ruling.FAIL, reasons=(*harm, *slow, *doubt))
    if doubt:
        return Verdict(ruling=Ruling.INVALID, reasons=(*doubt, *slow))
    if slow:
        return Verdict(ruling=Ruling.FAIL, reasons=tuple(slow))
    assert findings is not None
    assert findings.acknowledged > 0
    assert set(required) <= {c.name for c in checks if c.ran and c.passed}
    return Verdict(ruling=Ruling.PASS, reasons=())


def ledger_whole(ending: Ending) -> CheckResult:
    """The clients lived to the end, and their record with them."""
    whole = ending.closed and ending.torn_bytes == 0 and ending.unanswered == 0
    return CheckResult(
        name="ledger-whole",
        ran=True,
        passed=whole,
        detail=f"closed {ending.closed}, torn {ending.torn_bytes} B, unanswered {ending.unanswered}",
        if_failed=Ruling.INVALID,
    )


def _harm(findings: Findings | None, measures: Measures | None, objective: Objective) -> list[str]:
    """Proven by what is, or is not, in the database. No clock and no load can excuse it."""
    if findings is None:
        return []
    reasons = []
    if findings.overlap:
        reasons.append(
            f"split brain: {findings.overlap} writes were acknowledged by an old epoch up to"
            f" {findings.overlap_s:.3f} s after a newer one had begun"
        )
    if findings.lost and not objective.rpo:
        reasons.append(f"{findings.lost} acknowledged writes are lost")
    elif findings.lost and measures is not None:
        loss = rpo(findings, measures)
        if loss.time is None or loss.at_least or not loss.time <= objective.rpo:
            reasons.append(
                f"{findings.lost} acknowledged writes are lost, of the last {_say(loss.time)};"
                f" {_say(objective.rpo)} are allowed"
            )
    if findings.corrupted:
        reasons.append(f"{findings.corrupted} writes hold other bytes than were sent")
    if findings.resurrected:
        reasons.append(f"{findings.resurrected} writes are there that were answered: not applied")
    if findings.duplicates:
        reasons.append(f"{findings.duplicates} writes are there more than once")
    return reasons


def _missing(
    findings: Findings | None,
    measures: Measures | None,
    checks: Sequence[CheckResult],
    required: Collection[str],
) -> list[str]:
    reasons = []
    if findings is None:
        reasons.append("nothing was read back")
    elif findings.unread:
        reasons.append(f"not read back: {', '.join(findings.unread)}")
    if findings is not None and findings.phantoms:
        # Either the ledger lost records or somebody else writes under this drill's name. Both ways
        # the ledger does not know everything that was acknowledged.
        reasons.append(f"{findings.phantoms} writes are there that the ledger never attempted")
    if measures is None:
        reasons.append("nothing was measured")
    named = {c.name for c in checks}
    reasons += [f"{name}: did not run" for name in sorted(set(required) - named)]
    reasons += [f"{c.name}: did not run: {c.detail}" for c in checks if not c.ran]
    return reasons


def _failed(checks: Sequence[CheckResult], as_: Ruling) -> list[str]:
    """Whatever a check calls its failure, it is never a pass."""
    return [
        f"{c.name}: {c.detail}"
        for c in checks
        if c.ran and not c.passed and (c.if_failed is Ruling.FAIL) == (as_ is Ruling.FAIL)
    ]


def _vacuous(
    findings: Findings | None, measures: Measures | None, objective: Objective, bounds: Bounds
) -> list[str]:
    """Nothing lost of nothing written is not a result."""
    reasons = []
    if findings is not None and findings.acknowledged == 0:
        reasons.append("no write was acknowledged")
    if measures is None:
        return reasons
    if measures.ok_before < bounds.ok_before:
        reasons.append(
            f"{measures.ok_before} writes acknowledged in the second before the fault,"
            f" {bounds.ok_before} needed"
        )
    if measures.recovered and measures.ok_after < bounds.ok_after:
        reasons.append(
            f"{measures.ok_after} writes acknowledged in the second after recovery,"
            f" {bounds.ok_after} needed"
        )
    unseen = measures.rto_first is None or measures.rto_stable is None
    if unseen and not _offered_long_enough(measures, objective):
        reasons.append("the traffic ended before the objective did: recovery was not seen")
    return reasons


def _disturbed(
    measures: Measures | None, host_cpu_some_pct: float | None, bounds: Bounds
) -> list[str]:
    # `not x <= bound` and never `x > bound`: a figure that is no number must not slip through.
    reasons = []
    if host_cpu_some_pct is None:
        reasons.append("the load of the host was not measured")
    elif not host_cpu_some_pct <= bounds.host_cpu_some_pct:
        reasons.append(
            f"the host was overloaded: cpu pressure {host_cpu_some_pct:g} %,"
            f" {bounds.host_cpu_some_pct:g} % is the bound"
        )
    lag = None if measures is None else measures.lag
    if measures is not None and lag is None:
        reasons.append("the generator sent nothing")
    if lag is not None and not (lag.p99 <= bounds.lag_p99 and lag.max <= bounds.lag_max):
        reasons.append(
            f"the generator was late: p99 {_say(lag.p99)}, max {_say(lag.max)};"
            f" bounds {_say(bounds.lag_p99)}, {_say(bounds.lag_max)}"
        )
    return reasons


def _slow(measures: Measures | None, objective: Objective) -> list[str]:
    """Both must hold: first says that it came back, stable that it stayed."""
    if measures is None:
        return []
    reasons = []
    for name, took in (("first", measures.rto_first), ("stable", measures.rto_stable)):
        if took is None:
            reasons.append(f"RTO {name}: not recovered while it was watched")
        elif not took <= objective.rto:
            reasons.append(f"RTO {name}: {_say(took)}, {_say(objective.rto)} is the objective")
    return reasons


def _offered_long_enough(measures: Measures, objective: Objective) -> bool:
    until_s = measures.offered_until_s
    return until_s is not None and until_s - measures.fault_s >= objective.rto.total_seconds()


def _say(value: timedelta | None) -> str:
    return "unknown" if value is None else f"{value.total_seconds():.3f} s"

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

from failover.checker import Findings
from failover.ledger.reader import Ending
from failover.measure import Measures, rpo
from failover.required import title
from zaibei.config.model import Objective
from zaibei.kernel.bilingual import Bilingual, quoted


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
    excusable: bool = (
        False  # a busy host may have made it: doubt outranks it, as it does a long time
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a measurement may suffer and still be one."""

    ok_before: int = 5  # acknowledged in the last second before the fault
    ok_after: int = 5  # acknowledged in the first second after recovery
    lag_p99: timedelta = timedelta(milliseconds=50)
    lag_max: timedelta = timedelta(milliseconds=250)
    host_cpu_some_pct: float = 60.0  # PSI cpu some avg10, the largest seen


# Three sites, the clients and the load share the lab's cores; beyond this a time is the host's and not
# the stack's (PSI cpu some, avg10).
_LAB_CPU_SOME_PCT = 90.0
_LATE_SHARE = 60  # one late write may blur an RTO by a sixtieth of its objective, no more


def bounds_of(objective: Objective) -> Bounds:
    """Of a drill; the same again when its pack is judged."""
    return Bounds(host_cpu_some_pct=_LAB_CPU_SOME_PCT, lag_max=objective.rto / _LATE_SHARE)


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
    slow = [*_slow(measures, objective), *_failed(checks, Ruling.FAIL, excusable=True)]
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
        detail=Bilingual(
            f"closed {ending.closed}, torn {ending.torn_bytes} B, unanswered {ending.unanswered}",
            f"{'已' if ending.closed else '未'}正常关闭，残缺 {ending.torn_bytes} 字节，"
            f"未得到答复 {ending.unanswered} 笔",
        ),
        if_failed=Ruling.INVALID,
    )


def _harm(findings: Findings | None, measures: Measures | None, objective: Objective) -> list[str]:
    """Proven by what is, or is not, in the database. No clock and no load can excuse it."""
    if findings is None:
        return []
    reasons: list[str] = []
    if findings.overlap:
        reasons.append(
            Bilingual(
                f"split brain: {findings.overlap} writes were acknowledged by an old epoch up to"
                f" {findings.overlap_s:.3f} s after a newer one had begun",
                f"双写（脑裂）：新纪元开始后，旧纪元仍确认了 {findings.overlap} 笔写入，最晚在其后 {findings.overlap_s:.3f} 秒",
            )
        )
    if findings.lost and not objective.rpo:
        reasons.append(
            Bilingual(
                f"{findings.lost} acknowledged writes are lost",
                f"已确认的写入丢失 {findings.lost} 笔",
            )
        )
    elif findings.lost and measures is not None:
        loss = rpo(findings, measures)
        if loss.time is None or loss.at_least or not loss.time <= objective.rpo:
            reasons.append(
                Bilingual(
                    f"{findings.lost} acknowledged writes are lost, of the last {_say(loss.time)};"
                    f" {_say(objective.rpo)} are allowed",
                    f"已确认的写入丢失 {findings.lost} 笔，属于最后 {_zh(loss.time)}；"
                    f"允许丢失 {_zh(objective.rpo)}",
                )
            )
    if findings.corrupted:
        reasons.append(
            Bilingual(
                f"{findings.corrupted} writes hold other bytes than were sent",
                f"{findings.corrupted} 笔写入的内容与发出的不一致",
            )
        )
    if findings.resurrected:
        reasons.append(
            Bilingual(
                f"{findings.resurrected} writes are there that were answered: not applied",
                f"{findings.resurrected} 笔写入被答复为未执行，却存在",
            )
        )
    if findings.duplicates:
        reasons.append(
            Bilingual(
                f"{findings.duplicates} writes are there more than once",
                f"{findings.duplicates} 笔写入出现了不止一次",
            )
        )
    return reasons


def _missing(
    findings: Findings | None,
    measures: Measures | None,
    checks: Sequence[CheckResult],
    required: Collection[str],
) -> list[str]:
    reasons: list[str] = []
    if findings is None:
        reasons.append(Bilingual("nothing was read back", "没有回读任何内容"))
    elif findings.unread:
        kinds = {"row": "数据行", "object": "对象"}
        reasons.append(
            Bilingual(
                f"not read back: {', '.join(findings.unread)}",
                f"没有回读：{'、'.join(kinds.get(k, k) for k in findings.unread)}",
            )
        )
    if findings is not None and findings.phantoms:
        # Either the ledger lost records or somebody else writes under this drill's name. Both ways
        # the ledger does not know everything that was acknowledged.
        reasons.append(
            Bilingual(
                f"{findings.phantoms} writes are there that the ledger never attempted",
                f"存在 {findings.phantoms} 笔账本中从未发出的写入",
            )
        )
    if measures is None:
        reasons.append(Bilingual("nothing was measured", "没有测到任何数据"))
    named = {c.name for c in checks}
    reasons += [
        Bilingual(f"{name}: did not run", f"{title(name).zh}：未执行")
        for name in sorted(set(required) - named)
    ]
    reasons += [
        Bilingual(
            f"{c.name}: did not run: {c.detail}",
            f"{title(c.name).zh}：未执行：{quoted(c.detail).zh}",
        )
        for c in checks
        if not c.ran
    ]
    return reasons


def _failed(checks: Sequence[CheckResult], as_: Ruling, *, excusable: bool = False) -> list[str]:
    """Whatever a check calls its failure, it is never a pass."""
    return [
        _named(c, c.detail)
        for c in checks
        if c.ran
        and not c.passed
        and (c.if_failed is Ruling.FAIL) == (as_ is Ruling.FAIL)
        and (as_ is not Ruling.FAIL or c.excusable == excusable)
    ]


def _named(check: CheckResult, detail: str) -> Bilingual:
    return Bilingual(f"{check.name}: {detail}", f"{title(check.name).zh}：{quoted(detail).zh}")


def _vacuous(
    findings: Findings | None, measures: Measures | None, objective: Objective, bounds: Bounds
) -> list[str]:
    """Nothing lost of nothing written is not a result."""
    reasons: list[str] = []
    if findings is not None and findings.acknowledged == 0:
        reasons.append(Bilingual("no write was acknowledged", "没有一笔写入得到确认"))
    if measures is None:
        return reasons
    if measures.ok_before < bounds.ok_before:
        reasons.append(
            Bilingual(
                f"{measures.ok_before} writes acknowledged in the second before the fault,"
                f" {bounds.ok_before} needed",
                f"故障前一秒内确认了 {measures.ok_before} 笔写入，至少需要 {bounds.ok_before} 笔",
            )
        )
    if measures.recovered and measures.ok_after < bounds.ok_after:
        reasons.append(
            Bilingual(
                f"{measures.ok_after} writes acknowledged in the second after recovery,"
                f" {bounds.ok_after} needed",
                f"恢复后一秒内确认了 {measures.ok_after} 笔写入，至少需要 {bounds.ok_after} 笔",
            )
        )
    unseen = measures.rto_first is None or measures.rto_stable is None
    if unseen and not _offered_long_enough(measures, objective):
        reasons.append(
            Bilingual(
                "the traffic ended before the objective did: recovery was not seen",
                "业务流量在目标时限之前结束：没有观察到恢复",
            )
        )
    return reasons


def _disturbed(
    measures: Measures | None, host_cpu_some_pct: float | None, bounds: Bounds
) -> list[str]:
    # `not x <= bound` and never `x > bound`: a figure that is no number must not slip through.
    reasons: list[str] = []
    if host_cpu_some_pct is None:
        reasons.append(Bilingual("the load of the host was not measured", "没有测得主机负载"))
    elif not host_cpu_some_pct <= bounds.host_cpu_some_pct:
        reasons.append(
            Bilingual(
                f"the host was overloaded: cpu pressure {host_cpu_some_pct:g} %,"
                f" {bounds.host_cpu_some_pct:g} % is the bound",
                f"主机过载：CPU 压力 {host_cpu_some_pct:g} %，上限 {bounds.host_cpu_some_pct:g} %",
            )
        )
    lag = None if measures is None else measures.lag
    if measures is not None and lag is None:
        reasons.append(Bilingual("the generator sent nothing", "发生器没有发出任何写入"))
    if lag is not None and not (lag.p99 <= bounds.lag_p99 and lag.max <= bounds.lag_max):
        reasons.append(
            Bilingual(
                f"the generator was late: p99 {_say(lag.p99)}, max {_say(lag.max)};"
                f" bounds {_say(bounds.lag_p99)}, {_say(bounds.lag_max)}",
                f"发生器迟到：p99 {_zh(lag.p99)}，最大 {_zh(lag.max)}；"
                f"上限 {_zh(bounds.lag_p99)}、{_zh(bounds.lag_max)}",
            )
        )
    return reasons


def _slow(measures: Measures | None, objective: Objective) -> list[str]:
    """Both must hold: first says that it came back, stable that it stayed."""
    if measures is None:
        return []
    reasons: list[str] = []
    for name, zh, took in (
        ("first", "首次恢复", measures.rto_first),
        ("stable", "稳定恢复", measures.rto_stable),
    ):
        if took is None:
            reasons.append(
                Bilingual(
                    f"RTO {name}: not recovered while it was watched",
                    f"{zh} RTO：观察期间没有恢复",
                )
            )
        elif not took <= objective.rto:
            reasons.append(
                Bilingual(
                    f"RTO {name}: {_say(took)}, {_say(objective.rto)} is the objective",
                    f"{zh} RTO：{_zh(took)}，目标为 {_zh(objective.rto)}",
                )
            )
    return reasons


def _offered_long_enough(measures: Measures, objective: Objective) -> bool:
    until_s = measures.offered_until_s
    return until_s is not None and until_s - measures.fault_s >= objective.rto.total_seconds()


def _say(value: timedelta | None) -> str:
    return "unknown" if value is None else f"{value.total_seconds():.3f} s"


def _zh(value: timedelta | None) -> str:
    return "未知" if value is None else f"{value.total_seconds():.3f} 秒"

"""Say what an outcome needs to be a PASS, and what in its own data denies one. Pure.

These are the rules that can be held to the signed statement alone. Whether its figures follow from
the ledger is another question: `zaibei evidence judge` recomputes them.
"""

import math
from collections.abc import Mapping
from typing import Any

from zaibei.evidence.kinds import Kind
from zaibei.evidence.statement import Statement
from zaibei.kernel import canonical

SURGE = ("surge-generator", "surge-expectation")  # the load was as planned, and the service bore it
REQUIRED = (
    "ledger-whole",
    "takeover",
    "backup-committed",
    "restore-verified",
    "replicas-agree",
    "objects-converged",
    "failback",
    "nothing-left",
    "negative-control",
    *SURGE,
)
STACK, PLAN, READBACK = "stack.json", "plan.json", "readback.jsonl"
# Fixed before the fault, and the same in intent and outcome.
BOUND = ("hazard", "objective", "required", "run_by", "scenario", "seed", "stack", "started_at")
LEDGER = ("ledger.jsonl", "ledger.jsonl.gz")
_RTO = ("rto_first_s", "rto_stable_s")
_NONE_OF = {  # a count that must be there and be 0, with what it means when it is not
    "phantoms": ("出现从未提交却存在的写入", "writes exist that nobody made"),
    "resurrected": (
        "出现已答复“未生效”却存在的写入",
        "writes exist that were answered: not applied",
    ),
    "epoch_overlap": (
        "新旧主库同时确认写入（脑裂）",
        "two epochs acknowledged writes at once: split brain",
    ),
}
Text = dict[str, str]


def required_of(*, surge: bool) -> tuple[str, ...]:
    """The checks without which there is no PASS. A scenario without a surge has none of its checks."""
    return tuple(name for name in REQUIRED if surge or name not in SURGE)


def contradictions(outcome: Statement, intent: Statement | None = None) -> list[Text]:
    """What stands in a recorded PASS against it; empty for any other verdict.

    `intent`: what was announced. What is absent denies a PASS as much as what is wrong: an outcome
    with fewer checks than it needs must not look better than one with a failed check.
    """
    said = outcome.predicate
    if outcome.predicate_type != Kind.OUTCOME or said.get("verdict") != "PASS":
        return []
    found = [
        *_losses(said),
        *_times(said),
        *_checks(said),
        *_artefacts(outcome),
        *(_announced(said, intent) if intent is not None else ()),
    ]
    return [{"zh": zh, "en": en} for zh, en in found]


def _losses(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    goal = _number(said, "objective", "rpo_s")
    acked, lost = _number(said, "acked"), _number(said, "lost")
    objects = _number(said, "objects", "lost")
    if goal is None or goal < 0:
        found.append(("没有记录丢失目标（RPO）", "no objective for loss (RPO) is recorded"))
    if not acked or acked < 0:
        found.append(("没有已确认的写入", "no write was acknowledged"))
    if lost is None or lost < 0:
        found.append(("丢失的写入数没有测得", "the number of lost writes was not measured"))
    if objects is None or objects < 0:
        found.append(("丢失的对象数没有测得", "the number of lost objects was not measured"))
    if goal == 0 and (lost or objects):
        found.append(
            (
                "目标为零丢失，却有已确认的写入丢失",
                "acknowledged writes were lost and the objective is zero",
            )
        )
    elif goal and (lost or objects):
        took = _number(said, "rpo_s")
        if (
            not took
            or not 0 < took <= goal
            or (acked is not None and lost is not None and lost >= acked)
        ):
            found.append(
                (
                    "有已确认的写入丢失，丢失的时间没有测得或超过目标",
                    "writes were lost; for how long was not measured, or is over the objective",
                )
            )
    for name, (zh, en) in _NONE_OF.items():
        count = _number(said, name)
        if count is None:
            found.append((f"{name} 没有测得", f"{name} was not measured"))
        elif count:
            found.append((zh, en))
    return found


def _times(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    goal = _number(said, "objective", "rto_s")
    if goal is None or goal <= 0:
        found.append(("没有记录恢复时间目标（RTO）", "no objective for time (RTO) is recorded"))
    for key in _RTO:
        took = _number(said, key)
        if took is None and key == "rto_stable_s":
            found.append(("稳定恢复时间没有测得", "the time to stable recovery was not measured"))
        elif took is None:
            found.append((f"{key} 没有测得", f"{key} was not measured"))
        elif took < 0:
            found.append((f"{key} 是负数", f"{key} is negative"))
        elif goal is not None and not took <= goal:
            found.append((f"{key} 超过目标", f"{key} is over the objective"))
    return found


def _checks(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    control = said.get("negative_control")
    if not isinstance(control, Mapping) or control.get("condemned") is not True:
        found.append(("反向对照没有被判为失败", "the negative control was not condemned"))
    checks = said.get("checks")
    named: set[str] = set()
    for check in checks if isinstance(checks, list) else []:
        name = check.get("name") if isinstance(check, Mapping) else None
        if isinstance(name, str):
            named.add(name)
        else:
            name = "?"
            found.append(("有一项检查没有名称", "a check has no name"))
        if not isinstance(check, Mapping) or check.get("ran") is not True:
            found.append((f"检查未执行：{name}", f"a check did not run: {name}"))
        elif check.get("passed") is not True:
            found.append((f"检查未通过：{name}", f"a check did not pass: {name}"))
    needed = required_of(surge=said.get("surge") is not None)
    listed = said.get("required")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if not isinstance(listed, list) or len(names) != len(listed) or set(needed) - set(names):
        found.append(
            ("没有记录完整的必需检查清单", "the list of required checks is absent or not whole")
        )
    found += [
        (f"缺少必需的检查：{name}", f"a required check is absent: {name}")
        for name in dict.fromkeys([*needed, *names])
        if name not in named
    ]
    return found


def _artefacts(outcome: Statement) -> list[tuple[str, str]]:
    """The raw data are in the pack, under the digests that the outcome names."""
    subjects = {s.name: s.sha256 for s in outcome.subject}
    if not set(LEDGER) & set(subjects):
        return [
            (
                "证据包中没有账本，结论无法复核",
                "no ledger is in the pack: nothing can be recomputed",
            )
        ]
    named = outcome.predicate.get("artefacts")
    listed = [
        (a.get("name"), a.get("sha256")) if isinstance(a, Mapping) else (None, None)
        for a in (named if isinstance(named, list) else [])
    ]
    # As a list: an item that stands twice, or is no item, is not one of those that were signed.
    if len(listed) != len(subjects) or any(one not in listed for one in subjects.items()):
        return [
            (
                "所列原始数据与证据包中的不符",
                "the artefacts it lists are not those it was signed with",
            )
        ]
    return []


def _announced(said: Mapping[str, Any], intent: Statement) -> list[tuple[str, str]]:
    """What was fixed before the fault is still that, and the files of the intent are the ones it names."""
    found = [
        (f"{key} 与演练前宣布的不同", f"{key} is not what was announced")
        if key in said
        else (f"{key} 已宣布而没有记录", f"{key} was announced and is not recorded")
        for key in BOUND
        if key in intent.predicate
        and (key not in said or not same(intent.predicate[key], said[key]))
    ]
    subjects = {s.name: s.sha256 for s in intent.subject}
    stack = intent.predicate.get("stack")
    digest = stack.get("digest") if isinstance(stack, Mapping) else None
    for name, named in ((STACK, digest), (PLAN, intent.predicate.get("plan_sha256"))):
        if name in subjects and subjects[name] != named:
            found.append(
                (f"{name} 不是所宣布的那一份", f"{name} is not the one that was announced")
            )
    return found


def same(one: object, other: object) -> bool:
    """As signed: `true` is not 1, though Python compares them as equal."""
    return canonical.dumps(one) == canonical.dumps(other)


def left_out(outcome: Statement, intent: Statement | None) -> list[str]:
    """Raw data that a drill of this version puts into its pack and this one has not: a note."""
    there = {s.name.removesuffix(".gz") for s in outcome.subject}
    announced = {s.name for s in intent.subject} if intent is not None else set()
    wanted = [(STACK, announced), (PLAN, announced), (LEDGER[0], there), (READBACK, there)]
    return [name for name, held in wanted if name not in held]


def _number(said: Mapping[str, Any], *path: str) -> float | None:
    found: Any = said
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    good = isinstance(found, int | float) and not isinstance(found, bool)
    return found if good and math.isfinite(found) else None

"""A drill that looks like one: made from a seed, in the shape that drills are recorded in."""

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zaibei.evidence import Evidence, Kind, Witness, pack
from zaibei.evidence.pass_rules import REQUIRED
from zaibei.kernel.clock import SimClock

LEDGER = b'{"op_id":"1","outcome":"ok"}\n'
CHECKED = {
    "ledger-whole": "每笔已确认的写入都有记录",
    "takeover": "site-b 接管写入，纪元 7",
    "backup-committed": "两个保管库都有完整快照",
    "restore-verified": "洁净室恢复后与账本逐笔一致",
    "replicas-agree": "各副本逐表一致",
    "objects-converged": "对象两地一致",
    "failback": "主写回到 site-a",
    "nothing-left": "演练后无残留规则、挂载与进程",
    "negative-control": "对照组被识别",
    "surge-generator": "访客按计划到达",
    "surge-expectation": "市民请求达到要求",
}
DRILL = "drill-20261122T041730Z-7k2m9p"


def outcome(seed: int = 20211220) -> dict[str, Any]:
    """Power of site-a lost at noon: 2.3 s of silence, then site-b writes."""
    rng = random.Random(seed)
    before, after, rate, first, stable = 30, 90, 120, 2.31, 3.46
    ok, fail, info, p50, p99, surge_ok, surge_offered = ([] for _ in range(7))  # type: ignore[var-annotated]
    for n in range(before + after):
        t = n - before
        down = 0 <= t < 2
        dip = 0.25 if t == 2 else 0.85 if t == 3 else 1.0
        arrived = rng.randint(rate - 9, rate + 9)
        good = 0 if down else int(arrived * dip)
        lost_in_air = rng.randint(14, 22) if t == 0 else 0
        ok.append(good)
        info.append(lost_in_air)
        fail.append(arrived - good - lost_in_air)
        p50.append(None if down else round(rng.uniform(5.2, 6.9) * (4 if t in (2, 3) else 1), 2))
        p99.append(
            None
            if down
            else round(rng.uniform(14, 24) * (60 if t == 2 else 12 if t == 3 else 1), 1)
        )
        ramp = max(0.0, min(1.0, (t - 25) / 8, (75 - t) / 6))
        offered = int(1800 * ramp * rng.uniform(0.96, 1.04))
        surge_offered.append(offered)
        surge_ok.append(
            int(offered * (rng.uniform(0.985, 1.0) if ramp < 1 else rng.uniform(0.93, 0.97)))
        )
    timeline = [
        (-30.0, "开始按计划到达的写入", "open-loop writes begin", None, "load"),
        (
            0.0,
            "切断 site-a 供电，未刷盘的数据丢失",
            "power of site-a cut, unflushed data gone",
            "site-a",
            "fault",
        ),
        (0.62, "两个站点各自发现主写失联", "two sites see the writer gone", "site-b", "detect"),
        (0.71, "租约到期，site-b 获得领导权", "lease ends, site-b leads", "site-b", "decide"),
        (1.94, "site-b 升为主写，纪元 7", "site-b promoted, epoch 7", "site-b", "promote"),
        (2.31, "客户端收到首个新确认", "first new acknowledgement", "site-b", "first"),
        (3.46, "成功率稳定", "success rate stable", "site-b", "stable"),
        (
            61.2,
            "site-a 恢复供电，作为从库加入",
            "site-a powered on, joins as a standby",
            "site-a",
            "return",
        ),
        (84.5, "回切完成", "switched back", "site-a", "failback"),
    ]
    return {
        "drill_id": DRILL,
        "scenario": "site-power-loss",
        "title": {
            "zh": "生产中心断电，同城接管",
            "en": "The production site loses power; the same city takes over",
        },
        "hazard": "H1",
        "seed": seed,
        "stack": {"name": "zhengzhou", "digest": "ab" * 32},
        "verdict": "PASS",
        "reasons": ["已确认的写入无一丢失，5 秒内恢复"],
        "started_at": "2026-11-22T04:17:30Z",
        "ended_at": "2026-11-22T04:21:02Z",
        "objective": {"rto_s": 5.0, "rpo_s": 0.0},
        "rto_first_s": first,
        "rto_stable_s": stable,
        "phases_s": {"detect": 0.62, "decide": 0.09, "promote": 1.23, "route": 0.37},
        "acked": sum(ok),
        "lost": 0,
        "info": sum(info),
        "phantoms": 0,
        "resurrected": 0,
        "epoch_overlap": 0,
        "objects": {"acked": 812, "lost": 0, "healed": 3},
        "fault": {"kind": "power-loss", "site": "site-a", "acknowledged_s": 0.04},
        "writer": {
            "before": {"site": "site-a", "epoch": 6},
            "after": {"site": "site-b", "epoch": 7},
        },
        "timeline": [
            {"t_s": t, "what": {"zh": zh, "en": en}, "site": site, "kind": kind}
            for t, zh, en, site, kind in timeline
        ],
        "series": {
            "bin_s": 1.0,
            "t0_s": -float(before),
            "ok": ok,
            "fail": fail,
            "info": info,
            "p50_ms": p50,
            "p99_ms": p99,
            "surge_ok": surge_ok,
            "surge_offered": surge_offered,
        },
        "surge": {
            "offered": sum(surge_offered),
            "ok": sum(surge_ok),
            "p50_ms": 21.4,
            "p99_ms": 318.0,
            "p999_ms": 742.0,
            "verdict": "PASS",
        },
        "backup": {
            "snapshot": "snap-20261122T041500Z-k3v8qd",
            "vaults": ["site-b", "site-c"],
            "restore_verified": True,
            "rpo_wal_s": 1.4,
            "restore_s": 38.2,
            "target": "site-c clean room",
            "rows_compared": 412_806,
        },
        "failback": {
            "done": True,
            "took_s": 1.7,
            "writer": "site-a",
            "healed_objects": 3,
            "divergent_objects": 0,
        },
        "negative_control": {
            "condemned": True,
            "lost": 117,
            "overlap": 0,
            "detail": "异步提交的对照组丢失 117 笔，已被识别",
        },
        "required": list(REQUIRED),
        "checks": [
            {"name": name, "ran": True, "passed": True, "detail": CHECKED[name]}
            for name in REQUIRED
        ],
        "not_measured": [
            {
                "zh": "真实城域网时延（演练在单机上进行）",
                "en": "latency of a real metropolitan network (the lab is one machine)",
            },
            {"zh": "短信与微信小程序通道", "en": "text message and mini-program channels"},
        ],
        "environment": {
            "kernel": "6.1.0-18-amd64",
            "cores": 2,
            "memory_bytes": 16_777_216_000,
            "lab_memory_bytes_max": 3_984_588_800,
            "psi_cpu_some": 0.31,
            "versions": {
                "postgresql": "15.10",
                "patroni": "4.1.5",
                "seaweedfs": "4.48",
                "zaibei": "0.1.0",
            },
        },
        "artefacts": [
            {
                "name": "ledger.jsonl",
                "sha256": hashlib.sha256(LEDGER).hexdigest(),
                "size_bytes": len(LEDGER),
            }
        ],
    }


Spoil = Callable[[dict[str, Any]], None]


def made(root: Path, told: dict[str, Any]) -> Path:
    """A pack with that outcome in it."""
    clock = SimClock()
    first = Evidence.open(root / "evidence", clock)
    witnesses = [
        Witness(root / s, name=s, log_key=first.keys.ed25519, clock=clock)
        for s in ("site-b", "site-c")
    ]
    evidence = Evidence.open(root / "evidence", clock, witnesses=witnesses)
    ledger = root / "artefacts" / "ledger.jsonl"
    ledger.parent.mkdir()
    ledger.write_bytes(LEDGER)
    evidence.record(Kind.SCHEDULE, {"due": [{"scenario": "site-power-loss", "by": "2026-12-01"}]})
    evidence.record(
        Kind.INTENT,
        {"drill_id": DRILL, "hazard": "H1", "target": "site-a", "required": list(REQUIRED)},
    )
    evidence.record(Kind.OUTCOME, told, subject=[ledger])
    return pack(
        evidence,
        entries=[2],
        artefacts_dir=ledger.parent,
        dest=root / "pack",
        title="生产中心断电演练",
    )


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("sample"), outcome())


@pytest.fixture
def packed(tmp_path: Path, sample: Path) -> Callable[..., Path]:
    """A pack of the sample drill, after `spoil` had its way with the outcome; always one's own copy."""

    def make(spoil: Spoil | None = None) -> Path:
        if spoil is None:
            return Path(shutil.copytree(sample, tmp_path / "pack"))
        told = outcome()
        spoil(told)
        return made(tmp_path, told)

    return make

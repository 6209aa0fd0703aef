"""What one engine process is told: a JSON file, complete, so that the run can be told again from it.

The engine imports this and nothing heavier: a second spent importing is a second in which a drill waits.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.citizens import Patience, Step, Visit
from loadtest.guard import Caps, Door
from loadtest.shapes import Piece, Shape, Spacing

ENV_PLAN = "ZAIBEI_SURGE_PLAN"  # path of the plan
ENV_CONTROL = "ZAIBEI_SURGE_CONTROL"  # number of the inherited pipe

BEAT_EVERY_S = 0.3
# Silent for so long: the controller hangs, and the load must not go on without it. A controller that died closes
# the pipe, which ends the load at once; this is for the rest. 1.5 s was too little: beside a base backup on two
# busy cores the thread that beats was seen to stand still for longer, and the drill lost its crowd.
BEATS_MISSING_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Whom the arrivals are: persons by Zipf, named by a pattern with `{index}`."""

    count: int
    exponent: float
    pattern: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    scenario: str
    seed: int
    worker: int
    of: int
    shape: Shape
    spacing: Spacing
    crowd: Crowd
    visits: tuple[Visit, ...]
    patience: Patience
    fresh_connections: bool  # a new TCP and TLS handshake for every request, as strangers would
    doors: tuple[Door, ...]
    declared: tuple[str, ...]  # lab addresses the provisioned stack owns
    ca_file: str | None
    session_key: str | None  # file of the identity service's key: each citizen comes logged in
    caps: Caps
    lag_p99_max_s: float  # later than this and the generator was measuring itself

    @property
    def drain_s(self) -> float:
        """How long the last citizen may still be inside after the last arrival."""
        steps = max(len(v.steps) for v in self.visits)
        return self.patience.longest_s * steps

    def slice(self, worker: int) -> "Plan":
        return replace(self, worker=worker)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)


def load(path: Path) -> Plan:
    raw: dict[str, Any] = json.loads(path.read_text())
    return Plan(
        scenario=raw["scenario"],
        seed=raw["seed"],
        worker=raw["worker"],
        of=raw["of"],
        shape=Shape(pieces=tuple(Piece(**p) for p in raw["shape"]["pieces"])),
        spacing=Spacing(raw["spacing"]),
        crowd=Crowd(**raw["crowd"]),
        visits=tuple(
            Visit(
                name=v["name"],
                weight=v["weight"],
                steps=tuple(
                    Step(**{**s, "ok": tuple(s["ok"]), "keeps": tuple(s["keeps"])})
                    for s in v["steps"]
                ),
            )
            for v in raw["visits"]
        ),
        patience=Patience(**raw["patience"]),
        fresh_connections=raw["fresh_connections"],
        doors=tuple(Door(**d) for d in raw["doors"]),
        declared=tuple(raw["declared"]),
        ca_file=raw["ca_file"],
        session_key=raw.get("session_key"),
        caps=Caps(**raw["caps"]),
        lag_p99_max_s=raw["lag_p99_max_s"],
    )

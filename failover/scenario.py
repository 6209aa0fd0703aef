"""A drill as a file: which fault, under which traffic, against which objective. Text from people, so it
is checked here, once, and frozen.
"""

from datetime import timedelta
from importlib.resources import files
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field

from infra.faults.model import Fault, Kind
from zaibei import config
from zaibei.config.model import Hazard, Objective, Role, Stack
from zaibei.kernel.errors import Usage
from zaibei.kernel.units import duration

_FOLDER = "scenarios"
_SHOWN = 200  # faults; a slip in every line is known after a few


def _read_duration(value: Any) -> Any:
    """`12s` as people write it; PT12S as a plan in a pack has it, which pydantic reads."""
    return duration(value) if isinstance(value, str) and not value.startswith("P") else value


Duration = Annotated[timedelta, BeforeValidator(_read_duration)]


class _Strict(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Title(_Strict):
    zh: str
    en: str


class FaultSpec(_Strict):
    kind: Kind
    at: Role  # which site, by its role in the stack
    process: str | None = None


class TrafficSpec(_Strict):
    rows_per_s: float = Field(gt=0, le=200)
    objects_per_s: float = Field(ge=0, le=20)
    steady: Duration  # before the fault
    after: Duration  # after the service is stable again
    surge: str | None = None  # a scenario of loadtest; its `expect` is judged in the drill too
    service: str | None = (
        None  # of the stack, whose SLO the surge is held to; not needed where it has one
    )
    # `judged`: the surge is held to everybody who came. `excused`: not to those who came while the service
    # was away, from the fault to the stable recovery, at most for the RTO objective. They are still counted.
    outage: Literal["judged", "excused"] = "judged"


class HarmMax(_Strict):
    """Beyond any of these the fault is undone at once and the verdict is FAIL. Default: failover.harm."""

    outage: Duration | None = None  # without service
    failed_writes: int | None = Field(default=None, ge=0)
    failed_citizens: int | None = Field(default=None, ge=0)


class Scenario(_Strict):
    name: str
    title: Title
    hazard: Hazard
    summary: Title
    database: str  # whose objective for the hazard is judged
    fault: FaultSpec
    traffic: TrafficSpec
    recover_within: Duration  # then the drill gives up; the objective is stricter
    harm_max: HarmMax = HarmMax()
    takeover: bool = True  # another site is expected to write afterwards

    def objective(self, stack: Stack) -> Objective:
        """Raises Usage when the stack declares none: a drill without an objective proves nothing."""
        for database in stack.databases:
            if database.name == self.database:
                for objective in database.objectives:
                    if objective.hazard is self.hazard:
                        return objective
        raise Usage(
            f"stack {stack.name} declares no objective of {self.database} for {self.hazard.value}",
            hint=f"add one below databases: {self.database}: objectives:",
        )

    def fault_in(self, stack: Stack) -> Fault:
        for site in stack.sites:
            if site.role is self.fault.at:
                return Fault(kind=self.fault.kind, site=site.name, process=self.fault.process)
        raise Usage(f"stack {stack.name} has no {self.fault.at.value} site for {self.name}")


def names() -> list[str]:
    return sorted(
        f.name.removesuffix(".yml")
        for f in (files("failover") / _FOLDER).iterdir()
        if f.name.endswith(".yml")
    )


def load(name: str) -> Scenario:
    """Raises Usage for an unknown name or a file that is not a scenario."""
    if name not in names():
        raise Usage(f"no scenario {name!r}", hint=f"there are {', '.join(names())}")
    text = (files("failover") / _FOLDER / f"{name}.yml").read_text()
    return parse(text, where=f"{name}.yml")


def parse(text: str, *, where: str) -> Scenario:
    try:
        return Scenario.model_validate(config.demand(config.parse(text), name=where))
    except pydantic.ValidationError as wrong:
        errors = wrong.errors(include_url=False)[:_SHOWN]
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors)
        raise Usage(f"{where}: {faults}") from wrong

"""Which worlds: a fixed set for every run, many more when `make sim SEED=N` asks for them."""

import os
from collections.abc import Callable
from functools import cache

import pytest

from failover.simulated import Simulated, plan_of, simulate
from infra.sim.member import Sabotage
from infra.sim.world import Traffic

_ASKED = os.environ.get("ZAIBEI_SEED")
# worlds: honest, struck twice, of each sabotage, of each sabotage and vacuous traffic
HONEST, RELAPSED, SABOTAGED, VACUOUS = (60, 40, 9, 1) if _ASKED else (24, 8, 5, 1)
_MANY = 1_000_000  # worlds a seed may have to itself

Worlds = Callable[..., list[Simulated]]


@cache
def _world(seed: int, sabotage: Sabotage | None, traffic: Traffic, *, relapse: bool) -> Simulated:
    return simulate(plan_of(seed, sabotage=sabotage, traffic=traffic, relapse=relapse))


@pytest.fixture(scope="session")
def worlds() -> Worlds:
    """Each is run once, whichever test asks first."""

    def some(
        n: int,
        *,
        sabotage: Sabotage | None = None,
        traffic: Traffic = Traffic.FULL,
        relapse: bool = False,
    ) -> list[Simulated]:
        begin = int(_ASKED or 0) * _MANY
        return [_world(begin + i, sabotage, traffic, relapse=relapse) for i in range(n)]

    return some


@pytest.fixture(scope="session")
def honest(worlds: Worlds) -> list[Simulated]:
    return worlds(HONEST)


@pytest.fixture(scope="session")
def relapsed(worlds: Worlds) -> list[Simulated]:
    """Honest, and struck again while the first fault is being recovered from."""
    return worlds(RELAPSED, relapse=True)


@pytest.fixture(scope="session")
def sabotaged(worlds: Worlds) -> dict[Sabotage, list[Simulated]]:
    return {s: worlds(SABOTAGED, sabotage=s) for s in Sabotage}


@pytest.fixture(scope="session")
def vacuous(worlds: Worlds) -> list[Simulated]:
    thin = [t for t in Traffic if t is not Traffic.FULL]
    return [
        w for t in thin for s in (None, *Sabotage) for w in worlds(VACUOUS, sabotage=s, traffic=t)
    ]

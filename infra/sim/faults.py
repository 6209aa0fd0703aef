"""One fault at one site, drawn from a seed: what an honest cluster promises to survive."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

SITES = ("a", "b", "c")
CLIENTS = "clients"


class Fault(StrEnum):
    POWER_LOSS = "power-loss"  # what was not on disk is gone
    CRASH = "crash"  # the database process alone
    FREEZE = "freeze"  # longer than the lease, then it goes on as if nothing had happened
    CUT_OFF = "cut-off"  # from everybody
    CUT_FROM_SITES = "cut-from-sites"  # clients still reach it
    DEAF = "deaf"  # it hears nobody, and is heard
    MUTE = "mute"  # it is heard by nobody, and hears
    LINK_ONE_WAY = "link-one-way"  # its words to one other site are lost
    LINK_CUT = "link-cut"  # to one other site
    SLOW = "slow"  # every hop between sites


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    fault: Fault
    site: str
    other: str  # the far end, where the fault has one
    at_s: float
    lasts_s: float
    slow_s: float = 0.0

    def __str__(self) -> str:
        to = f"→{self.other}" if self.fault in (Fault.LINK_CUT, Fault.LINK_ONE_WAY) else ""
        return f"{self.fault} of {self.site}{to} at {self.at_s:.3f} s for {self.lasts_s:.3f} s"

    def links(self) -> Iterator[tuple[str, str]]:
        """What it cuts, each direction by itself."""
        me, others = self.site, [s for s in (*SITES, CLIENTS) if s != self.site]
        match self.fault:
            case Fault.CUT_OFF:
                yield from ((me, o) for o in others)
                yield from ((o, me) for o in others)
            case Fault.CUT_FROM_SITES:
                yield from ((me, o) for o in others if o != CLIENTS)
                yield from ((o, me) for o in others if o != CLIENTS)
            case Fault.DEAF:
                yield from ((o, me) for o in others)
            case Fault.MUTE:
                yield from ((me, o) for o in others)
            case Fault.LINK_ONE_WAY:
                yield (me, self.other)
            case Fault.LINK_CUT:
                yield from ((me, self.other), (self.other, me))
            case _:
                return


def draw(
    rng: random.Random,
    *,
    ttl_s: float,
    at_s: float,
    among: Sequence[Fault] = tuple(Fault),
    at: str = "a",
) -> Planned:
    """One of `among`. A narrower choice than all strikes `at`, and outlasts its lease."""
    provoked = len(among) < len(Fault)
    fault = rng.choice(among)
    site = at if provoked else rng.choices(SITES, weights=(5, 3, 1))[0]
    short_s, long_s = ttl_s * rng.uniform(0.05, 0.9), ttl_s * rng.uniform(1.1, 3.0)
    return Planned(
        fault=fault,
        site=site,
        other=rng.choice([s for s in SITES if s != site and not (provoked and s == "c")]),
        at_s=at_s + rng.uniform(0.0, 1.0),
        lasts_s=long_s if provoked else rng.choice((short_s, long_s)),
        slow_s=rng.uniform(0.01, 0.3) if fault is Fault.SLOW else 0.0,
    )

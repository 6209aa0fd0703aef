"""The declared sites as a picture: which failed, who wrote before, who writes now. Drawn from the outcome alone.

An outcome of an earlier version does not record the sites; then there is no picture. One that was drawn
all the same showed sites which do not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from zaibei.reports.facts import Facts

ROLES = ("production", "same-city", "remote", "witness")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    name: str
    role: str | None  # of ROLES; None: not known
    witness: bool
    door: int | None  # place among the entries, from 1
    failed: bool
    wrote: bool  # before the fault
    writes: bool  # after it


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    name: str | None
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    cities: tuple[City, ...]
    moved: bool  # another site writes than before
    cut: bool  # the fault is of the network, and the site itself is alive


def picture(facts: Facts) -> Picture | None:
    """None when the evidence does not say which sites there are."""
    entry = [e for e in facts.items("topology.entry") if isinstance(e, str)]
    before, after = facts.text("writer.before.site"), facts.text("writer.after.site")
    failed = facts.text("fault.site")
    cities: dict[str | None, list[Site]] = {}
    for site in facts.items("topology.sites"):
        if not isinstance(site, Mapping) or not isinstance(site.get("name"), str):
            continue
        name, city, role = site["name"], site.get("city"), site.get("role")
        cities.setdefault(city if isinstance(city, str) else None, []).append(
            Site(
                name=name,
                role=role if role in ROLES else None,
                witness=site.get("witness") is True,
                door=entry.index(name) + 1 if name in entry else None,
                failed=name == failed,
                wrote=name == before,
                writes=name == after,
            )
        )
    if not cities:
        return None
    kind = facts.text("fault.kind") or ""
    return Picture(
        cities=tuple(City(name=n, sites=tuple(s)) for n, s in cities.items()),
        moved=bool(before and after and before != after),
        cut="link" in kind or "partition" in kind,
    )

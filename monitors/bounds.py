"""Which label values may exist: the names in the stack, and no other.

A label taken from the wire (a member's name, a URL) is a way to fill a Prometheus with rubbish.
"""

from dataclasses import dataclass
from datetime import timedelta

from zaibei.config.model import Database, Hazard, Role, Stack

_BY_BACKUPS = (Hazard.H3, Hazard.H4)  # a replica repeats what these do


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    sites: tuple[str, ...]
    buckets: tuple[str, ...]
    vaults: tuple[str, ...]
    scenarios: tuple[str, ...]
    lag_limit: dict[str, timedelta]  # by remote site; empty when nothing is promised of it
    backup_limit: dict[str, timedelta]  # by vault
    drill_every: dict[str, timedelta]  # by scenario
    follower_expected: bool = False  # backups alone do not keep what the stack promises


def bounds(stack: Stack) -> Bounds:
    allowed = _remote_rpos(stack)
    remote = [s.name for s in stack.sites if s.role is Role.REMOTE]
    backup_limit: dict[str, timedelta] = {}
    for database in stack.databases:
        for vault in database.backup.vaults:
            limit = database.backup.max_age
            backup_limit[vault] = min(limit, backup_limit.get(vault, limit))
    drill_every: dict[str, timedelta] = {}
    for entry in stack.calendar:
        drill_every[entry.scenario] = min(entry.every, drill_every.get(entry.scenario, entry.every))
    return Bounds(
        sites=tuple(s.name for s in stack.sites),
        buckets=tuple(b.name for b in stack.buckets),
        vaults=tuple(backup_limit),
        scenarios=tuple(drill_every),
        lag_limit={site: min(allowed) for site in remote} if allowed else {},
        backup_limit=backup_limit,
        drill_every=drill_every,
        follower_expected=any(_needs_log(d) for d in stack.databases),
    )


def _needs_log(database: Database) -> bool:
    """Whether backups, of which one every so often is made, lose more than the RPO of the hazards that they are for."""
    kept = [o.rpo for o in database.objectives if o.hazard in _BY_BACKUPS]
    return bool(kept) and min(kept) < database.backup.every


def _remote_rpos(stack: Stack) -> list[timedelta]:
    """What a remote copy promises: the RPO for the loss of the city, or of the site where no city is declared.

    It follows asynchronously, so zero is never its promise. The RPOs of other hazards are kept by backups.
    """
    of_h1 = [o for d in stack.databases for o in d.objectives if o.hazard is Hazard.H1]
    promised = [o.rpo if o.city is None else o.city.rpo for o in of_h1]
    return [rpo for rpo in promised if rpo > timedelta(0)]

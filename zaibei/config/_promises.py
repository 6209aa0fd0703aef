"""Can the declared topology keep what the objectives promise? Pure.

An objective that cannot be met is worse than none: it is found out on the night it is needed. So it
is refused here, with the number that stands against it.
"""

from collections.abc import Iterator
from datetime import timedelta

from zaibei.config._fault import Fault, Where
from zaibei.config.model import Database, Hazard, Objective, Role, Site, Stack, Takeover
from zaibei.kernel.units import say_duration

ZERO = timedelta(0)

# Patroni's writer holds a lease of 30 s (`ttl`) that it renews every 10 s. A writer that dies right
# after renewing holds all of it, and until it has run out nobody may write in its place. Promotion and
# routing come on top: 25.5 and 30.2 s were measured from power loss to the first good answer.
DETECTION_FLOOR = timedelta(seconds=30)
FLOOR_DOC = "docs/guides/declare-your-stack.md#how-short-can-an-rto-be"

_MAJORITY_OF = 3  # the fewest voters of which one may be lost


def faults(stack: Stack) -> list[Fault]:
    return [
        *_sites(stack),
        *_databases(stack),
        *_buckets(stack),
        *_services(stack),
        *_doors(stack),
        *_approvals(stack),
    ]


_SYNCHRONOUS = (Role.PRODUCTION, Role.SAME_CITY)


def replicas(stack: Stack) -> list[Site]:
    """Sites that hold a synchronous copy of every database."""
    return [s for s in stack.sites if s.role in _SYNCHRONOUS]


def voters(stack: Stack) -> list[Site]:
    return [s for s in stack.sites if s.role in _SYNCHRONOUS or s.witness]


def why_no_automatic_city_takeover(stack: Stack, city: str) -> str | None:
    """A site cannot tell its own isolation from the death of a city: a second city must agree."""
    others = {s.city for s in stack.sites if s.city != city}
    if not any(s.role is Role.REMOTE for s in stack.sites if s.city != city):
        return f"no remote site outside {city} could take over"
    if len(others) < 2:
        return (
            f"with {city} gone only {', '.join(sorted(others))} is left, and one city alone cannot "
            "tell its own isolation from the loss of the other"
        )
    return None


def _sites(stack: Stack) -> Iterator[Fault]:
    producing = [s for s in stack.sites if s.role is Role.PRODUCTION]
    if not producing:
        yield Fault(what="no site has role production", hint="one must write", where=("sites",))
        return
    home = {s.city for s in producing}
    for i, site in enumerate(stack.sites):
        where: Where = ("sites", i, "city")
        if site.role is Role.SAME_CITY and site.city not in home:
            yield Fault(
                what=f"{site.name} is same-city, but no production site is in {site.city}",
                hint="a synchronous copy waits for every commit: over 100 km use role remote",
                where=where,
            )
        if site.role is Role.REMOTE and site.city in home:
            yield Fault(
                what=f"{site.name} is remote, but production is in {site.city} too",
                hint="what takes the city takes both: another city, or role same-city",
                where=where,
            )


def _databases(stack: Stack) -> Iterator[Fault]:
    for i, database in enumerate(stack.databases):
        at: Where = ("data", "databases", i)
        yield from _any(database.objectives, database.name, at)
        yield from _writer(stack, database.objectives, database.name, at)
        yield from _backups(stack, database, at)
        for objective in database.objectives:
            if objective.hazard is Hazard.H3 and objective.rpo == ZERO:
                yield Fault(
                    what=f"{database.name}: rpo 0s for H3 cannot be met: an attack is replicated "
                    "like any write, and a backup from before it lacks what came after",
                    hint=f"an rpo of backup.every ({say_duration(database.backup.every)}) or more",
                    where=(*at, "objectives", "H3", "rpo"),
                )


def _backups(stack: Stack, database: Database, at: Where) -> Iterator[Fault]:
    policy = database.backup
    if not policy.vaults:
        yield Fault(
            what=f"{database.name} has no backup policy",
            hint="write `backup:` under it, or once for all under `data:`",
            where=at,
        )
        return
    own = {s.name for s in stack.sites if s.role is Role.PRODUCTION}
    copies = [s for s in stack.sites if s.role is not Role.WITNESS]
    known = {s.name for s in stack.sites}
    vaults = [v for v in policy.vaults if v in known]
    elsewhere = ", ".join(s.name for s in copies if s.name not in own)
    hint = f"name a vault at {elsewhere}" if elsewhere else "declare a site elsewhere for a vault"
    if len(copies) == 1 and vaults:
        yield Fault(
            what=f"{database.name}: the vault is at {vaults[0]}, where the only copy of the data is: "
            "one fire takes both",
            hint=hint,
            where=(*at, "backup", "vaults"),
        )
    elif vaults and len(vaults) == len(policy.vaults) and own.issuperset(vaults):
        yield Fault(
            what=f"{database.name}: all its backups are at {', '.join(vaults)}, where it runs: "
            "one fire takes both",
            hint=hint,
            where=(*at, "backup", "vaults"),
        )
    for name, limit in (("max_age", policy.max_age), ("keep", policy.keep)):
        if limit < policy.every:
            yield Fault(
                what=f"{database.name}: {name} {say_duration(limit)} is shorter than every "
                f"{say_duration(policy.every)}",
                hint="a backup would be stale or gone before the next one is due",
                where=(*at, "backup", name),
            )


def _buckets(stack: Stack) -> Iterator[Fault]:
    for i, bucket in enumerate(stack.buckets):
        at: Where = ("data", "buckets", i)
        yield from _any(bucket.objectives, bucket.name, at)
        for k, name in enumerate(bucket.copies_to):
            if name in bucket.sites:
                yield Fault(
                    what=f"{bucket.name} is written to {name} and copied there as well",
                    hint="name it under `sites` or under `copies_to`",
                    where=(*at, "copies_to", k),
                )
        for objective in bucket.objectives:
            if objective.hazard is not Hazard.H1:
                continue
            if not {*bucket.sites, *bucket.copies_to} - {bucket.sites[0]}:
                yield Fault(
                    what=f"{bucket.name} is at {bucket.sites[0]} only: with the site it is lost",
                    hint="write it to a second site, or copy it to one (`copies_to`)",
                    where=(*at, "sites"),
                )
            elif objective.rpo == ZERO and len(set(bucket.sites)) < 2:
                yield Fault(
                    what=f"{bucket.name}: rpo 0s for H1 cannot be met: it is written to "
                    f"{bucket.sites[0]} only and copied afterwards",
                    hint="name a second site under `sites`, or allow an rpo above 0s",
                    where=(*at, "sites"),
                )


def _services(stack: Stack) -> Iterator[Fault]:
    for i, service in enumerate(stack.services):
        at: Where = ("services", i)
        yield from _any(service.objectives, service.name, at)
        yield from _writer(stack, service.objectives, service.name, at)
        if service.surge_factor < 1:
            yield Fault(
                what=f"{service.name}: surge_factor {service.surge_factor:g} is less than 1: "
                "less than the ordinary peak",
                hint="how many times the peak must be survived; 10 is what Xi'an met",
                where=(*at, "surge_factor"),
            )


def _any(objectives: tuple[Objective, ...], name: str, at: Where) -> Iterator[Fault]:
    if not objectives:
        yield Fault(
            what=f"{name} has no objective for any hazard",
            hint="write `objectives:` under it, or once for all at the top level",
            where=at,
        )


def _writer(
    stack: Stack, objectives: tuple[Objective, ...], name: str, at: Where
) -> Iterator[Fault]:
    """What rests on the one PostgreSQL writer: the databases, and services that write to them."""
    synchronous = replicas(stack)
    for objective in objectives:
        if objective.hazard is not Hazard.H1:
            continue
        where: Where = (*at, "objectives", "H1")
        if objective.rpo == ZERO and len(synchronous) < 2:
            yield Fault(
                what=f"{name}: rpo 0s for H1 cannot be met: {_only(synchronous)} holds a "
                "synchronous copy, and with it go the last acknowledged writes",
                hint="declare a site of role same-city, or allow an rpo above 0s",
                where=(*where, "rpo"),
            )
        if objective.rto < DETECTION_FLOOR:
            yield Fault(
                what=f"{name}: rto {say_duration(objective.rto)} for H1 cannot be met: the lease of "
                f"a lost writer lasts up to {say_duration(DETECTION_FLOOR)}, and before it ends "
                "nobody may take over",
                hint=f"60s leaves room for promotion and routing; see {FLOOR_DOC}",
                where=(*where, "rto"),
            )
        if objective.takeover is Takeover.AUTOMATIC:
            yield from _automatic(stack, name, where)
        yield from _city(stack, objective, name, where)


def _automatic(stack: Stack, name: str, where: Where) -> Iterator[Fault]:
    voting = voters(stack)
    if len(replicas(stack)) < 2:
        yield Fault(
            what=f"{name}: takeover automatic for H1 cannot happen: {_only(replicas(stack))} can "
            "hold the writer",
            hint="declare a site of role same-city, or write `takeover: approved`",
            where=(*where, "takeover"),
        )
    elif len(voting) < _MAJORITY_OF:
        yield Fault(
            what=f"{name}: takeover automatic for H1 cannot happen: of {len(voting)} voting sites "
            "the loss of one leaves no majority",
            hint="write `witness: true` at a site elsewhere, or `takeover: approved`",
            where=(*where, "takeover"),
        )


def _city(stack: Stack, objective: Objective, name: str, where: Where) -> Iterator[Fault]:
    if objective.city is None:
        return
    homes = sorted({s.city for s in replicas(stack)})
    for city in homes:
        left = [s for s in stack.sites if s.city != city and s.role is not Role.WITNESS]
        if objective.city.takeover is Takeover.AUTOMATIC:
            reason = why_no_automatic_city_takeover(stack, city)
            if reason is not None:
                yield Fault(
                    what=f"{name}: automatic takeover of a lost city cannot happen: {reason}",
                    hint="declare a witness in a third city, or write `takeover: approved`",
                    where=(*where, "city", "takeover"),
                )
        elif not left:
            yield Fault(
                what=f"{name}: an objective for the loss of {city}, but every copy is in {city}",
                hint="declare a site of role remote in another city",
                where=(*where, "city"),
            )
        if objective.city.rpo == ZERO and not any(s.role in _SYNCHRONOUS for s in left):
            yield Fault(
                what=f"{name}: rpo 0s for the loss of {city} cannot be met: the copies in other "
                "cities follow asynchronously",
                hint="allow an rpo above 0s: it becomes the bound on their lag",
                where=(*where, "city", "rpo"),
            )


def _doors(stack: Stack) -> Iterator[Fault]:
    """A door that no public network reaches is closed on the day it is needed."""
    open_at = {name for z in stack.networks if z.zone == "extranet" for name in z.sites}
    known = {s.name for s in stack.sites}
    for k, name in enumerate(stack.entry):
        if stack.networks and name in known - open_at:
            yield Fault(
                what=f"{name} is an entry, but it is on no extranet",
                hint="add it to a zone `extranet`, or take it out of `entry`",
                where=("network", "entry", k),
            )


def _approvals(stack: Stack) -> Iterator[Fault]:
    for i, approval in enumerate(stack.approvals):
        if approval.needed > len(approval.people):
            yield Fault(
                what=f"{approval.action}: {approval.needed} must sign, but only "
                f"{len(approval.people)} may",
                hint="lower `needed` or name more people",
                where=("approvals", i, "needed"),
            )


def _only(sites: list[Site]) -> str:
    return f"only {sites[0].name}" if sites else "no site"

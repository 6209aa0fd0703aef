"""Does every name in the stack mean one thing that exists? Pure."""

from collections.abc import Iterable, Iterator

from zaibei.config._fault import Fault, Where
from zaibei.config._faults_of_shape import nearest
from zaibei.config.model import Role, Stack


def faults(stack: Stack, *, also_sites: frozenset[str], also_people: frozenset[str]) -> list[Fault]:
    """`also_*`: names whose own entry is faulty. Pointing at them is not a second fault."""
    sites = {s.name for s in stack.sites} | also_sites
    people = {p.name for p in stack.people} | also_people
    holding = {s.name for s in stack.sites if s.role is not Role.WITNESS} | also_sites
    found = list(_twice(stack))
    for where, name in _owners(stack):
        if name not in people:
            found.append(_dangling("owner", name, where, people, "people"))
    for where, name in _signers(stack):
        if name not in people:
            found.append(_dangling("person", name, where, people, "people"))
    for where, name, needs in _places(stack):
        if name not in sites:
            found.append(_dangling("site", name, where, sites, "sites"))
        elif needs and name not in holding:
            found.append(
                Fault(
                    what=f"{name} is a witness: it only votes and has no {needs}",
                    hint=f"name one of {', '.join(sorted(holding))}",
                    where=where,
                )
            )
    return found


def _dangling(kind: str, name: str, where: Where, known: Iterable[str], section: str) -> Fault:
    return Fault(
        what=f"{kind} {name} is not declared under {section}",
        hint=nearest(name, known),
        where=where,
    )


def _owners(stack: Stack) -> Iterator[tuple[Where, str]]:
    """首问责任制: whatever can fail has somebody who answers for it."""
    for i, site in enumerate(stack.sites):
        yield ("sites", i, "owner"), site.owner
    for i, database in enumerate(stack.databases):
        yield ("data", "databases", i, "owner"), database.owner
    for i, bucket in enumerate(stack.buckets):
        yield ("data", "buckets", i, "owner"), bucket.owner
    for i, network in enumerate(stack.networks):
        yield ("network", "zones", i, "owner"), network.owner
    for i, service in enumerate(stack.services):
        yield ("services", i, "owner"), service.owner
    for i, entry in enumerate(stack.calendar):
        yield ("calendar", i, "owner"), entry.owner


def _signers(stack: Stack) -> Iterator[tuple[Where, str]]:
    for i, approval in enumerate(stack.approvals):
        for k, name in enumerate(approval.people):
            yield ("approvals", i, "people", k), name


def _places(stack: Stack) -> Iterator[tuple[Where, str, str]]:
    """Every mention of a site, and what a site must have to be mentioned there ('' for nothing)."""
    for i, database in enumerate(stack.databases):
        for k, name in enumerate(database.backup.vaults):
            yield ("data", "databases", i, "backup", "vaults", k), name, "store for a vault"
    for i, bucket in enumerate(stack.buckets):
        for k, name in enumerate(bucket.sites):
            yield ("data", "buckets", i, "sites", k), name, "store"
        for k, name in enumerate(bucket.copies_to):
            yield ("data", "buckets", i, "copies_to", k), name, "store"
    for i, network in enumerate(stack.networks):
        for k, name in enumerate(network.sites):
            yield ("network", "zones", i, "sites", k), name, ""
    for k, name in enumerate(stack.entry):
        yield ("network", "entry", k), name, "service behind a door"


def _twice(stack: Stack) -> Iterator[Fault]:
    sites = [(("sites", i, "name"), s.name) for i, s in enumerate(stack.sites)]
    people = [(("people", i, "name"), p.name) for i, p in enumerate(stack.people)]
    zones = [(("network", "zones", i, "name"), z.name) for i, z in enumerate(stack.networks)]
    actions = [(("approvals", i, "action"), a.action) for i, a in enumerate(stack.approvals)]
    drills = [(("calendar", i, "scenario"), c.scenario) for i, c in enumerate(stack.calendar)]
    # One room of names for all assets: an alarm that says `population` must not need a second word.
    assets: list[tuple[Where, str]] = [
        *((("data", "databases", i, "name"), d.name) for i, d in enumerate(stack.databases)),
        *((("data", "buckets", i, "name"), b.name) for i, b in enumerate(stack.buckets)),
        *((("services", i, "name"), s.name) for i, s in enumerate(stack.services)),
    ]
    for kind, named in (
        ("sites", sites),
        ("people", people),
        ("assets", assets),
        ("networks", zones),
        ("approvals", actions),
        ("drills", drills),
    ):
        yield from _repeated(kind, named)
    for where, names in _sets(stack):
        said = [((*where, k), name) for k, name in enumerate(names)]
        yield from _repeated("entries of one list", said)


def _sets(stack: Stack) -> Iterator[tuple[Where, tuple[str, ...]]]:
    """Lists in which a name counts once: a person listed twice is not two signatures."""
    for i, approval in enumerate(stack.approvals):
        yield ("approvals", i, "people"), approval.people
    for i, database in enumerate(stack.databases):
        yield ("data", "databases", i, "backup", "vaults"), database.backup.vaults
    for i, bucket in enumerate(stack.buckets):
        yield ("data", "buckets", i, "sites"), bucket.sites
        yield ("data", "buckets", i, "copies_to"), bucket.copies_to
    for i, network in enumerate(stack.networks):
        yield ("network", "zones", i, "sites"), network.sites
    yield ("network", "entry"), stack.entry


def _repeated(kind: str, named: Iterable[tuple[Where, str]]) -> Iterator[Fault]:
    seen: set[str] = set()
    for where, name in named:
        if name in seen:
            yield Fault(
                what=f"two {kind} are named {name}",
                hint="give one of them another name, or remove it",
                where=where,
            )
        seen.add(name)

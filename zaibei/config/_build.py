"""From the checked form to the frozen dataclasses: defaults that depend on other places are filled
in here, and the digest is taken over the result.
"""

import hashlib
from dataclasses import asdict, replace
from datetime import timedelta
from enum import Enum
from typing import Any

import rfc8785

from zaibei.config import _shape as shape
from zaibei.config._fault import Where
from zaibei.config.model import (
    Approval,
    BackupPolicy,
    Bucket,
    CalendarEntry,
    CityLoss,
    Database,
    Hazard,
    Network,
    Objective,
    Person,
    Role,
    SecretFrom,
    SecretRef,
    Service,
    Site,
    Stack,
)


def build(doc: shape.StackDoc) -> Stack:
    """A database without any backup policy gets one with no vaults: `_rules` refuses it."""
    common = doc.objectives
    stack = Stack(
        name=doc.name,
        title=doc.title,
        on_site_loss=doc.on_site_loss,
        people=tuple(Person(**p.model_dump()) for p in doc.people),
        sites=tuple(_site(s) for s in doc.sites),
        databases=tuple(
            Database(
                name=d.name,
                title=d.title,
                owner=d.owner,
                grade=d.grade,
                personal_data=d.personal_data,
                schema=d.db_schema,
                objectives=_objectives(d.objectives, common),
                backup=_backup(d.backup or doc.data.backup),
            )
            for d in doc.data.databases
        ),
        buckets=tuple(
            Bucket(
                name=b.name,
                owner=b.owner,
                grade=b.grade,
                sites=tuple(b.sites),
                copies_to=tuple(b.copies_to),
                lock=b.lock,
                objectives=_objectives(b.objectives, common),
            )
            for b in doc.data.buckets
        ),
        networks=tuple(
            Network(name=z.name, zone=z.zone, sites=tuple(z.sites), owner=z.owner)
            for z in doc.network.zones
        ),
        entry=tuple(doc.network.entry),
        services=tuple(
            Service(
                name=s.name,
                owner=s.owner,
                channels=tuple(s.channels),
                peak_rps=s.peak_rps,
                surge_factor=s.surge_factor,
                slo_latency=s.slo_latency,
                slo_success=s.slo_success,
                endpoints=tuple(s.endpoints),
                ladder_max=int(s.ladder_max[1:]),
                objectives=_objectives(s.objectives, common),
            )
            for s in doc.services
        ),
        approvals=tuple(
            Approval(action=a.action, needed=a.needed, people=tuple(a.people))
            for a in doc.approvals
        ),
        calendar=tuple(CalendarEntry(**c.model_dump()) for c in doc.calendar),
        secrets=tuple(_secret(name, s) for name, s in doc.secrets.items()),
        digest="",
    )
    return replace(stack, digest=digest(stack))


def inherited(where: Where) -> tuple[Where, Where] | None:
    """For a value that may come from elsewhere: the block that would have to stand here for it not
    to, and where it comes from otherwise. A hazard or a policy is inherited whole or not at all:
    half of two would be nobody's promise.
    """
    match where:
        case ("data", "databases", int(), "backup", *rest):
            return where[:4], ("data", "backup", *rest)
        case ("data", str(), int(), "objectives", *rest):
            return where[:5], ("objectives", *rest)
        case ("services", int(), "objectives", *rest):
            return where[:4], ("objectives", *rest)
        case _:
            return None


def digest(stack: Stack) -> str:
    """sha256 over RFC 8785 JSON of everything but the digest. Defaults are in it: a release that
    changes one changes what was promised, and evidence must not bind to both under one name.
    """
    return hashlib.sha256(canonical(stack)).hexdigest()


def canonical(stack: Stack) -> bytes:
    """The checked stack in the bytes that its digest is of: what a pack holds to show what was declared."""
    content = asdict(stack)
    del content["digest"]
    return rfc8785.dumps(_plain(content))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.value if isinstance(value, Enum) else value


def _site(doc: shape.SiteDoc) -> Site:
    return Site(
        name=doc.name,
        city=doc.city,
        role=doc.role,
        hosts=tuple(doc.hosts or [doc.name]),
        owner=doc.owner,
        witness=doc.witness or doc.role is Role.WITNESS,
    )


def _objectives(own: shape.ObjectivesDoc, common: shape.ObjectivesDoc) -> tuple[Objective, ...]:
    found = []
    for hazard in Hazard:
        said = getattr(own, hazard.value) or getattr(common, hazard.value)
        if said is not None:
            found.append(_objective(hazard, said))
    return tuple(found)


def _objective(hazard: Hazard, doc: shape.ObjectiveDoc) -> Objective:
    plain = Objective(hazard=hazard, rto=doc.rto, rpo=doc.rpo, doo=doc.doo)
    if not isinstance(doc, shape.SiteLossDoc):
        return plain
    city = None if doc.city is None else CityLoss(**doc.city.model_dump())
    return replace(plain, takeover=doc.takeover, city=city)


def _backup(doc: shape.BackupDoc | None) -> BackupPolicy:
    if doc is None:
        zero = timedelta(0)
        return BackupPolicy(every=zero, keep=zero, vaults=(), max_age=zero)
    return BackupPolicy(
        every=doc.every, keep=doc.keep, vaults=tuple(doc.vaults), max_age=doc.max_age
    )


def _secret(name: str, doc: shape.SecretDoc) -> SecretRef:
    if doc.env is not None:
        return SecretRef(name=name, source=SecretFrom.ENV, where=(doc.env,))
    if doc.file is not None:
        return SecretRef(name=name, source=SecretFrom.FILE, where=(doc.file,))
    assert doc.command is not None, "the form asks for exactly one"
    return SecretRef(name=name, source=SecretFrom.COMMAND, where=tuple(doc.command))

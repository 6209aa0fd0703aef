"""The declared stack, as the rest of the suite sees it: frozen, in types, already checked.

`zaibei.config.load` makes it from stack.yaml; nobody else constructs one outside tests.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Role(StrEnum):
    PRODUCTION = "production"
    SAME_CITY = "same-city"
    REMOTE = "remote"
    WITNESS = "witness"


class Grade(StrEnum):
    """数据分级: core, important, general (GB/T 43697-2024)."""

    CORE = "核心"
    IMPORTANT = "重要"
    GENERAL = "一般"


class Hazard(StrEnum):
    H1 = "H1"  # natural disaster
    H2 = "H2"  # abnormal traffic
    H3 = "H3"  # malicious attack
    H4 = "H4"  # other: operator, release, corruption, clock, certificate


class SiteLoss(StrEnum):
    """What a surviving site does when its synchronous partner is gone."""

    DEGRADE = "degrade"  # go on with one copy, loudly
    BLOCK = "block"  # take no write until there are two copies again


class Takeover(StrEnum):
    """Who decides that another site takes over."""

    AUTOMATIC = "automatic"  # a majority of the voting sites
    APPROVED = "approved"  # people, n of m


class SecretFrom(StrEnum):
    ENV = "env"
    FILE = "file"
    COMMAND = "command"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """Where a secret is, never what it is: `zaibei.config.reveal` fetches it."""

    name: str  # backup-passphrase
    source: SecretFrom
    where: tuple[str, ...]  # a variable, a path, or an argv


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who owns an asset or approves an action."""

    name: str  # duty-data
    title: str  # 数据局值班员
    contact: str | None = None
    public_key: str | None = None  # approvals are checked with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    name: str  # site-a
    city: str
    role: Role
    hosts: tuple[str, ...]  # lab: the site's own name; real: addresses or inventory names
    owner: str = ""  # a declared stack always has one
    witness: bool = False  # votes on who writes without holding a synchronous copy


@dataclass(frozen=True, slots=True, kw_only=True)
class CityLoss:
    """What holds when every site of one city is gone at once: farther, slower, seldom automatic."""

    rto: timedelta
    rpo: timedelta
    takeover: Takeover


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What may be lost and for how long, for one hazard."""

    hazard: Hazard
    rto: timedelta
    rpo: timedelta  # zero: no acknowledged write may be lost
    doo: str | None = None  # 降低运行目标: what must still work in degraded operation
    takeover: Takeover | None = None  # H1 only: another site takes over after the loss of one
    city: CityLoss | None = None  # H1 only


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPolicy:
    every: timedelta
    keep: timedelta
    vaults: tuple[str, ...]  # names of sites whose store holds a repository
    max_age: timedelta  # older than this: stale; drills and automatic failover are refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    name: str  # population
    title: str  # 人口基础信息库
    owner: str  # 首问责任: who answers for it
    grade: Grade
    personal_data: bool
    objectives: tuple[Objective, ...]
    backup: BackupPolicy
    schema: str = "public"  # the PostgreSQL schema of its tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    name: str
    owner: str
    grade: Grade
    sites: tuple[str, ...]  # written to all of these before it is acknowledged
    copies_to: tuple[str, ...]  # copied later, asynchronously
    lock: timedelta | None
    objectives: tuple[Objective, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str  # health-code
    owner: str
    channels: tuple[str, ...]  # app, mini-program, web, hall
    peak_rps: float
    surge_factor: float
    slo_latency: timedelta  # of the slowest good answer (p99)
    slo_success: float  # 0..1
    objectives: tuple[Objective, ...]
    endpoints: tuple[str, ...] = ()  # where citizens reach it; empty: the doors of the entry sites
    ladder_max: int = 6  # how far it may step down under load, L0..L6


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    name: str  # 政务外网
    zone: str  # intranet | extranet
    sites: tuple[str, ...]
    owner: str = ""  # a declared stack always has one


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    action: str  # runbook or drill name, `*` allowed at the end
    needed: int  # n
    people: tuple[str, ...]  # m


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarEntry:
    scenario: str
    every: timedelta
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    name: str
    title: str
    on_site_loss: SiteLoss
    sites: tuple[Site, ...]
    databases: tuple[Database, ...]
    buckets: tuple[Bucket, ...]
    networks: tuple[Network, ...]
    entry: tuple[str, ...]  # sites whose door is published to citizens, in order
    services: tuple[Service, ...]
    approvals: tuple[Approval, ...]
    calendar: tuple[CalendarEntry, ...]
    digest: str  # sha256 of the canonical JSON of the checked file; evidence binds to it
    people: tuple[Person, ...] = ()
    secrets: tuple[SecretRef, ...] = ()

    def site(self, name: str) -> Site:
        return next(s for s in self.sites if s.name == name)

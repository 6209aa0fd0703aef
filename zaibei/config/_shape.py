"""The form of stack.yaml: which keys, of which kind. What they mean together is judged in `_rules`.

These models live for one load. They become the frozen dataclasses of `model`, and the JSON Schema
and docs/reference/stack.md are made from them: the descriptions here are the reference.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from zaibei.config.model import Grade, Role, SiteLoss, Takeover
from zaibei.kernel.errors import Usage
from zaibei.kernel.units import duration

UNITS = "ms, s, min, h, d, w"
DURATION_PATTERN = r"^\s*\d+(\.\d+)?\s*(ms|s|min|h|d|w)\s*$"


def _to_duration(value: object) -> timedelta:
    if isinstance(value, int | float) and not isinstance(value, bool):
        below = " and it cannot be below zero" if value < 0 else ""
        raise PydanticCustomError(
            "unit",
            "{n} has no unit{below}",
            {"n": value, "below": below, "hint": f"write {abs(value)}s, or another of {UNITS}"},
        )
    if not isinstance(value, str):
        raise PydanticCustomError(
            "unit", "a duration is text", {"hint": f"a number and one of {UNITS}"}
        )
    if value.strip().startswith("-"):
        raise PydanticCustomError(
            "unit", "{text} is smaller than zero", {"text": value, "hint": "0s is the least"}
        )
    try:
        return duration(value)
    except Usage as bad:
        raise PydanticCustomError(
            "unit", "{what}", {"what": bad.message, "hint": "; ".join(bad.hints)}
        ) from None


def _some(value: timedelta) -> timedelta:
    if value == timedelta(0):
        raise PydanticCustomError("zero", "must be longer than zero", {"hint": ""})
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(_to_duration),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["60s", "1.5h"]}),
]
Period = Annotated[
    timedelta,
    BeforeValidator(lambda value: _some(_to_duration(value))),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["15min", "35d"]}),
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


FORMS: dict[str, str] = {}  # pattern -> words, for messages


def _form(pattern: str, said: str, *, longest: int = 300) -> StringConstraints:
    """A pattern, and what to tell somebody whose text is not of it."""
    FORMS[pattern] = said
    return StringConstraints(pattern=pattern, max_length=longest)


Name = Annotated[
    str, _form(r"^[a-z][a-z0-9-]{0,62}$", "small letters, digits and -, a letter first: site-a")
]
SqlName = Annotated[
    str,
    _form(r"^[a-z][a-z0-9_]{0,62}$", "small letters, digits and _, a letter first: legal_entity"),
]
BucketName = Annotated[
    str,
    _form(r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", "3 to 63 small letters, digits and -: geo-images"),
]
Action = Annotated[
    str,
    _form(
        r"^([a-z][a-z0-9-]*\*?|\*)$",
        "small letters, digits and -, with * at the end for any: restore-*",
    ),
]
Url = Annotated[
    str, _form(r"^https://[^/@\s]+(/[^\s]*)?$", "https://host/path, without a user or a password")
]
PublicKey = Annotated[
    str,
    _form(
        r"^(ssh-|-----BEGIN PUBLIC KEY-----)",
        "a public key: an ssh-... line or a PEM block; never the private one",
        longest=5000,
    ),
]
Variable = Annotated[str, _form(r"^[A-Z_][A-Z0-9_]*$", "a variable in capitals: ZAIBEI_PASSPHRASE")]
AbsolutePath = Annotated[
    str, _form(r"^/[^\x00]*$", "an absolute path: the folder of a run is no place")
]
Flag = Annotated[bool, Field(strict=True)]
Names = Annotated[list[Name], Field(min_length=1)]


class _Doc(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class SecretDoc(_Doc):
    """Where a secret is. The file holds one of the three, never the secret itself."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["env"]},
                {"required": ["file"]},
                {"required": ["command"]},
            ]
        }
    )

    env: Variable | None = None
    """An environment variable."""
    file: AbsolutePath | None = None
    """An absolute path; the first line of the file is the secret."""
    command: Annotated[list[str], Field(min_length=1)] | None = None
    """A program and its arguments, run without a shell; what it prints is the secret."""

    @model_validator(mode="before")
    @classmethod
    def _never_literal(cls, value: Any) -> Any:
        # The value is not in the message: an error must not put a secret into a log.
        ways = "{env: NAME}, {file: /PATH} or {command: [PROGRAM, ...]}"
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "secret",
                "a secret itself, or something that is no reference to one",
                {
                    "hint": f"write {ways}; if it was a real secret, change it: it has been in a file"
                },
            )
        if len(value.keys() & {"env", "file", "command"}) != 1:
            raise PydanticCustomError("secret", "needs exactly one way to it", {"hint": ways})
        return value


class PersonDoc(_Doc):
    name: Name
    """Short name, used as `owner` and in `approvals`."""
    title: Text
    """Who that is, for people: office and duty."""
    contact: Text | None = None
    """Where they are reached at night."""
    public_key: PublicKey | None = None
    """Public key that their approvals are checked with: an `ssh-…` line or a PEM block."""


class SiteDoc(_Doc):
    name: Name
    """Short name: `site-a`."""
    city: Text
    """Sites of one city are lost together in an earthquake or a flood."""
    role: Role
    """`production` writes; `same-city` holds a synchronous copy; `remote` an asynchronous one, in another city; `witness` only votes."""
    owner: Name
    """首问责任: who answers for the site; one of `people`."""
    hosts: Annotated[list[Text], Field(min_length=1)] | None = None
    """Addresses or inventory names. Default: the name of the site, as in the lab."""
    witness: Flag = False
    """A remote site may also vote on who writes. A site of role `witness` always does."""


class CityDoc(_Doc):
    """What holds when every site of one city is gone at once."""

    rto: Duration
    """Recovery time objective, the people's decision included."""
    rpo: Duration
    """Recovery point objective; the copy in another city is always a little behind."""
    takeover: Takeover = Takeover.APPROVED
    """`automatic` needs sites in two other cities, so that a majority of cities is left to decide."""


class ObjectiveDoc(_Doc):
    """What may be lost and for how long: H2, H3 and H4 have these keys."""

    rto: Duration
    """Recovery time objective: from the fault to the first good answer, as clients see it."""
    rpo: Duration
    """Recovery point objective: how far back the youngest lost write may lie. `0s`: no acknowledged write may be lost."""
    doo: Text | None = None
    """降低运行目标: what must still work in degraded operation."""


class SiteLossDoc(ObjectiveDoc):
    """H1, natural disaster: a site loses power or network; `city` when all sites of a city do."""

    takeover: Takeover = Takeover.AUTOMATIC
    """Who decides that another site takes over: a majority of voting sites, or people."""
    city: CityDoc | None = None
    """What holds when every site of the city is gone. Default: nothing is promised."""


class ObjectivesDoc(_Doc):
    H1: SiteLossDoc | None = None
    """Natural disaster: a site, or a city, is gone."""
    H2: ObjectiveDoc | None = None
    """Abnormal traffic from a public emergency."""
    H3: ObjectiveDoc | None = None
    """Malicious attack: ransomware, a destructive insider."""
    H4: ObjectiveDoc | None = None
    """Other: operator error, bad release, corruption, clock, certificate."""


class BackupDoc(_Doc):
    every: Period
    """How often a backup is made."""
    keep: Period
    """How long it is kept; the newest verified one is kept whatever this says."""
    vaults: Names
    """Sites whose store holds a repository."""
    max_age: Period
    """A newest backup older than this is stale: an alarm, and no automatic failover."""


class DatabaseDoc(_Doc):
    name: SqlName
    """Name of the PostgreSQL database."""
    title: Text
    """What people call it."""
    owner: Name
    """首问责任: who answers for the data; one of `people`."""
    grade: Grade
    """数据分级 (GB/T 43697-2024): 核心 core, 重要 important, 一般 general."""
    personal_data: Flag
    """Whether it holds personal data: restores outside production are masked then."""
    db_schema: Annotated[SqlName, Field(alias="schema")] = "public"
    """The PostgreSQL schema of its tables."""
    objectives: ObjectivesDoc = ObjectivesDoc()
    """Per hazard; a hazard not named here has the objectives of the top level."""
    backup: BackupDoc | None = None
    """Default: `data.backup`, as a whole."""


class BucketDoc(_Doc):
    name: BucketName
    """Name of the S3 bucket, the same at every site."""
    owner: Name
    """首问责任: who answers for the objects; one of `people`."""
    grade: Grade
    """数据分级 (GB/T 43697-2024): 核心 core, 重要 important, 一般 general."""
    sites: Names
    """Written to all of these before it is acknowledged."""
    copies_to: list[Name] = []
    """Copied there afterwards."""
    lock: Period | None = None
    """How long a version can be neither removed nor changed. Default: not locked."""
    objectives: ObjectivesDoc = ObjectivesDoc()
    """Per hazard; a hazard not named here has the objectives of the top level."""


class DataDoc(_Doc):
    """数: what must not be lost."""

    backup: BackupDoc | None = None
    """The policy of every database that has none of its own."""
    databases: list[DatabaseDoc] = []
    """PostgreSQL databases: they live on every `production` and `same-city` site, with a standby at each `remote` one."""
    buckets: list[BucketDoc] = []
    """Object buckets."""


class ZoneDoc(_Doc):
    name: Text
    """What people call it: 政务外网."""
    zone: Literal["intranet", "extranet"]
    """`intranet` 政务内网, `extranet` 政务外网 and what it opens to citizens."""
    sites: Names
    """Sites that are on it."""
    owner: Name
    """首问责任: who answers for the network; one of `people`."""


class NetworkDoc(_Doc):
    """网: how sites and citizens are reached."""

    zones: list[ZoneDoc] = []
    """Networks that join the sites."""
    entry: Names
    """Sites whose door is published to citizens, in order of preference."""


class ServiceDoc(_Doc):
    name: Name
    """Short name: `health-code`."""
    owner: Name
    """首问责任: who answers for the service; one of `people`."""
    channels: Annotated[list[Literal["app", "mini-program", "web", "hall"]], Field(min_length=1)]
    """What citizens reach it through; `hall` is the service hall, with people behind a counter."""
    peak_rps: Annotated[float, Field(gt=0, le=1e9, strict=True, allow_inf_nan=False)]
    """Requests a second on the busiest ordinary day."""
    surge_factor: Annotated[float, Field(le=1e6, strict=True, allow_inf_nan=False)]
    """How many times the peak must be survived in an emergency; at least 1."""
    slo_latency: Period
    """99 of 100 good answers come within this. A drill with a surge is held to it."""
    slo_success: Annotated[float, Field(gt=0, le=1, strict=True, allow_inf_nan=False)]
    """Share of citizens who are served in the end, 0 to 1. A drill with a surge is held to it."""
    endpoints: list[Url] = []
    """Where citizens reach it. Default: the doors of the entry sites."""
    ladder_max: Literal["L0", "L1", "L2", "L3", "L4", "L5", "L6"] = "L6"
    """How far the service may step down under load: L0 normal to L6 offline codes and paper."""
    objectives: ObjectivesDoc = ObjectivesDoc()
    """Per hazard; a hazard not named here has the objectives of the top level."""


class ApprovalDoc(_Doc):
    """Who may run what: `needed` of `people` must sign; who asks does not count."""

    action: Action
    """Name of a runbook or drill; `*` at the end stands for anything."""
    needed: Annotated[int, Field(ge=1, strict=True)]
    """How many signatures."""
    people: Names
    """Who may sign; of `people`."""


class DrillDoc(_Doc):
    scenario: Name
    """Name of the drill: `site-power-loss`."""
    every: Period
    """Held at least this often; what is due and not held is told."""
    owner: Name
    """Who answers for holding it; one of `people`."""


class StackDoc(_Doc):
    """A government's digital stack and what it promises: 数云网端 and its 容灾备份."""

    name: Name
    """Short name, in every evidence and report."""
    title: Text
    """What people call it."""
    on_site_loss: SiteLoss = SiteLoss.DEGRADE
    """When the synchronous partner is gone: `degrade` goes on with one copy, loudly; `block` takes no write."""
    people: Annotated[list[PersonDoc], Field(min_length=1)]
    """Everybody who owns or approves."""
    objectives: ObjectivesDoc = ObjectivesDoc()
    """Objectives of every asset that does not name its own for the hazard."""
    sites: Annotated[list[SiteDoc], Field(min_length=1, max_length=32)]
    """云: the data centres."""
    data: DataDoc
    """数: databases and buckets."""
    network: NetworkDoc
    """网: networks and the doors of citizens."""
    services: list[ServiceDoc] = []
    """端: what citizens use."""
    approvals: list[ApprovalDoc] = []
    """Who may run what, n of m."""
    calendar: list[DrillDoc] = []
    """Which drill is held how often."""
    secrets: dict[Name, SecretDoc] = {}
    """References only."""

"""A surge as people write it: YAML, checked, unknown keys refused.

surge-during-failover   the steady crowd that a failover drill is measured under
policy-step             the morning a rule changes and everybody opens the code
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from loadtest import citizens, guard, shapes
from loadtest.plan import Crowd, Plan
from loadtest.verdict import Expectation
from zaibei import config
from zaibei.config.model import Hazard
from zaibei.kernel.errors import Usage, ZaibeiError
from zaibei.kernel.units import duration

_SHOWN = 200  # faults; a slip in every line is known after a few
_WIDE = re.compile(r"\d{3}")  # of a format code: `{index:0999999999d}` is a gigabyte
_PLACE = re.compile(r"\{index(:0?\d{0,2}[bdoxX]?)?\}")
LIBRARY = Path(__file__).parent / "scenarios"


class BadScenario(Usage):
    """A scenario file that cannot be run as written."""


def _to_duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        # ValueError: pydantic lets a TypeError through as a crash.
        raise ValueError(f"write a duration with its unit, like 90s, not {value!r}")  # noqa: TRY004
    try:
        return duration(value)
    except ZaibeiError as wrong:
        raise ValueError(str(wrong)) from wrong


Duration = Annotated[timedelta, BeforeValidator(_to_duration)]
Some = Annotated[timedelta, BeforeValidator(_to_duration), Field(gt=timedelta(0))]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Doc(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Title(_Doc):
    zh: str
    en: str


class Constant(_Doc):
    kind: Literal["constant"]
    rate_rps: Rate
    duration: Some

    def shape(self) -> shapes.Shape:
        return shapes.constant(rate_rps=self.rate_rps, duration_s=self.duration.total_seconds())


class Ramp(_Doc):
    kind: Literal["ramp"]
    start_rps: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    end_rps: Rate
    duration: Some

    def shape(self) -> shapes.Shape:
        return shapes.ramp(
            start_rps=self.start_rps,
            end_rps=self.end_rps,
            duration_s=self.duration.total_seconds(),
        )


class PolicyStep(_Doc):
    kind: Literal["policy_step"]
    base_rps: Rate
    factor: Rate
    before: Some
    rise: Some
    hold: Some
    decay: Some

    def shape(self) -> shapes.Shape:
        return shapes.policy_step(
            base_rps=self.base_rps,
            factor=self.factor,
            before_s=self.before.total_seconds(),
            rise_s=self.rise.total_seconds(),
            hold_s=self.hold.total_seconds(),
            decay_s=self.decay.total_seconds(),
        )


class Persons(_Doc):
    """Zipf: person k is asked for in proportion to 1 / k**exponent."""

    count: Annotated[int, Field(ge=1, le=5_000_000)]
    exponent: Annotated[float, Field(ge=0, le=4)] = 1.0
    pattern: str = "{index}"
    """How person number `index` (from 0) is named; format codes as in `p{index:07d}`."""

    @model_validator(mode="after")
    def _names_people_apart(self) -> Self:
        if _WIDE.search(self.pattern):
            raise ValueError(f"pattern {self.pattern[:60]!r}: wider than 99 characters")
        if re.search(r"[{}]", _PLACE.sub("", self.pattern)):
            # Python's format codes reach into the number's attributes, and can be as wide as the number.
            raise ValueError(
                f"pattern {self.pattern[:60]!r}: takes {{index}} or {{index:07d}} alone"
            )
        try:
            first, last = (self.pattern.format(index=i) for i in (0, self.count - 1))
        except (KeyError, IndexError, ValueError) as wrong:
            raise ValueError(f"pattern {self.pattern!r}: {wrong!r}") from wrong
        if first == last and self.count > 1:
            raise ValueError(f"pattern {self.pattern!r} gives every person one name")
        return self


class StepDoc(_Doc):
    name: str
    method: Literal["GET", "POST"] = "GET"
    path: Annotated[str, Field(pattern=r"^/[!-~]*$")]
    body: dict[str, str] | None = None
    bearer: str | None = None
    """Sent as `Authorization: Bearer`; `{session}` is the citizen's own session."""
    ok: tuple[int, ...] = (200,)
    keeps: tuple[str, ...] = ()
    says: dict[str, bool | int | str] | None = None
    """Fields the JSON answer must have with these values: a 200 that says `valid: false` is no success."""

    def step(self) -> citizens.Step:
        return citizens.Step(**self.model_dump())


class VisitDoc(_Doc):
    name: str
    weight: Rate
    steps: Annotated[tuple[StepDoc, ...], Field(min_length=1)]


class PatienceDoc(_Doc):
    refresh_after: Some = timedelta(seconds=3)
    refreshes_max: Annotated[int, Field(ge=0, le=20)] = 6
    pause: Some = timedelta(seconds=1)
    connect_timeout: Some = timedelta(seconds=1)
    obeys_retry_after: Share = 0.0

    def patience(self) -> citizens.Patience:
        return citizens.Patience(
            refresh_after_s=self.refresh_after.total_seconds(),
            refreshes_max=self.refreshes_max,
            pause_s=self.pause.total_seconds(),
            connect_timeout_s=self.connect_timeout.total_seconds(),
            obeys_retry_after=self.obeys_retry_after,
        )


class ExpectDoc(_Doc):
    """Over all who came; somebody who was never served is later than any bound."""

    success_ratio_min: Share | None = None
    p50_max: Some | None = None
    p99_max: Some | None = None
    longest_silence_max: Duration | None = None
    amplification_max: Annotated[float, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _claims_something(self) -> Self:
        if all(v is None for v in self.model_dump().values()):
            raise ValueError(
                "expect at least one thing: a surge that claims nothing proves nothing"
            )
        return self


class CapsDoc(_Doc):
    arrivals_rps: Rate = 500
    requests_rps: Annotated[int, Field(gt=0)] = 1500
    duration: Some = timedelta(minutes=30)
    in_flight: Annotated[int, Field(gt=0)] = 1000
    send_lag_p99: Some = timedelta(milliseconds=10)
    """Requests leaving later than this make the run INVALID."""


class SurgeScenario(_Doc):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Title
    hazard: Hazard
    summary: str
    spacing: shapes.Spacing = shapes.Spacing.POISSON
    shape: Annotated[Constant | Ramp | PolicyStep, Field(discriminator="kind")]
    persons: Persons
    visits: Annotated[tuple[VisitDoc, ...], Field(min_length=1)]
    connections: Literal["fresh", "pooled"] = "fresh"
    patience: PatienceDoc = PatienceDoc()
    expect: ExpectDoc
    caps: CapsDoc = CapsDoc()

    @model_validator(mode="after")
    def _keeps_its_caps(self) -> Self:
        curve = self.shape.shape()
        reason = guard.why_not_caps(
            peak_rps=curve.peak_rps, duration_s=curve.duration_s, caps=self._caps()
        )
        if reason:
            raise ValueError(reason)
        return self

    def lasting(self, length: timedelta | None) -> shapes.Shape:
        """The curve, told in `length` if one is given. Raises BadScenario."""
        curve = self.shape.shape()
        if length is None:
            return curve
        if length <= timedelta(0):
            raise BadScenario("a surge takes time", hint="give a duration above zero")
        curve = curve.lasting(length)
        reason = guard.why_not_caps(
            peak_rps=curve.peak_rps, duration_s=curve.duration_s, caps=self._caps()
        )
        if reason:
            raise BadScenario(f"{self.name}: {reason}")
        return curve

    def plan(
        self,
        *,
        doors: Sequence[guard.Door],
        declared: Sequence[str],
        ca_file: Path | None,
        seed: int,
        workers: int = 1,
        length: timedelta | None = None,
        session_key: Path | None = None,
    ) -> Plan:
        asked = [s.name for v in self.visits for s in v.steps if "{session}" in (s.bearer or "")]
        if asked and session_key is None:
            raise BadScenario(
                f"{self.name}: {asked[0]} is asked with a session, and there is no key to log in by",
                hint="--session-key FILE: the key of the service's identity service",
            )
        return Plan(
            scenario=self.name,
            seed=seed,
            worker=0,
            of=workers,
            shape=self.lasting(length),
            spacing=self.spacing,
            crowd=Crowd(
                count=self.persons.count,
                exponent=self.persons.exponent,
                pattern=self.persons.pattern,
            ),
            visits=tuple(
                citizens.Visit(name=v.name, weight=v.weight, steps=tuple(s.step() for s in v.steps))
                for v in self.visits
            ),
            patience=self.patience.patience(),
            fresh_connections=self.connections == "fresh",
            doors=tuple(doors),
            declared=tuple(sorted(declared)),
            ca_file=None if ca_file is None else str(ca_file.resolve()),
            session_key=None if session_key is None else str(session_key.resolve()),
            caps=self._caps(),
            lag_p99_max_s=self.caps.send_lag_p99.total_seconds(),
        )

    def expectation(self) -> Expectation:
        return Expectation(**self.expect.model_dump())

    def _caps(self) -> guard.Caps:
        return guard.Caps(
            arrivals_rps=self.caps.arrivals_rps,
            requests_rps=self.caps.requests_rps,
            duration_s=self.caps.duration.total_seconds(),
            in_flight=self.caps.in_flight,
        )


def parse(text: str, *, origin: str) -> SurgeScenario:
    """Raises BadScenario, a line for each fault."""
    return _checked(config.parse(text), origin)


def _checked(source: config.Source, origin: str) -> SurgeScenario:
    try:
        return SurgeScenario.model_validate(config.demand(source, name=origin))
    except BadScenario:
        raise
    except Usage as broken:
        raise BadScenario(broken.message, hint=broken.hints) from broken
    except ValidationError as faults:
        told = [
            f"{origin}: {'.'.join(str(p) for p in e['loc']) or 'scenario'}: {e['msg']}"
            for e in faults.errors(include_url=False)[:_SHOWN]
        ]
        raise BadScenario("\n".join(told)) from faults


def load(name: str | Path) -> SurgeScenario:
    """A scenario of the library by name, or of one's own by path."""
    path = Path(name)
    if path.suffix not in (".yml", ".yaml"):
        path = LIBRARY / f"{name}.yml"
    try:
        with path.open("rb") as file:
            raw = file.read(config.SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError as gone:
        known = ", ".join(s.name for s in library())
        raise BadScenario(f"no surge scenario {str(name)!r}", hint=f"there are: {known}") from gone
    except OSError as gone:
        raise BadScenario(f"{name}: cannot be read: {gone.strerror}") from gone
    return _checked(config.parse_bytes(raw), path.name)


def library() -> tuple[SurgeScenario, ...]:
    return tuple(parse(p.read_text(), origin=p.name) for p in sorted(LIBRARY.glob("*.yml")))

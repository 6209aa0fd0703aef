"""What a probe answers: samples, or the reason why not. Never both, never a pretended zero."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

T = TypeVar("T")

OPERATOR = "operator"  # the `site` of probes that ask nobody's site


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Nobody could tell, and why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Generic[T]):
    """A question with a deadline. `ask` raises anything when it gets no answer: that is the reason."""

    name: str
    site: str
    ask: Callable[[timedelta], T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T]):
    probe: str
    site: str
    took: timedelta
    value: T | Unknown

"""The registry of native actions and checks: what a runbook's `native:` and `check:` may name.

An action does something and returns a line for the journal. A check asks and returns the reason why its
claim does not hold, or None; when it cannot ask it raises, and the claim is then not proven.
Either must be safe to repeat: a run that was killed does its last step again.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from infra.sites import StackAccess
from zaibei.kernel.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a native action may use. `access` is asked for late: a dry run needs no stack."""

    access: Callable[[], StackAccess]
    clock: Clock
    folder: Path  # of the run, 0700
    deadline: timedelta  # what is left of the step's


Act = Callable[..., str]
Ask = Callable[..., str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    name: str
    call: Callable[..., str | None]
    asks: bool  # a check
    destructive: bool
    says: str  # first line of its docstring

    def parameters(self) -> dict[str, bool]:
        """Argument name -> required, without the context."""
        own = list(inspect.signature(self.call).parameters.values())[1:]
        return {p.name: p.default is inspect.Parameter.empty for p in own}


_REGISTRY: dict[str, Native] = {}


def action(name: str, *, destructive: bool = False) -> Callable[[Act], Act]:
    """Register `def act(context, *, …) -> str`."""

    def keep(call: Act) -> Act:
        _register(name, call, asks=False, destructive=destructive)
        return call

    return keep


def check(name: str) -> Callable[[Ask], Ask]:
    """Register `def ask(context, *, …) -> str | None`."""

    def keep(call: Ask) -> Ask:
        _register(name, call, asks=True, destructive=False)
        return call

    return keep


def _register(name: str, call: Callable[..., str | None], *, asks: bool, destructive: bool) -> None:
    assert name not in _REGISTRY, f"{name} is registered twice"
    says = (inspect.getdoc(call) or "").split("\n")[0]
    assert says, f"{name} has no docstring to show"
    _REGISTRY[name] = Native(name=name, call=call, asks=asks, destructive=destructive, says=says)

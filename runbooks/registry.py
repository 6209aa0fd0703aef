"""Finds a native action or check by its name, and calls it."""

from collections.abc import Mapping
from typing import Any

from runbooks.actions import _REGISTRY, Context, Native
from zaibei.kernel.errors import Usage


def registered() -> Mapping[str, Native]:
    """Everything known, with our own ones loaded."""
    import runbooks.native  # noqa: F401, PLC0415 - registers on import; here, or the two would be a circle

    return dict(_REGISTRY)


def invoke(name: str, context: Context, args: Mapping[str, Any], *, asks: bool) -> str | None:
    known = registered().get(name)
    if known is None or known.asks is not asks:
        kind = "check" if asks else "action"
        raise Usage(
            f"no native {kind} {name!r}", hint="zaibei runbook lint names the ones there are"
        )
    return known.call(context, **{k.replace("-", "_"): v for k, v in args.items()})

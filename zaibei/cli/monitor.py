"""`zaibei monitor`: What is true now: exporter, alerts."""

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.console import emit, talk
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Invalid
from zaibei.kernel.state import state_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitors.check import Check
    from monitors.survey import Survey

app = typer.Typer(no_args_is_help=True, help="What is true now: exporter, alerts.")
StackFile = Annotated[Path | None, typer.Option("--stack", help="stack.yaml; default: the sample")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]


@app.command()
def serve(
    stack: StackFile = None,
    *,
    address: Annotated[str, typer.Option(help="where to listen")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 9471,
    once: Annotated[bool, typer.Option("--once", help="print the page and end")] = False,
    json: Json = False,
) -> None:
    """Show what the probes see to Prometheus, until it is interrupted."""
    from monitors.exporter import page  # noqa: PLC0415
    from monitors.exporter import serve as serve_metrics  # noqa: PLC0415
    from monitors.metrics import Where  # noqa: PLC0415

    look = _look(stack)
    if once:
        seen = look()
        if json:
            emit(seen)
        else:
            print(page(lambda: seen.samples, where=Where.OPERATOR), end="")
        return
    bound, stop = serve_metrics(
        lambda: look().samples, where=Where.OPERATOR, address=address, port=port
    )
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    if json:
        emit({"url": f"http://{address}:{bound}/metrics"})
    else:
        talk.print(f"http://{address}:{bound}/metrics, until ^C")
    try:
        ended.wait()
    finally:
        stop()


@app.command()
def check(
    stack: StackFile = None,
    *,
    only: Annotated[str | None, typer.Option(help="one alert, by name")] = None,
    site: Annotated[str | None, typer.Option(help="what is about one site")] = None,
    json: Json = False,
) -> None:
    """Ask every alert's condition now. Exit 1 when one fires, 3 when the one of --only is unknown."""
    from infra.sites import load  # noqa: PLC0415
    from monitors.check import check as judge  # noqa: PLC0415
    from monitors.check import of_alert, of_hosts  # noqa: PLC0415
    from monitors.rules import all_rules  # noqa: PLC0415

    rules, seen = all_rules(), _look(stack)()
    found = judge(rules, seen, of_hosts(load(), clock=SystemClock()), site=site)
    if only is not None:
        found = of_alert(found, only, frozenset(r.alert for r in rules))
    if json:
        emit(found)
    else:
        _say(found)
    if found.firing:
        raise typer.Exit(1)
    if only is not None and found.unknown:
        raise Invalid(
            f"{only}: nothing was measured that could answer it", hint="zaibei monitor check"
        )


@app.command("rules")
def rules_(*, json: Json = False) -> None:
    """List the alert rules, and the runbook of each."""
    from monitors.rules import all_rules  # noqa: PLC0415

    rules = all_rules()
    if json:
        emit({"rules": rules})
        return
    for rule in rules:
        print(f"{rule.severity:9}{rule.alert:30}{rule.runbook.removesuffix('.yml'):22}{rule.expr}")


def _look(stack: Path | None) -> "Callable[[], Survey]":
    from infra.sites import load  # noqa: PLC0415
    from monitors.bounds import bounds  # noqa: PLC0415
    from monitors.survey import survey  # noqa: PLC0415
    from zaibei.cli.choice import chosen_stack  # noqa: PLC0415

    access, within = load(), bounds(chosen_stack(stack))
    return lambda: survey(access, within, state=state_dir(), clock=SystemClock())


def _say(found: "Check") -> None:
    for one in found.firing:
        print(f"{one.severity.upper()} {one.alert}: {one.summary['en']} / {one.summary['zh']}")
        print(f"    zaibei runbook show {one.runbook.removesuffix('.yml')}")
    for silence in found.silences:
        print(f"no answer: {silence.probe} of {silence.site}: {silence.reason}")
    if found.unknown:
        print(f"unknown: {', '.join(found.unknown)}")
    print(f"{len(found.firing)} firing, {len(found.unknown)} unknown")

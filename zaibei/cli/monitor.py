"""`zaibei monitor`: What is true now: exporter, alerts."""

import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.console import emit, line, show, talk
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Invalid, Usage
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
    every: Annotated[
        float, typer.Option(min=1, max=10, help="seconds between two rounds of probes")
    ] = 5.0,
    json: Json = False,
) -> None:
    """Show what the probes see to Prometheus, until Ctrl-C or SIGTERM: that is its normal end."""
    from monitors.ask import Asker  # noqa: PLC0415
    from monitors.beat import Beat  # noqa: PLC0415
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
    ended, asker = threading.Event(), Asker(clock=SystemClock())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Beat(
        lambda: look(asker).samples,
        where=Where.OPERATOR,
        clock=SystemClock(),
        every=timedelta(seconds=every),
    ) as beat:
        bound, stop = serve_metrics(beat.samples, where=Where.OPERATOR, address=address, port=port)
        if json:
            emit({"url": f"http://{address}:{bound}/metrics"})
        else:
            talk.print(f"http://{address}:{bound}/metrics, until Ctrl-C")
        ended.wait()
        stop()
    talk.print("stopped: no metrics are served any more")


@app.command()
def check(
    stack: StackFile = None,
    *,
    only: Annotated[
        list[str] | None, typer.Option(help="this alert alone, by name; may be repeated")
    ] = None,
    site: Annotated[str | None, typer.Option(help="what is about one site")] = None,
    json: Json = False,
) -> None:
    """Ask every alert's condition now. Exit 1 when one fires, 3 when one of --only is unknown at any place."""
    from monitors.bounds import bounds  # noqa: PLC0415
    from monitors.check import check as judge  # noqa: PLC0415
    from monitors.check import must_be_known, of_alerts  # noqa: PLC0415
    from monitors.rules import all_rules  # noqa: PLC0415
    from zaibei.cli.choice import chosen_stack  # noqa: PLC0415

    rules, within = all_rules(), bounds(chosen_stack(stack))
    if site is not None and site not in within.sites:
        raise Usage(f"no site {site!r}", hint=f"there are: {', '.join(within.sites)}")
    known = frozenset(r.alert for r in rules)
    for alert in only or ():
        must_be_known(alert, known)
    found = judge(rules, _look(stack)(), within, site=site)
    if only:
        found = of_alerts(found, only)
    if json:
        emit(found)
    else:
        _say(found)
    if found.firing:
        raise typer.Exit(1)
    if only and found.unknown:
        places = ", ".join(d.at for d in found.unmeasured if d.at)
        raise Invalid(
            f"{', '.join(found.unknown)}: not measured" + (f" at {places}" if places else ""),
            hint="it did not fire where it was measured; zaibei monitor check names the silent probes",
        )


@app.command("rules")
def rules_(*, json: Json = False) -> None:
    """List the alert rules, and the runbook of each."""
    from monitors.rules import all_rules  # noqa: PLC0415

    rules = all_rules()
    if json:
        emit({"rules": rules})
        return
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("severity", "alert", "for", "runbook", "condition")
    for rule in rules:
        waits = f"{rule.for_s:g} s" if rule.for_s else "–"
        table.add_row(
            rule.severity, rule.alert, waits, rule.runbook.removesuffix(".yml"), Text(rule.expr)
        )
    show(table)


def _look(stack: Path | None) -> "Callable[..., Survey]":
    from infra.sites import load  # noqa: PLC0415
    from monitors.bounds import bounds  # noqa: PLC0415
    from monitors.survey import survey  # noqa: PLC0415
    from zaibei.cli.choice import chosen_stack  # noqa: PLC0415

    access, within = load(), bounds(chosen_stack(stack))
    return lambda asker=None: survey(
        access, within, state=state_dir(), clock=SystemClock(), asker=asker
    )


def _say(found: "Check") -> None:
    for one in found.firing:
        made = f" (while the drill {one.drill} runs)" if one.drill else ""
        line(f"{one.severity.upper()} {one.alert}: {one.summary['en']} / {one.summary['zh']}{made}")
        line(f"    zaibei runbook show {one.runbook.removesuffix('.yml')}")
    for silence in found.silences:
        line(f"no answer: {silence.probe} of {silence.site}: {silence.reason}")
    for alert in found.unknown:
        places = ", ".join(d.at for d in found.unmeasured if d.alert == alert and d.at)
        line(f"unknown: {alert}" + (f" at {places}" if places else ""))
    print(f"{len(found.firing)} firing, {len(found.unknown)} unknown")

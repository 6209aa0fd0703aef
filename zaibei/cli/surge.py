"""`zaibei surge`: Load on the services. Exit 0 PASS, 1 FAIL, 3 INVALID."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.console import emit, progress, talk
from zaibei.kernel.clock import SystemClock

if TYPE_CHECKING:
    from loadtest.oracle import OracleReport, Percentiles
    from loadtest.report import SurgeReport
    from loadtest.run import Surge
    from zaibei.kernel.progress import Progress

app = typer.Typer(no_args_is_help=True, help="Load on the services.")
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
RunDir = Annotated[Path | None, typer.Option(help="where results go; a new directory")]
_EXIT = {"PASS": 0, "FAIL": 1, "INVALID": 3}


@app.command("list")
def list_(*, json: Json = False) -> None:
    """Scenarios of the library."""
    from loadtest import scenario  # noqa: PLC0415

    known = scenario.library()
    if json:
        emit({"scenarios": [s.model_dump(mode="json") for s in known]})
        return
    for s in known:
        curve = s.shape.shape()
        talk.print(
            f"{s.name}  {s.title.zh} · {s.title.en}  ({s.hazard}, {curve.duration_s:g} s, "
            f"up to {curve.peak_rps:g}/s)",
            markup=False,
            soft_wrap=True,
        )


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="a name from `zaibei surge list`, or a file")],
    *,
    seed: Annotated[int, typer.Option(help="the same seed makes the same arrivals")] = 0,
    duration: Annotated[
        float | None, typer.Option(help="compress the load profile to N seconds")
    ] = None,
    door: Annotated[
        list[str] | None,
        typer.Option(help="base URL to load; default: the entries of the provisioned stack"),
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="CA of the doors; default: the stack's")] = None,
    session_key: Annotated[
        Path | None, typer.Option(help="key to log citizens in by; default: the stack's")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="engine processes")] = 1,
    run_dir: RunDir = None,
    json: Json = False,
) -> None:
    """Load a service and judge what its clients met."""
    from loadtest import run as engine  # noqa: PLC0415
    from loadtest.report import judged  # noqa: PLC0415
    from loadtest.scenario import load  # noqa: PLC0415

    chosen = load(scenario)
    doors, ca_file, key = (door, ca, session_key) if door else _entries(ca, session_key)
    into = run_dir or _fresh("surge")
    with progress() as told:
        told.step(f"surge {chosen.name}")
        with engine.start(
            chosen,
            doors=doors,
            ca_file=ca_file,
            run_dir=into,
            seed=seed,
            clock=SystemClock(),
            workers=workers,
            session_key=key,
            length=None if duration is None else timedelta(seconds=duration),
        ) as surge:
            _follow(surge, told)
            report = judged(chosen, surge.wait(), run_dir=into)
    if json:
        emit(report)
    else:
        _say_surge(report)
    raise typer.Exit(_EXIT[report.verdict])


@app.command()
def oracle(
    *,
    run_dir: RunDir = None,
    json: Json = False,
) -> None:
    """Let the engine measure a service that freezes for 1 s in 60 s, beside stock locust."""
    from loadtest import oracle as stall  # noqa: PLC0415

    with progress() as told:
        told.step(f"stall oracle, {stall.FULL.length.total_seconds():g} s")
        report = stall.ask(
            stall.FULL,
            run_dir=run_dir or _fresh("oracle"),
            clock=SystemClock(),
            tolerance_ratio=0.01,
            tolerance=timedelta(milliseconds=1),
            beside=True,
        )
    if json:
        emit(report)
    else:
        _say_oracle(report)
    raise typer.Exit(_EXIT[report.verdict])


def _entries(ca: Path | None, key: Path | None) -> tuple[list[str], Path, Path | None]:
    from infra import sites  # noqa: PLC0415

    access = sites.load()
    entries = [s.entry_url for s in access.sites]
    return entries, ca or access.ca_file, key or access.session_key


def _fresh(prefix: str) -> Path:
    import random  # noqa: PLC0415

    from zaibei.kernel.ids import new_id  # noqa: PLC0415
    from zaibei.kernel.state import state_dir  # noqa: PLC0415

    return state_dir() / "surge" / new_id(prefix, SystemClock(), random.SystemRandom())


def _follow(surge: "Surge", told: "Progress") -> None:
    clock = SystemClock()
    total_s = round(surge.plan.shape.duration_s)
    while surge.running() and clock.monotonic() < surge.start_s + total_s:
        told.done(min(total_s, round(clock.monotonic() - surge.start_s)), total_s, unit="s")
        clock.sleep(timedelta(seconds=0.5))


def _say_surge(report: "SurgeReport") -> None:
    r = report.result
    talk.print(
        f"offered {r.offered}  sent {r.sent}  ok {r.ok}  rejected {r.rejected}  failed {r.failed}"
        f"  dropped {r.dropped}  unfinished {r.unfinished}"
    )
    talk.print(
        f"p50 {_ms(r.p50)}  p99 {_ms(r.p99)}  p99.9 {_ms(r.p999)}"
        f"  amplification {'unknown' if r.amplification is None else f'{r.amplification:.2f}'}"
        f"  longest silence {r.longest_silence.total_seconds():g} s"
        f"  send lag p99 {'unknown' if r.send_lag_p99 is None else _ms(r.send_lag_p99)}"
    )
    for clause in report.clauses:
        mark = "holds" if clause.holds else "BROKEN"
        talk.print(
            f"{mark}: {clause.what} {clause.wanted}: {clause.got}", markup=False, soft_wrap=True
        )
    if report.harm:
        talk.print(f"harm: {report.harm}", markup=False, soft_wrap=True)
    for reason, n in list(r.reasons.items())[:5]:
        talk.print(f"  {n} x {reason}", markup=False, soft_wrap=True)
    for reason in r.generator_verdict.reasons:
        talk.print(f"generator: {reason}", markup=False, soft_wrap=True)
    talk.print(f"{report.verdict}  {report.run_dir}", markup=False, soft_wrap=True)


def _say_oracle(report: "OracleReport") -> None:
    def line(who: str, p: "Percentiles | None") -> None:
        said = (
            "unknown" if p is None else f"p50 {_ms(p.p50)}  p99 {_ms(p.p99)}  p99.9 {_ms(p.p999)}"
        )
        talk.print(f"{who}: {said}")

    line("truth", report.truth)
    line("this engine", report.measured)
    line("stock locust, closed loop", report.stock)
    for reason in report.result.generator_verdict.reasons:
        talk.print(f"generator: {reason}", markup=False, soft_wrap=True)
    talk.print(str(report.verdict))


def _ms(value: timedelta | None) -> str:
    return "never" if value is None else f"{value.total_seconds() * 1000:.1f} ms"

"""`zaibei drill`: faults made on purpose, measured. Exit 0 PASS, 1 FAIL, 3 INVALID, 2 usage."""

# ruff: noqa: PLC0415  a command imports what it needs: `zaibei --help` stays fast

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zaibei.cli.console import emit, progress, show, talk, unexpected
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Usage
from zaibei.kernel.printable import printable
from zaibei.kernel.state import state_dir

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    no_args_is_help=True,
    help="Failure drills: inject a fault, measure the impact on clients, judge it.",
)
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
StackFile = Annotated[Path | None, typer.Option("--stack", help="stack.yaml; default: the sample")]
Despite = Annotated[
    list[str] | None,
    typer.Option(help="Overrule one question of `drill check`, by name; logged in the intent."),
]
_EXIT = {"PASS": 0, "FAIL": 1, "INVALID": 3}
_COLOUR = {"PASS": "bold green", "FAIL": "bold red", "INVALID": "bold yellow"}


@app.command("list")
def list_(*, json: Json = False) -> None:
    """List the scenarios."""
    from rich.table import Table

    from failover import scenario

    found = [scenario.load(n) for n in scenario.names()]
    if json:
        emit({"scenarios": [s.model_dump(mode="json") for s in found]})
        return
    table = Table("scenario", "hazard", "fault", "what happens")
    for s in found:
        table.add_row(
            s.name,
            s.hazard.value,
            f"{s.fault.kind.value} at {s.fault.at.value}",
            f"{s.title.en} {s.title.zh}",
        )
    show(table)


@app.command()
def run(
    name: str,
    seed: Annotated[int, typer.Option(help="Seed of the traffic and of the fault.")] = 1,
    stack: StackFile = None,
    *,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", help="Boot the lab, load data and take a first backup before the drill."
        ),
    ] = False,
    scale: Annotated[float, typer.Option(help="With --prepare: 1.0 is 100 000 people.")] = 1.0,
    keep_lab: Annotated[
        bool, typer.Option("--keep-lab", help="With --prepare: leave the lab running afterwards.")
    ] = False,
    despite: Despite = None,
    json: Json = False,
) -> None:
    """Inject a fault, measure client impact, and report a verdict."""
    from failover import scenario
    from failover.drill import drill
    from failover.record import Asked
    from zaibei.cli.choice import chosen_stack
    from zaibei.evidence import Evidence, default_dir, verify
    from zaibei.reports import drill_report

    asked = Asked(
        stack=chosen_stack(stack),
        scenario=scenario.load(name),
        seed=seed,
        prepare=prepare,
        scale=scale,
        keep_lab=keep_lab,
        despite=tuple(despite or ()),
    )
    clock = SystemClock()
    with progress() as told:
        finished = drill(asked, clock=clock, progress=told)
        told.step("drawing the report")
        report = finished.folder / "report.html"
        held = verify(finished.pack).fingerprints
        known = Evidence.existing(default_dir(), clock).fingerprints()
        ours = [value for name, value in held.items() if known.get(name) == value]
        try:
            drill_report(finished.pack, report, "both", trusted_fingerprints=ours)
        except Exception as failed:  # noqa: BLE001 - the verdict is on record, and must be said
            told.note(f"the report was not drawn: {unexpected(failed)}")
    result = finished.result | {
        "evidence_pack": str(finished.pack),
        "report": str(report),
        "checkpoint": finished.checkpoint,
        "fingerprints": held,
    }
    last = state_dir() / "drills" / "last.json"
    last.write_text(jsonlib.dumps({"drill_id": finished.drill_id, **_paths(result)}))
    if json:
        emit(result)
    else:
        _tell(result)
    raise typer.Exit(_EXIT[finished.verdict.ruling.value])


@app.command()
def check(
    name: str, stack: StackFile = None, *, despite: Despite = None, json: Json = False
) -> None:
    """Ask whether the stack is well enough for a drill, without touching it. Exit 4 when it is not."""
    from failover import preflight, scenario
    from infra import sites
    from infra.lab.plan import plan
    from zaibei.cli.choice import chosen_stack

    declared, clock = chosen_stack(stack), SystemClock()
    preflight.known(despite or ())
    scenario.load(name).fault_in(declared)
    lab = plan(declared, state_dir())
    found = preflight.check(
        preflight.Asked(stack=declared, lab=lab, access=sites.load(), clock=clock, backup=True)
    )
    fit = not [f for f in found if f.stops and f.name not in (despite or ())]
    if json:
        emit({"scenario": name, "fit": fit, "findings": found})
    else:
        for line in preflight.told(found):
            talk.print(line, markup=False, emoji=False, soft_wrap=True)
    preflight.demand(found, despite=tuple(despite or ()))


@app.command()
def undo(stack: StackFile = None, *, json: Json = False) -> None:
    """Undo every recorded fault now and end what a killed drill left; the lab stays up."""
    from failover.drill import lock
    from infra.faults import journal
    from infra.lab.plan import plan
    from zaibei.cli.choice import chosen_stack
    from zaibei.kernel import process
    from zaibei.kernel.state import sole

    lab = plan(chosen_stack(stack), state_dir())
    with sole(lock(), what="zaibei drill undo"), progress() as told:
        told.step("undoing recorded faults")
        undone = journal.undo_all(lab, SystemClock())
        ended = process.end_orphans(state_dir())
    if json:
        emit({"undone": undone, "ended": ended})
        return
    for line in (*undone, *ended):
        talk.print(line, markup=False, emoji=False, soft_wrap=True)
    talk.print(f"{len(undone)} faults undone, {len(ended)} programs ended")


@app.command("show")
def show_(drill: str, *, json: Json = False) -> None:
    """Show a finished drill by its id, or the `last` one."""
    folder = state_dir() / "drills"
    if drill == "last":
        try:
            drill = str(jsonlib.loads((folder / "last.json").read_text())["drill_id"])
        except FileNotFoundError as none:
            raise Usage(
                "no drill has finished here", hint="zaibei drill run site-power-loss"
            ) from none
    try:
        result = jsonlib.loads((folder / drill / "result.json").read_text())
    except FileNotFoundError as none:
        raise Usage(
            f"no finished drill {drill}", hint=f"finished drills are listed in {folder}"
        ) from none
    result |= {
        "evidence_pack": str(folder / drill / "pack"),
        "report": str(folder / drill / "report.html"),
    }
    if json:
        emit(result)
    else:
        _tell(result)


def _paths(result: dict[str, Any]) -> dict[str, Any]:
    return {k: result[k] for k in ("scenario", "verdict", "ended_at", "evidence_pack", "report")}


def _tell(r: dict[str, Any]) -> None:
    """The verdict as a person reads it: the word, the figures against their objectives, the proof."""
    from rich.table import Table

    verdict = r["verdict"]
    talk.print()
    talk.print(verdict, style=_COLOUR[verdict], end="  ")
    title = " · ".join(printable(r["title"][lang]) for lang in ("en", "zh"))
    talk.print(title, end="  ", soft_wrap=True)
    talk.print(r["drill_id"], style="dim")
    for reason in r["reasons"]:
        talk.print(f"  {reason}", markup=False)
    for line in r.get("summary", []):  # drills of earlier versions have none
        talk.print(f"  {line['en']}", markup=False)
    goal, b = r["objective"], r["backup"]
    whose = f"objective of {goal['database']}" if goal.get("database") else "objective"
    table = Table("what", "measured", whose, box=None, pad_edge=False, header_style="dim")
    table.add_row("RTO, first good write", _s(r["rto_first_s"]), f"≤ {goal['rto_s']:g} s")
    table.add_row("RTO, stable again", _s(r["rto_stable_s"]), f"≤ {goal['rto_s']:g} s")
    table.add_row(
        "acknowledged writes lost",
        f"{_n(r['lost'])} of {_n(r['acked'])}",
        f"RPO {goal['rpo_s']:g} s",
    )
    table.add_row(
        "acknowledged objects lost",
        f"{_n(r['objects']['lost'])} of {_n(r['objects']['acked'])}",
        "",
    )
    table.add_row("writes with unknown outcome", _n(r["info"]), "")
    table.add_row("unexpected writes", _n(r["phantoms"]), "")
    table.add_row(
        "phases", ", ".join(f"{k} {v:.1f} s" for k, v in r["phases_s"].items()) or "unknown", ""
    )
    table.add_row(
        "writer",
        " → ".join(str(r["writer"].get(k, {}).get("site")) for k in ("before", "after")),
        "",
    )
    if r["surge"]:
        table.add_row(
            "citizens served",
            f"{r['surge']['ok']} of {r['surge']['offered']}, p99 {_ms(r['surge']['p99_ms'], none='never' if r['surge']['offered'] else 'unknown')}",
            "",
        )
        _tell_judged(table, r["surge"].get("judged"))
        table.add_row(
            "load generator",
            "valid measurement" if r["surge"]["verdict"] == "VALID" else "NOT a valid measurement",
            "valid",
        )
    table.add_row(
        "backup restored and compared",
        f"{'yes' if b['restore_verified'] else 'NO'}, {_n(b['rows_compared'])} rows in {_s(b['restore_s'])}",
        "",
    )
    table.add_row("failed back", f"{r['failback']['writer']} in {_s(r['failback']['took_s'])}", "")
    table.add_row(
        "negative control",
        "condemned" if r["negative_control"]["condemned"] else "NOT condemned",
        "condemned",
    )
    show(table)
    for check in r["checks"]:
        passed, ran = check["passed"], check["ran"]
        style, mark = ("green", "✓") if passed else ("red", "✗") if ran else ("yellow", "–")
        talk.print(mark, style=style, end=" ")
        talk.print(f"{check['name']:18}", end=" ")
        talk.print(check["detail"], markup=False, style="dim")
    talk.print(f"\nevidence  {r['evidence_pack']}\nreport    {r['report']}", markup=False)
    if noted := r.get("checkpoint"):
        talk.print(f"note down  checkpoint {noted}", markup=False)
    for name, value in r.get("fingerprints", {}).items():
        talk.print(f"           {value}  {name}", markup=False, soft_wrap=True)


def _tell_judged(table: "Table", judged: dict[str, Any] | None) -> None:
    """Whom the service was judged by, and against what."""
    if judged is None:
        return
    whom = "all citizens" if judged["outage"] is None else "citizens outside the outage"
    served = f"{judged['offered'] - judged['unserved']} of {judged['offered']}"
    goals = {
        c["what"]: c["wanted"].replace(">=", "≥").replace("<=", "≤")
        for c in judged["slo"] or judged["expectation"]
    }
    table.add_row(f"served: {whom}", served, goals.get("success_ratio", ""))
    table.add_row("p99 of good answers", _ms(judged["answer_p99_ms"]), goals.get("answer_p99", ""))


def _s(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} s"


def _ms(value: float | None, none: str = "unknown") -> str:
    return none if value is None else f"{value:.0f} ms"


def _n(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"

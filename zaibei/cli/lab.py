"""`zaibei lab`: three real sites on one machine."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from zaibei.cli.console import emit, progress, show, talk
from zaibei.kernel.clock import SystemClock

app = typer.Typer(no_args_is_help=True, help="Three real sites on one machine.")
StackFile = Annotated[Path | None, typer.Option("--stack", help="stack.yaml; default: the sample")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]


@app.command()
def up(stack: StackFile = None, *, json: Json = False) -> None:
    """Boot and provision the sites; repeating it changes nothing."""
    from infra.faults import journal  # noqa: PLC0415
    from infra.lab import lab  # noqa: PLC0415
    from infra.lab.plan import plan  # noqa: PLC0415
    from zaibei.cli.choice import chosen_stack  # noqa: PLC0415
    from zaibei.kernel.state import state_dir  # noqa: PLC0415

    declared, clock = chosen_stack(stack), SystemClock()
    with _no_drill(), progress() as told:
        # A frozen or cut-off site cannot be provisioned: it would be waited for in vain.
        for fault in journal.undo_all(plan(declared, state_dir()), clock):
            told.note(f"undone: {fault}")
        result = lab.up(declared, clock=clock, progress=told)
    if json:
        emit(result)
    else:
        talk.print(
            f"up in {result.took.total_seconds():.0f} s, {result.memory_bytes / 2**30:.1f} GiB of memory"
        )


@app.command()
def reset(stack: StackFile = None, *, json: Json = False) -> None:
    """Back to what `up` made: no data, no faults, empty vaults."""
    from infra.lab import lab  # noqa: PLC0415
    from zaibei.cli.choice import chosen_stack  # noqa: PLC0415

    with _no_drill(), progress() as told:
        took = lab.reset(chosen_stack(stack), clock=SystemClock(), progress=told)
    if json:
        emit({"took_s": took})
    else:
        talk.print(f"reset in {took.total_seconds():.0f} s")


@app.command()
def down(
    *,
    layers: Annotated[bool, typer.Option(help="also the cached layers")] = False,
    json: Json = False,
) -> None:
    """Remove every process, mount, link and file of the lab, whatever state it is in."""
    from infra.lab import lab  # noqa: PLC0415

    with _no_drill(), progress() as told:
        found = lab.down(clock=SystemClock(), progress=told, keep_layers=not layers)
    if json:
        emit({"removed": found})
    else:
        talk.print(f"removed {len(found)} things; nothing is left")


@app.command()
def status(stack: StackFile = None, *, json: Json = False) -> None:
    """Which sites have power, a network, and how much memory they use."""
    from rich.table import Table  # noqa: PLC0415

    from infra.lab import lab  # noqa: PLC0415
    from zaibei.cli.choice import chosen_stack  # noqa: PLC0415

    rows = lab.status(chosen_stack(stack))
    if json:
        emit({"sites": rows})
        return
    table = Table("site", "address", "power", "network", "processes", "memory")
    for r in rows:
        power = "off" if not r.powered else "frozen" if r.frozen else "on"
        network = "cut off" if r.cut_off else "joined" if r.powered else "–"
        table.add_row(
            r.name, r.address, power, network, str(r.processes), f"{r.memory_bytes / 2**20:.0f} MiB"
        )
    show(table)


@app.command()
def shell(
    site: str,
    command: Annotated[list[str] | None, typer.Argument()] = None,
    stack: StackFile = None,
) -> None:
    """A root shell at a site, over ssh."""
    from infra.lab import lab  # noqa: PLC0415
    from zaibei.cli.choice import chosen_stack  # noqa: PLC0415

    argv = lab.shell_argv(chosen_stack(stack), site)
    os.execvp(argv[0], [*argv, *(command or [])])  # noqa: S606


def _no_drill() -> AbstractContextManager[None]:
    """Nobody changes the lab under a running drill. A drill that died holds nothing."""
    from failover.drill import lock  # noqa: PLC0415
    from zaibei.kernel.state import sole  # noqa: PLC0415

    return sole(lock(), what="zaibei lab")

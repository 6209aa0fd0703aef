"""`backup bench`: beside restic and borg, on the same set, on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.backup.shared import CLOCK, Json, app, told
from zaibei.cli.console import emit, progress, show
from zaibei.kernel.errors import Usage

if TYPE_CHECKING:
    from backup.bench.race import Race, Summary

_WIDTH = 132


@app.command()
def bench(
    size: Annotated[str, typer.Option(help="Of the generated set: 300MB, 1.3GB.")] = "1.3GB",
    rounds: int = 5,
    tool: Annotated[
        list[str] | None,
        typer.Option(help="Only these: 'zaibei intl', 'zaibei sm', restic, borg; repeatable."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where to work; new. Default: a temporary directory.")
    ] = None,
    json: Json = False,
) -> None:
    """First backup, unchanged backup, restore and full check: time, CPU, memory, repository size."""
    with told(), progress() as bar:
        import tempfile  # noqa: PLC0415

        from backup.bench import race as racing  # noqa: PLC0415
        from backup.bench.tools import ALL  # noqa: PLC0415

        names = [t.name for t in ALL]
        if unknown := set(tool or ()) - set(names):
            raise Usage(f"unknown tool: {', '.join(sorted(unknown))}", hint=", ".join(names))
        with tempfile.TemporaryDirectory(prefix="zaibei-bench-", dir=work) as place:
            done = racing.race(
                [t for t in ALL if tool is None or t.name in tool],
                Path(place),
                size_bytes=_bytes(size),
                rounds=rounds,
                clock=CLOCK,
                progress=bar,
            )
    rows = racing.summary(done)
    if json:
        emit({"race": done, "summary": rows})
    else:
        _draw(done, rows)


def _bytes(text: str) -> int:
    number, unit = text.rstrip("KMGB"), text.lstrip("0123456789.")
    factors = {"KB": 1000, "MB": 1000**2, "GB": 1000**3}
    try:
        return int(float(number) * factors[unit])
    except (KeyError, ValueError) as bad:
        raise Usage(f"not a size: {text!r}", hint="300MB or 1.3GB") from bad


def _draw(done: "Race", rows: "list[Summary]") -> None:
    from rich.table import Table  # noqa: PLC0415

    table = Table(
        title=f"{done.set.size_bytes / 1e6:.0f} MB in {done.set.files} files, {done.rounds} rounds,"
        f" {done.machine}",
        caption="medians; times: restic's wall time over this one's, the median of the rounds' ratios;"
        " others: cores that the rest of the machine used meanwhile",
    )
    for name in ("phase", "tool", "wall s", "(min-max)", "CPU s", "MiB", "repository MB"):
        table.add_column(name, justify="left" if name in ("phase", "tool") else "right")
    for name in ("times", "CPU ratio", "size ratio", "others"):
        table.add_column(name, justify="right")
    for at, r in enumerate(rows):
        table.add_row(
            r.phase.value,
            r.tool,
            f"{r.wall_s:.2f}",
            f"{r.wall_s_min:.2f}-{r.wall_s_max:.2f}",
            f"{r.cpu_s:.2f}",
            f"{r.peak_bytes / (1 << 20):.0f}",
            f"{r.repository_bytes / 1e6:.1f}",
            *("unknown" if v is None else f"{v:.3f}" for v in (r.times_faster, r.cpu_ratio)),
            "unknown" if r.size_ratio is None else f"{r.size_ratio:.4f}",
            f"{r.others_cores:.1f}",
            end_section=at + 1 == len(rows) or rows[at + 1].phase != r.phase,
        )
    show(table, width=_WIDTH)  # into a file or a pipe it must not be cut to eighty columns
    for name in done.absent:
        print(f"{name} is not on this machine")

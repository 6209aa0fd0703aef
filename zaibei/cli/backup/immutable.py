"""`backup drill-ransomware`: what the locks are worth."""

from pathlib import Path
from typing import Annotated

import typer

from zaibei.cli.backup.shared import CLOCK, Json, app, say, told
from zaibei.cli.console import progress


@app.command("drill-ransomware")
def drill_ransomware(
    duration: Annotated[str, typer.Option(help="How long the attacker works.")] = "10min",
    per_second: Annotated[float, typer.Option(help="Attempts a second, at most.")] = 50.0,
    seed: Annotated[int, typer.Option(help="Of the attacker's choices.")] = 1,
    workdir: Annotated[Path, typer.Option(help="Room for a store of its own.")] = Path("/var/tmp"),
    json: Json = False,
) -> None:
    """Back up into a store of its own, let an attacker with the writer's keys loose, restore everything.

    No vault of yours is touched: the store is started on loopback and thrown away."""
    with told(), progress() as bar:
        from backup.ransomware import drill  # noqa: PLC0415
        from zaibei.kernel.units import duration as parsed  # noqa: PLC0415

        done = drill(
            workdir,
            duration=parsed(duration),
            per_second=per_second,
            seed=seed,
            clock=CLOCK,
            progress=bar,
        )
    say(
        json,
        {
            "held": done.held,
            "attacked_s": done.attacked,
            "attempts": done.attempts,
            "attacks": done.attacks,
            "versions_before": done.versions_before,
            "versions_lost": done.versions_lost,
            "locks_shortened": done.locks_shortened,
            "vault_now": done.now,
            "damage": done.damage,
            "snapshots": done.snapshots,
            "restored_exactly": done.restored,
        },
        [
            f"{'managed':>8} {'refused':>8} {'failed':>8}",
            *(
                f"{c.get('managed', 0):>8} {c.get('refused', 0):>8} {c.get('failed', 0):>8}  {name}"
                for name, c in done.attacks.items()
            ),
            f"{done.attempts} attempts in {done.attacked.total_seconds():.0f} s",
            f"the vault now, without --as-of: {done.now}",
            (
                f"as of before the attack: {done.restored} of {done.snapshots} snapshots restored bit by"
                f" bit; {len(done.versions_lost)} of {done.versions_before} versions lost,"
                f" {len(done.locks_shortened)} locks shortened, {len(done.damage)} damaged"
            ),
            *(f"DAMAGE: {d}" for d in done.damage),
        ],
    )
    raise typer.Exit(0 if done.held else 1)

"""`backup locks` and `backup drill-ransomware`: until when is what locked, and what is that worth?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.backup.shared import CLOCK, Json, Password, Repo, app, opened, say, told
from zaibei.cli.console import progress
from zaibei.kernel.errors import Invalid, Usage

if TYPE_CHECKING:
    from backup.drills.intrusion import Intruded
    from backup.lifecycle.lock_forecast import Forecast, Sum


@app.command()
def locks(
    days: Annotated[int, typer.Option(help="Tell what runs out within so many days.")] = 30,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Until when each snapshot is locked with all that it needs, what runs out next, and what is not locked.

    Ends with 1 when a lock ends before the retention that its run asked for, or when names were covered.
    A call an object; the WAL archive is not looked at."""
    with told(), progress() as bar:
        from datetime import timedelta  # noqa: PLC0415

        from backup.lifecycle.lock_forecast import forecast  # noqa: PLC0415

        if days < 1:
            raise Usage("--days is at least 1")
        found = [
            forecast(r, progress=bar, horizon=timedelta(days=days))
            for r in opened(repo, password_file)
        ]
    say(
        json,
        {
            "repositories": [
                {
                    "repository": f.repository,
                    "at": f.at,
                    "warnings": f.warnings,
                    "snapshots": [
                        {
                            "sequence": s.sequence,
                            "finished": s.finished,
                            "asked_until": s.asked,
                            "locked_until": s.until,
                            "first_to_end": s.first,
                            "objects_count": s.objects,
                        }
                        for s in f.snapshots
                    ],
                    "locked": f.locked,
                    "unlocked": f.unlocked,
                    "expiring": {"within_days": days, "sum": f.expiring},
                    "locked_bytes": [{"from": at, "size_bytes": size} for at, size in f.curve],
                    "locked_too_long": f.endless,
                    "covered": {"since": f.covered_since, "sum": f.covered},
                }
                for f in found
            ]
        },
        [line for f in found for line in _told(f, days)],
    )
    raise typer.Exit(1 if any(f.warnings for f in found) else 0)


def _told(f: "Forecast", days: int) -> list[str]:
    from zaibei.kernel.units import say_bytes  # noqa: PLC0415

    def sum_(of: "Sum") -> str:
        return f"{of.objects} objects, {say_bytes(of.size_bytes)}"

    return [
        (
            f"{f.repository}: locked {sum_(f.locked)}; not locked {sum_(f.unlocked)}; "
            f"running out within {days} days {sum_(f.expiring)}"
        ),
        *(
            f"{s.sequence:>6}  locked until "
            f"{'-- not locked --' if s.until is None else f'{s.until:%Y-%m-%d %H:%MZ}'}"
            f"  {'' if s.asked is None else f'asked {s.asked:%Y-%m-%d %H:%MZ}'}"
            for s in f.snapshots
        ),
        *(f"from {at:%Y-%m-%d %H:%MZ} on {say_bytes(size)} are locked" for at, size in f.curve),
        *(f"WARNING: {w}" for w in f.warnings),
    ]


@app.command("drill-ransomware")
def drill_ransomware(
    duration: Annotated[str, typer.Option(help="How long the attacker works.")] = "10min",
    per_second: Annotated[float, typer.Option(help="Attempts a second, at most.")] = 50.0,
    seed: Annotated[int, typer.Option(help="Of the attacker's choices.")] = 1,
    workdir: Annotated[Path, typer.Option(help="Room for a store of its own.")] = Path("/var/tmp"),
    json: Json = False,
) -> None:
    """Back up into a store of its own, let an attacker with the writer's keys loose, restore everything.

    No vault of yours is touched: the store is started on loopback and thrown away. While the lab is up, an
    intruder on each of its sites tries what the account that faces the internet can read at every door, too.
    Exit code 0: held; 1: broken; 3: invalid, a door was never reached."""
    with told(), progress() as bar:
        from backup.drills import intrusion  # noqa: PLC0415
        from backup.drills.ransomware import drill  # noqa: PLC0415
        from zaibei.kernel.units import duration as parsed  # noqa: PLC0415

        done = drill(
            workdir,
            duration=parsed(duration),
            per_second=per_second,
            seed=seed,
            clock=CLOCK,
            progress=bar,
        )
        access = intrusion.lab_is_up()
        seen = None
        if access is not None:
            bar.step(f"trying every door of stack {access.stack} from each of its sites")
            seen = intrusion.intrude(
                access, duration=parsed(duration), per_second=per_second, seed=seed
            )
    verdict = "held" if done.held else "broken"
    if seen is not None and verdict == "held":
        verdict = seen.verdict
    say(
        json,
        {
            "held": verdict == "held",
            "verdict": verdict,
            "stack": None if seen is None else _stack(seen),
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
            *_doors(seen),
        ],
    )
    raise typer.Exit({"held": 0, "broken": 1, "invalid": Invalid.exit_code}[verdict])


def _stack(seen: "Intruded") -> dict[str, object]:
    return {
        "verdict": seen.verdict,
        "sites": seen.sites,
        "account_could_read": seen.loot,
        "doors": seen.doors,
        "open": seen.open,
        "untried": seen.untried,
    }


def _doors(seen: "Intruded | None") -> list[str]:
    if seen is None:
        return ["the stack: not tried, no lab is up (zaibei lab up)"]
    lines = [f"{'let in':>8} {'refused':>8} {'silent':>8}  from {', '.join(seen.sites)}"]
    lines += [
        f"{c['managed']:>8} {c['refused']:>8} {c['unreached']:>8}  {door}"
        for door, c in seen.doors.items()
    ]
    lines += [f"OPEN: {door}" for door in seen.open]
    lines += [f"INVALID: nobody reached {door}" for door in seen.untried]
    return [*lines, f"the stack: {seen.verdict}"]

"""`backup list`, `show` and `verify`: what is there, and is it what was written?"""

import sys
from collections.abc import Callable, Iterable
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zaibei.cli.backup.rolled import ends_lost, loudly, or_lost
from zaibei.cli.backup.shared import (
    CLOCK,
    AsOf,
    Json,
    Level,
    Password,
    Repo,
    Which,
    answering,
    app,
    opened,
    say,
    snapshot_told,
    told,
)
from zaibei.cli.console import plain, progress
from zaibei.cli.console import show as draw
from zaibei.kernel.errors import Usage
from zaibei.kernel.printable import printable
from zaibei.kernel.units import duration, say_bytes, size_bytes

if TYPE_CHECKING:
    from backup.integrity.report import Report
    from zaibei.kernel.errors import Damage


@app.command("list")
def list_(
    repo: Repo = None, password_file: Password = None, as_of: AsOf = None, json: Json = False
) -> None:
    """The snapshots of each repository, oldest first. Ends with 1 when one was rolled back, as its sibling or this
    machine saw, or a snapshot does not open."""
    with told():
        from backup.repository import chain, rollback  # noqa: PLC0415

        all_opened = opened(repo, password_file, as_of=as_of)
        damaged: list[dict[str, Any]] = []
        found = {
            r.name: [snapshot_told(s) for s in chain.sound(r, _into(damaged, r.name))]
            for r in all_opened
        }
        lost = [*ends_lost([] if as_of else all_opened), *rollback.rolled_back(all_opened)]
    for line in lost:
        loudly(f"ROLLED BACK: {line}")
    for one in damaged:
        where = f"{one['repository']}: snapshot {one['sequence']}"
        loudly(f"DAMAGED: {where}: {one['why']}\nhint: {one['hint']}")
    if not json and sys.stdout.isatty():
        table(found)
        raise typer.Exit(1 if lost or damaged else 0)
    say(
        json,
        {"repositories": found, "rolled_back": lost, "damaged": damaged},
        [
            f"{name}  {s['sequence']:>4}  {s['finished']}  {s['kind']:<8} "
            f"{s['size_bytes']:>12} B  {'complete' if s['complete'] else 'INCOMPLETE'}{_known_by(s)}"
            for name, all_ in found.items()
            for s in all_
        ],
    )
    raise typer.Exit(1 if lost or damaged else 0)


def _known_by(one: dict[str, Any]) -> str:
    """What tells snapshots apart in retention and to people: host, label, tags, paths; names of others, on one line."""
    label = f"  label {one['label']!a}" if one["label"] else ""
    tags = f"  tags {', '.join(ascii(t) for t in one['tags'])}" if one["tags"] else ""
    paths = "  " + " ".join(map(ascii, one["paths"])) if one["paths"] else ""
    return f"  {one['host']!a}{label}{tags}{paths}"


def _into(damaged: list[dict[str, Any]], name: str) -> Callable[[int, str], None]:
    from backup.hints import MEND_SNAPSHOTS  # noqa: PLC0415

    def tell(sequence: int, why: str) -> None:
        damaged.append(
            {"repository": name, "sequence": sequence, "why": why, "hint": MEND_SNAPSHOTS}
        )

    return tell


def table(found: dict[str, list[dict[str, Any]]]) -> None:
    """For a person: columns, and the day as it is where they sit."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    for name, all_ in found.items():
        drawn = Table(title=Text(name), title_justify="left", box=None, pad_edge=False)
        for column, justify in (
            ("#", "right"),
            ("finished", "left"),
            ("kind", "left"),
            ("label", "left"),
            ("host", "left"),
            ("tags", "left"),
            ("paths", "left"),
            ("entries", "right"),
            ("size", "right"),
            ("", "left"),
        ):
            drawn.add_column(column, justify=justify)  # type: ignore[arg-type]
        for s in all_:
            drawn.add_row(
                str(s["sequence"]),
                f"{s['finished'].astimezone():%Y-%m-%d %H:%M %z}",
                s["kind"],
                # Text: what somebody else named must not be read as markup.
                Text(s["label"]),
                Text(s["host"]),
                Text(" ".join(s["tags"])),
                Text(" ".join(s["paths"])),
                str(s["entries_count"]),
                say_bytes(s["size_bytes"]),
                Text("" if s["complete"] else "INCOMPLETE", style="bold red"),
            )
        draw(drawn)


@app.command()
def show(
    snapshot: Which = "latest",
    diff: Annotated[
        str | None, typer.Option(help="Only what is not as in this snapshot: a number.")
    ] = None,
    repo: Repo = None,
    password_file: Password = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """One snapshot: what it is, what it says about itself, what it holds; or what changed since another.

    Entries are said as they are read: a listing of millions needs no more memory than a short one."""
    with told():
        from backup.repository.diff import between  # noqa: PLC0415
        from backup.repository.reader import Reader  # noqa: PLC0415

        one_repo = opened(repo, password_file, as_of=as_of)[0]
        watched = [] if as_of else [one_repo]
        with or_lost(watched):
            one = one_repo.find(snapshot)
        lost = ends_lost(watched if snapshot == "latest" else [])
        facts = {**snapshot_told(one), "facts": one.content.facts}
        if lost:
            facts["rolled_back"] = lost
        for line in lost:
            loudly(f"ROLLED BACK: {line}; the newest that is there is {one.sequence}")
        with Reader(one_repo, damaged=_unread) as reader:
            if diff is None:
                _stream(
                    {**facts, "entries": None} if json else None,
                    (
                        {
                            "path": printable(n.path),
                            "type": n.type.value,
                            "size_bytes": n.size_bytes,
                            **({"torn": True} if n.torn else {}),
                        }
                        for n in reader.nodes(one)
                    ),
                    lambda e: (
                        f"{e['size_bytes']:>12}  {e['path']}{'  TORN' if 'torn' in e else ''}"
                    ),
                )
            else:
                other = one_repo.find(diff)
                _stream(
                    {**facts, "since": other.sequence, "changes": None} if json else None,
                    (
                        {"change": change.value, "path": printable(path)}
                        for change, path in between(reader, other, one)
                    ),
                    lambda e: f"{e['change']:<10}  {e['path']}",
                )
    raise typer.Exit(1 if lost else 0)


def _unread(key: str, bad: "Damage") -> None:
    loudly(f"DAMAGED: {key}: {bad.message}; zaibei backup repair")


def _stream(
    head: dict[str, Any] | None,
    rows: Iterable[dict[str, Any]],
    line: Callable[[dict[str, Any]], str],
) -> None:
    """Rows one by one: as lines, or as the last field of one object, which comes as null in `head`."""
    if head is None:
        for row in rows:
            print(line(row))
        return
    print(dumps(plain(head), ensure_ascii=False).removesuffix("null}"), end="[")
    for at, row in enumerate(rows):
        print(",\n" if at else "\n", dumps(row, ensure_ascii=False), sep="", end="")
    print("]}")


@app.command()
def verify(
    level: Level = Level.SAMPLE,
    share: Annotated[
        float | None, typer.Option(help="Of the bytes of all packs; 0.1 without a budget.")
    ] = None,
    budget_bytes: Annotated[
        str | None, typer.Option(help="A sample reads at most this: 20GiB.")
    ] = None,
    budget_time: Annotated[
        str | None, typer.Option(help="A sample begins no pack after this: 30min.")
    ] = None,
    repo: Repo = None,
    password_file: Password = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Is everything there, and is it what was written? A sample reads the packs that were read longest ago."""
    again = "--budget-time 30min reads a part at a time, first what was read longest ago"
    with told(again), progress() as bar:
        import secrets  # noqa: PLC0415

        from backup import status  # noqa: PLC0415
        from backup.integrity import check_packs  # noqa: PLC0415
        from backup.integrity import verify as verifying  # noqa: PLC0415
        from backup.repository import rollback  # noqa: PLC0415
        from backup.writer.pack_health import PackHealth  # noqa: PLC0415

        if share is not None and not 0 < share <= 1:
            raise Usage(f"--share {share} is not a part", hint="0.05 is one byte in twenty")
        if level is not Level.SAMPLE and (share, budget_bytes, budget_time) != (None, None, None):
            raise Usage(
                f"--share and --budget-… bound a sample, and --level {level.value} is none",
                hint="--level sample",
            )
        if share is None and budget_bytes is None and budget_time is None:
            share = check_packs.SHARE
        budget = check_packs.Budget(
            share=share,
            size_bytes=size_bytes(budget_bytes) if budget_bytes else None,
            time=duration(budget_time) if budget_time else None,
        )
        found = []
        # One vault that does not open says nothing of the others.
        answered, unopened = answering(repo, password_file, as_of=as_of)
        all_opened = [r for r in answered if r is not None]
        lost = rollback.rolled_back(all_opened)
        for r in all_opened:
            # What a vault was says nothing about what it is: no ledger of the past.
            with PackHealth(None) if as_of else PackHealth.of(r) as ledger:
                one = verifying.verify(
                    r,
                    verifying.Level(level.value),
                    rng=secrets.SystemRandom(),
                    progress=bar,
                    budget=budget,
                    ledger=ledger,
                )
                found.append(one)
                if not as_of:
                    cover = one.coverage
                    status.verified(
                        r.name,
                        at=CLOCK.now(),
                        read=level is not Level.STRUCTURE,
                        damaged=len(ledger.damaged()),
                        never_verified=cover.never_verified if cover else None,
                        coverage_days=cover.days_a_round if cover else None,
                    )
    sound = not lost and not unopened and not any(f.damage for f in found)
    say(
        json,
        {"sound": sound, "repositories": found, "rolled_back": lost, "unopened": unopened},
        [
            *(n for f in found for n in _told(f)),
            *(f"ROLLED BACK: {line}" for line in lost),
            *(f"NOT VERIFIED: {line}" for line in unopened),
        ],
    )
    raise typer.Exit(0 if sound else 1)


def _told(f: "Report") -> list[str]:
    lines = [
        (
            f"{f.repository}: {f.level.value}: {f.snapshots} snapshots, {f.packs} packs"
            f" ({f.packs_read} read), {f.wal_objects} WAL objects, {f.damage_count} damaged"
        )
    ]
    if (c := f.coverage) is not None:
        days = (
            "unknown: a pace needs two samples"
            if c.days_to_full_coverage is None
            else f"{c.days_to_full_coverage:.1f}"
        )
        lines.append(
            f"never read yet: {c.never_verified} packs ({say_bytes(c.never_verified_bytes)});"
            f" days to full coverage: {days}"
        )
    for one in f.findings:
        lines += [f"DAMAGE: {one.why}", f"  lost: {one.lost}", f"  mend: {one.mend}"]
        lines += [f"  hint: {hint}" for hint in one.hints]
    if f.damage_count > len(f.findings):
        lines.append(f"DAMAGE: {f.damage_count - len(f.findings)} more")
    return [*lines, *(f"note: {n}" for n in f.notes)]


@app.command()
def breakglass() -> None:
    """Print the reader that restores without zaibei: one file, to be kept where no lost site can take it."""
    from importlib.resources import files  # noqa: PLC0415

    print(files("backup").joinpath("breakglass.py").read_text("utf-8"), end="")

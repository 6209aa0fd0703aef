"""`zaibei evidence`: Signed statements that anybody can check."""

# ruff: noqa: PLC0415  (cryptography and jinja2 are slow to import; help and completion need neither)

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zaibei.cli import witness
from zaibei.cli.console import emit, labelled, line, talk
from zaibei.kernel.errors import Damage, Invalid
from zaibei.kernel.printable import printable, printable_lines

if TYPE_CHECKING:  # cryptography is slow to import, and `zaibei --help` needs none of it
    from failover.rejudge import Rejudged
    from zaibei.evidence import Entry, Evidence, Findings

app = typer.Typer(no_args_is_help=True, help="Signed statements that anybody can check.")

_CELL_MAX = 60  # of a table; --json has it whole
app.add_typer(witness.app, name="witness")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Where = Annotated[Path | None, typer.Option("--evidence", help="Folder of the evidence.")]
Trusted = Annotated[
    list[str] | None,
    typer.Option("--fingerprint", help="A key's fingerprint from the paper; once for each key."),
]


@app.command()
def init(*, evidence: Where = None, json: Json = False) -> None:
    """Make the keys and an empty log. Safe to repeat: what is there is never replaced."""
    from zaibei.evidence import Evidence, default_dir
    from zaibei.kernel.clock import SystemClock

    made = Evidence.open(evidence or default_dir(), SystemClock())
    _tell_keys(made, json=json)


@app.command()
def schedule(
    stack: Annotated[
        Path | None, typer.Option("--stack", help="stack.yaml; default: the sample")
    ] = None,
    *,
    evidence: Where = None,
    json: Json = False,
) -> None:
    """Record which drills the stack's calendar makes due, unless it is recorded already."""
    from failover.announced import planned
    from zaibei.cli.choice import chosen_stack
    from zaibei.evidence import Evidence, default_dir
    from zaibei.evidence.calendar import due, record_due
    from zaibei.kernel.clock import SystemClock

    clock = SystemClock()
    wanted = planned(chosen_stack(stack))
    held = Evidence.open(evidence or default_dir(), clock)
    made = record_due(held, wanted)
    found = due(held.entries(), wanted, now=clock.now())
    if json:
        emit({"recorded": made.index if made else None, "due": found})
        return
    for one in found:
        print(f"{one['by']}  {one['scenario']}  {one['owner']}")
    print(f"recorded as entry {made.index}" if made else "recorded already")


@app.command()
def log(*, evidence: Where = None, json: Json = False) -> None:
    """Every entry, oldest first."""
    found = _open(evidence).entries()
    if json:
        emit({"entries": [_line(e) for e in found]})
        return
    for e in found:
        one = _line(e)
        line(f"{e.index:>6}  {one['recorded_at']}  {one['kind']:<12} {one['drill_id'] or ''}")


@app.command()
def show(index: int, *, evidence: Where = None, json: Json = False) -> None:
    """One statement, as it was signed."""
    entry = _open(evidence).entry(index)
    if json:
        emit({**_line(entry), "predicate": dict(entry.statement.predicate)})
        return
    print(printable_lines(entry.payload.decode()))


@app.command()
def keys(*, evidence: Where = None, json: Json = False) -> None:
    """Fingerprints of the public keys: for the signed paper, and for whoever checks a pack."""
    _tell_keys(_open(evidence), json=json)


@app.command()
def pack(
    entries: Annotated[list[int], typer.Argument(help="Indices from `zaibei evidence log`.")],
    *,
    to: Annotated[Path, typer.Option(help="Folder to make; PACK.tar.gz is put beside it.")],
    artefacts: Annotated[Path, typer.Option(help="Where the files named by the statements lie.")],
    title: Annotated[str, typer.Option()] = "zaibei evidence",
    evidence: Where = None,
    json: Json = False,
) -> None:
    """Pack entries, with the whole log and all proofs, for an auditor."""
    from zaibei.evidence import pack as make
    from zaibei.evidence.packing import archive_of

    made = make(_open(evidence), entries=entries, artefacts_dir=artefacts, dest=to, title=title)
    if json:
        emit({"pack": made, "archive": archive_of(made)})
        return
    print(made)


@app.command()
def verify(
    pack: Path,
    *,
    fingerprint: Trusted = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option(help="SIZE:ROOT noted earlier: the log must go on from it. May be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a pack. Ends with 0 when everything holds, with 8 when anything does not."""
    from zaibei.evidence import verify as check

    found = check(pack, trusted_fingerprints=fingerprint or None, at_least=at_least or ())
    if json:
        emit(_told(found))
        raise typer.Exit(0 if found.ok else Damage.exit_code)
    if not found.ok:
        for problem in found.problems:
            labelled("damage", printable(problem), style="bold red")
        talk.print("NOT VERIFIED", style="bold red")
        raise typer.Exit(Damage.exit_code)
    for text in found.notes:
        line(f"note: {text}")
    for name in found.witnesses:
        line(f"cosigned by {name} at {found.cosigned_at[name]}")
    for one in (*found.roll.drills, *found.roll.due):
        line(one)
    if not found.keys_compared:
        for name, value in found.fingerprints.items():
            line(f"      {value}  {name}")
    line(f"pack:  {found.title}")
    line(f"log:   {found.origin}, {found.size} entries, root {found.root}")
    line(f"time:  packed at {found.packed_at}; newest entry {found.newest or 'unknown'}")
    line(f"checkpoint {found.noted}")
    print("VERIFIED")


@app.command()
def judge(pack: Path, *, fingerprint: Trusted = None, json: Json = False) -> None:
    """Recompute the verdict from the raw data in a pack. Ends with 0 when all agrees, 8 when a field
    differs, 3 when it cannot be recomputed.
    """
    from failover.rejudge import rejudge
    from zaibei.evidence import verify as check
    from zaibei.evidence.archive import unpacked

    with unpacked(pack) as folder:
        found = check(folder, trusted_fingerprints=fingerprint or None)
        if not found.ok:
            raise Damage(f"{pack} does not verify: {found.problems[0]}", hint=found.problems[1:])
        judged = rejudge(folder, found.entries)
    if json:
        emit(
            {
                "ok": judged.ok,
                "drill_id": judged.drill_id,
                "verdict": judged.recorded,
                "fields": [asdict(line) | {"agrees": line.agrees} for line in judged.lines],
                "not_recomputable": judged.missing,
                "denied": judged.denied,
            }
        )
        raise typer.Exit(_judged_code(judged))
    _tell_judged(judged)
    for text in judged.denied:
        line(f"note: recorded as PASS: {text}")
    if judged.differing:
        names = ", ".join(line.name for line in judged.differing)
        raise Damage(f"{judged.drill_id}: the raw data in the pack do not give {names}")
    if judged.missing:
        raise Invalid(f"{judged.drill_id}: not recomputable: {'; '.join(judged.missing)}")
    if judged.denied:
        raise Damage(f"{judged.drill_id}: recorded as PASS: {judged.denied[0]}")
    print(f"{judged.recorded}  {judged.drill_id}: every field follows from the raw data")


@app.command()
def report(
    pack: Path,
    *,
    to: Annotated[Path, typer.Option(help="The HTML file to write.")],
    lang: Annotated[Literal["zh", "en", "both"], typer.Option()] = "both",
    fingerprint: Trusted = None,
    json: Json = False,
) -> None:
    """Make the report of a drill from a pack that verifies: one HTML file, readable without a network."""
    from zaibei.reports import drill_report

    made = drill_report(pack, to, lang, trusted_fingerprints=fingerprint or None)
    if json:
        emit({"report": made})
        return
    print(made)


def _open(directory: Path | None) -> "Evidence":
    from zaibei.evidence import Evidence, default_dir
    from zaibei.kernel.clock import SystemClock

    return Evidence.existing(directory or default_dir(), SystemClock())


def _judged_code(judged: "Rejudged") -> int:
    if judged.ok:
        return 0
    only_missing = judged.missing and not judged.differing
    return Invalid.exit_code if only_missing else Damage.exit_code


def _tell_judged(judged: "Rejudged") -> None:
    from rich.table import Table

    from zaibei.cli.console import show as print_table

    table = Table("field", "recorded", "recomputed", "")
    for one in judged.lines:
        again = f"not recomputable: {one.why_not}" if one.why_not else _short(one.recomputed)
        mark = {True: "agrees", False: "DIFFERS", None: "–"}[one.agrees]
        table.add_row(one.name, _short(one.recorded), again, mark)
    print_table(table)


def _short(value: object) -> str:
    text = "unknown" if value is None else str(value)
    return text if len(text) <= _CELL_MAX else f"{text[: _CELL_MAX - 1]}…"


def _tell_keys(held: "Evidence", *, json: bool) -> None:
    from zaibei.evidence.keys import fingerprint

    found = {name: fingerprint(pem) for name, pem in held.keys.files().items()}
    if json:
        emit({"fingerprints": found, "sm2_absent": held.keys.sm2_absent})
        return
    for name, value in found.items():
        print(f"{value}  {name}")
    if held.keys.sm2_absent:
        print(f"no SM2 key: {held.keys.sm2_absent}")


def _line(entry: "Entry") -> dict[str, object]:
    from zaibei.evidence.kinds import short

    said = entry.statement
    return {
        "index": entry.index,
        "recorded_at": said.predicate.get("recorded_at"),
        "kind": short(said.predicate_type),
        "drill_id": said.drill_id,
        "statement_sha256": entry.statement_digest,
    }


def _told(found: "Findings") -> dict[str, object]:
    return {
        "ok": found.ok,
        "pack": found.pack,
        "title": found.title,
        "log": {"origin": found.origin, "size": found.size, "root": found.root},
        "packed_at": found.packed_at,
        "newest": found.newest,
        "cosigned_at": found.cosigned_at,
        "problems": found.problems,
        "notes": found.notes,
        "fingerprints": found.fingerprints,
        "keys_compared": found.keys_compared,
        "checkpoint": found.noted,
        "witnesses": found.witnesses,
        "unknown_witnesses": found.unknown_witnesses,
        "open_intents": found.open_intents,
        "drills": [asdict(d) for d in found.roll.drills],
        "schedule": [asdict(d) for d in found.roll.due],
        "entries": [_line(e) for e in found.entries],
    }

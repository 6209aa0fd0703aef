"""`zaibei evidence witness`: Sites that sign the log's head, and refuse one that takes entries back."""

# ruff: noqa: PLC0415  (cryptography is slow to import; help and completion need none of it)

from pathlib import Path
from typing import Annotated

import typer

from zaibei.cli.console import emit, talk
from zaibei.kernel.errors import Unreachable, Usage

app = typer.Typer(
    no_args_is_help=True,
    help="Sites that sign the log's head, and refuse one that takes entries back.",
)
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Where = Annotated[Path | None, typer.Option("--evidence", help="Folder of the evidence.")]
Folder = Annotated[Path, typer.Argument(help="Folder of the witness: its key and what it saw.")]


@app.command()
def init(
    folder: Folder,
    *,
    name: Annotated[str, typer.Option(help="What it is called in a checkpoint, such as site-b.")],
    json: Json = False,
) -> None:
    """Make a witness's key, on the machine it will run on. Safe to repeat."""
    from zaibei.evidence.keys import fingerprint
    from zaibei.evidence.witness_server import Desk
    from zaibei.kernel.clock import SystemClock
    from zaibei.kernel.state import write_atomic

    desk = Desk.create(folder, SystemClock(), name=name)
    write_atomic(folder / "witness.pub", desk.public)
    if json:
        emit({"name": name, "key": folder / "witness.pub", "fingerprint": fingerprint(desk.public)})
        return
    print(f"{fingerprint(desk.public)}  witness {name}, key in {folder / 'witness.pub'}")


@app.command()
def watch(
    folder: Folder,
    log_key: Annotated[Path, typer.Argument(help="ed25519.pub of the log, brought by people.")],
    *,
    json: Json = False,
) -> None:
    """Make a witness know a log by its key. It answers for no other."""
    from zaibei.evidence.witness_server import Desk
    from zaibei.kernel.clock import SystemClock

    origin = Desk(folder, SystemClock()).watch(_key(log_key))
    if json:
        emit({"origin": origin})
        return
    print(origin)


@app.command()
def serve(
    folder: Folder,
    *,
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")],
    cert: Annotated[Path | None, typer.Option(help="Certificate chain, for https.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key of the certificate.")] = None,
) -> None:
    """Run a witness until it is stopped: C2SP tlog-witness, POST /add-checkpoint."""
    from zaibei.evidence.witness_process import listening
    from zaibei.evidence.witness_server import Desk
    from zaibei.kernel.clock import SystemClock

    if (cert is None) != (key is None):
        raise Usage(
            "a certificate needs its key, and a key its certificate", hint="--cert and --key"
        )
    desk = Desk(folder, SystemClock())
    with listening(desk, listen, certificate=cert, key=key) as made:
        scheme = "http" if cert is None else "https"
        host, bound = listen.rpartition(":")[0], made.server_address[1]
        print(f"witness {desk.name} at {scheme}://{host}:{bound}", flush=True)
        made.serve_forever()


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What it is called in a checkpoint.")],
    *,
    url: Annotated[str, typer.Option(help="http://HOST:PORT or https://HOST:PORT.")],
    key: Annotated[Path, typer.Option(help="witness.pub, brought by people.")],
    ca: Annotated[Path | None, typer.Option(help="CA of its certificate, for https.")] = None,
    evidence: Where = None,
    json: Json = False,
) -> None:
    """Declare a witness: it is asked after each record, and when a pack is made. The log states the list."""
    from zaibei.evidence import Evidence, default_dir
    from zaibei.evidence.keys import fingerprint
    from zaibei.evidence.remote_witness import RemoteWitness, declare
    from zaibei.evidence.witness_list import record_declared
    from zaibei.kernel.clock import SystemClock

    directory = evidence or default_dir()
    held = Evidence.existing(directory, SystemClock())
    public = _key(key)
    one = RemoteWitness(
        name=name, url=url, public=public, ca=str(ca.absolute()) if ca is not None else None
    )
    declare(directory, one)
    record_declared(held)
    if json:
        emit({"name": name, "url": url, "fingerprint": fingerprint(public)})
        return
    print(f"{fingerprint(public)}  witness {name} at {url}")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="What it is called in a checkpoint.")],
    *,
    evidence: Where = None,
    json: Json = False,
) -> None:
    """Ask a witness no more, or make room for its new key. The log states the shorter list."""
    from zaibei.evidence import Evidence, default_dir
    from zaibei.evidence.remote_witness import withdraw
    from zaibei.evidence.witness_list import record_declared
    from zaibei.kernel.clock import SystemClock

    held = Evidence.existing(evidence or default_dir(), SystemClock())
    withdraw(held.directory, [name])
    record_declared(held)
    if json:
        emit({"removed": name})
        return
    print(f"witness {name} is not asked any more")


@app.command()
def ask(*, evidence: Where = None, json: Json = False) -> None:
    """Have the declared witnesses sign the log's head now. Ends with 6 when one of them is away and has not."""
    from zaibei.evidence import Evidence, default_dir
    from zaibei.evidence.note import parse
    from zaibei.kernel.clock import SystemClock

    held = Evidence.existing(evidence or default_dir(), SystemClock())
    if not held.witnesses:
        raise Usage(
            "no witness is declared for this log",
            hint="zaibei evidence witness add NAME --url URL --key witness.pub",
        )
    lines = {line.name for line in parse(held.checkpoint()).signatures}
    signed = {w.name: w.key_name in lines for w in held.witnesses}
    away = [name for name, did in signed.items() if not did]
    if json:
        emit({"signed": signed})
        raise typer.Exit(Unreachable.exit_code if away else 0)
    for name, did in signed.items():
        if did:
            print(f"cosigned by {name}")
        else:
            talk.print(f"{name} is away", markup=False)
    if away:
        raise Unreachable(f"no answer from {', '.join(away)}", hint="run it again when it is back")


def _key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as gone:
        raise Usage(f"{path}: {gone.strerror}", hint="name a public key file") from gone

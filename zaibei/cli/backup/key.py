"""`backup key`: who can open, who can write, and a new root when a key is lost. Secrets come from files and go to
files; only the words of an escrow are printed, once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zaibei.cli.backup.fallback import secret_of
from zaibei.cli.backup.lifecycle import Confirm, confirmed
from zaibei.cli.backup.shared import (
    _WITH,
    CLOCK,
    Json,
    Password,
    Repo,
    app,
    opened,
    say,
    told,
)
from zaibei.cli.console import labelled, plain, progress
from zaibei.kernel.errors import Usage
from zaibei.kernel.printable import printable

if TYPE_CHECKING:
    from backup.keys.recipients import KeyHolder, Leaving, Other
    from backup.repository.repository import Repository

key = typer.Typer(no_args_is_help=True, help="Who can open, who can write, and a new root.")
app.add_typer(key, name="key")
_BEFORE = "whom it let out would come along: zaibei backup key list, and key revoke again who should be out"
_AFTER = (
    "whom it let out came along: zaibei backup key list, then key revoke and key rotate once more"
)
Name = Annotated[str, typer.Option(help="For people; readable by whoever reads the vault.")]


@key.command()
def new(
    file: Annotated[Path, typer.Argument(help="Where the private key goes, mode 0600.")],
    curve: Annotated[str, typer.Option(help="x25519 or sm2.")] = "x25519",
    json: Json = False,
) -> None:
    """Make a private key; what it prints is for `key add --public`."""
    with told():
        from backup.crypto import identity  # noqa: PLC0415
        from backup.crypto.identity import Identity  # noqa: PLC0415
        from backup.crypto.kem import CURVES  # noqa: PLC0415

        if curve not in CURVES:
            raise Usage(f"no curve {curve!r}", hint=f"one of {', '.join(CURVES)}")
        one = Identity.new(curve)
        identity.save(one, file)
        say(json, {"file": file, "public": identity.public_text(one)}, [identity.public_text(one)])


@key.command()
def add(
    new_password_file: Annotated[
        Path | None, typer.Option(help="Its first line opens the repository from now on.")
    ] = None,
    public: Annotated[str | None, typer.Option(help="As `key new` printed it.")] = None,
    host: Annotated[
        Path | None,
        typer.Option(help="A key file for a machine that may write and not read goes here."),
    ] = None,
    name: Name = "",
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Let somebody in: a passphrase, a public key, or a write-only host."""
    with told():
        from backup.crypto import identity  # noqa: PLC0415
        from backup.keys import recipients  # noqa: PLC0415
        from backup.locations import stack  # noqa: PLC0415

        if sum(map(bool, (new_password_file, public, host))) != 1:
            raise Usage("one of --new-password-file, --public and --host")
        if host and not name:
            raise Usage("a host has a name", hint="--name web-1")
        repos = _ruling(repo, password_file)
        if host and len(repos) > 1:
            raise Usage("a host key is of one repository", hint="--repo, one at a time")
        for one in repos:
            if new_password_file:
                said = stack.passphrase(new_password_file)
                recipients.add_passphrase(one, said, name=name)
            elif public:
                curve, raw = identity.parse_public(public)
                recipients.add_key(one, curve=curve, public=raw, name=name)
            elif host:
                recipients.add_host(one, name=name, file=host)
        say(json, {"repositories": [r.name for r in repos]}, [f"let in: {r.name}" for r in repos])


@key.command("list")
def list_(repo: Repo = None, password_file: Password = None, json: Json = False) -> None:
    """Everybody who was ever let in, and what lies beside their keys. Ends with 1 where a key is damaged."""
    with told():
        from backup.keys.recipients import everything  # noqa: PLC0415

        found = {r.name: (r, *everything(r)) for r in opened(repo, password_file)}
    say(
        json,
        {
            "repositories": {
                name: {"epoch": r.keys.epoch, "members": all_, "others": others}
                for name, (r, all_, others) in found.items()
            }
        },
        [
            f"{name}  {line}"
            for name, (_, all_, others) in found.items()
            for line in (*map(_line, all_), *map(_other, others))
        ],
    )
    raise typer.Exit(any(o.mend for _, _, others in found.values() for o in others))


@key.command()
def revoke(
    who: Annotated[str, typer.Argument(help="The beginning of an id from `key list`.")],
    why: Annotated[str, typer.Option(help="Readable by whoever reads the vault.")] = "by hand",
    until: Annotated[
        int | None, typer.Option(help="Of a host: the last of its snapshots that is believed.")
    ] = None,
    confirm: Confirm = None,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Let somebody out. A host is refused at once; a recipient opens what is there until `key rotate`."""
    with told():
        from backup.keys import recipients  # noqa: PLC0415

        repos = _ruling(repo, password_file)
        # Each is looked at before the first is done, and before anybody is told how to do it.
        out = {r.name: recipients.leaving(r, who, until=until) for r in repos}
        act = confirmed(list(out), confirm, dry_run=False)
        for one in repos if act else ():
            out[one.name] = recipients.revoke(one, out[one.name].who.id, why=why, until=until)
    lines = [f"{name}: {_leaving(one, done=act)}" for name, one in out.items()]
    if act and any(one.who.opens for one in out.values()):
        lines.append("it still opens what is there: zaibei backup key rotate")
    told_of = {
        name: {**plain(one.who), "until": one.until, "changes": one.changes}
        for name, one in out.items()
    }
    say(json, {"done": act, "repositories": told_of}, lines)
    raise typer.Exit(0 if act else 2)


_ROTATION_CUT = "if `key list` names the new epoch: the same command with --resume goes on, without it another root is made"


@key.command()
def rotate(
    why: Annotated[str, typer.Option(help="Readable by whoever reads the vault.")] = "by hand",
    also_password_file: Annotated[
        list[Path] | None,
        typer.Option(help="Of an old passphrase that would drop out otherwise; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="No new root: go on sealing the past anew.")
    ] = False,
    announce_only: Annotated[
        bool, typer.Option("--announce-only", help="Seal the past anew later, with --resume.")
    ] = False,
    confirm: Confirm = None,
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """A new root, and everything sealed once more under it. May be ended at any time: --resume goes on.

    Restart what was running before (the WAL archiver): it goes on under the old root."""
    with told(_ROTATION_CUT), progress() as bar:
        from backup.keys import reseal, rotation  # noqa: PLC0415
        from backup.locations import stack  # noqa: PLC0415
        from backup.repository.access import read_access  # noqa: PLC0415

        repos = _ruling(repo, password_file)
        act = confirmed([r.name for r in repos], confirm, dry_run=False)
        files = [password_file, *(also_password_file or ())] if repo else also_password_file or []
        said = [stack.passphrase(f) for f in files if f is not None]
        if repo and password_file is None and _WITH.given() is None:
            said.append(secret_of(None))
        out: dict[str, Any] = {}
        for one in repos:
            if not act:
                unread = rotation.unread_in(read_access(one.store, one.config, clock=CLOCK))
                left = reseal.progress_of(one).left
                out[one.name] = {"epoch": one.keys.epoch, "left": left, "unread": unread}
                continue
            out[one.name] = _rotated(one, bar, rotation, reseal, why, said, resume, announce_only)
    lines = [
        f"{name}: epoch {o['epoch']}, {o['left']} objects are still to be sealed anew"
        + "".join(f"\n{name}: DROPPED OUT: {printable(d)}" for d in o.get("dropped", ()))
        + "".join(f"\n{name}: NOT READ: {u}; {_AFTER if act else _BEFORE}" for u in o["unread"])
        + "".join(f"\n{name}: NOT SEALED ANEW: {p}" for p in o.get("problems", ()))
        for name, o in out.items()
    ]
    say(json, {"done": act, "repositories": out}, lines)
    whole = all(
        not o["unread"] and (announce_only or not (o["left"] or o.get("problems")))
        for o in out.values()
    )
    raise typer.Exit(2 if not act else 0 if whole else 1)


@key.command()
def escrow(
    shares: Annotated[int, typer.Option(help="How many people get one.")] = 5,
    threshold: Annotated[int, typer.Option(help="How many of them open the repository.")] = 3,
    name: Name = "escrow",
    repo: Repo = None,
    password_file: Password = None,
    json: Json = False,
) -> None:
    """Print shares of a new key, once: write each down for one person. They are stored nowhere."""
    with told():
        from backup.keys import recipients  # noqa: PLC0415

        out = {}
        for one in _ruling(repo, password_file):
            out[one.name] = recipients.add_escrow(
                one, threshold=threshold, shares=shares, name=name
            )
    labelled(
        "ESCROW",
        f"any {threshold} of these {shares} open the repository. They are not shown again.",
        style="bold red",
    )
    say(
        json,
        {"threshold": threshold, "repositories": out},
        [
            f"{repository}\n" + "\n".join(f"  {n} of {shares}: {w}" for n, w in enumerate(words, 1))
            for repository, words in out.items()
        ],
    )


def _ruling(urls: list[str] | None, password_file: Path | None) -> "list[Repository]":
    """Opened by somebody who may say who comes in. Refused before anything is asked, made or told."""
    repos = opened(urls, password_file)
    for one in repos:
        one.keys.require_root()
    return repos


def _rotated(
    one: "Repository",
    bar: Any,
    rotation: Any,
    reseal: Any,
    why: str,
    said: list[str],
    resume: bool,
    announce_only: bool,
) -> dict[str, Any]:
    dropped: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    if not resume:
        begun = rotation.begin(one, why=why, passphrases=said)
        one, dropped, unread = begun.repository, begun.dropped, begun.unread
    done = reseal.Anew() if announce_only else reseal.reseal_all(one, bar)
    return {
        "epoch": one.keys.epoch,
        "dropped": dropped,
        "unread": unread,
        "sealed_anew": {"snapshots": done.snapshots, "wal": done.wal, "packs": done.packs},
        "problems": done.problems,
        "left": reseal.progress_of(one).left,
    }


def _leaving(one: "Leaving", *, done: bool) -> str:
    if not one.changes:
        until = f", until snapshot {one.until}" if one.who.kind == "writer" else ""
        return f"was revoked already{until}; nothing {'was' if done else 'would be'} changed: {_line(one.who)}"
    # A host of which an earlier statement believed more.
    again = " again, for less" if one.who.revoked else ""
    return f"{'revoked' if done else 'to revoke'}{again}: {_line(one.who)}"


def _line(m: "KeyHolder") -> str:
    gone = f"  REVOKED ({printable(m.revoked.why)})" if m.revoked else ""
    opens = "opens" if m.opens else "writes" if m.kind == "writer" else "opens no more"
    if m.state == "newer":
        opens = "NEWER: this zaibei does not know what it opens"
    carried = "" if m.carried or m.kind == "writer" else ", has to be given at a rotation"
    kind, name = printable(m.kind), printable(m.name)
    return f"{m.id}  {kind:<10} {name:<16} epoch {m.epoch}  {opens}{carried}{gone}"


def _other(o: "Other") -> str:
    kind, name = printable(o.kind or "unknown"), printable(o.name or "-")
    mend = f"\n  mend: {o.mend}" if o.mend else ""
    return f"{o.object}  {kind:<10} {name:<16} {o.state.upper()}: {o.why}{mend}"

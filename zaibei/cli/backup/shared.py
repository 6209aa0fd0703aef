"""What the commands of `zaibei backup` share: options, the contract of exit codes, and how repositories open."""

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zaibei.cli.backup.complete import snapshot_numbers
from zaibei.cli.backup.fallback import PASSWORD_FILE, of_the_stack, passphrase_of, secret_of
from zaibei.cli.console import complain, emit, interrupted, labelled, talk
from zaibei.kernel import environment
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Usage, ZaibeiError

if TYPE_CHECKING:
    from backup.format.snapshot import Snapshot
    from backup.repository.repository import Repository

app = typer.Typer(no_args_is_help=True, help="Encrypted backups, proven by restoring.")
CLOCK = SystemClock()
_INTERRUPTED = 130
_MARK = "\ufeff"


class Level(StrEnum):
    STRUCTURE = "structure"
    SAMPLE = "sample"
    FULL = "full"


class Suite(StrEnum):
    INTL = "intl"
    SM = "sm"


Repo = Annotated[
    list[str] | None,
    typer.Option(
        "--repo",
        envvar="ZAIBEI_REPO",
        help="file:///DIR or s3+https://HOST/BUCKET/PREFIX; repeatable.",
    ),
]
Password = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        envvar="ZAIBEI_PASSWORD_FILE",
        help="Its first line opens the repository.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of", help="As the vault was then, through later overwrites: 2026-11-22T04:00Z."
    ),
]
Which = Annotated[
    str,
    typer.Argument(help="A number from `list`, or latest.", autocompletion=snapshot_numbers),
]


class _With:
    """What opens the repositories instead of a passphrase: the group's own options, the same for each command."""

    identity_file: Path | None = None
    shares_file: Path | None = None
    host_key: Path | None = None

    def given(self) -> Any:
        """A private key, those that shares lead to, or a host's key. None: a passphrase opens."""
        files = [f for f in (self.identity_file, self.shares_file, self.host_key) if f]
        if len(files) > 1:
            raise Usage("one of --identity-file, --shares-file and --host-key")
        if not files:
            return None
        from backup.crypto import identity  # noqa: PLC0415
        from backup.crypto.host_key import HostKey  # noqa: PLC0415

        if self.identity_file:
            return identity.load(self.identity_file)
        return identity.load_shares(files[0]) if self.shares_file else HostKey.load(files[0])


_WITH = _With()


@app.callback()
def opening(
    identity_file: Annotated[
        Path | None, typer.Option(help="Open with a private key, from `key new`.")
    ] = None,
    shares_file: Annotated[
        Path | None, typer.Option(help="Open with escrow words, a share a line.")
    ] = None,
    host_key: Annotated[
        Path | None, typer.Option(help="Write as a host that cannot read: for `run`.")
    ] = None,
) -> None:
    """Encrypted backups, proven by restoring."""
    settle_environment()
    _WITH.identity_file, _WITH.shares_file, _WITH.host_key = identity_file, shares_file, host_key


def settle_environment() -> None:
    """What other tools are told by variables is no business of ours; what we are told must mean something."""
    with told():
        for name in environment.check(state_needed=False):
            talk.print(f"note: {name} is no variable of zaibei", markup=False, soft_wrap=True)
    environment.forget_ambient()


def open_with(store: Any, secret: Any) -> "Repository":
    """A passphrase, a private key, one of several, or a host's key."""
    from backup.errors import WrongKey  # noqa: PLC0415
    from backup.repository.repository import open_repository  # noqa: PLC0415

    if isinstance(secret, tuple):
        *others, last = secret
        for one in others:
            with suppress(WrongKey):
                return open_repository(store, one, clock=CLOCK)
        return open_repository(store, last, clock=CLOCK)
    if _WITH.host_key:
        from backup.repository.write_only import open_write_only  # noqa: PLC0415

        return open_write_only(store, secret, clock=CLOCK)
    try:
        return open_repository(store, secret, clock=CLOCK)
    except WrongKey:
        if not isinstance(secret, str) or secret.startswith(_MARK):
            raise
        # An earlier zaibei took the byte order mark of a password file for a part of the passphrase.
        with suppress(WrongKey):
            return open_repository(store, _MARK + secret, clock=CLOCK)
        raise


@contextmanager
def told(*after_cut: str) -> Iterator[None]:
    """The contract of this group: 2 for a wrong request, 1 for everything else that is not true. `after_cut`: what
    to do when somebody pressed Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        interrupted(*after_cut)
        sys.exit(_INTERRUPTED)
    except ZaibeiError as bad:
        code = 2 if isinstance(bad, Usage) else 1
        complain(bad, code)
        sys.exit(code)
    except OSError as bad:
        complain(_of_this_machine(bad), 1)
        sys.exit(1)


def _of_this_machine(bad: OSError) -> ZaibeiError:
    """In words what a file of this machine refused, with its name. What has none is a bug or a pipe: it goes on."""
    from zaibei.kernel.state import ENV, state_dir  # noqa: PLC0415

    no_place = bad.filename is None and "temporary directory" in (bad.strerror or "")
    if not isinstance(bad.filename, str | bytes) and not no_place:
        raise bad
    name = os.fsdecode(bad.filename or "")
    message = f"{name}: {bad.strerror}" if name else f"{bad.strerror}"
    temporary = os.environ.get("TMPDIR")
    if name.startswith(str(state_dir())):
        hint = f"that is in the state directory, where zaibei must be able to write: {ENV} names another"
    elif no_place or (temporary and name.startswith(temporary)):
        hint = "point TMPDIR at a directory on a disk that may be written"
    else:
        hint = "it is a file of this machine, not of a vault"
    return ZaibeiError(message, hint=hint)


def some_path(said: str) -> Path:
    """A path of the command line. An empty one, of a variable that is not set, would be the current directory."""
    if not said:
        raise typer.BadParameter("is empty: a variable that is not set?")
    return Path(said)


def text(said: str, option: str) -> str:
    """What people will read in a listing. Raises Usage for bytes that are no text."""
    try:
        return os.fsencode(said).decode("utf-8")
    except UnicodeError as bad:
        raise Usage(f"{option}: not text in UTF-8: {said!a}") from bad


def distinct(repos: "list[Repository]") -> "list[Repository]":
    """Raises Usage for two ways to one repository: it would hold everything twice and be taken for two vaults."""
    seen: dict[bytes, str] = {}
    for one in repos:
        if one.config.repository in seen:
            raise Usage(
                f"{seen[one.config.repository]} and {one.name} are one repository",
                hint="each --repo is a vault of its own: `zaibei backup init` makes one",
            )
        seen[one.config.repository] = one.name
    return repos


def places(
    urls: list[str] | None, password_file: Path | None, *, make: bool
) -> list[tuple[Any, Any]]:
    """Stores and what opens them."""
    from backup.locations import stack  # noqa: PLC0415
    from backup.locations import urls as vault_urls  # noqa: PLC0415
    from backup.locations.urls import all_distinct  # noqa: PLC0415

    all_distinct(urls or ())
    if (other := _WITH.given()) is not None:
        # One that the environment names is for the other runs.
        if password_file is not None and str(password_file) != os.environ.get(PASSWORD_FILE):
            raise Usage("a passphrase and a key file: which one?")
        return [
            (s, other) for s in ([vault_urls.open_url(u) for u in urls or ()] or of_the_stack())
        ]
    if urls:
        secret = secret_of(password_file)
        return [(vault_urls.open_url(u), secret) for u in urls]
    stores = of_the_stack()
    if password_file is None and make:
        secret, new = stack.make_passphrase()
        if new:
            labelled("ESCROW", stack.escrow_note(), style="bold red")
    else:
        secret = passphrase_of(password_file) if password_file else stack.passphrase()
    return [(s, secret) for s in stores]


def opened(
    urls: list[str] | None, password_file: Path | None, *, as_of: str | None = None
) -> "list[Repository]":
    """With `as_of` as the vaults were then, read-only."""
    _meanwhile("backup.repository.reader")
    found = _as_of(places(urls, password_file, make=False), as_of)
    return [open_with(store, secret) for store, secret in found]


def answering(
    urls: list[str] | None, password_file: Path | None, *, as_of: str | None = None
) -> "tuple[list[Repository | None], list[str]]":
    """`opened`, with None for a vault that does not answer or does not open, and why: after a disaster one of
    them is gone. Raises when none is left."""
    from backup.errors import WrongKey  # noqa: PLC0415

    _meanwhile("backup.restore.files")
    able: list[Repository | None] = []
    lost: list[str] = []
    for store, secret in _as_of(places(urls, password_file, make=False), as_of):
        try:
            able.append(open_with(store, secret))
        except WrongKey:
            raise
        except ZaibeiError as bad:
            able.append(None)
            lost.append(f"{store.name}: {bad.message}")
            why = bad
    if not any(able):
        raise why
    return able, lost


def _as_of(found: list[tuple[Any, Any]], when: str | None) -> list[tuple[Any, Any]]:
    if when is None:
        return found
    from infra.objectstore import asof  # noqa: PLC0415

    at = moment(when)
    if at > CLOCK.now():
        raise Usage(
            f"--as-of {when} is still to come", hint="without --as-of a vault is shown as it is"
        )
    return [(asof.as_of(store, at), secret) for store, secret in found]


def _meanwhile(*modules: str) -> None:
    """Import what comes next, while the passphrase is stretched: that takes a third of a second outside the
    interpreter's lock, and so does this inside it. A module that cannot be imported is told by its user."""

    def work() -> None:
        with suppress(ImportError):
            for name in modules:
                importlib.import_module(name)

    threading.Thread(target=work, name="imports", daemon=True).start()


def moment(text: str) -> datetime:
    """A time as people write it, with its zone: a guessed zone would be hours of somebody's data."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as bad:
        raise Usage(f"not a time: {text!r}", hint="for example 2026-11-22T04:00:00+08:00") from bad
    if at.tzinfo is None:
        raise Usage(f"{text!r} does not say its zone", hint=f"{text}Z, or with an offset: +08:00")
    return at.astimezone(UTC)


def reachable(
    urls: list[str] | None, password_file: Path | None, *, make: bool
) -> "tuple[list[Repository], list[str]]":
    """The repositories that open, and why the others do not: one dead vault stops no backup."""
    from backup.locations.stack import ensure  # noqa: PLC0415

    _meanwhile("backup.run", "backup.sources.files")
    able, lost = [], []
    found = places(urls, password_file, make=make)
    for store, secret in found:
        try:
            making = make and isinstance(secret, str)
            able.append(ensure(store, secret, clock=CLOCK) if making else open_with(store, secret))
        except Usage:
            raise
        except ZaibeiError as bad:
            lost.append(f"{store.name}: {bad.message}")
            why = bad
    if not able:
        raise why
    return distinct(able), lost


def repository_told(repo: "Repository") -> dict[str, Any]:
    return {
        "repository": repo.name,
        "id": repo.config.repository.hex(),
        "suite": repo.config.suite,
        "signer": repo.config.signer.hex(),
    }


def snapshot_told(one: "Snapshot") -> dict[str, Any]:
    c = one.content
    return {
        "sequence": one.sequence,
        "kind": c.kind,
        "label": c.label,
        "host": c.host,
        "tags": list(c.facts.get("tags", ())),
        "paths": list(c.facts.get("roots", ())),
        "started": c.started,
        "finished": c.finished,
        "size_bytes": c.size_bytes,
        "entries_count": c.entries,
        "complete": c.complete,
        "problems": list(c.problems),
        "digest": one.digest,
    }


def say(json: bool, value: dict[str, Any], lines: list[str]) -> None:
    if json:
        emit(value)
    else:
        for line in lines:
            print(line)

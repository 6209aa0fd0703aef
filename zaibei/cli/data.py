"""`zaibei data`: The four base databases."""

# ruff: noqa: PLC0415  a command imports what it needs: `zaibei --help` stays fast

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.console import emit, plain, progress, talk
from zaibei.kernel.errors import Damage, Refused

if TYPE_CHECKING:
    from infra.objectstore.contract import ObjectStore
    from infra.sites import StackAccess

app = typer.Typer(no_args_is_help=True, help="The four base databases.")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
At = Annotated[
    list[str], typer.Option("--at", help="Sites that hold geo-images. `none`: leave pictures out.")
]
_MIRRORED = ["site-a", "site-b"]
_NONE = ["none"]
_OWNER = "zaibei_loader"
_READER = "zaibei_probe"  # reads everything, changes nothing


@app.command("load")
def load_(
    scale: Annotated[float, typer.Option(help="1.0 is 100 000 people.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Which world.")] = 1,
    replace: Annotated[bool, typer.Option("--replace", help="Drop another world first.")] = False,
    yes_i_mean: Annotated[str, typer.Option(help="With --replace: the name of the stack.")] = "",
    at: At = _MIRRORED,
    json: Json = False,
) -> None:
    """Fill the databases with people who do not exist. The same world twice is no work."""
    from infra.data.load import load
    from infra.objectstore.mirror import Mirror
    from zaibei.config.model import SiteLoss
    from zaibei.kernel.clock import SystemClock

    access = _access()
    if replace and yes_i_mean != access.stack:
        raise Refused(
            f"--replace drops every table of the loader in {access.stack}, registrations too",
            hint=f"pass --yes-i-mean {access.stack}",
        )
    with progress() as line, ExitStack() as stack:
        mirror = None
        if at != _NONE:
            # Blocking: a picture on one site only is not loaded, it is an accident in waiting.
            stores = _stores(access, at)
            mirror = stack.enter_context(
                Mirror(stores=stores, clock=SystemClock(), on_site_loss=SiteLoss.BLOCK)
            )
        done = load(
            lambda d: access.primary_dsn(user=_OWNER, database=d),
            access.password(_OWNER),
            mirror,
            seed=seed,
            scale=scale,
            progress=line,
            replace=replace,
        )
    if json:
        emit({"seed": seed, "scale": scale, "databases": done})
        return
    for d in done:
        talk.print(f"{d.database}: {d.step}, {d.rows} rows")
        if d.objects_written is False:
            talk.print("  its pictures are not written; `zaibei data load` writes them")


@app.command("check")
def check_(
    deep: Annotated[bool, typer.Option("--deep", help="Read pictures back and hash them.")] = False,
    at: At = _MIRRORED,
    json: Json = False,
) -> None:
    """Verify every reference that crosses from one database to another, and the check characters."""
    from infra.data.check import check

    access = _access()
    with progress() as line:
        found = check(
            lambda d: access.primary_dsn(user=_READER, database=d),
            access.password(_READER),
            [] if at == _NONE else list(_stores(access, at).values()),
            deep=deep,
            progress=line,
        )
    if json:
        emit({"sound": found.sound, **_fields(found)})
    else:
        walked = (*found.links, *found.malformed, *found.pictures)
        for t in walked:
            named = f": {', '.join(t.examples)}" if t.examples else ""
            talk.print(f"{t.name}: {t.references} looked at, {t.dangling} bad{named}", markup=False)
        if not found.pictures:
            talk.print("pictures: unknown, nobody looked")
    if not found.sound:
        raise Damage("references dangle", hint="compare `zaibei data facts` with another copy")


@app.command("facts")
def facts_(
    site: Annotated[str, typer.Option(help="This site's own member, not the writer.")] = "",
    json: Json = False,
) -> None:
    """Rows and checksum of every table: equal for equal content, whatever the order."""
    from infra.data.facts import facts
    from infra.data.world import DATABASES

    access = _access()
    found = []
    with progress() as line:
        for database in DATABASES:
            line.step(database)
            dsn = (
                access.member_dsn(site, user=_READER, database=database)
                if site
                else access.primary_dsn(user=_READER, database=database)
            )
            found.append(facts(dsn, access.password(_READER)))
    if json:
        emit({"site": site or "writer", "databases": found})
        return
    for f in found:
        for t in f.tables:
            print(f"{f.database}.{t.name}\t{t.rows}\t{t.checksum}")


def _access() -> "StackAccess":
    from infra import sites

    return sites.load()


def _stores(access: "StackAccess", at: list[str]) -> "dict[str, ObjectStore]":
    from infra.data.world import BUCKET
    from infra.objectstore.s3 import open_store

    return {
        site: open_store(
            access.site(site).store,
            ca_file=access.ca_file,
            bucket=BUCKET,
            role="business",
            site=site,
        )
        for site in at
    }


def _fields(found: object) -> dict[str, object]:
    fields = plain(found)
    assert isinstance(fields, dict)
    return fields

"""`zaibei store`: object stores: admission, divergence, repair."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zaibei.cli.console import emit, line, progress, talk
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Invalid, Refused, Usage
from zaibei.kernel.printable import printable

if TYPE_CHECKING:
    from infra.objectstore.s3 import S3Store
    from infra.sites import StoreAccess

app = typer.Typer(no_args_is_help=True, help="Object stores: admission, divergence, repair.")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Prefix = Annotated[str, typer.Option(help="Only keys that begin with this.")]


@app.command()
def probe(
    *,
    role: Annotated[str, typer.Option(help="vault or business.")],
    site: Annotated[str | None, typer.Option(help="A site of the provisioned stack.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Any S3 endpoint, with --key-file.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Its CA; without it the system's.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Two lines: access key id, secret key.")
    ] = None,
    region: Annotated[str, typer.Option(help="Of --endpoint.")] = "us-east-1",
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Races for one key.")] = 3,
    json: Json = False,
) -> None:
    """May this endpoint be trusted? Exit code 0: admitted; 4: not, with reasons."""
    from infra.objectstore import admission  # noqa: PLC0415

    if role not in list(admission.StoreRole):
        raise Usage(f"no such role: {role!r}", hint="vault or business")
    access, ca_file = _endpoint(site, endpoint, ca, key_file, region, role=role)
    with progress() as told:
        report = admission.probe(
            access,
            ca_file=ca_file,
            role=admission.StoreRole(role),
            clock=SystemClock(),
            rng=random.SystemRandom(),
            rounds=rounds,
            progress=told,
        )
    if json:
        emit(report.as_statement())
    else:
        line(f"{report.endpoint} as {role}: {report.verdict.value}")
        for check in report.checks:
            mark = "passed" if check.passed else "failed" if check.ran else "unknown"
            kind = "" if check.needed or check.passed else " (warning)"
            line(f"  {mark:8}{check.name}{kind}: {check.detail}")
    admission.demand(report)


@app.command()
def diff(
    bucket: str,
    site: str,
    other: str,
    *,
    prefix: Prefix = "",
    same_versions: Annotated[
        bool, typer.Option("--same-versions", help="Version ids must agree too (filer.sync).")
    ] = False,
    deep: Annotated[
        int, typer.Option(help="Read so many objects a site through a second client.")
    ] = 0,
    json: Json = False,
) -> None:
    """Compare a bucket on two sites, version by version; the exporter shows it. Exit code 1: they differ."""
    from infra.objectstore import converge, reread  # noqa: PLC0415
    from infra.objectstore.buckets import store_of  # noqa: PLC0415
    from infra.sites import load  # noqa: PLC0415
    from zaibei.kernel.errors import ZaibeiError  # noqa: PLC0415

    a, b = _store(bucket, site, "auditor"), _store(bucket, other, "auditor")
    with progress() as told:
        found = converge.diff(a, b, prefix=prefix, same_versions=same_versions, progress=told)
        converge.publish(found, bucket=bucket, clock=SystemClock())
        read: dict[str, reread.Reread] = {}
        if deep:
            access = load()
            for name, store in ((site, a), (other, b)):
                told.step(f"reading a sample of {store.name} through a second client")
                read[name] = reread.reread(
                    store,
                    reread.sample(store, rng=random.SystemRandom(), prefix=prefix, size=deep),
                    access=store_of(access.site(name), bucket),
                    ca_file=access.ca_file,
                    bucket=bucket,
                    role="auditor",
                )
    if json:
        emit({**found.as_statement(), "reread": read})
    else:
        print(f"{found.total} of {found.keys} keys differ between {found.a} and {found.b}")
        for one in found.first:
            line(f"  {one.kind.value:8} {one.key}: {one.a} | {one.b}")
        for name, sample in read.items():
            print(f"{name}: {sample.read} objects reread, {len(sample.differing)} differ")
    wrong = [f"{name}: {key}" for name, sample in read.items() for key in sample.differing]
    if wrong:
        raise Invalid(f"two clients read different bytes: {', '.join(wrong[:5])}")
    if found.total:
        raise ZaibeiError(
            f"{found.total} of {found.keys} keys differ", hint="zaibei store heal copies what lacks"
        )


@app.command()
def heal(bucket: str, site: str, other: str, *, prefix: Prefix = "", json: Json = False) -> None:
    """Copy what one of two write-once stores lacks. Conflicts are shown and left alone (exit code 4)."""
    from infra.objectstore import converge  # noqa: PLC0415

    role = "writer" if bucket == "zaibei-vault" else "business"
    a, b = _store(bucket, site, role), _store(bucket, other, role)
    with progress() as told:
        done = converge.heal(a, b, prefix=prefix, progress=told)
        left = converge.diff(a, b, prefix=prefix, progress=told)
        converge.publish(left, bucket=bucket, clock=SystemClock())
    if json:
        emit({"copied": done.copied, "conflicts": done.conflicts, "left": left.total})
    else:
        for name, keys in done.copied.items():
            print(f"{name}: {len(keys)} objects copied to it")
        print(f"{left.total} of {left.keys} keys differ now")
        for one in done.conflicts:
            talk.print(printable(f"conflict: {one.key}: {one.a} | {one.b}"), soft_wrap=True)
    if done.conflicts:
        raise Refused(
            f"{len(done.conflicts)} keys differ in a way that no copy settles",
            hint="people decide which is right: zaibei store diff shows them",
        )


def _store(bucket: str, site: str, role: str) -> "S3Store":
    from infra.objectstore.buckets import store_of  # noqa: PLC0415
    from infra.objectstore.s3 import open_store  # noqa: PLC0415
    from infra.sites import load  # noqa: PLC0415

    access = load()
    if site not in [s.name for s in access.sites]:
        raise Usage(
            f"no site {site!r} in stack {access.stack}",
            hint=f"its sites are {', '.join(s.name for s in access.sites)}",
        )
    where = store_of(access.site(site), bucket)
    return open_store(where, ca_file=access.ca_file, bucket=bucket, role=role, site=site)


def _endpoint(
    site: str | None,
    endpoint: str | None,
    ca: Path | None,
    key_file: Path | None,
    region: str,
    *,
    role: str,
) -> "tuple[StoreAccess, Path | None]":
    from infra.objectstore.s3 import access_from_file  # noqa: PLC0415
    from infra.sites import load  # noqa: PLC0415

    if (site is None) == (endpoint is None):
        raise Usage("name a --site of the stack, or an --endpoint with its --key-file")
    if endpoint is None:
        assert site is not None
        access = load()
        if site not in [s.name for s in access.sites]:
            raise Usage(f"no site {site!r} in stack {access.stack}")
        found = access.site(site)
        return found.backups if role == "vault" else found.store, access.ca_file
    if key_file is None:
        raise Usage("--endpoint needs --key-file: keys do not go on a command line")
    return access_from_file(endpoint, region=region, key_file=key_file), ca

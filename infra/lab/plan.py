"""The lab on paper: every name, address and path, from the stack and the state folder. Pure.

All names that reach the kernel begin with `zb-`, and all paths lie under one folder, so that
`leftovers` can find everything by looking, whatever a crash forgot to write down.
"""

from dataclasses import dataclass
from pathlib import Path

from zaibei.config.model import Role, Stack
from zaibei.kernel.errors import Usage

PREFIX = "zb-"
NETWORK = "10.77.0.0/24"
OPERATOR_ADDRESS = "10.77.0.1"
PREFIX_LENGTH = 24
WAN = f"{PREFIX}wan"
BRIDGE = f"{PREFIX}bridge"
OPERATOR_LINK = f"{PREFIX}op"
CGROUP = "zaibei-lab"
_FIRST_HOST = 11
_MAX_SITES = 6
_NAME_LIMIT = 15 - len(PREFIX)  # IFNAMSIZ

PORTS: dict[str, int] = {
    "etcd_client": 2379,
    "etcd_peer": 2380,
    "etcd_dr_client": 2479,
    "etcd_dr_peer": 2480,
    "postgres": 5432,
    "patroni": 8008,
    "primary": 5000,
    "replica": 5001,
    "entry": 8443,
    "service": 8444,
    "s3": 8333,
    "seaweed_master": 9333,
    "seaweed_volume": 8081,
    "seaweed_filer": 8888,
    "seaweed_metrics": 9327,
    "filer_gate": 8890,
    "vault_s3": 8334,
    "vault_master": 9334,
    "vault_volume": 8082,
    "vault_filer": 8889,
    "vault_metrics": 9326,
    "exporter": 9470,
    "witness": 9472,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One site's host. `wan_link` is the far end of its only cable, a port of the bridge."""

    name: str
    role: Role
    address: str
    folder: Path

    @property
    def state(self) -> Path:
        """The state folder that the host belongs to."""
        return self.folder.parents[2]

    @property
    def namespace(self) -> str:
        return f"{PREFIX}{self.name}"

    @property
    def wan_link(self) -> str:
        return f"{PREFIX}{self.name}"

    @property
    def image(self) -> Path:
        return self.folder / "disk.img"

    @property
    def disk(self) -> Path:
        """Where the image is mounted: `up` and `work` of the overlay root, and `data`."""
        return self.folder / "disk"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabPlan:
    stack: str
    root: Path  # everything the lab writes is below it
    hosts: tuple[Host, ...]
    vaults: tuple[str, ...] = ()  # the sites that hold backups, in a store of their own

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(h.name for h in self.hosts)
        raise Usage(f"no site {name!r} in stack {self.stack}", hint=f"its sites are {known}")

    @property
    def layers(self) -> Path:
        """Kept between labs: only a cache."""
        return self.root.parent / "layers"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def faults(self) -> Path:
        """Open faults, a file each (infra.faults.journal)."""
        return self.root / "faults"

    @property
    def lock(self) -> Path:
        return self.root.parent / "lab.lock"


def plan(stack: Stack, state: Path) -> LabPlan:
    """Raises Usage when the stack has more sites than one machine should carry, or too long a name."""
    if len(stack.sites) > _MAX_SITES:
        raise Usage(
            f"the lab carries at most {_MAX_SITES} sites, stack {stack.name} has {len(stack.sites)}"
        )
    root = state / "lab"
    hosts = []
    for i, site in enumerate(stack.sites):
        if len(site.name) > _NAME_LIMIT:
            raise Usage(
                f"site name {site.name!r} is too long for a network link of the lab",
                hint=f"at most {_NAME_LIMIT} characters",
            )
        hosts.append(
            Host(
                name=site.name,
                role=site.role,
                address=f"10.77.0.{_FIRST_HOST + i}",
                folder=root / "sites" / site.name,
            )
        )
    vaults = {site for database in stack.databases for site in database.backup.vaults}
    return LabPlan(
        stack=stack.name,
        root=root,
        hosts=tuple(hosts),
        vaults=tuple(h.name for h in hosts if h.name in vaults),
    )

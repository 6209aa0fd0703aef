"""How to reach what was provisioned: one record for a stack, written by the lab (or for real hosts by
the inventory) and read by everybody who talks to a site.

Passwords are not in it: `Secret` names a file that only its owner can read.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from zaibei.kernel import persontext
from zaibei.kernel.errors import Damage, Missing, Usage
from zaibei.kernel.state import state_dir, write_atomic

_AGAIN: Final = "write it again with what made it, or restore it"
Addressing = Literal["path", "virtual", "auto"]
SUPERUSER: Final = "postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    file: Path

    def reveal(self) -> str:
        return persontext.demand(self.file).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAccess:
    """An S3 endpoint of a site and the identities zaibei may use there, by role.

    Roles: `admin` (buckets, policies), `business` (read, write), `writer` (backup: create and read, no
    delete), `deleter` (gc), `auditor` (read only). A store knows the roles of its own buckets only.
    """

    endpoint: str  # https://10.77.0.11:8333
    region: str
    keys: dict[str, tuple[str, Secret]]  # role -> (access key id, secret key)
    token: Secret | None = None  # of temporary credentials
    addressing: Addressing = "path"  # or virtual, auto: the bucket in the path or in the host name
    proxy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What one kind of door wants to see: a client's certificate, and the root its server is under."""

    ca_file: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAccess:
    name: str
    address: str
    store: StoreAccess  # business buckets
    postgres_port: int  # the member itself
    primary_port: int  # HAProxy: whoever is the writer now
    replica_port: int  # HAProxy: a reader
    patroni_url: str  # https, mutual TLS for unsafe verbs
    etcd_url: str
    entry_url: str  # https: the public door of the site
    exporter_url: str
    ssh_port: int = 22
    etcd_dr_url: str | None = None  # of the remote cluster's own etcd, where it has one
    vault: StoreAccess | None = None  # backups; None: they are in `store` too, or not at this site

    @property
    def backups(self) -> StoreAccess:
        return self.vault or self.store


@dataclass(frozen=True, slots=True, kw_only=True)
class StackAccess:
    """Everything a client outside the sites needs."""

    stack: str
    operator_address: str  # where clients of the lab call from
    ca_file: Path  # of every https door
    client_cert: Path  # the operator's, where `identities` names no other
    client_key: Path
    ssh_key: Path
    ssh_known_hosts: Path
    sites: tuple[SiteAccess, ...]
    passwords: dict[str, Secret]  # PostgreSQL role -> password
    # door -> who to be there: patroni, etcd, etcd-dr, exporter, postgres. One key opens one kind of door.
    identities: dict[str, Identity] = field(default_factory=dict)
    session_key: Path | None = None  # of the health code's identity service, to log in by

    def identity(self, door: str) -> Identity:
        """A record that names none for this door means one certificate for all."""
        return self.identities.get(door) or Identity(
            ca_file=self.ca_file, cert=self.client_cert, key=self.client_key
        )

    def site(self, name: str) -> SiteAccess:
        """Raises Usage for a name that the stack does not have."""
        for one in self.sites:
            if one.name == name:
                return one
        raise Usage(
            f"stack {self.stack} has no site {name!r}",
            hint=f"its sites: {', '.join(s.name for s in self.sites)}",
        )

    def primary_dsn(self, *, user: str, database: str) -> str:
        """libpq conninfo of whoever is the writer, through every site's door, without the password.

        The doors are tried in order; `tcp_user_timeout` bounds a silent drop.
        """
        return self._dsn([s.primary_port for s in self.sites], user=user, database=database)

    def member_dsn(self, site: str, *, user: str, database: str) -> str:
        """One member itself, whatever its role."""
        s = self.site(site)
        return self._dsn([s.postgres_port], user=user, database=database, hosts=[s.address])

    def password(self, user: str) -> str:
        """Raises Usage for a role that the record does not know."""
        if user not in self.passwords:
            raise Usage(
                f"stack {self.stack} has no password of role {user}",
                hint=f"its roles: {', '.join(sorted(self.passwords)) or 'none'}",
            )
        return self.passwords[user].reveal()

    def _dsn(
        self, ports: list[int], *, user: str, database: str, hosts: list[str] | None = None
    ) -> str:
        names = hosts or [s.address for s in self.sites]
        parts = {
            "host": ",".join(names),
            "port": ",".join(str(p) for p in ports),
            "user": user,
            "dbname": database,
            "sslmode": "verify-full",
            "sslrootcert": str(self.identity("postgres").ca_file),
            "connect_timeout": "3",
            "tcp_user_timeout": "5000",
            "keepalives_idle": "5",
            "keepalives_interval": "2",
            "keepalives_count": "3",
        }
        own = self.identities.get("postgres")
        if user == SUPERUSER and own is not None:
            parts |= {"sslcert": str(own.cert), "sslkey": str(own.key)}
        return " ".join(f"{k}={v}" for k, v in parts.items())


def access_file() -> Path:
    return state_dir() / "lab" / "access.json"


def save(access: StackAccess, path: Path | None = None) -> None:
    write_atomic(
        path or access_file(),
        json.dumps(asdict(access), default=str, indent=2, ensure_ascii=False),
        mode=0o600,
    )


def load(path: Path | None = None) -> StackAccess:
    source = path or access_file()
    try:
        raw = json.loads(source.read_text())
    except FileNotFoundError as gone:
        raise Missing(
            f"no provisioned stack: {source} is not there", hint="zaibei lab up"
        ) from gone

    except ValueError as bad:
        raise Damage(f"{source}: not an access record: {bad}", hint=_AGAIN) from bad
    try:
        return _access(raw)
    except (KeyError, TypeError, AttributeError) as bad:
        raise Damage(f"{source}: not an access record: {bad!r}", hint=_AGAIN) from bad


def _access(raw: Any) -> StackAccess:
    def secret(d: dict[str, str]) -> Secret:
        return Secret(file=Path(d["file"]))

    def store(d: dict[str, Any]) -> StoreAccess:
        return StoreAccess(
            endpoint=d["endpoint"],
            region=d["region"],
            keys={r: (k, secret(v)) for r, (k, v) in d["keys"].items()},
            token=secret(token) if (token := d.get("token")) else None,
            addressing=d.get("addressing", "path"),
            proxy=d.get("proxy"),
        )

    sites = tuple(
        SiteAccess(
            **{
                **s,
                "store": store(s["store"]),
                "vault": store(s["vault"]) if s.get("vault") else None,
            }
        )
        for s in raw["sites"]
    )
    paths = ("ca_file", "client_cert", "client_key", "ssh_key", "ssh_known_hosts")
    return StackAccess(
        stack=raw["stack"],
        operator_address=raw["operator_address"],
        sites=sites,
        passwords={u: secret(p) for u, p in raw["passwords"].items()},
        session_key=Path(raw["session_key"]) if raw.get("session_key") else None,
        identities={
            door: Identity(**{part: Path(file) for part, file in own.items()})
            for door, own in raw.get("identities", {}).items()
        },
        **{p: Path(raw[p]) for p in paths},
    )

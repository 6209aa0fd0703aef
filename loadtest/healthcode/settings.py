"""What the service is told: by its environment, every name `ZAIBEI_HC_…`. Passwords are files, never values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

from zaibei.kernel import persontext
from zaibei.kernel.errors import Usage
from zaibei.kernel.units import duration

PREFIX = "ZAIBEI_HC_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Field `pool_size` is `ZAIBEI_HC_POOL_SIZE`; durations are written `3s`, `200ms`."""

    site: str
    db_hosts: str  # host:port,host:port in the order to try: the doors to the writer
    db_password_file: Path
    signing_key_file: Path  # Ed25519, PEM; the private part stays on this site
    session_key_file: Path  # Ed25519, PEM: the public key of the identity service
    db_name: str = "health_code"
    db_user: str = "zaibei_app"
    db_ca_file: Path | None = None  # None: no TLS, for a database on loopback
    listen: str = "127.0.0.1"
    port: int = 8444
    tls_cert: Path | None = None
    tls_key: Path | None = None
    workers: int = 1
    pool_size: int = 8  # connections a worker
    in_flight: int = 256  # requests a worker; more are turned away before Starlette sees them
    cpu_us: int = 0  # burnt by each show of a code: makes a small machine behave like a full one
    acquire: timedelta = timedelta(
        seconds=1
    )  # for a connection; past it certainly nothing was sent
    connect: timedelta = timedelta(seconds=2)
    statement: timedelta = timedelta(seconds=2)  # the server's bound: locks, slow plans
    # Ours, and larger: it also covers the wait for the other copy, which statement_timeout does not.
    command: timedelta = timedelta(seconds=3)
    settled: timedelta = timedelta(seconds=5)  # of the configuration, for two copies to be claimed
    ready: timedelta = timedelta(seconds=1)
    idle: timedelta = timedelta(seconds=60)  # an unused connection is closed
    silent_peer: timedelta = timedelta(seconds=4)  # unacknowledged bytes: the peer is gone
    token_life: timedelta = timedelta(hours=24)
    stale_show: timedelta = timedelta(minutes=15)  # without a database, codes this old are shown
    refresh: timedelta = timedelta(seconds=10)  # of keys, revocations and the ladder

    def hosts(self) -> tuple[list[str], list[int]]:
        pairs = [h.strip().rpartition(":") for h in self.db_hosts.split(",")]
        return [h for h, _, _ in pairs], [int(p) for _, _, p in pairs]


def read(environment: Mapping[str, str]) -> Settings:
    """Raises Usage: every unknown, missing or unreadable variable in one message."""
    known = {PREFIX + f.name.upper(): f for f in fields(Settings)}
    given: dict[str, Any] = {}
    wrong = []
    for name, text in environment.items():
        if not name.startswith(PREFIX):
            continue
        if name not in known:
            wrong.append(f"{name}: unknown")
            continue
        try:
            given[known[name].name] = _parse(known[name].type, text)
        except (ValueError, Usage):
            wrong.append(f"{name}: cannot read {text!r}")
    needed = {"site", "db_hosts", "db_password_file", "signing_key_file", "session_key_file"}
    wrong += [f"{PREFIX}{n.upper()}: missing" for n in sorted(needed - set(given))]
    if wrong:
        raise Usage("; ".join(wrong), hint="docs/design/health-code.md lists the settings")
    settings = Settings(**given)
    try:
        settings.hosts()
    except ValueError as bad:
        raise Usage(f"{PREFIX}DB_HOSTS: not host:port,host:port: {settings.db_hosts!r}") from bad
    if settings.command <= settings.statement:
        # The other way round every slow lock would end as "nobody knows" and not as "not applied".
        raise Usage(f"{PREFIX}COMMAND must be longer than {PREFIX}STATEMENT")
    return settings


def read_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines; `#` begins a comment line."""
    found = {}
    for number, line in enumerate(persontext.demand(path).splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals:
            raise Usage(f"{path}:{number}: not NAME=value")
        found[name] = value
    return found


def _parse(kind: object, text: str) -> object:
    if kind is timedelta:
        return duration(text)
    if kind is int:
        number = int(text)
        if number < 0:
            raise ValueError(text)
        return number
    if kind is Path or Path in get_args(kind):
        return Path(text)
    return text

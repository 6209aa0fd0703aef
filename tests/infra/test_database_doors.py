"""Who may come to PostgreSQL and to Patroni, by the role's own settings: superusers, services, administrators."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ruamel.yaml import YAML

from infra.data.loopback import PASSWORD, Loopback, postgres
from infra.lab import identity, pki, provision
from infra.lab.loopback_store import render
from infra.lab.plan import PORTS, Host, LabPlan
from zaibei.config.model import Role
from zaibei.kernel.clock import SystemClock

pytestmark = pytest.mark.attack
_ROLES = {"site-a": Role.PRODUCTION, "site-b": Role.SAME_CITY, "site-c": Role.REMOTE}


def lab_at(root: Path, address: str) -> LabPlan:
    return LabPlan(
        stack="x",
        root=root,
        hosts=tuple(Host(name=n, role=r, address=address, folder=root) for n, r in _ROLES.items()),
        vaults=("site-b", "site-c"),
    )


def settings(lab: LabPlan, known: dict[str, Any], site: str, into: Path, **more: Any) -> Any:
    """patroni.yml of a site, as the role writes it."""
    host = lab.host(site)
    variables = {
        "site": site,
        "site_address": host.address,
        "site_role": host.role.value,
        "stack_name": "x",
        "on_site_loss": "degrade",
        "ports": PORTS,
        "zaibei_data": "/data",
        "pki_dir": "/pki",
        "operator_addresses": ["192.0.2.1"],
        "sites": [{"name": h.name, "address": h.address, "role": h.role.value} for h in lab.hosts],
        "secrets": identity.of_site(lab, host, known),
    }
    render("patroni", variables | more, into, ("patroni.yml",))
    return YAML(typ="safe").load((into / "patroni.yml").read_text())


@pytest.mark.parametrize("site", list(_ROLES))
def test_what_changes_patroni_asks_for_a_certificate_that_lies_on_no_site(
    tmp_path: Path, site: str
) -> None:
    lab = lab_at(tmp_path, "192.0.2.11")
    known = identity.ensure(lab, SystemClock())
    rest = settings(lab, known, site, tmp_path / "etc")["restapi"]

    assert rest["verify_client"] in ("optional", "required")
    assert rest["cafile"] == "/pki/patroni-admin.crt"
    under_it = [leaf for leaf in pki.leaves(lab) if leaf.root == "patroni-admin"]
    assert [leaf.site for leaf in under_it] == [pki.OPERATOR]
    given = [c for h in lab.hosts for c in provision.credentials(lab, h)]
    assert not [c for c in given if c["dest"].startswith("patroni-admin") and "key" in c["dest"]]


@pytest.mark.parametrize("site", list(_ROLES))
def test_every_line_of_access_names_its_users_and_addresses(tmp_path: Path, site: str) -> None:
    lab = lab_at(tmp_path, "192.0.2.11")
    known = identity.ensure(lab, SystemClock())
    written = settings(lab, known, site, tmp_path / "etc")
    lines = [line.split() for line in written["postgresql"]["pg_hba"]]

    assert lines[0] == ["local", "all", "postgres", "peer"]
    for kind, databases, users, address, method, *options in lines[1:]:
        assert kind == "hostssl"
        assert address.endswith("/32") and "all" not in users.split(",")
        assert method == "scram-sha-256"
        assert ("postgres" in users.split(",")) == (options == ["clientcert=verify-full"])
        if "zaibei_app" in users:
            assert databases == "health_code"
    for who in ("superuser", "replication", "rewind"):
        assert written["postgresql"]["authentication"][who]["sslmode"] == "verify-full"
    assert written["etcd3"]["username"] == "patroni"


@dataclass(frozen=True)
class Guarded:
    server: Loopback
    lab: LabPlan

    def login(self, user: str, database: str, leaf: str | None = None) -> None:
        """Raises OperationalError when it is refused, or when the server is not the right one."""
        folder = self.lab.secrets / "pki"
        root = pki.root_file(folder, "postgres")
        where = f"host=127.0.0.1 port={self.server.port} user={user} dbname={database}"
        own = f" sslcert={folder / leaf} sslkey={folder / leaf}" if leaf else ""
        psycopg.connect(
            f"{where} sslmode=verify-full sslrootcert={root}{own}", password=PASSWORD
        ).close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with the role's list of who may come, its certificate and its root for administrators."""
    root = tmp_path_factory.mktemp("hba")
    lab = lab_at(root, "127.0.0.1")
    known = identity.ensure(lab, SystemClock())
    hba = settings(lab, known, "site-a", root / "etc", operator_addresses=["127.0.0.1"])
    with postgres() as server:
        with psycopg.connect(server.dsn("postgres", "postgres"), autocommit=True) as db:
            db.execute(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")  # type: ignore[arg-type]
        folder = lab.secrets / "pki"
        for source, name in (
            (folder / "site-a" / "postgres.pem", "server.pem"),
            (pki.root_file(folder, "postgres-admin"), "admin.crt"),
        ):
            target = server.data / name
            target.touch(mode=0o600)
            target.write_bytes(source.read_bytes())
            if os.geteuid() == 0:
                shutil.chown(target, "postgres", "postgres")
        (server.data / "pg_hba.conf").write_text("\n".join(hba["postgresql"]["pg_hba"]) + "\n")
        with (server.data / "postgresql.conf").open("a") as conf:
            conf.write(
                "ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.pem'\n"
                "ssl_ca_file = 'admin.crt'\n"
            )
        server.stop()
        server.start()
        yield Guarded(server=server, lab=lab)


@pytest.mark.integration
def test_the_superuser_comes_with_the_operators_certificate_and_not_by_password_alone(
    guarded: Guarded,
) -> None:
    guarded.login("postgres", "postgres", "operator/postgres.pem")
    for leaf in (
        None,
        "operator/patroni.pem",
        "site-a/patroni-etcd.pem",
        "site-a/postgres.pem",
        "site-a/healthcode.pem",
        "site-b/objects.pem",
    ):
        with pytest.raises(psycopg.OperationalError):
            guarded.login("postgres", "postgres", leaf)


@pytest.mark.integration
def test_a_service_comes_to_its_own_database_only(guarded: Guarded) -> None:
    guarded.login("zaibei_app", "health_code")
    guarded.login("zaibei_probe", "postgres")
    for database in ("population", "legal_entity", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="no pg_hba"):
            guarded.login("zaibei_app", database)


@pytest.mark.integration
def test_another_services_certificate_is_no_database_server(
    guarded: Guarded, tmp_path: Path
) -> None:
    """Its address is the right one, and it is under a root of the stack: only not under this one."""
    folder = guarded.lab.secrets / "pki"
    for other in ("doors", "objects", "etcd"):
        root = pki.root_file(folder, other)
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            psycopg.connect(
                f"{guarded.server.dsn('health_code', 'zaibei_app')} sslmode=verify-full"
                f" sslrootcert={root}",
                password=PASSWORD,
            )
    assert json.dumps([leaf.root for leaf in pki.leaves(guarded.lab)]).count('"postgres"') == 3

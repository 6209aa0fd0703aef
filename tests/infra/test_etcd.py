"""etcd with the role's own settings: who is let in, and what each may do there."""

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.lab import identity, pki, provision
from infra.lab.loopback_store import render
from infra.lab.plan import Host, LabPlan
from infra.postgres import etcd
from infra.sites import Identity
from monitors.probes import doors, https
from zaibei.config.model import Role
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.errors import Refused, Unreachable
from zaibei.kernel.wait import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.attack]
_SCOPE = etcd.SCOPES["etcd"]
_SOON = timedelta(seconds=3)


@dataclass(frozen=True)
class Cluster:
    url: str
    lab: LabPlan
    known: dict[str, Any]

    def of(self, leaf: str) -> Identity:
        """A client that holds this key, and trusts the right server."""
        folder = self.lab.secrets / "pki"
        root = pki.root_file(folder, "etcd")
        return Identity(ca_file=root, cert=folder / leaf, key=folder / leaf)

    def ask(self, leaf: str, path: str, token: str | None = None, **body: Any) -> dict[str, Any]:
        return etcd.ask([self.url], self.of(leaf), path, token=token, **body)

    def login(self, leaf: str, user: str) -> str:
        password = self.known["etcd"]["etcd"][user]
        return str(self.ask(leaf, "auth/authenticate", name=user, password=password)["token"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("etcd")
    names = (("site-a", Role.PRODUCTION), ("site-b", Role.SAME_CITY), ("site-c", Role.REMOTE))
    lab = LabPlan(
        stack="x",
        root=root,
        hosts=tuple(Host(name=n, role=r, address="127.0.0.1", folder=root / n) for n, r in names),
        vaults=("site-c",),
    )
    known = identity.ensure(lab, SystemClock())
    held = root / "pki"
    held.mkdir()
    for one in provision.credentials(lab, lab.host("site-a")):
        (held / one["dest"]).touch(mode=0o600)
        (held / one["dest"]).write_bytes(Path(one["src"]).read_bytes())
    client, peer = _free(), _free()
    variables = {
        "site": "site-a",
        "zaibei_data": str(root),
        "etcd_service": "etcd",
        "stack_name": "x",
        "site_address": "127.0.0.1",
        "etcd_client_port": client,
        "etcd_peer_port": peer,
        "pki_dir": str(held),
        "etcd_members": [{"name": "site-a", "address": "127.0.0.1"}],
    }
    render("etcd", variables, root, ("etcd.yml",))
    (root / "etcd").mkdir(mode=0o700)
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            ["/usr/bin/etcd", "--config-file", root / "etcd.yml"], stdout=log, stderr=log
        )
    made = Cluster(url=f"https://127.0.0.1:{client}", lab=lab, known=known)
    try:
        wait_until(
            lambda: _why_not(made), what="etcd", deadline=timedelta(seconds=30), clock=SystemClock()
        )
        passwords = known["etcd"]["etcd"]
        assert etcd.secure([made.url], made.of("operator/etcd.pem"), passwords, scope=_SCOPE)
        assert not etcd.secure([made.url], made.of("operator/etcd.pem"), passwords, scope=_SCOPE)
        yield made
    finally:
        process.kill()
        process.wait()


def test_patroni_changes_what_is_its_own_and_reads_nothing_else(cluster: Cluster) -> None:
    me = "site-a/patroni-etcd.pem"
    token = cluster.login(me, "patroni")
    cluster.ask(me, "kv/put", token, key=_b64(f"{_SCOPE}config"), value=_b64("{}"))
    found = cluster.ask(
        me, "kv/range", token, key=_b64(_SCOPE), range_end=_b64("/zaibei/zaibei-main0")
    )
    assert int(found["count"]) >= 1

    for path, body in (
        ("kv/put", {"key": _b64("/zaibei/zaibei-dr/config"), "value": _b64("{}")}),
        ("kv/deleterange", {"key": _b64("/"), "range_end": _b64("0")}),
        ("kv/range", {"key": _b64("/"), "range_end": _b64("0")}),
        ("auth/disable", {}),
        ("auth/user/add", {"name": "eve", "password": "x"}),
    ):
        with pytest.raises(Refused, match="permission denied"):
            cluster.ask(me, path, token, **body)


def test_the_same_key_without_the_password_is_nobody(cluster: Cluster) -> None:
    for leaf in ("site-a/patroni-etcd.pem", "operator/etcd.pem"):
        with pytest.raises(Refused, match=r"user name is empty|permission denied"):
            cluster.ask(leaf, "kv/put", key=_b64(f"{_SCOPE}config"), value=_b64("evil"))


def test_no_other_key_of_the_stack_gets_past_the_handshake(cluster: Cluster) -> None:
    tried = 0
    for leaf in pki.leaves(cluster.lab):
        if leaf.root == "etcd":
            continue
        tried += 1
        with pytest.raises(Unreachable):
            cluster.ask(leaf.file, "kv/put", key=_b64(f"{_SCOPE}config"), value=_b64("evil"))
    assert tried > 25


def test_a_probe_learns_health_and_a_guessed_user_nothing(cluster: Cluster) -> None:
    own = cluster.of("operator/etcd.pem")
    tls = https.context(ca_file=own.ca_file, client_cert=own.cert, client_key=own.key)
    assert doors.etcd(cluster.url, tls=tls, deadline=_SOON)
    with pytest.raises(Refused):
        cluster.ask("operator/etcd.pem", "auth/authenticate", name="root", password="guessed")


def _b64(text: str) -> str:
    from base64 import b64encode  # noqa: PLC0415

    return b64encode(text.encode()).decode()


def _why_not(cluster: Cluster) -> str | None:
    try:
        cluster.ask("operator/etcd.pem", "kv/range", key=_b64("x"))
    except (Unreachable, Refused) as not_yet:
        return not_yet.message
    return None


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

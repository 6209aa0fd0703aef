"""What the intruder's counts mean, what he finds by looking, and that he knocks at every door."""

import json
import random
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backup.drills.intrusion import Intruded, doors_from
from backup.drills.trespass import KINDS, MANAGED, REFUSED, UNREACHED, Loot, Thief, look, trespass
from infra.lab import identity, pki, provision
from infra.lab.plan import LabPlan, plan
from tests.infra.conftest import three_sites
from zaibei.kernel.clock import SimClock, SystemClock

LOOT = {"site-a": {"words": 3, "keys": ["k"]}}


def intruded(**doors: dict[str, int]) -> Intruded:
    return Intruded(sites=("site-a",), doors=doors, loot=LOOT)


def test_one_open_door_is_broken_and_a_door_nobody_reached_is_invalid() -> None:
    shut = {MANAGED: 0, REFUSED: 9, UNREACHED: 3}
    opened, silent = {MANAGED: 1, REFUSED: 9, UNREACHED: 0}, {MANAGED: 0, REFUSED: 0, UNREACHED: 5}

    assert intruded(a=shut).verdict == "held"
    assert intruded(a=shut, b=opened).verdict == "broken"
    assert intruded(a=shut, b=silent).verdict == "invalid"
    assert intruded(a=silent, b=opened).verdict == "broken"
    assert intruded().verdict == "invalid"


def test_an_intruder_with_nothing_in_his_hands_proves_nothing() -> None:
    shut = {MANAGED: 0, REFUSED: 9, UNREACHED: 3}
    for empty in ({"words": 0, "keys": ["k"]}, {"words": 3, "keys": []}):
        assert replace(intruded(a=shut), loot={"site-a": empty}).verdict == "invalid"


@pytest.fixture
def lab(tmp_path: Path) -> LabPlan:
    made = replace(plan(three_sites(), tmp_path), vaults=("site-b", "site-c"))
    identity.ensure(made, SystemClock())
    return made


def test_from_each_site_there_is_a_way_to_every_kind_of_door(lab: LabPlan) -> None:
    access = provision.access_of(lab, three_sites())
    wanted = {
        "vault: gRPC",
        "vault: S3",
        "store: gate of the copies",
        "etcd: clients",
        "etcd: members",
        "Patroni",
        "PostgreSQL",
        "exporter",
        "local sockets",
    }
    for site in access.sites:
        doors = doors_from(access, site)
        assert wanted <= {d["door"] for d in doors}
        assert {d["kind"] for d in doors} == set(KINDS)
        json.dumps(doors)
    own = [d for d in doors_from(access, access.site("site-c")) if d.get("address") == "127.0.0.1"]
    assert {d["door"] for d in own} >= {"vault: gRPC", "vault: HTTP of the filer"}


def test_keys_passwords_and_sockets_are_found_by_looking(tmp_path: Path) -> None:
    import socket  # noqa: PLC0415

    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.pem").write_text(
        "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"
    )
    (tmp_path / "env").write_text("NOISE=noise-noise-noise-noise\n" * 10)
    (tmp_path / "password").write_text("s3cret-s3cret-s3cret\n")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock"))
        found = look((str(tmp_path),))

    assert found.keys == [tmp_path / "deep" / "a.pem"]
    assert found.words == ["s3cret-s3cret-s3cret", "noise-noise-noise-noise"], "the likely first"
    assert found.sockets == [tmp_path / "sock"]


@pytest.fixture
def door(lab: LabPlan) -> Iterator[int]:
    """A door that lets in whoever is under the root `scrape`."""

    class Yes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    folder = lab.secrets / "pki"
    tls = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(pki.root_file(folder, "scrape"))
    )
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(folder / "site-a" / "exporter.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Yes)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_he_is_let_in_where_his_key_fits_and_nowhere_else(
    lab: LabPlan, door: int, tmp_path: Path
) -> None:
    def counts(leaf: str, port: int) -> dict[str, int]:
        thief = Thief(
            loot=Loot(keys=[lab.secrets / "pki" / leaf]), rng=random.Random(3), scratch=tmp_path
        )
        doors = [{"door": "d", "kind": "https", "address": "127.0.0.1", "port": port}]
        clock = SimClock()
        return trespass(thief, doors, duration=timedelta(seconds=20), per_second=1, clock=clock)[
            "d"
        ]

    assert counts("operator/exporter.pem", door)[MANAGED] > 5
    assert counts("site-a/healthcode.pem", door) == {REFUSED: 20}
    assert counts("site-a/healthcode.pem", 1) == {UNREACHED: 20}

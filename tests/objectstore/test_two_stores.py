"""A vault knows nobody but itself: every key of every site, at every door beside S3."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.drills.trespass import MANAGED, REFUSED, Loot, Thief, attempt
from infra.lab import identity, pki
from infra.lab.loopback_store import LoopbackSite, loopback
from infra.lab.plan import Host, LabPlan
from infra.objectstore.s3 import connect
from zaibei.config.model import Role
from zaibei.kernel.clock import SystemClock

pytestmark = [pytest.mark.integration, pytest.mark.attack]
_PARTS = ("seaweed_master", "seaweed_volume", "seaweed_filer")
_ROLES = {"site-a": Role.PRODUCTION, "site-b": Role.SAME_CITY, "site-c": Role.REMOTE}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSite]:
    root = tmp_path_factory.mktemp("vault")
    with loopback(root, clock=SystemClock(), name="site-c", kind="vault") as running:
        yield running


def keys_of(vault: LoopbackSite) -> dict[pki.Leaf, Path]:
    hosts = tuple(
        Host(name=n, role=r, address="127.0.0.1", folder=vault.folder) for n, r in _ROLES.items()
    )
    lab = LabPlan(stack="loopback", root=vault.folder, hosts=hosts, vaults=tuple(_ROLES))
    return {leaf: lab.secrets / "pki" / leaf.file for leaf in pki.leaves(lab)}


def knock(key: Path, scratch: Path, kind: str, port: int) -> str:
    class Always(random.Random):
        def random(self) -> float:
            return 0.0  # never without the key

    thief = Thief(loot=Loot(keys=[key]), rng=Always(1), scratch=scratch)
    return attempt(thief, {"kind": kind, "door": "x", "address": "127.0.0.1", "port": port})


def test_no_key_of_any_other_service_or_site_opens_a_door_of_the_vault(
    vault: LoopbackSite, tmp_path: Path
) -> None:
    knocked = 0
    for leaf, key in keys_of(vault).items():
        own = (leaf.site, leaf.name) == ("site-c", "vault")
        for part in _PARTS:
            port = vault.ports[part]
            grpc = knock(key, tmp_path, "grpc", port + 10_000)
            assert grpc == (MANAGED if own else REFUSED), (leaf, part)
            if not own:
                assert knock(key, tmp_path, "https", port) == REFUSED, (leaf, part)
                knocked += 1
    assert knocked > 100


def test_a_secret_of_one_store_is_no_secret_at_another(vault: LoopbackSite) -> None:
    from botocore.exceptions import ClientError  # noqa: PLC0415

    from infra.objectstore.s3 import Patience, client  # noqa: PLC0415

    admin = connect(vault.access, ca_file=vault.ca_file, role="admin")
    admin.list_buckets()
    tried = 0
    for site in _ROLES:
        for kind, roles in identity.STORES.items():
            if (site, kind) == ("site-c", "vault"):
                continue
            for role in roles:
                secret = (vault.folder / "secrets" / "s3" / site / kind / role).read_text().strip()
                stolen: Any = client(
                    endpoint=vault.access.endpoint,
                    region="zaibei",
                    key=f"zb{role}",
                    secret=secret,
                    ca_file=vault.ca_file,
                    patience=Patience(attempts=1),
                )
                with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
                    stolen.list_buckets()
                tried += 1
    assert tried > 10

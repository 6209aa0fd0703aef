"""What the role `exporter` writes on each kind of site, by Ansible itself, is what the exporter reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from infra.ansible.play import environment
from infra.lab.plan import PORTS
from monitors.site_exporter import SiteConfig, config
from zaibei.kernel.process import run

ROLES = Path(__file__).parents[2] / "infra" / "ansible" / "roles"
SITES = {
    "production": ("site-a", "192.0.2.11"),
    "same-city": ("site-b", "192.0.2.12"),
    "remote": ("site-c", "192.0.2.13"),
}
EVERYWHERE = {
    "etcd": 2379,
    "postgres": 5432,
    "patroni": 8008,
    "haproxy": 5000,
    "seaweedfs": 8333,
    "healthcode": 8444,
    "witness": 9472,
}
BUCKETS = ("geo-images", "citizen-objects")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteConfig]:
    """One run for the three. The roles' tasks are left out; their defaults see each other as in site.yml."""
    folder = tmp_path_factory.mktemp("role")
    plays: list[dict[str, Any]] = [
        {
            "hosts": "sites",
            "gather_facts": False,
            "roles": [{"role": "exporter", "when": False}, {"role": "filersync", "when": False}],
            "post_tasks": [
                {
                    "ansible.builtin.template": {
                        "src": str(ROLES / "exporter" / "templates" / "exporter.json.j2"),
                        "dest": f"{folder}/{{{{ site }}}}.json",
                    }
                }
            ],
        }
    ]
    everywhere = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ports": PORTS,
        "pki_dir": "/etc/zaibei/pki",
        "zaibei_etc": "/etc/zaibei",
        "zaibei_data": "/var/lib/zaibei",
        "vault_sites": ["site-b", "site-c"],
        "sites": [{"name": n, "address": a, "role": r} for r, (n, a) in SITES.items()],
    }
    hosts = {
        name: {"site": name, "site_address": address, "site_role": role}
        for role, (name, address) in SITES.items()
    }
    (folder / "play.yml").write_text(json.dumps(plays))
    inventory = {"sites": {"vars": everywhere, "hosts": hosts}}
    (folder / "inventory.yml").write_text(json.dumps(inventory))
    run(
        ["ansible-playbook", "-i", folder / "inventory.yml", folder / "play.yml"],
        env=environment() | {"HOME": str(folder)},
    )
    return {role: config(folder / f"{name}.json") for role, (name, _) in SITES.items()}


VAULT = {"seaweedfs-vault": 8334}


@pytest.mark.parametrize(("role", "more"), [("production", {}), ("same-city", VAULT)])
def test_a_site_in_the_city_runs_no_copy(
    written: dict[str, SiteConfig], role: str, more: dict[str, int]
) -> None:
    assert written[role].services == EVERYWHERE | more
    assert written[role].local_services == written[role].object_lag_urls == {}


def test_the_remote_site_shows_its_copies_and_their_lag(written: dict[str, SiteConfig]) -> None:
    assert written["remote"].services == EVERYWHERE | VAULT | {"etcd-dr": 2479}
    # Their figures have no password and no TLS: they listen for their own host.
    assert written["remote"].local_services == {
        f"filersync-{bucket}": 9328 + n for n, bucket in enumerate(BUCKETS)
    }
    assert written["remote"].object_lag_urls == {
        bucket: f"http://127.0.0.1:{9328 + n}/metrics" for n, bucket in enumerate(BUCKETS)
    }


def test_the_copy_runs_at_the_remote_site_alone() -> None:
    (play,) = YAML(typ="safe").load((ROLES.parent / "site.yml").read_text())
    (copy,) = [r for r in play["roles"] if isinstance(r, dict) and r["role"] == "filersync"]
    assert copy["when"] == 'site_role == "remote"'

"""From running hosts to sites: the inventory and the variables Ansible gets, and the access record that
clients get. The same playbook makes real hosts; only these inputs differ.
"""

import hashlib
import importlib
import io
import json
import tarfile
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from infra import sites as access
from infra.ansible.play import PlayResult, play
from infra.lab import identity, layer, pki, witnesses
from infra.lab.plan import OPERATOR_ADDRESS, PORTS, Host, LabPlan
from zaibei.config.model import Role, Stack
from zaibei.kernel.clock import Clock
from zaibei.kernel.progress import Progress
from zaibei.kernel.state import write_atomic

_PACKAGES = ("zaibei", "infra", "backup", "failover", "loadtest", "monitors", "runbooks")
_DEADLINE = timedelta(minutes=5)
# The root that the server of a door is under, where it is not that of the https doors.
_SERVER_ROOT = {"postgres": "postgres", "etcd": "etcd", "etcd-dr": "etcd-dr"}


def provision(
    lab: LabPlan,
    stack: Stack,
    secrets: dict[str, Any],
    *,
    log_key: str,
    clock: Clock,
    progress: Progress,
) -> PlayResult:
    archive, digest = code_archive(lab.root / "code.tar")
    file = lab.root / "variables.json"
    given = variables(
        lab, stack, secrets, code_archive=archive, code_digest=digest, log_key=log_key
    )
    # The lab's hosts stand on this machine's root: its packages are theirs.
    given |= {"zaibei_venv": str(layer.VENV), "zaibei_install_packages": False}
    write_atomic(file, json.dumps(given, indent=2), mode=0o600)
    return play(
        Path(str(files("infra.ansible") / "site.yml")),
        inventory=inventory(lab),
        variables=file,
        private=lab.root / "ansible",
        deadline=_DEADLINE,
        clock=clock,
        progress=progress,
    )


def variables(
    lab: LabPlan,
    stack: Stack,
    secrets: dict[str, Any],
    *,
    code_archive: Path,
    code_digest: str,
    log_key: str,
    operators: tuple[str, ...] = (OPERATOR_ADDRESS,),
) -> dict[str, Any]:
    """What the play is given; real hosts are given the same. Each site's part of it goes to that site alone."""
    return {
        "stack_name": stack.name,
        "on_site_loss": stack.on_site_loss.value,
        "sites": [{"name": h.name, "address": h.address, "role": h.role.value} for h in lab.hosts],
        "vault_sites": lab.vaults,
        "operator_addresses": operators,
        "ports": PORTS,
        "site_secrets": {h.name: identity.of_site(lab, h, secrets) for h in lab.hosts},
        "site_credentials": {h.name: credentials(lab, h) for h in lab.hosts},
        "zaibei_venv": "/opt/zaibei/venv",
        "zaibei_code": "/opt/zaibei/code",
        "zaibei_etc": "/etc/zaibei",
        "zaibei_data": "/var/lib/zaibei",
        "pki_dir": "/etc/zaibei/pki",
        "code_archive": str(code_archive),
        "code_digest": code_digest,
        "zaibei_install_packages": True,
        "evidence_log_key": log_key,
        "witness_keys": str(witnesses.folder(lab)),
    }


def credentials(lab: LabPlan, host: Host) -> list[dict[str, str]]:
    """The files of `pki_dir`: roots for everybody to read, each key for the one account that serves with it."""
    folder = lab.secrets / "pki"
    found = [
        {
            "src": str(pki.root_file(folder, root)),
            "dest": f"{root}.crt",
            "owner": "root",
            "mode": "0444",
        }
        for root in pki.roots_on(lab, host.name)
    ]
    found += [
        {
            "src": str(folder / leaf.file),
            "dest": f"{leaf.name}.pem",
            "owner": leaf.account,
            "mode": "0400",
        }
        for leaf in pki.leaves(lab)
        if leaf.site == host.name
    ]
    return found


def inventory(lab: LabPlan) -> Path:
    """An Ansible inventory like any other. No secret is in it."""
    ssh = lab.secrets / "ssh"
    known = f"-o UserKnownHostsFile={ssh / 'known_hosts'} -o IdentitiesOnly=yes"
    content = {
        "sites": {
            "vars": {
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(ssh / "operator"),
                "ansible_ssh_common_args": known,
                "zaibei_init": "supervisor",
            },
            "hosts": {
                h.name: {
                    "ansible_host": h.address,
                    "site": h.name,
                    "site_address": h.address,
                    "site_role": h.role.value,
                }
                for h in lab.hosts
            },
        }
    }
    path = lab.root / "inventory.yml"
    write_atomic(path, json.dumps(content, indent=2))  # JSON is YAML
    return path


def access_of(lab: LabPlan, stack: Stack) -> access.StackAccess:
    folder = lab.secrets
    own = folder / "pki" / pki.OPERATOR
    return access.StackAccess(
        stack=stack.name,
        operator_address=OPERATOR_ADDRESS,
        ca_file=folder / "pki" / "ca.crt",
        client_cert=own / "patroni.pem",
        client_key=own / "patroni.pem",
        identities={
            leaf.name: access.Identity(
                ca_file=pki.root_file(folder / "pki", _SERVER_ROOT.get(leaf.name, pki.DOORS)),
                cert=folder / "pki" / leaf.file,
                key=folder / "pki" / leaf.file,
            )
            for leaf in pki.leaves(lab)
            if leaf.site == pki.OPERATOR
        },
        session_key=identity.session_key(lab),
        ssh_key=folder / "ssh" / "operator",
        ssh_known_hosts=folder / "ssh" / "known_hosts",
        passwords={r: access.Secret(file=folder / "postgres" / r) for r in identity.POSTGRES_ROLES},
        sites=tuple(
            access.SiteAccess(
                name=h.name,
                address=h.address,
                store=_store(lab, h, "objects", "s3"),
                vault=_store(lab, h, "vault", "vault_s3") if h.name in lab.vaults else None,
                postgres_port=PORTS["postgres"],
                primary_port=PORTS["primary"],
                replica_port=PORTS["replica"],
                patroni_url=f"https://{h.address}:{PORTS['patroni']}",
                etcd_url=f"https://{h.address}:{PORTS['etcd_client']}",
                etcd_dr_url=(
                    f"https://{h.address}:{PORTS['etcd_dr_client']}"
                    if h.role is Role.REMOTE
                    else None
                ),
                entry_url=f"https://{h.address}:{PORTS['entry']}",
                exporter_url=f"https://{h.address}:{PORTS['exporter']}",
            )
            for h in lab.hosts
        ),
    )


def _store(lab: LabPlan, host: Host, kind: str, port: str) -> access.StoreAccess:
    return access.StoreAccess(
        endpoint=f"https://{host.address}:{PORTS[port]}",
        region="zaibei",
        keys={
            role: (
                f"zb{role}",
                access.Secret(file=identity.secret_file(lab, host.name, kind, role)),
            )
            for role in identity.STORES[kind]
        },
    )


def code_archive(path: Path) -> tuple[Path, str]:
    """Our packages, from wherever they are installed, as one reproducible tar; answers with its digest."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in _PACKAGES:
            module = importlib.import_module(name)
            assert module.__file__ is not None
            folder = Path(module.__file__).parent
            for source in sorted(folder.rglob("*")):
                inside = source.relative_to(folder)
                if (
                    "_suite" in inside.parts
                    or "__pycache__" in inside.parts
                    or not source.is_file()
                ):
                    continue
                _add(tar, f"{name}/{inside}", source.read_bytes())
        _add(tar, ".whole", b"")
    data = held.getvalue()
    write_atomic(path, data)
    return path, hashlib.sha256(data).hexdigest()[:16]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 0
    tar.addfile(info, io.BytesIO(data))

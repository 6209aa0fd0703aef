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

from infra import sites as access
from infra.ansible.play import PlayResult, play
from infra.lab import layer
from infra.lab.identity import POSTGRES_ROLES, S3_ROLES
from infra.lab.plan import OPERATOR_ADDRESS, PORTS, LabPlan
from zaibei.config.model import Stack
from zaibei.kernel.clock import Clock
from zaibei.kernel.progress import Progress
from zaibei.kernel.state import write_atomic

_PACKAGES = ("zaibei", "infra", "backup", "failover", "loadtest", "monitors", "runbooks")
_DEADLINE = timedelta(minutes=5)


def provision(
    lab: LabPlan, stack: Stack, secrets: dict[str, object], *, clock: Clock, progress: Progress
) -> PlayResult:
    archive, digest = code_archive(lab.root / "code.tar")
    variables = lab.root / "variables.json"
    write_atomic(
        variables,
        json.dumps(
            {
                "stack_name": stack.name,
                "on_site_loss": stack.on_site_loss.value,
                "sites": [
                    {"name": h.name, "address": h.address, "role": h.role.value} for h in lab.hosts
                ],
                "ports": PORTS,
                "secrets": secrets,
                "zaibei_venv": str(layer.VENV),
                "zaibei_code": "/opt/zaibei/code",
                "zaibei_etc": "/etc/zaibei",
                "zaibei_data": "/var/lib/zaibei",
                "pki_dir": "/etc/zaibei/pki",
                "pki_source": str(lab.secrets / "pki"),
                "code_archive": str(archive),
                "code_digest": digest,
                # The lab's hosts stand on this machine's root: its packages are theirs.
                "zaibei_install_packages": False,
            },
            indent=2,
        ),
        mode=0o600,
    )
    return play(
        Path(str(files("infra.ansible") / "site.yml")),
        inventory=inventory(lab),
        variables=variables,
        private=lab.root / "ansible",
        deadline=_DEADLINE,
        clock=clock,
        progress=progress,
    )


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
    s3 = {r: (f"zb{r}", access.Secret(file=folder / "s3" / r)) for r in S3_ROLES}
    return access.StackAccess(
        stack=stack.name,
        operator_address=OPERATOR_ADDRESS,
        ca_file=folder / "pki" / "ca.crt",
        client_cert=folder / "pki" / "operator.crt",
        client_key=folder / "pki" / "operator.key",
        ssh_key=folder / "ssh" / "operator",
        ssh_known_hosts=folder / "ssh" / "known_hosts",
        passwords={r: access.Secret(file=folder / "postgres" / r) for r in POSTGRES_ROLES},
        sites=tuple(
            access.SiteAccess(
                name=h.name,
                address=h.address,
                store=access.StoreAccess(
                    endpoint=f"https://{h.address}:{PORTS['s3']}", region="zaibei", keys=s3
                ),
                postgres_port=PORTS["postgres"],
                primary_port=PORTS["primary"],
                replica_port=PORTS["replica"],
                patroni_url=f"https://{h.address}:{PORTS['patroni']}",
                etcd_url=f"https://{h.address}:{PORTS['etcd_client']}",
                entry_url=f"https://{h.address}:{PORTS['entry']}",
                exporter_url=f"https://{h.address}:{PORTS['exporter']}",
            )
            for h in lab.hosts
        ),
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

"""Make every identity of a stack: certificates (pki), ssh keys, and a password for every duty at every store.

Made once, when the stack is first provisioned, in files only root can read. Nothing here ever goes
into an argv, an inventory or a log. What one site is given is `of_site`, and nothing else.
"""

import json
import secrets
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from infra.lab import pki
from infra.lab.plan import Host, LabPlan
from zaibei.config.model import Role
from zaibei.kernel.clock import Clock
from zaibei.kernel.state import write_atomic

POSTGRES_ROLES = (
    "postgres",
    "replicator",
    "rewind",
    "zaibei_app",
    "zaibei_backup",
    "zaibei_exporter",
    "zaibei_probe",
    "zaibei_loader",
)
# Who may come to a store, by its kind. A server that checks a signature must know the secret: so each store
# has its own, and no other site knows it.
STORES: dict[str, tuple[str, ...]] = {
    "objects": ("admin", "business", "auditor"),
    "vault": ("admin", "writer", "deleter", "auditor"),
}
_ON_SITES = ("postgres", "replicator", "rewind", "zaibei_app", "zaibei_exporter")
_TOKENS = ("jwt_signing", "jwt_filer", "jwt_filer_read")


def ensure(lab: LabPlan, clock: Clock) -> dict[str, Any]:
    """Make what is missing; answer with every secret of the stack, for the operator's machine alone."""
    folder = lab.secrets
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    _ssh(lab)
    _sessions(lab)
    pki.issue(lab, folder / "pki", clock)
    passwords = folder / "passwords.json"
    known: dict[str, Any] = json.loads(passwords.read_text()) if passwords.exists() else {}
    if _fill(known, _fresh(lab)):
        write_atomic(passwords, json.dumps(known, indent=2), mode=0o600)
    for role, text in known["postgres"].items():
        write_atomic(folder / "postgres" / role, text + "\n", mode=0o600)
    for site, kind in _stores(lab):
        for role, key in known["stores"][site][kind]["s3"].items():
            write_atomic(secret_file(lab, site, kind, role), key["secret"] + "\n", mode=0o600)
    return known


def session_key(lab: LabPlan) -> Path:
    """The identity service's key: who holds it says whose session a request of the health code is."""
    return lab.secrets / "sessions" / "issuer.pem"


def _sessions(lab: LabPlan) -> None:
    private = session_key(lab)
    public = private.with_suffix(".pub")
    if public.exists():
        return
    private.parent.mkdir(exist_ok=True, mode=0o700)
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    kind, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_atomic(private, key.private_bytes(pem, kind, none), mode=0o600)
    shown = serialization.PublicFormat.SubjectPublicKeyInfo
    write_atomic(public, key.public_key().public_bytes(pem, shown))  # last: then both are whole


def secret_file(lab: LabPlan, site: str, kind: str, role: str) -> Path:
    return lab.secrets / "s3" / site / kind / role


def of_site(lab: LabPlan, host: Host, known: dict[str, Any]) -> dict[str, Any]:
    """What a site's services are given: their own store's secrets and their own cluster's, no other's."""
    etcd = "etcd-dr" if host.role is Role.REMOTE else "etcd"
    return {
        "postgres": {r: t for r, t in known["postgres"].items() if r in _ON_SITES},
        "etcd_patroni": known["etcd"][etcd]["patroni"],
        "session_key": session_key(lab).with_suffix(".pub").read_text(),
        "stores": {
            kind: {"kek": known["objects_kek"]} | known["stores"][site][kind]
            for site, kind in _stores(lab)
            if site == host.name
        },
    }


def _stores(lab: LabPlan) -> list[tuple[str, str]]:
    return [(h.name, "objects") for h in lab.hosts] + [(s, "vault") for s in lab.vaults]


def _fresh(lab: LabPlan) -> dict[str, Any]:
    stores: dict[str, dict[str, Any]] = {h.name: {} for h in lab.hosts}
    for site, kind in _stores(lab):
        stores[site][kind] = {
            "s3": {r: {"access": f"zb{r}", "secret": _password()} for r in STORES[kind]},
            **{token: _password() for token in _TOKENS},
        }
        if kind == "vault":
            stores[site][kind]["kek"] = secrets.token_hex(32)
    return {
        "postgres": {role: _password() for role in POSTGRES_ROLES},
        "etcd": {c: {"root": _password(), "patroni": _password()} for c in ("etcd", "etcd-dr")},
        # One for all of them: filer.sync copies business objects as they are stored.
        "objects_kek": secrets.token_hex(32),
        "stores": stores,
    }


def _fill(known: dict[str, Any], fresh: dict[str, Any]) -> bool:
    """Add what an older record lacks; keep what it has. Answers whether anything was added."""
    added = False
    for key, value in fresh.items():
        if key not in known:
            known[key] = value
            added = True
        elif isinstance(value, dict):
            added |= _fill(known[key], value)
    return added


def _password() -> str:
    return secrets.token_urlsafe(24)


def _ssh(lab: LabPlan) -> None:
    folder = lab.secrets / "ssh"
    folder.mkdir(exist_ok=True, mode=0o700)
    known = []
    for name in ("operator", *(f"host_{h.name}" for h in lab.hosts)):
        private, public = folder / name, folder / f"{name}.pub"
        if not public.exists():
            key = ed25519.Ed25519PrivateKey.generate()
            write_atomic(
                private,
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.OpenSSH,
                    serialization.NoEncryption(),
                ),
                mode=0o600,
            )
            line = key.public_key().public_bytes(
                serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
            )
            write_atomic(public, line.decode() + "\n")  # last: its presence says both are whole
    for host in lab.hosts:
        kind, key_text = (folder / f"host_{host.name}.pub").read_text().split()[:2]
        known.append(f"{host.address} {kind} {key_text}\n")
    write_atomic(folder / "known_hosts", "".join(known))

"""Who is who in a stack: one CA, a certificate a site, an operator, ssh keys, and every password.

Made once, when the stack is first provisioned, in files only root can read. Nothing here ever goes
into an argv, an inventory or a log.
"""

import json
import secrets
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.lab.plan import LabPlan
from zaibei.kernel.clock import Clock
from zaibei.kernel.state import write_atomic

POSTGRES_ROLES = (
    "postgres", "replicator", "rewind", "zaibei_app", "zaibei_backup", "zaibei_probe", "zaibei_loader",
)  # fmt: skip
S3_ROLES = ("admin", "business", "writer", "deleter", "auditor")
_CA_DAYS, _LEAF_DAYS = 3650, 397


def ensure(lab: LabPlan, clock: Clock) -> dict[str, object]:
    """Make what is missing; answer with the variables for Ansible (`secrets.*`)."""
    folder = lab.secrets
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    _ssh(lab)
    _certificates(lab, clock)
    passwords = folder / "passwords.json"
    if not passwords.exists():
        made: dict[str, object] = {
            "postgres": {role: _password() for role in POSTGRES_ROLES},
            "s3": {r: {"access": f"zb{r}", "secret": _password()} for r in S3_ROLES},
            "seaweedfs": {
                **{
                    k: _password()
                    for k in ("jwt_signing", "jwt_signing_read", "jwt_filer", "jwt_filer_read")
                },
                "kek": secrets.token_hex(32),
            },
            "patroni": {"rest": _password()},
        }
        write_atomic(passwords, json.dumps(made, indent=2), mode=0o600)
    known: dict[str, object] = json.loads(passwords.read_text())
    for kind in ("postgres", "s3"):
        table = known[kind]
        assert isinstance(table, dict)
        for role, value in table.items():
            text = value["secret"] if isinstance(value, dict) else value
            write_atomic(folder / kind / role, text + "\n", mode=0o600)
    return known


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


def _certificates(lab: LabPlan, clock: Clock) -> None:
    folder = lab.secrets / "pki"
    folder.mkdir(exist_ok=True, mode=0o700)
    now = clock.now()
    ca_key_file, ca_file = folder / "ca.key", folder / "ca.crt"
    if not ca_file.exists():
        ca_key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"zaibei {lab.stack} CA")])
        ca = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(ca_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=_CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
            )
            .sign(ca_key, hashes.SHA256())
        )
        write_atomic(ca_key_file, _pem(ca_key), mode=0o600)
        write_atomic(ca_file, ca.public_bytes(serialization.Encoding.PEM))
    loaded = serialization.load_pem_private_key(ca_key_file.read_bytes(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(ca_file.read_bytes())
    for host in lab.hosts:
        names: list[x509.GeneralName] = [
            x509.DNSName(host.name),
            x509.DNSName("localhost"),
            x509.IPAddress(ip_address(host.address)),
            x509.IPAddress(ip_address("127.0.0.1")),
        ]
        _leaf(folder, host.name, names, issuer, loaded, clock)
    _leaf(folder, "operator", [x509.DNSName("operator")], issuer, loaded, clock)


def _leaf(
    folder: Path,
    name: str,
    names: list[x509.GeneralName],
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    clock: Clock,
) -> None:
    certificate = folder / f"{name}.crt"
    if certificate.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    now = clock.now()
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=_LEAF_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    write_atomic(folder / f"{name}.key", _pem(key), mode=0o600)
    write_atomic(certificate, made.public_bytes(serialization.Encoding.PEM))


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=not ca,
        data_encipherment=False, key_agreement=False, key_cert_sign=ca, crl_sign=ca,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

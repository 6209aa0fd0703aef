"""Issue the certificates of a stack: a root for every kind of door, a key for every service, each with the
least it needs.

A root says which door it is for, so that no certificate opens a door of another kind: not one more line of
configuration has to be right for that. `leaves` decides, `issue` writes what is missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.lab.plan import Host, LabPlan
from zaibei.config.model import Role
from zaibei.kernel.clock import Clock
from zaibei.kernel.state import write_atomic

OPERATOR = "operator"
DOORS = "doors"  # https servers that people and probes see; signs no client
_CA_DAYS, _LEAF_DAYS = 3650, 397
_LOOPBACK = ("127.0.0.1",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One key: whose it is, what it may do, and under which root."""

    root: str
    name: str  # of its file, and of what uses it
    site: str  # where its key lies; `operator`: on the operator's machine alone
    account: str  # the one that may read the key
    common_name: str
    server: bool = False
    client: bool = False
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Certificate and key in one file, below the folder of the PKI."""
        return f"{self.site}/{self.name}.pem"


def vault_root(site: str) -> str:
    return f"vault-{site}"


def leaves(lab: LabPlan) -> tuple[Leaf, ...]:
    """Every key of the stack. No two share an account's duty, and no root serves two kinds of door."""
    found = [leaf for host in lab.hosts for leaf in _of_host(lab, host)]
    for root, name, common_name in (
        ("postgres-admin", "postgres", "postgres"),  # PostgreSQL takes the name for the role
        ("patroni-admin", "patroni", OPERATOR),
        ("scrape", "exporter", OPERATOR),
        ("etcd", "etcd", ""),  # no name, no user of etcd: it may ask for health and read nothing
        ("etcd-dr", "etcd-dr", ""),
    ):
        found.append(
            Leaf(
                root=root,
                name=name,
                site=OPERATOR,
                account=OPERATOR,
                common_name=common_name,
                client=True,
                names=() if common_name else (OPERATOR,),
            )
        )
    return tuple(found)


def _of_host(lab: LabPlan, host: Host) -> Iterator[Leaf]:
    own = (host.address, *_LOOPBACK)
    everywhere = tuple(h.address for h in lab.hosts)

    def leaf(
        root: str,
        name: str,
        account: str,
        *,
        server: bool = False,
        client: bool = False,
        common_name: str | None = None,
        addresses: Sequence[str] = own,
    ) -> Leaf:
        return Leaf(
            root=root,
            name=name,
            site=host.name,
            account=account,
            common_name=f"{name}.{host.name}" if common_name is None else common_name,
            server=server,
            client=client,
            names=(host.name, "localhost") if server else (f"{name}.{host.name}",),
            addresses=tuple(dict.fromkeys(addresses)) if server else (),
        )

    yield leaf(DOORS, "haproxy", "haproxy", server=True)
    yield leaf(DOORS, "patroni", "postgres", server=True)
    yield leaf(DOORS, "healthcode", "zaibei-healthcode", server=True)
    yield leaf(DOORS, "exporter", "zaibei-exporter", server=True)
    yield leaf(DOORS, "witness", "zaibei-witness", server=True)
    yield leaf(DOORS, "s3", "seaweedfs", server=True)
    # Any site's router may lead to this server when it is the writer, under the router's address.
    yield leaf("postgres", "postgres", "postgres", server=True, addresses=(*own, *everywhere))
    clusters = ["etcd", "etcd-dr"] if host.role is Role.REMOTE else ["etcd"]
    for cluster in clusters:
        # etcd's own gateway, which Patroni speaks through, opens this door with the server's certificate.
        yield leaf(cluster, cluster, "etcd", server=True, client=True)
        yield leaf(f"{cluster}-peer", f"{cluster}-peer", "etcd", server=True, client=True)
    # Patroni speaks through etcd's gateway, which refuses a certificate that names a user: its own name would
    # be taken for the client's. So it has none, and Patroni says who it is by password.
    yield leaf(clusters[-1], "patroni-etcd", "postgres", client=True, common_name="")
    # SeaweedFS tells its peers apart by the common name; its parts speak to each other with one key.
    name = f"objects-{host.name}"
    yield leaf("objects", "objects", "seaweedfs", server=True, client=True, common_name=name)
    if host.role is Role.REMOTE:
        name = f"filersync-{host.name}"
        yield leaf("objects", "filersync", "zaibei-filersync", client=True, common_name=name)
    if host.name in lab.vaults:
        yield leaf(DOORS, "vault-s3", "zaibei-vault", server=True)
        root = vault_root(host.name)
        yield leaf(root, "vault", "zaibei-vault", server=True, client=True, common_name=root)


def roots_on(lab: LabPlan, site: str) -> tuple[str, ...]:
    """The roots whose certificate (never the key) a site needs, to check who is at the other end."""
    needed = {leaf.root for leaf in leaves(lab) if leaf.site == site}
    return tuple(sorted(needed | {"postgres-admin", "patroni-admin", "scrape"}))


def issue(lab: LabPlan, folder: Path, clock: Clock) -> None:
    """Make what is missing below `folder`: `ca.crt`, `roots/NAME.crt`, `SITE/NAME.pem`. Nothing is replaced."""
    for part in ("roots", OPERATOR, *(h.name for h in lab.hosts)):
        (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
    for leaf in leaves(lab):
        target = folder / leaf.file
        if not target.exists():
            issuer, key = _root(folder, leaf.root, lab.stack, clock)
            write_atomic(target, _leaf(leaf, issuer, key, clock), mode=0o600)


def root_file(folder: Path, root: str) -> Path:
    # The first root keeps the place it always had: it is what clients are given.
    return folder / "ca.crt" if root == DOORS else folder / "roots" / f"{root}.crt"


def _root(
    folder: Path, root: str, stack: str, clock: Clock
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = root_file(folder, root)
    key_file = certificate.with_suffix(".key")
    if not certificate.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        label = "CA" if root == DOORS else f"CA {root}"
        name = _name(f"zaibei {stack} {label}")
        made = (
            _builder(name, name, key, clock, days=_CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        write_atomic(key_file, _pem(key), mode=0o600)
        write_atomic(certificate, made.public_bytes(serialization.Encoding.PEM))
    loaded = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate(certificate.read_bytes()), loaded


def _leaf(
    leaf: Leaf, issuer: x509.Certificate, issuer_key: ec.EllipticCurvePrivateKey, clock: Clock
) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [ExtendedKeyUsageOID.SERVER_AUTH] if leaf.server else []
    uses += [ExtendedKeyUsageOID.CLIENT_AUTH] if leaf.client else []
    builder = (
        _builder(_name(leaf.common_name), issuer.subject, key, clock, days=_LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    names: list[x509.GeneralName] = [x509.DNSName(n) for n in leaf.names]
    names += [x509.IPAddress(ip_address(a)) for a in leaf.addresses]
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(names), critical=not leaf.common_name
        )
    made = builder.sign(issuer_key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM) + _pem(key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    clock: Clock,
    *,
    days: int,
) -> x509.CertificateBuilder:
    now = clock.now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

import json
import stat
from pathlib import Path

from cryptography import x509

from infra.lab import identity
from infra.lab.plan import plan
from zaibei.config.model import Stack
from zaibei.kernel.clock import SystemClock


def test_secrets_are_made_once_and_only_their_owner_can_read_them(
    stack_of_three: Stack, tmp_path: Path
) -> None:
    lab = plan(stack_of_three, tmp_path)

    first = identity.ensure(lab, SystemClock())
    again = identity.ensure(lab, SystemClock())

    assert json.dumps(first) == json.dumps(again)
    private = [
        p for p in lab.secrets.rglob("*") if p.is_file() and p.suffix not in (".crt", ".pub")
    ]
    private = [p for p in private if p.name != "known_hosts"]
    assert len(private) > 15
    assert {stat.S_IMODE(p.stat().st_mode) for p in private} == {0o600}
    assert stat.S_IMODE(lab.secrets.stat().st_mode) == 0o700


def test_a_site_certificate_is_signed_by_the_stack_and_names_the_site(
    stack_of_three: Stack, tmp_path: Path
) -> None:
    lab = plan(stack_of_three, tmp_path)
    identity.ensure(lab, SystemClock())
    pki = lab.secrets / "pki"
    ca = x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())

    for host in lab.hosts:
        leaf = x509.load_pem_x509_certificate((pki / f"{host.name}.crt").read_bytes())
        leaf.verify_directly_issued_by(ca)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert host.name in names.get_values_for_type(x509.DNSName)
        assert host.address in map(str, names.get_values_for_type(x509.IPAddress))

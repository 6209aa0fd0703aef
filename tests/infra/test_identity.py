"""One key, one account, one door: over the whole plan of certificates, and what each site is given of it."""

import json
import ssl
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from infra.lab import identity, pki, provision
from infra.lab.plan import LabPlan, plan
from zaibei.config.model import Stack
from zaibei.kernel.clock import SystemClock

VAULTS = ("site-b", "site-c")


@pytest.fixture
def lab(stack_of_three: Stack, tmp_path: Path) -> LabPlan:
    return replace(plan(stack_of_three, tmp_path), vaults=VAULTS)


@pytest.fixture
def known(lab: LabPlan) -> dict[str, Any]:
    return identity.ensure(lab, SystemClock())


def test_secrets_are_made_once_and_only_their_owner_can_read_them(
    lab: LabPlan, known: dict[str, Any]
) -> None:
    again = identity.ensure(lab, SystemClock())

    assert json.dumps(known) == json.dumps(again)
    private = [
        p for p in lab.secrets.rglob("*") if p.is_file() and p.suffix not in (".crt", ".pub")
    ]
    private = [p for p in private if p.name != "known_hosts"]
    assert len(private) > 50
    assert {stat.S_IMODE(p.stat().st_mode) for p in private} == {0o600}
    assert stat.S_IMODE(lab.secrets.stat().st_mode) == 0o700


def test_a_record_of_an_older_version_gets_what_it_lacks_and_keeps_what_it_has(
    lab: LabPlan,
) -> None:
    lab.secrets.mkdir(parents=True)
    (lab.secrets / "passwords.json").write_text('{"postgres": {"postgres": "old"}, "s3": {}}')

    known = identity.ensure(lab, SystemClock())

    assert known["postgres"]["postgres"] == "old"
    assert known["stores"]["site-c"]["vault"]["s3"]["writer"]["secret"]


@pytest.mark.attack
def test_every_key_is_of_one_account_one_door_and_has_the_least_use(
    lab: LabPlan, known: dict[str, Any]
) -> None:
    folder = lab.secrets / "pki"
    keys: Counter[bytes] = Counter()
    for leaf in pki.leaves(lab):
        pem = (folder / leaf.file).read_bytes()
        root = x509.load_pem_x509_certificate(pki.root_file(folder, leaf.root).read_bytes())
        cert = x509.load_pem_x509_certificate(pem)
        cert.verify_directly_issued_by(root)
        keys[pem[pem.index(b"-----BEGIN PRIVATE") :]] += 1
        uses = set(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        wanted = {ExtendedKeyUsageOID.SERVER_AUTH} if leaf.server else set()
        wanted |= {ExtendedKeyUsageOID.CLIENT_AUTH} if leaf.client else set()
        assert uses == wanted != set(), leaf
        if leaf.root == pki.DOORS:
            assert not leaf.client, "a door that everybody sees lets nobody in elsewhere"
    assert set(keys.values()) == {1}, "one key, one purpose"
    assert len(keys) == len(pki.leaves(lab)) > 25


@pytest.mark.attack
def test_a_root_that_lets_clients_in_signs_for_one_kind_of_door_only(lab: LabPlan) -> None:
    opens: dict[str, set[str]] = {}
    for leaf in pki.leaves(lab):
        if leaf.client:
            opens.setdefault(leaf.root, set()).add(f"{leaf.account}/{leaf.name}")
    assert opens["vault-site-b"] == opens["vault-site-c"] == {"zaibei-vault/vault"}
    assert opens["objects"] == {"seaweedfs/objects", "zaibei-filersync/filersync"}
    assert opens["etcd"] == {"etcd/etcd", "postgres/patroni-etcd", "operator/etcd"}
    assert opens["etcd-peer"] == {"etcd/etcd-peer"}
    for root in ("postgres-admin", "patroni-admin", "scrape"):
        assert {owner.split("/")[0] for owner in opens[root]} == {"operator"}
    internet = {"zaibei-healthcode", "haproxy", "zaibei-exporter"}
    held = {owner.split("/")[0] for owners in opens.values() for owner in owners}
    assert not internet & held, "what faces the network is a client nowhere"


@pytest.mark.attack
def test_a_site_is_given_its_own_keys_and_each_is_one_accounts_to_read(
    lab: LabPlan, known: dict[str, Any]
) -> None:
    for host in lab.hosts:
        given = provision.credentials(lab, host)
        keys = [g for g in given if g["dest"].endswith(".pem")]
        assert {g["mode"] for g in keys} == {"0400"}
        assert {Path(g["src"]).parent.name for g in keys} == {host.name}
        assert "root" not in {g["owner"] for g in keys}
        assert not [g for g in given if g["src"].endswith(".key")], "roots' keys stay here"
        for root in (g for g in given if g["dest"].endswith(".crt")):
            assert b"PRIVATE" not in Path(root["src"]).read_bytes()


@pytest.mark.attack
def test_what_one_site_is_given_opens_no_other_sites_store(
    lab: LabPlan, known: dict[str, Any]
) -> None:
    texts = {h.name: set(_leaves(identity.of_site(lab, h, known)["stores"])) for h in lab.hosts}
    ids = {f"zb{role}" for roles in identity.STORES.values() for role in roles}
    shared = {known["objects_kek"]} | ids
    for site, mine in texts.items():
        for other, theirs in texts.items():
            assert site == other or mine & theirs <= shared, f"{site} knows a secret of {other}"
    production = identity.of_site(lab, lab.host("site-a"), known)
    assert set(production["stores"]) == {"objects"}
    assert set(production["stores"]["objects"]["s3"]) == {"admin", "business", "auditor"}
    vault = identity.of_site(lab, lab.host("site-c"), known)["stores"]["vault"]
    assert set(vault["s3"]) == {"admin", "writer", "deleter", "auditor"}
    assert vault["kek"] != known["objects_kek"]
    for host in lab.hosts:
        given = set(_leaves(identity.of_site(lab, host, known)))
        for kept in ("zaibei_backup", "zaibei_loader", "zaibei_probe"):
            assert known["postgres"][kept] not in given
        assert known["etcd"]["etcd"]["root"] not in given


def test_the_server_of_a_database_is_known_under_the_address_of_every_router(
    lab: LabPlan, known: dict[str, Any]
) -> None:
    pem = (lab.secrets / "pki" / "site-b" / "postgres.pem").read_bytes()
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    shown = set(map(str, names.value.get_values_for_type(x509.IPAddress)))
    assert {h.address for h in lab.hosts} <= shown


def test_the_operators_record_names_a_certificate_for_each_door(
    lab: LabPlan, known: dict[str, Any], stack_of_three: Stack
) -> None:
    access = provision.access_of(lab, stack_of_three)

    assert set(access.identities) == {"postgres", "patroni", "exporter", "etcd", "etcd-dr"}
    for own in access.identities.values():
        tls = ssl.create_default_context(cafile=str(own.ca_file))
        tls.load_cert_chain(own.cert, own.key)
    own_dsn = access.primary_dsn(user="postgres", database="postgres")
    assert f"sslkey={access.identities['postgres'].key}" in own_dsn
    for user in ("postgres", "zaibei_app"):
        assert "sslmode=verify-full" in access.primary_dsn(user=user, database="postgres")
    assert "sslkey" not in access.primary_dsn(user="zaibei_app", database="postgres")
    assert access.site("site-a").vault is None
    assert access.site("site-a").backups == access.site("site-a").store
    assert set(access.site("site-c").backups.keys) == {"admin", "writer", "deleter", "auditor"}


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _leaves(part)]
    return [value]

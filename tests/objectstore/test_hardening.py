"""What the role's settings close, tried on a running server; and who may do what behind the S3 door."""

import http.client
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from infra.lab.loopback_store import LoopbackSite, weed
from infra.objectstore import buckets
from infra.objectstore.contract import Locked, NotThere
from infra.objectstore.s3 import S3Store, connect, open_store
from zaibei.kernel.errors import Refused

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def prepared(site: LoopbackSite) -> LoopbackSite:
    assert [c.what for c in prepare(site)] == [
        "created",
        "versioning switched on",
        "created with object lock",
    ]
    assert prepare(site) == [], "a second time changes nothing"
    return site


def prepare(site: LoopbackSite) -> list[buckets.Change]:
    here = SimpleNamespace(store=site.access, backups=site.access)
    access = SimpleNamespace(ca_file=site.ca_file, site=lambda name: here)
    bucket = SimpleNamespace(name="geo-images", lock=None, sites=("site-a",), copies_to=())
    database = SimpleNamespace(backup=SimpleNamespace(vaults=("site-a",)))
    stack = SimpleNamespace(buckets=(bucket,), databases=(database,))
    return buckets.prepare(access, stack)  # type: ignore[arg-type]


def as_role(site: LoopbackSite, role: str, bucket: str = buckets.VAULT) -> S3Store:
    return open_store(site.access, ca_file=site.ca_file, bucket=bucket, role=role, site=site.name)


def test_the_writer_creates_locks_and_extends_and_cannot_delete(prepared: LoopbackSite) -> None:
    writer = as_role(prepared, "writer")
    until = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0)
    plain = writer.create("writer/plain", b"x")
    locked = writer.create("writer/locked", b"x", retain_until=until)
    writer.retain("writer/locked", until=until + timedelta(minutes=1))

    for version in (None, plain):
        with pytest.raises(Refused):
            writer.remove("writer/plain", version=version)
    with pytest.raises((Refused, Locked)):
        writer.remove("writer/locked", version=locked)
    assert [s.key for s in writer.list("writer/")] == ["writer/locked", "writer/plain"]
    with pytest.raises(Refused):
        as_role(prepared, "writer", "geo-images").create("k", b"x")


def test_the_deleter_deletes_what_is_not_locked_and_writes_nothing(prepared: LoopbackSite) -> None:
    writer, deleter = as_role(prepared, "writer"), as_role(prepared, "deleter")
    until = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0)
    plain = writer.create("deleter/plain", b"x")
    locked = writer.create("deleter/locked", b"x", retain_until=until)
    deleter.remove("deleter/plain", version=plain)
    with pytest.raises(NotThere):
        writer.read("deleter/plain")
    with pytest.raises(Locked):
        deleter.remove("deleter/locked", version=locked)
    with pytest.raises(Refused):
        deleter.create("deleter/new", b"x")


def test_neither_writer_nor_deleter_gets_past_a_lock_by_bypass_or_by_weakening_it(
    prepared: LoopbackSite,
) -> None:
    until = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0)
    version = as_role(prepared, "writer").create("bypass/locked", b"x", retain_until=until)
    assert version is not None
    where: Any = {"Bucket": buckets.VAULT, "Key": "bypass/locked", "VersionId": version}
    weaker: Any = {"Mode": "GOVERNANCE", "RetainUntilDate": until}
    for role in ("writer", "deleter", "admin"):
        s3 = connect(prepared.access, ca_file=prepared.ca_file, role=role)
        with pytest.raises(ClientError):
            s3.delete_object(**where, BypassGovernanceRetention=True)
        with pytest.raises(ClientError):
            s3.put_object_retention(**where, Retention=weaker, BypassGovernanceRetention=True)
    with pytest.raises(Refused):
        as_role(prepared, "deleter").retain("bypass/locked", until=until + timedelta(minutes=1))
    assert as_role(prepared, "auditor").stat("bypass/locked").retain_until == until


def test_business_hides_objects_behind_markers_and_never_removes_a_version(
    prepared: LoopbackSite,
) -> None:
    business = as_role(prepared, "business", "geo-images")
    version = business.create("k", b"x")
    with pytest.raises(Refused):
        business.remove("k", version=version)
    business.remove("k")
    with pytest.raises(NotThere):
        business.read("k")
    assert version is not None
    assert business.read_version("k", version=version) == b"x"
    with pytest.raises(Refused):
        as_role(prepared, "business").create("k", b"x")


def test_the_auditor_reads_everything_and_changes_nothing(prepared: LoopbackSite) -> None:
    as_role(prepared, "writer").create("auditor/k", b"x")
    auditor = as_role(prepared, "auditor")

    assert auditor.read("auditor/k") == b"x"
    with pytest.raises(Refused):
        auditor.create("auditor/new", b"x")
    with pytest.raises(Refused):
        auditor.remove("auditor/k")


def test_the_administrator_cannot_take_the_lock_or_a_full_bucket_away(
    prepared: LoopbackSite,
) -> None:
    until = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0)
    version = as_role(prepared, "writer").create("admin/locked", b"x", retain_until=until)
    admin = connect(prepared.access, ca_file=prepared.ca_file, role="admin")
    with pytest.raises(Locked):
        as_role(prepared, "admin").remove("admin/locked", version=version)
    for attempt in (
        lambda: admin.delete_bucket(Bucket=buckets.VAULT),
        lambda: admin.put_bucket_versioning(
            Bucket=buckets.VAULT, VersioningConfiguration={"Status": "Suspended"}
        ),
    ):
        with pytest.raises(ClientError):
            attempt()


@pytest.mark.parametrize(
    ("port", "method", "path"),
    [
        ("seaweed_filer", "DELETE", "/buckets/zaibei-vault?recursive=true"),
        ("seaweed_filer", "GET", "/buckets/"),
        ("seaweed_master", "GET", "/col/delete?collection=zaibei-vault"),
        ("seaweed_volume", "GET", "/status"),
    ],
)
def test_the_doors_beside_s3_are_closed_also_for_the_stores_own_certificate(
    prepared: LoopbackSite, tmp_path: Path, port: str, method: str, path: str
) -> None:
    as_role(prepared, "writer").create(f"doors/{port}-{method}", b"still here")
    url = f"https://127.0.0.1:{prepared.ports[port]}{path}"
    stranger = _status(method, url, prepared.store_ca, certificate=None)
    insider = _status(method, url, prepared.store_ca, certificate=prepared.store_key)

    assert stranger is None, "the handshake asks for a certificate"
    # A volume shows its state to a certificate under the store's root; the filer and the master have no HTTP at all.
    assert insider == (200 if port == "seaweed_volume" else 404)
    assert as_role(prepared, "auditor").read(f"doors/{port}-{method}") == b"still here"


def test_a_shell_without_a_sites_certificate_gets_no_answer(
    prepared: LoopbackSite, tmp_path: Path
) -> None:
    as_role(prepared, "writer").create("shell/k", b"still here")
    master, filer = prepared.ports["seaweed_master"], prepared.ports["seaweed_filer"]
    shell = subprocess.Popen(
        [weed(), "shell", f"-master=127.0.0.1:{master}", f"-filer=127.0.0.1:{filer}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    try:
        said, _ = shell.communicate(b"fs.ls /buckets\n", timeout=2)
    except subprocess.TimeoutExpired:
        shell.kill()
        said, _ = shell.communicate()
    assert b"zaibei-vault" not in said
    assert as_role(prepared, "auditor").read("shell/k") == b"still here"


def _status(method: str, url: str, ca_file: Path, *, certificate: Path | None) -> int | None:
    """The HTTP status; None where the handshake or the connection ended without one."""
    tls = ssl.create_default_context(cafile=str(ca_file))
    if certificate is not None:
        tls.load_cert_chain(certificate)
    where = urlsplit(url)
    connection = http.client.HTTPSConnection(where.netloc, timeout=5, context=tls)
    try:
        connection.request(method, where.path + (f"?{where.query}" if where.query else ""))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()

"""The whole way of a backup through the command line, on every kind of vault that we can start."""

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.lab.loopback_store import LoopbackSite
from infra.objectstore.admission import Admission, StoreRole, probe
from infra.sites import Secret, StoreAccess
from zaibei.cli.main import app
from zaibei.kernel.clock import SystemClock
from zaibei.kernel.state import ENV

pytestmark = pytest.mark.integration

BUCKET = "zaibei-path"
PLAIN = "zaibei-plain"  # without versions


@dataclass(frozen=True)
class Vault:
    url: str
    environment: dict[str, str]
    access: StoreAccess
    ca_file: Path | None


def seaweedfs(request: pytest.FixtureRequest) -> Vault:
    site: LoopbackSite = request.getfixturevalue("site")
    key, secret = site.access.keys["admin"]
    return Vault(
        url=f"s3+{site.access.endpoint}/{BUCKET}/path",
        environment={
            "ZAIBEI_S3_KEY": key,
            "ZAIBEI_S3_SECRET_FILE": str(secret.file),
            "ZAIBEI_S3_CA_FILE": str(site.ca_file),
            "AWS_REGION": site.access.region,
        },
        access=site.access,
        ca_file=site.ca_file,
    )


def foreign(request: pytest.FixtureRequest) -> Vault:
    endpoint = os.environ["ZAIBEI_FOREIGN_S3"]
    key, secret = os.environ["ZAIBEI_FOREIGN_S3_KEY"], os.environ["ZAIBEI_FOREIGN_S3_SECRET_FILE"]
    return Vault(
        url=f"s3+{endpoint}/{BUCKET}/path",
        environment={"ZAIBEI_S3_KEY": key, "ZAIBEI_S3_SECRET_FILE": secret},
        access=StoreAccess(
            endpoint=endpoint,
            region="us-east-1",
            keys={"admin": (key, Secret(file=Path(secret)))},
        ),
        ca_file=None,
    )


VAULTS = [foreign if "ZAIBEI_FOREIGN_S3" in os.environ else seaweedfs]


@pytest.fixture(params=VAULTS, ids=lambda make: make.__name__)
def vault(request: pytest.FixtureRequest) -> Vault:
    return request.param(request)


Zaibei = Callable[..., Any]


@pytest.fixture
def zaibei(vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zaibei]:
    """`zaibei("list", exit_code=0)`: the command's JSON."""
    from infra.objectstore.s3 import connect  # noqa: PLC0415

    monkeypatch.setenv(ENV, str(tmp_path / "state"))
    for name, value in vault.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pw").write_text("correct horse\n")
    s3 = connect(vault.access, ca_file=vault.ca_file, role="admin")
    s3.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    s3.create_bucket(Bucket=PLAIN)

    def ask(*argv: str, exit_code: int = 0) -> Any:
        url = vault.url if "--repo" not in argv else ()
        where = [
            *(["--repo", url] if url else []),
            "--password-file",
            str(tmp_path / "pw"),
            "--json",
        ]
        done = CliRunner().invoke(app, ["backup", *argv, *where])
        assert done.exit_code == exit_code, done.output
        return json.loads(done.stdout) if exit_code == 0 else done.output

    yield ask


def tree(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = tmp_path / "source"
    (base / "deep").mkdir(parents=True)
    (base / "one").write_bytes(random.Random(1).randbytes(300_000))
    (base / "deep" / "人口").write_text("人口基础信息库\n" * 50)
    return base


keeps_what_it_says = pytest.mark.skipif(
    "ZAIBEI_FOREIGN_FAILS" in os.environ, reason="init refuses this store; the next test says so"
)


@keeps_what_it_says
def test_init_run_run_list_verify_and_restore_also_as_of_before_the_second_run(
    zaibei: Zaibei, vault: Vault, source: Path, tmp_path: Path
) -> None:
    first = tree(source)
    zaibei("init")
    assert zaibei("run", "--files", str(source), "--retain", "60s")["complete"]
    time.sleep(1.1)  # Ceph dates versions to the second
    between = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    time.sleep(1.1)
    (source / "two").write_bytes(random.Random(2).randbytes(100_000))
    assert zaibei("run", "--files", str(source), "--retain", "120s")["complete"]

    (listed,) = zaibei("list")["repositories"].values()
    assert [s["sequence"] for s in listed] == [1, 2]
    assert zaibei("verify", "--level", "full")["sound"]
    assert zaibei("restore", "latest", "--target", str(tmp_path / "now"))["complete"]
    assert tree(tmp_path / "now" / "source") == tree(source)

    (listed,) = zaibei("list", "--as-of", between)["repositories"].values()
    assert [s["sequence"] for s in listed] == [1]
    assert zaibei("verify", "--level", "full", "--as-of", between)["sound"]
    zaibei("restore", "latest", "--target", str(tmp_path / "then"), "--as-of", between)
    assert tree(tmp_path / "then" / "source") == first


if "ZAIBEI_FOREIGN_FAILS" in os.environ:

    def test_a_bucket_that_overwrites_is_refused_and_one_that_does_not_serves_without_locks(
        zaibei: Zaibei, vault: Vault, source: Path, tmp_path: Path
    ) -> None:
        said = zaibei("init", exit_code=1)
        assert "overwrites what must be created once" in said

        plain = ("--repo", vault.url.replace(BUCKET, PLAIN))
        zaibei("init", *plain)
        assert zaibei("run", "--files", str(source), *plain)["complete"]
        (source / "two").write_bytes(random.Random(2).randbytes(100_000))
        assert zaibei("run", "--files", str(source), *plain)["complete"]
        assert zaibei("verify", "--level", "full", *plain)["sound"]
        assert zaibei("restore", "latest", "--target", str(tmp_path / "now"), *plain)["complete"]
        assert tree(tmp_path / "now" / "source") == tree(source)
        zaibei("run", "--files", str(source), "--retain", "60s", *plain, exit_code=1)


if "ZAIBEI_FOREIGN_S3" in os.environ:

    def test_a_foreign_store_is_admitted_or_refused_for_exactly_the_known_reasons(
        request: pytest.FixtureRequest,
    ) -> None:
        one = foreign(request)
        report = probe(
            one.access,
            ca_file=None,
            role=StoreRole.VAULT,
            clock=SystemClock(),
            rng=random.Random(7),
        )
        print(json.dumps(report.as_statement(), indent=1))
        known = os.environ.get("ZAIBEI_FOREIGN_FAILS", "").split()

        assert report.verdict is (Admission.REFUSED if known else Admission.ADMITTED)
        assert [r.partition(":")[0] for r in report.reasons] == known

"""Every implementation of the object store contract, each with an empty bucket for a test."""

import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.objectstore.contract import ObjectStore
from infra.objectstore.directory import DirectoryStore
from infra.objectstore.loopback import LoopbackSite, loopback
from infra.objectstore.memory import MemoryStore
from infra.objectstore.s3 import S3Store, connect
from zaibei.kernel.clock import SystemClock

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "conformance"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSite]:
    with loopback(tmp_path_factory.mktemp("seaweedfs"), clock=SystemClock()) as running:
        yield running


@pytest.fixture(scope="session")
def client(site: LoopbackSite) -> "S3Client":
    """One for all tests: making a client takes longer than most of them."""
    admin = connect(site.access, ca_file=site.ca_file, role="admin")
    admin.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    return admin


def memory(request: pytest.FixtureRequest) -> ObjectStore:
    return MemoryStore(clock=SystemClock())


def directory(request: pytest.FixtureRequest) -> ObjectStore:
    folder: Path = request.getfixturevalue("tmp_path")
    return DirectoryStore(folder / "store")


def seaweedfs(request: pytest.FixtureRequest) -> ObjectStore:
    return S3Store(
        client=request.getfixturevalue("client"),
        bucket=BUCKET,
        prefix=f"{secrets.token_hex(4)}/",
        name=f"site-a/{BUCKET}",
    )


# A new implementation joins the suite with one line.
KEEPS_VERSIONS = [memory, pytest.param(seaweedfs, marks=pytest.mark.integration)]
ALL = [*KEEPS_VERSIONS, directory]


@pytest.fixture(params=ALL, ids=lambda make: make.__name__)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return request.param(request)


@pytest.fixture(params=KEEPS_VERSIONS, ids=lambda make: make.__name__)
def versioned(request: pytest.FixtureRequest) -> ObjectStore:
    return request.param(request)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)

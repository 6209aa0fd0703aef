"""Listings longer than a page, with the names that make SeaweedFS leave keys out."""

from typing import TYPE_CHECKING

import pytest

from infra.objectstore import s3
from infra.objectstore.contract import UnsoundListing
from infra.objectstore.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.integration

SOUND = ["A", "b/c", "b/d/e", "b/d/f", "b0", "img.jpg", "img.jpg.sha256", "img", "x", "é", "中"]


def bucket(client: "S3Client", name: str, keys: list[str]) -> S3Store:
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    store = S3Store(client=client, bucket=name, prefix="", name=name)
    for key in keys:
        store.create(key, key.encode())
    return store


@pytest.fixture(scope="module")
def sound(client: "S3Client") -> S3Store:
    store = bucket(client, "sound", SOUND)
    store.remove("b/c")
    return store


@pytest.mark.parametrize("page", [1, 2, 3, 5, 1000])
def test_no_key_is_lost_at_the_end_of_a_page(
    sound: S3Store, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(s3, "PAGE", page)
    in_order = sorted(SOUND, key=str.encode)

    assert [s.key for s in sound.list()] == [k for k in in_order if k != "b/c"]
    versions = [(v.key, v.marker) for v in sound.versions()]
    assert [k for k, marker in versions if not marker] == in_order
    assert [k for k, marker in versions if marker] == ["b/c"]


def test_a_folder_beside_a_name_that_continues_it_is_said_to_be_unsound_not_left_out(
    client: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["a/1", "a/2", "a/3", "a-b", "z"]
    store = bucket(client, "unsound", keys)

    assert [s.key for s in store.list()] == sorted(keys, key=str.encode), "one page is whole"
    assert [v.key for v in store.versions()] == sorted(keys, key=str.encode)
    monkeypatch.setattr(s3, "PAGE", 2)
    for listing in (store.list, store.versions):
        with pytest.raises(UnsoundListing):
            list(listing())

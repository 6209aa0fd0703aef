"""What a store is called, and what its URL must not say."""

from pathlib import Path

import pytest

from backup.vaults import open_deleter, open_url
from infra.objectstore.s3 import open_store
from infra.sites import Secret, StoreAccess


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("secret")
    for who in ("S3", "S3_DELETER", "BUCKET"):
        monkeypatch.setenv(f"ZAIBEI_{who}_KEY", "key")
        monkeypatch.setenv(f"ZAIBEI_{who}_SECRET_FILE", str(tmp_path / "secret"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3+https://h:8333/b", "h:8333/b"),
        ("s3+https://h:8333/b/", "h:8333/b"),
        ("s3+https://h:8333/b/p", "h:8333/b/p"),
        ("s3+https://h:8333/b/p/", "h:8333/b/p"),
        ("s3+https://h:8333/b/p/q", "h:8333/b/p/q"),
    ],
)
def test_two_repositories_below_one_bucket_have_two_names(url: str, name: str) -> None:
    """What this machine remembers of a vault, status.json and --confirm go by the name. Under one name a copy
    that lags looked rolled back, and one was confirmed where the other was meant."""
    assert open_url(url).name == open_deleter(url).name == name


def test_a_vault_of_the_stack_is_known_by_its_site_and_bucket(tmp_path: Path) -> None:
    """Its prefix is always the same. Under another name its status would begin anew beside the old one, whose
    last success is then too old for ever."""
    access = StoreAccess(
        endpoint="https://h:8333",
        region="r",
        keys={"writer": ("key", Secret(file=tmp_path / "secret"))},
    )
    store = open_store(
        access, ca_file=None, bucket="zaibei-vault", role="writer", prefix="backup/", site="site-b"
    )
    assert store.name == "site-b/zaibei-vault"

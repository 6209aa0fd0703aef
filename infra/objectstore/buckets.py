"""The buckets a stack declares, made on its sites. Safe to repeat; nothing that exists is weakened.

Business buckets keep versions. A vault has object lock from its first moment and **no default retention**: each
backup says itself how long it stays, and a default would also lock what a crashed run left behind.
Who may do what in them is not here: SeaweedFS reads its identities and policies at start (role seaweedfs).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.objectstore.s3 import connect
from infra.sites import SiteAccess, StackAccess, StoreAccess
from zaibei.config.model import Stack
from zaibei.kernel.errors import Refused, Unreachable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

VAULT = "zaibei-vault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    site: str
    bucket: str
    lock: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    site: str
    bucket: str
    what: str


def wanted(stack: Stack) -> list[Wanted]:
    """Pure: every bucket of every site, sorted."""
    found = {
        (site, bucket.name): bucket.lock is not None
        for bucket in stack.buckets
        for site in (*bucket.sites, *bucket.copies_to)
    }
    for database in stack.databases:
        for site in database.backup.vaults:
            found[site, VAULT] = True
    return [Wanted(site=s, bucket=b, lock=lock) for (s, b), lock in sorted(found.items())]


def prepare(access: StackAccess, stack: Stack) -> list[Change]:
    """Make what is missing, as the administrator; answer with what was changed.

    Raises Refused for a vault that exists without lock: lock cannot be added to a bucket later.
    """
    changes: list[Change] = []
    clients: dict[str, S3Client] = {}
    for want in wanted(stack):
        store = store_of(access.site(want.site), want.bucket)
        if store.endpoint not in clients:
            clients[store.endpoint] = connect(store, ca_file=access.ca_file, role="admin")
        changes += (
            Change(site=want.site, bucket=want.bucket, what=what)
            for what in _prepared(clients[store.endpoint], store, want)
        )
    return changes


def store_of(site: SiteAccess, bucket: str) -> StoreAccess:
    """Backups and business are two stores of a site, wherever it has two."""
    return site.backups if bucket == VAULT else site.store


def _prepared(s3: "S3Client", store: StoreAccess, want: Wanted) -> Iterator[str]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        names = [b["Name"] for b in s3.list_buckets()["Buckets"]]
        if want.bucket not in names:
            if want.lock:
                s3.create_bucket(Bucket=want.bucket, ObjectLockEnabledForBucket=True)
            else:
                s3.create_bucket(Bucket=want.bucket)
            yield "created with object lock" if want.lock else "created"
        if s3.get_bucket_versioning(Bucket=want.bucket).get("Status") != "Enabled":
            s3.put_bucket_versioning(
                Bucket=want.bucket, VersioningConfiguration={"Status": "Enabled"}
            )
            yield "versioning switched on"
        if want.lock and not _has_lock(s3, want.bucket):
            raise Refused(
                f"{want.site}/{want.bucket} exists without object lock: it cannot hold backups",
                hint="lock cannot be added later: empty and remove the bucket, then run again",
            )
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise Refused(f"{want.site}/{want.bucket}: {error.operation_name}: {code}") from error
    except BotoCoreError as silent:
        raise Unreachable(f"{store.endpoint} ({want.site}): {silent}") from silent


def _has_lock(s3: "S3Client", bucket: str) -> bool:
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        found = s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "ObjectLockConfigurationNotFoundError":
            return False
        raise
    return found.get("ObjectLockEnabled") == "Enabled"

"""A second pair of eyes: what boto3 wrote, read by a client that shares no code with it.

A fault of one SDK (a checksum it adds and drops again, a body it re-encodes) reads back as sound through the
same SDK. The `minio` client has its own signing, its own HTTP and its own listing.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from infra.objectstore.contract import NotThere, ObjectStore
from infra.sites import StoreAccess
from zaibei.kernel.errors import Unreachable

SAMPLE = 20
TIMEOUT = timedelta(seconds=15)


@dataclass(slots=True, kw_only=True)
class Reread:
    read: int = 0
    read_bytes: int = 0
    differing: list[str] = field(default_factory=list)  # keys


def sample(
    store: ObjectStore, *, rng: random.Random, prefix: str = "", size: int = SAMPLE
) -> list[str]:
    """`size` keys, each as likely as any other, in one pass and bounded memory (reservoir)."""
    kept: list[str] = []
    for n, found in enumerate(store.list(prefix)):
        if n < size:
            kept.append(found.key)
        elif (at := rng.randrange(n + 1)) < size:
            kept[at] = found.key
    return sorted(kept)


def reread(
    store: ObjectStore,
    keys: Sequence[str],
    *,
    access: StoreAccess,
    ca_file: Path | None,
    bucket: str,
    role: str,
) -> Reread:
    """Read each key through `store` (boto3) and through minio, and compare SHA-256.

    Raises Unreachable when the second client gets no answer: that is not a difference.
    """
    import urllib3  # noqa: PLC0415
    from minio import Minio  # noqa: PLC0415
    from minio.error import MinioException, S3Error  # noqa: PLC0415

    split = urlsplit(access.endpoint)
    key_id, secret = access.keys[role]
    pool = urllib3.PoolManager(
        cert_reqs="CERT_REQUIRED",
        ca_certs=None if ca_file is None else str(ca_file),
        timeout=urllib3.Timeout(total=TIMEOUT.total_seconds()),
        # What another host holds under the key says nothing of this store: a redirect is its answer.
        retries=urllib3.Retry(
            total=2,
            redirect=False,
            backoff_factor=0.2,
            status_forcelist=[429, 500, 502, 503],
        ),
    )
    other = Minio(
        split.netloc,
        access_key=key_id,
        secret_key=secret.reveal(),
        session_token=access.token.reveal() if access.token else None,
        secure=split.scheme == "https",
        region=access.region,
        http_client=pool,
    )
    done = Reread()
    for key in keys:
        try:
            first = store.read(key)
        except NotThere:
            continue  # removed since it was chosen
        try:
            answer = other.get_object(bucket_name=bucket, object_name=key)
            try:
                second = answer.read(len(first) + 1)  # one byte more is a difference already
            finally:
                answer.close()
                answer.release_conn()
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise Unreachable(f"{store.name}: {key}: second client: {error.code}") from error
            second = None
        except (urllib3.exceptions.HTTPError, MinioException) as silent:
            raise Unreachable(f"{store.name}: {key}: second client: {silent}") from silent
        done.read += 1
        done.read_bytes += len(first)
        if second is None or sha256(first).digest() != sha256(second).digest():
            done.differing.append(key)
    return done

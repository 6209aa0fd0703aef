"""May this endpoint hold backups? Asked of the endpoint itself, on a scratch bucket, and answered with reasons.

No store is trusted by its name: servers that answer 200 to a lock they do not keep exist, and one overwrites
the object with the text of the lock. A check that could not run never counts as passed.
"""

import random
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.objectstore.s3 import Patience, client
from infra.sites import StoreAccess
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused, Usage, ZaibeiError
from zaibei.kernel.ids import new_id
from zaibei.kernel.progress import Progress, Silent

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

RACERS = 16
ROUNDS = 3  # SeaweedFS makes losers wait a second each: a round takes about 4 s there
RETENTION = timedelta(seconds=90)  # what a probe leaves locked behind; the next probe sweeps it up
LARGE = 24 << 20
PART = 5 << 20  # S3's smallest part
SKEW = timedelta(seconds=60)
PATIENCE = Patience(connect=timedelta(seconds=3), read=timedelta(seconds=30), attempts=1)
_SWEEP = 1000  # leftovers looked at, at most
_NO_SUCH, _REFUSALS = 404, (400, 401, 403)
_LOSES = (412, 409)
_NO_BUCKET = "no scratch bucket"


class StoreRole(StrEnum):
    VAULT = "vault"
    BUSINESS = "business"


class Admission(StrEnum):
    ADMITTED = "admitted"
    REFUSED = "refused"
    UNKNOWN = "unknown"  # a needed check could not run: not admitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    needed: bool  # by the role asked for; otherwise a failure is a warning
    ran: bool
    passed: bool
    detail: str

    def __post_init__(self) -> None:
        assert self.ran or not self.passed, "what did not run did not pass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    endpoint: str
    role: StoreRole
    server: str  # what it calls itself
    probed_at: datetime
    took: timedelta
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Admission:
        return judge(self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why not; empty when admitted."""
        return [
            f"{c.name}: {c.detail if c.ran else f'could not be tried: {c.detail}'}"
            for c in self.checks
            if c.needed
            and not c.passed
            and c.detail != _NO_BUCKET  # the bucket's own reason says it
        ]

    @property
    def warnings(self) -> list[str]:
        return [f"{c.name}: {c.detail}" for c in self.checks if not (c.needed or c.passed)]

    def as_statement(self) -> dict[str, object]:
        """For evidence: plain values, nothing secret."""
        return {
            "endpoint": self.endpoint,
            "role": self.role.value,
            "verdict": self.verdict.value,
            "reasons": self.reasons,
            "warnings": self.warnings,
            "server": self.server,
            "probed_at": f"{self.probed_at:%Y-%m-%dT%H:%M:%SZ}",
            "took_s": round(self.took.total_seconds(), 3),
            "checks": [
                {
                    "name": c.name,
                    "needed": c.needed,
                    "ran": c.ran,
                    "passed": c.passed,
                    "detail": c.detail,
                }
                for c in self.checks
            ],
        }


def judge(checks: Sequence[Check]) -> Admission:
    """Refused when a needed check failed; admitted only when every needed one ran and passed."""
    needed = [c for c in checks if c.needed]
    if any(c.ran and not c.passed for c in needed):
        return Admission.REFUSED
    if not needed or any(not c.passed for c in needed):
        return Admission.UNKNOWN
    return Admission.ADMITTED


class _Fails(Exception):
    """The endpoint does not do what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scratch:
    """What the checks work with. Keys begin with `prefix`, new for each probe."""

    s3: "S3Client"
    forged: "S3Client"  # a known key id with a wrong secret
    anonymous: "S3Client"
    bucket: str
    prefix: str
    clock: Clock
    rng: random.Random
    rounds: int
    server: list[str] = field(default_factory=list)

    def put(self, key: str, body: bytes, **more: Any) -> Any:
        return self.s3.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=body, **more)

    def get(self, key: str, **more: Any) -> bytes:
        answer = self.s3.get_object(Bucket=self.bucket, Key=self.prefix + key, **more)
        return answer["Body"].read()

    def at(self, key: str) -> Any:
        return {"Bucket": self.bucket, "Key": self.prefix + key}


def probe(
    access: StoreAccess,
    *,
    ca_file: Path | None,
    role: StoreRole,
    clock: Clock,
    rng: random.Random,
    as_role: str = "admin",
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> Report:
    """Probe the endpoint as an identity that may make buckets. Never raises for what the endpoint does."""
    if as_role not in access.keys:
        raise Usage(f"the probe needs the key of role {as_role} at {access.endpoint}")
    told = progress or Silent()
    key, secret = access.keys[as_role][0], access.keys[as_role][1].reveal()

    def as_who(key: str | None, secret: str | None) -> "S3Client":
        return client(
            endpoint=access.endpoint,
            region=access.region,
            key=key,
            secret=secret,
            ca_file=ca_file,
            patience=PATIENCE,
            token=access.token.reveal() if access.token and key else None,
            addressing=access.addressing,
            proxy=access.proxy,
        )

    began, at = clock.monotonic(), clock.now()
    scratch = _Scratch(
        s3=as_who(key, secret),
        forged=as_who(key, secret[::-1] + "x"),
        anonymous=as_who(None, None),
        bucket=f"zaibei-probe-{role.value}",
        prefix=new_id("probe", clock, rng) + "/",
        clock=clock,
        rng=rng,
        rounds=rounds,
    )
    made = _run("bucket", lambda: _bucket(scratch, role), needed=True)
    # Without a place to try nothing was tried: that says nothing about the endpoint, good or bad.
    checks = [made if made.passed else replace(made, ran=False)]
    for name, needed_by, check in _CHECKS:
        if name in _OF_LOCKS and role is not StoreRole.VAULT:
            continue
        told.step(f"{access.endpoint}: {name}")
        needed = role in needed_by
        if not checks[0].passed:
            checks.append(
                Check(name=name, needed=needed, ran=False, passed=False, detail=_NO_BUCKET)
            )
        else:
            checks.append(_run(name, lambda check=check: check(scratch), needed=needed))  # type: ignore[misc]
    if checks[0].passed:
        _sweep(scratch)
    return Report(
        endpoint=access.endpoint,
        role=role,
        server=scratch.server[0] if scratch.server else "unknown",
        probed_at=at,
        took=timedelta(seconds=clock.monotonic() - began),
        checks=tuple(checks),
    )


def demand(report: Report) -> None:
    """Raise Refused unless admitted."""
    if report.verdict is not Admission.ADMITTED:
        raise Refused(
            f"{report.endpoint} is not admitted as {report.role.value} ({report.verdict.value}): "
            + "; ".join(report.reasons),
            hint="docs/design/admission.md tells what each check means",
        )


def _run(name: str, check: Callable[[], str], *, needed: bool) -> Check:
    from botocore.exceptions import (  # noqa: PLC0415
        BotoCoreError,
        ClientError,
        FlexibleChecksumError,
    )
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    ran, passed = True, False
    try:
        detail, passed = check(), True
    except _Fails as why:
        detail = str(why)
    except ClientError as error:
        # It answered, and not with what the check needs (often NotImplemented).
        detail = f"{error.operation_name} answered {_code(error)} ({_status(error)})"
        ran = _status(error) < 500 or _status(error) == 501
    except FlexibleChecksumError as wrong:
        detail = f"the checksum it sends does not fit the bytes it sends: {str(wrong)[:120]}"
    except (BotoCoreError, HTTPError, ZaibeiError) as error:
        ran, detail = False, f"{type(error).__name__}: {str(error)[:200]}"
    return Check(name=name, needed=needed, ran=ran, passed=passed, detail=detail)


def _bucket(t: _Scratch, role: StoreRole) -> str:
    """The scratch bucket: kept between probes, because a new one takes a volume of the store each time."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        if role is StoreRole.VAULT:
            t.s3.create_bucket(Bucket=t.bucket, ObjectLockEnabledForBucket=True)
        else:
            t.s3.create_bucket(Bucket=t.bucket)
    except ClientError as there:
        if _code(there) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise
    head = t.s3.head_bucket(Bucket=t.bucket)
    t.server.append(head["ResponseMetadata"]["HTTPHeaders"].get("server", "unnamed"))
    _sweep(t)
    return f"scratch bucket {t.bucket}"


def _conditional_create(t: _Scratch) -> str:
    for n in range(t.rounds):
        key = f"race-{n}"
        start = threading.Barrier(RACERS)

        def racer(i: int, key: str = key, start: threading.Barrier = start) -> int:
            start.wait()
            return _status_of(lambda: t.put(key, b"racer %d" % i, IfNoneMatch="*"))

        with ThreadPoolExecutor(RACERS) as pool:
            ends = list(pool.map(racer, range(RACERS)))
        winners = [i for i, status in enumerate(ends) if status == 200]
        if len(winners) != 1:
            raise _Fails(f"{len(winners)} of {RACERS} racers won in round {n + 1}")
        if any(status not in _LOSES for i, status in enumerate(ends) if i not in winners):
            raise _Fails(f"losers of round {n + 1} were answered {sorted(set(ends))}")
        if t.get(key) != b"racer %d" % winners[0]:
            raise _Fails("the winner's bytes are not what is read back")
    return f"one winner of {RACERS} in each of {t.rounds} rounds"


def _signature(t: _Scratch) -> str:
    _must_refuse(
        "a request with a wrong signature",
        {
            "PUT": lambda: t.forged.put_object(**t.at("forged"), Body=b"forged"),
            "LIST": lambda: t.forged.list_objects_v2(Bucket=t.bucket),
        },
    )
    return "PUT and LIST with a wrong secret are refused"


def _anonymous(t: _Scratch) -> str:
    t.put("private", b"private")
    _must_refuse(
        "a request without signature",
        {
            "PUT": lambda: t.anonymous.put_object(**t.at("anonymous"), Body=b"anonymous"),
            "GET": lambda: t.anonymous.get_object(**t.at("private")),
            "LIST": lambda: t.anonymous.list_objects_v2(Bucket=t.bucket),
            "DELETE": lambda: t.anonymous.delete_object(**t.at("private")),
        },
    )
    return "PUT, GET, LIST and DELETE without signature are refused"


def _locked(t: _Scratch, key: str) -> tuple[str, bytes, datetime]:
    body = b"locked " + t.rng.randbytes(16)
    until = (t.clock.now() + RETENTION).replace(microsecond=0)
    made = t.put(key, body, ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until)
    head = t.s3.head_object(**t.at(key))
    if "VersionId" not in made or head.get("ObjectLockMode") != "COMPLIANCE":
        raise _Fails("takes a locked PUT and keeps no lock")
    if (held := head.get("ObjectLockRetainUntilDate")) is None or held < until:
        raise _Fails(f"asked to keep until {until:%FT%TZ}, it says {held}")
    return made["VersionId"], body, until


def _lock_delete(t: _Scratch) -> str:
    version, body, _ = _locked(t, "locked-delete")
    status = _status_of(lambda: t.s3.delete_object(**t.at("locked-delete"), VersionId=version))
    bypassed = _status_of(
        lambda: t.s3.delete_object(
            **t.at("locked-delete"), VersionId=version, BypassGovernanceRetention=True
        )
    )
    if _body_of(lambda: t.get("locked-delete", VersionId=version)) != body:
        raise _Fails(f"deleting a COMPLIANCE version was answered {status} and it is gone")
    if status < 400 or bypassed < 400:
        raise _Fails(f"deleting a COMPLIANCE version was answered {status}, {bypassed}")
    return f"refused with {status}, also as governance bypass, and the version is whole"


def _lock_shorten(t: _Scratch) -> str:
    version, _, until = _locked(t, "locked-shorten")
    sooner = until - timedelta(seconds=60)
    for mode, bypass in (("COMPLIANCE", False), ("COMPLIANCE", True), ("GOVERNANCE", True)):
        wanted: Any = {"Mode": mode, "RetainUntilDate": sooner}
        status = _status_of(
            lambda wanted=wanted, bypass=bypass: t.s3.put_object_retention(  # type: ignore[misc]
                **t.at("locked-shorten"),
                VersionId=version,
                Retention=wanted,
                BypassGovernanceRetention=bypass,
            )
        )
        head = t.s3.head_object(**t.at("locked-shorten"), VersionId=version)
        held = head.get("ObjectLockRetainUntilDate")
        if status < 400 or held is None or held < until:
            raise _Fails(f"shortening to {mode} {sooner:%FT%TZ} was answered {status}")
        if head.get("ObjectLockMode") != "COMPLIANCE":
            raise _Fails(f"COMPLIANCE became {head.get('ObjectLockMode')}")
    later: Any = {"Mode": "COMPLIANCE", "RetainUntilDate": until + timedelta(seconds=30)}
    t.s3.put_object_retention(**t.at("locked-shorten"), VersionId=version, Retention=later)
    return "shorter and weaker retention is refused, longer is taken"


def _side_calls(t: _Scratch) -> str:
    """Calls beside the body leave the body alone, whether they are understood or not."""
    key, body = "side-calls", b"precious " + t.rng.randbytes(16)
    t.put(key, body)
    until: Any = {"Mode": "COMPLIANCE", "RetainUntilDate": t.clock.now() + RETENTION}
    calls: dict[str, Callable[[], Any]] = {
        "tagging": lambda: t.s3.put_object_tagging(
            **t.at(key), Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}
        ),
        "acl": lambda: t.s3.put_object_acl(**t.at(key), ACL="private"),
        "legal hold on": lambda: t.s3.put_object_legal_hold(
            **t.at(key), LegalHold={"Status": "ON"}
        ),
        "legal hold off": lambda: t.s3.put_object_legal_hold(
            **t.at(key), LegalHold={"Status": "OFF"}
        ),
        "retention": lambda: t.s3.put_object_retention(**t.at(key), Retention=until),
    }
    for name, call in calls.items():
        status = _status_of(call)
        if _body_of(lambda: t.get(key)) != body:
            raise _Fails(f"a {name} call was answered {status} and replaced the object's bytes")
    return f"{', '.join(calls)}: the bytes stay"


def _versioning(t: _Scratch) -> str:
    if _status_versioning(t) != "Enabled":
        t.s3.put_bucket_versioning(Bucket=t.bucket, VersioningConfiguration={"Status": "Enabled"})
    if _status_versioning(t) != "Enabled":
        raise _Fails("versioning cannot be switched on")
    first = t.put("versioned", b"one").get("VersionId")
    second = t.put("versioned", b"two").get("VersionId")
    if first is None or second is None or first == second:
        raise _Fails(f"two PUTs got the versions {first} and {second}")
    gone = t.s3.delete_object(**t.at("versioned"))
    if _status_of(lambda: t.get("versioned")) != _NO_SUCH or not gone.get("DeleteMarker"):
        raise _Fails("a plain DELETE does not leave a delete marker")
    if (t.get("versioned", VersionId=first), t.get("versioned", VersionId=second)) != (
        b"one",
        b"two",
    ):
        raise _Fails("a version behind the marker has other bytes")
    t.s3.delete_object(**t.at("versioned"), VersionId=gone["VersionId"])
    if t.get("versioned") != b"two":
        raise _Fails("removing the delete marker does not bring the object back")
    return "both versions are readable behind a delete marker, and come back without it"


def _checksum(t: _Scratch) -> str:
    status = _status_of(lambda: t.put("checksum", b"this", ChecksumSHA256=_b64(b"that")))
    if status < 400:
        raise _Fails(f"a PUT with a wrong SHA-256 was answered {status}: verify by reading back")
    return f"a wrong SHA-256 is refused with {status}"


def _conditional_delete(t: _Scratch) -> str:
    t.put("conditional-delete", b"stays")
    status = _status_of(
        lambda: t.s3.delete_object(**t.at("conditional-delete"), IfMatch='"' + "0" * 32 + '"')
    )
    if status != _LOSES[0] or _body_of(lambda: t.get("conditional-delete")) != b"stays":
        raise _Fails(f"a DELETE with another etag was answered {status}")
    return "a DELETE with another etag is refused"


def _multipart(t: _Scratch) -> str:
    parts = [t.rng.randbytes(PART), t.rng.randbytes(1000)]
    made = t.s3.create_multipart_upload(**t.at("multipart"))
    done: Any = []
    for n, part in enumerate(parts, start=1):
        answer = t.s3.upload_part(
            **t.at("multipart"), UploadId=made["UploadId"], PartNumber=n, Body=part
        )
        done.append({"PartNumber": n, "ETag": answer["ETag"]})
    t.s3.complete_multipart_upload(
        **t.at("multipart"), UploadId=made["UploadId"], MultipartUpload={"Parts": done}
    )
    if t.get("multipart") != b"".join(parts):
        raise _Fails("other bytes come back")
    return f"{len(parts)} parts come back whole"


def _read_back(t: _Scratch) -> str:
    body = t.rng.randbytes(LARGE)
    t.put("large", body)
    if sha256(t.get("large")).digest() != sha256(body).digest():
        raise _Fails(f"{LARGE} bytes come back as others")
    middle = t.get("large", Range=f"bytes={LARGE // 2}-{LARGE // 2 + 99}")
    if middle != body[LARGE // 2 : LARGE // 2 + 100]:
        raise _Fails("a range has other bytes")
    return f"{LARGE >> 20} MiB and a range of them come back the same"


def _nested(t: _Scratch) -> str:
    t.put("nested", b"k")
    t.put("nested/sub", b"k/sub")
    if (t.get("nested"), t.get("nested/sub")) != (b"k", b"k/sub"):
        raise _Fails("`k` and `k/sub` do not live side by side")
    return "`k` and `k/sub` live side by side"


def _listing(t: _Scratch) -> str:
    folder = "listing/"
    keys = sorted(folder + k for k in ("a", "a-b", "a.b", "a/b", "a0", "b/c", "b/c-d"))
    for key in keys:
        t.put(key, b"")
    pages = t.s3.get_paginator("list_objects_v2").paginate(
        Bucket=t.bucket, Prefix=t.prefix + folder, PaginationConfig={"PageSize": 2}
    )
    seen = [o["Key"][len(t.prefix) :] for page in pages for o in page.get("Contents", [])]
    if lost := sorted(set(keys) - set(seen)):
        raise _Fails(
            f"a listing in pages leaves out {', '.join(lost)}: see docs/design/admission.md"
        )
    if seen != keys:
        raise _Fails("a listing in pages is not in key order")
    return "a listing in pages is whole and in key order"


def _clock(t: _Scratch) -> str:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    head = t.s3.head_bucket(Bucket=t.bucket)["ResponseMetadata"]["HTTPHeaders"]
    if "date" not in head:
        raise _Fails("the endpoint does not tell its time")
    skew = abs(parsedate_to_datetime(head["date"]) - t.clock.now())
    if skew > SKEW:
        raise _Fails(
            f"its clock is {skew.total_seconds():.0f} s away: retention ends by that clock"
        )
    return f"its clock is within {SKEW.total_seconds():.0f} s of ours"


_BOTH = frozenset(StoreRole)
_VAULT = frozenset({StoreRole.VAULT})
_CHECKS: tuple[tuple[str, frozenset[StoreRole], Callable[[_Scratch], str]], ...] = (
    ("bad-signature", _BOTH, _signature),
    ("anonymous", _BOTH, _anonymous),
    ("conditional-create", _VAULT, _conditional_create),
    ("versioning", _BOTH, _versioning),
    ("lock-delete", _VAULT, _lock_delete),
    ("lock-shorten", _VAULT, _lock_shorten),
    ("side-calls", _BOTH, _side_calls),
    ("read-back", _BOTH, _read_back),
    ("clock", _VAULT, _clock),
    ("checksum", frozenset(), _checksum),
    ("conditional-delete", frozenset(), _conditional_delete),
    ("multipart", frozenset(), _multipart),
    ("nested-keys", frozenset(), _nested),
    ("listing", frozenset(), _listing),
)
_OF_LOCKS = frozenset({"lock-delete", "lock-shorten", "clock"})  # a bucket without lock fails them


def _sweep(t: _Scratch) -> None:
    """Take away what this and earlier probes left, but for what is still locked."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    left: list[Any] = []
    with suppress(BotoCoreError, ClientError):
        found = t.s3.list_object_versions(Bucket=t.bucket, MaxKeys=_SWEEP)
        left = [*found.get("Versions", []), *found.get("DeleteMarkers", [])]
    if not left:  # a server that keeps no versions
        with suppress(BotoCoreError, ClientError):
            left = [*t.s3.list_objects_v2(Bucket=t.bucket, MaxKeys=_SWEEP).get("Contents", [])]
    for one in left:
        which = {"VersionId": one["VersionId"]} if "VersionId" in one else {}
        with suppress(BotoCoreError, ClientError):
            t.s3.delete_object(Bucket=t.bucket, Key=one["Key"], **which)


def _must_refuse(what: str, calls: dict[str, Callable[[], Any]]) -> None:
    for name, call in calls.items():
        if (status := _status_of(call)) not in _REFUSALS:
            raise _Fails(f"{what} ({name}) was answered {status}")


def _status_of(call: Callable[[], Any]) -> int:
    """The HTTP status of an answer, whichever it is. No answer at all is the caller's `could not run`."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        answer = call()
    except ClientError as error:
        return _status(error)
    return 200 if isinstance(answer, bytes) else int(answer["ResponseMetadata"]["HTTPStatusCode"])


def _body_of(read: Callable[[], bytes]) -> bytes | None:
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        return read()
    except ClientError:
        return None


def _status_versioning(t: _Scratch) -> str | None:
    return t.s3.get_bucket_versioning(Bucket=t.bucket).get("Status")


def _status(error: "ClientError") -> int:
    return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))


def _code(error: "ClientError") -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _b64(data: bytes) -> str:
    return b64encode(sha256(data).digest()).decode()

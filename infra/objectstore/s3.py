"""The contract over S3, by boto3: conditional, locked and checked.

Nothing is taken from the environment or from ~/.aws: keys, the CA and the region are arguments, because a
host's AWS_PROFILE or AWS_CA_BUNDLE must not decide where a backup goes. Retries are botocore's, bounded and
adaptive on 503 and 429.
"""

import hashlib
import os
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from infra.objectstore.contract import (
    AlreadyThere,
    Locked,
    NotThere,
    Stat,
    UnsoundListing,
    Version,
)
from infra.objectstore.headers import from_answer, to_request
from infra.objectstore.listing import is_folder_of, strictly_rising, suspects, upsets
from infra.objectstore.silence import NoConnection, no_connection
from infra.objectstore.written import written_at
from infra.sites import Addressing, Secret, StoreAccess
from zaibei.kernel import environment
from zaibei.kernel.errors import Damage, Refused, Unreachable, Usage, ZaibeiError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectRequestTypeDef

CONNECT_TIMEOUT = timedelta(seconds=3)
READ_TIMEOUT = timedelta(seconds=30)
ATTEMPTS = 4  # the first and three more
CONNECTIONS = 16  # at once, per store
PAGE = 1000  # keys a listing asks for; S3's own bound
_NEAR = 1000  # names near the end of a page; more than that cannot be vouched for
_PRECONDITION, _CONFLICT, _RANGE, _FORBIDDEN, _NOT_FOUND = 412, 409, 416, 403, 404
_SERVER_ERROR, _TOO_MANY, _TIMEOUT = 500, 429, 408
_NO_LOCK = "has the bucket Object Lock? most servers take it only when a bucket is made"
T = TypeVar("T")
Keys = list[str]  # the class below has a method of that name
Versions = list[Version]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a store and how often to ask again. A mirror is less patient than a backup."""

    connect: timedelta = CONNECT_TIMEOUT
    read: timedelta = READ_TIMEOUT
    attempts: int = ATTEMPTS


def access_from_file(endpoint: str, *, region: str, key_file: Path) -> StoreAccess:
    """An endpoint outside the stack, as its administrator. The file: key id, then secret, a line each."""
    try:
        key, _ = key_file.read_text().split()
    except (OSError, ValueError) as wrong:
        raise Usage(
            f"{key_file}: not a key file", hint="two lines: access key id, secret key"
        ) from wrong
    return StoreAccess(
        endpoint=endpoint, region=region, keys={"admin": (key, _SecondWord(file=key_file))}
    )


class _SecondWord(Secret):
    def reveal(self) -> str:
        return self.file.read_text().split()[1]


def open_store(
    access: StoreAccess,
    *,
    ca_file: Path | None,
    bucket: str,
    role: str,
    prefix: str = "",
    patience: Patience | None = None,
    site: str | None = None,
    keys_hint: str | None = None,
) -> "S3Store":
    """`bucket` at that endpoint as `role` (admin, business, writer, deleter, auditor).

    Outside the stack the prefix is part of the name: what this machine remembers of a store, and what a person
    confirms, goes by it. A site has one prefix, and is known by its site and bucket. `keys_hint` is for whoever
    reads that the store refused the key: where it came from.
    """
    below = f"/{prefix.removesuffix('/')}" if prefix and site is None else ""
    return S3Store(
        client=connect(access, ca_file=ca_file, role=role, patience=patience),
        bucket=bucket,
        prefix=prefix,
        name=f"{site or urlsplit(access.endpoint).netloc}/{bucket}{below}",
        keys_hint=keys_hint,
    )


def connect(
    access: StoreAccess,
    *,
    ca_file: Path | None,
    role: str,
    patience: Patience | None = None,
) -> "S3Client":
    """A client as `role`: for what the contract does not say (buckets, the admission probe)."""
    try:
        key, secret = access.keys[role]
    except KeyError as unknown:
        raise Usage(
            f"no key for role {role} at {access.endpoint}",
            hint=f"known roles: {', '.join(sorted(access.keys)) or 'none'}",
        ) from unknown
    return client(
        endpoint=access.endpoint,
        region=access.region,
        key=key,
        secret=secret.reveal(),
        ca_file=ca_file,
        patience=patience or Patience(),
        token=access.token.reveal() if access.token else None,
        addressing=access.addressing,
        proxy=access.proxy,
    )


def client(
    *,
    endpoint: str,
    region: str,
    key: str | None,
    secret: str | None,
    ca_file: Path | None,
    patience: Patience,
    token: str | None = None,
    addressing: Addressing = "path",
    proxy: str | None = None,
) -> "S3Client":
    """`key=None`: unsigned requests. Raises Usage for what no client can be made of."""
    import boto3  # noqa: PLC0415 — 200 ms that `zaibei --help` should not pay
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    environment.forget_ambient()
    if ca_file is not None:
        trusted(ca_file)
    try:
        config = Config(
            signature_version=UNSIGNED if key is None else "s3v4",
            s3={"addressing_style": addressing},
            connect_timeout=patience.connect.total_seconds(),
            read_timeout=patience.read.total_seconds(),
            retries={"mode": "adaptive", "total_max_attempts": patience.attempts},
            max_pool_connections=CONNECTIONS,
            proxies={"http": proxy, "https": proxy} if proxy else {},
        )
        return boto3.session.Session(botocore_session=_bare_session()).client(
            "s3",
            region_name=region,
            endpoint_url=endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            verify=str(ca_file) if ca_file is not None else True,
            config=config,
        )
    except (BotoCoreError, ValueError) as bad:
        raise Usage(
            f"no S3 client for {endpoint}: {bad}", hint="is the URL right, and the region?"
        ) from bad


def _bare_session() -> Any:
    """A session that knows botocore's defaults alone: no variable, no profile, no file of another tool."""
    from botocore.configprovider import ConstantProvider  # noqa: PLC0415
    from botocore.session import Session  # noqa: PLC0415

    session = Session()
    known = session.get_component("config_store")
    files = dict.fromkeys(("config_file", "credentials_file"), os.devnull)
    for name, (_, _, default, _) in Session.SESSION_VARIABLES.items():
        known.set_config_provider(name, ConstantProvider(files.get(name, default)))
    for section in ("s3", "proxies_config"):
        known.set_config_provider(section, ConstantProvider({}))
    return session


def trusted(ca_file: Path, *, hint: str = "a PEM file with the CA's certificate") -> None:
    """Raises Usage when no certificate can be read there: later it would pass for a fault of the network."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(ca_file))
    except ssl.SSLError as bad:
        raise Usage(f"{ca_file}: no certificate in it", hint=hint) from bad
    except OSError as bad:
        raise Usage(f"{ca_file}: no CA can be read: {bad.strerror}", hint=hint) from bad


class S3Store:
    def __init__(
        self,
        *,
        client: "S3Client",
        bucket: str,
        prefix: str,
        name: str,
        keys_hint: str | None = None,
    ) -> None:
        self._s3, self._bucket, self._prefix, self._name = client, bucket, prefix, name
        self._keys_hint = keys_hint or ()

    @property
    def name(self) -> str:
        return self._name

    def now(self) -> datetime:
        from email.utils import parsedate_to_datetime  # noqa: PLC0415

        head = self._ask("its clock", lambda: self._s3.head_bucket(Bucket=self._bucket))
        told = head["ResponseMetadata"]["HTTPHeaders"].get("date")
        if told is None:
            raise Refused(f"{self.name}: the store does not tell its time: no lock can be dated")
        return parsedate_to_datetime(told).astimezone(UTC)

    def create(self, key: str, data: bytes, *, retain_until: datetime | None = None) -> str | None:
        lock: dict[str, Any] = {}
        if retain_until is not None:
            lock = {
                "ObjectLockMode": "COMPLIANCE",
                "ObjectLockRetainUntilDate": retain_until,
            }
        return self._create(key, data, lock)

    def create_with(self, key: str, data: bytes, headers: Mapping[str, str]) -> str | None:
        return self._create(key, data, to_request(headers))

    def headers(self, key: str, *, version: str | None = None) -> dict[str, str]:
        return from_answer(self._ask(key, lambda: self._head(key, version)))

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return self._read(key, None, start, length)

    def read_version(
        self, key: str, *, version: str, start: int = 0, length: int | None = None
    ) -> bytes:
        return self._read(key, version, start, length)

    def _create(self, key: str, data: bytes, more: dict[str, Any]) -> str | None:
        request: PutObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._prefix + key,
            "Body": data,
            "IfNoneMatch": "*",
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": b64encode(hashlib.sha256(data).digest()).decode(),
        }
        try:
            made = self._ask(key, lambda: self._s3.put_object(**request, **more))
        except Refused as refused:
            if "ObjectLockMode" in more and "InvalidRequest" in refused.message:
                raise Refused(refused.message, hint=_NO_LOCK) from refused
            raise
        return made.get("VersionId")

    def why_no_lock(self) -> str | None:
        try:
            told = self._ask(
                "its locks",
                lambda: self._s3.get_object_lock_configuration(Bucket=self._bucket),
            )
        except NotThere:
            return f"bucket {self._bucket} was made without Object Lock"
        except (Refused, Unreachable):
            return None
        enabled = told.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
        return None if enabled else f"bucket {self._bucket} was made without Object Lock"

    def _head(self, key: str, version: str | None) -> Any:
        where: Any = {} if version is None else {"VersionId": version}
        return self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key, **where)

    def _read(self, key: str, version: str | None, start: int, length: int | None) -> bytes:
        assert start >= 0 and (length is None or length >= 0), "a range counts from the front"
        if length == 0:
            self._ask(key, lambda: self._head(key, version))
            return b""
        if start == 0 and length is None:
            return self._ask(key, lambda: self._whole(key, version))
        last = "" if length is None else start + length - 1
        try:
            return self._ask(key, lambda: self._range(key, version, f"bytes={start}-{last}"))
        except _PastTheEnd:
            return b""

    def stat(self, key: str) -> Stat:
        found = self._ask(key, lambda: self._head(key, None))
        return Stat(
            key=key,
            size_bytes=found["ContentLength"],
            version=found.get("VersionId"),
            modified=written_at(found.get("VersionId"), found["LastModified"]),
            retain_until=found.get("ObjectLockRetainUntilDate"),
        )

    def list(self, prefix: str = "") -> Iterator[Stat]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": PAGE}
        )
        before: str | None = None
        rescued: set[str] = set()  # given in their place; the server may still come to them
        for page in self._pages(prefix, pages):
            listed = map(self._listed, page.get("Contents", []))
            found = {s.key: s for s in listed if s.key not in rescued}
            if page["IsTruncated"] and found:
                for key in suspects(_last(found)):
                    if key not in found and (before is None or key.encode() > before.encode()):
                        with suppress(NotThere):
                            found[key] = self.stat(key)
                            rescued.add(key)
            # Within a page SeaweedFS sorts by the URL-encoded key: `é` before `A`.
            keys = sorted(found, key=str.encode)
            self._in_order(keys, before)
            yield from (found[key] for key in keys)
            before = keys[-1] if keys else before

    def versions(self, prefix: str = "") -> Iterator[Version]:
        pages = self._s3.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": PAGE}
        )
        found: dict[str, Versions] = {}  # at first the last key of the page before: it may go on
        before: str | None = None
        vouched: set[str] = set()
        rescued: set[str] = set()
        for page in self._pages(prefix, pages):
            for version in self._page_versions(page):
                if version.key not in rescued:
                    found.setdefault(version.key, []).append(version)
            if page["IsTruncated"] and found:
                rescued |= self._vouch(found, before, vouched)
            keys = sorted(found, key=str.encode)
            self._in_order(keys, before)
            done = keys[:-1] if page["IsTruncated"] else keys
            for key in done:
                yield from sorted(found.pop(key), key=_newest_first)
            before = done[-1] if done else before

    def remove(self, key: str, *, version: str | None = None) -> None:
        where: Any = {"Bucket": self._bucket, "Key": self._prefix + key}
        if version is not None:
            where["VersionId"] = version
        try:
            self._ask(key, lambda: self._s3.delete_object(**where))
        except NotThere:
            return
        except Refused as refused:
            until = self._retained_until(key, version)
            if until is not None:
                raise Locked(f"{self.name}: {key} is locked until {until:%FT%TZ}") from refused
            raise

    def retain(self, key: str, *, until: datetime, version: str | None = None) -> None:
        where: Any = {"Bucket": self._bucket, "Key": self._prefix + key}
        if version is not None:
            where["VersionId"] = version
        wanted: Any = {"Mode": "COMPLIANCE", "RetainUntilDate": until}
        try:
            self._ask(key, lambda: self._s3.put_object_retention(Retention=wanted, **where))
        except Refused as refused:
            held = self._retained_until(key, version)
            if held is not None and held > until:
                raise Locked(f"{self.name}: {key} is locked until {held:%FT%TZ}") from refused
            raise

    def _vouch(self, found: dict[str, Versions], before: str | None, vouched: set[str]) -> set[str]:
        """Add what the end of this page left out, and answer with its keys.

        Raises UnsoundListing where that cannot be told.
        """
        last = _last(found)
        rescued: set[str] = set()
        for name in suspects(last):
            if name in vouched or name in found:
                continue
            vouched.add(name)
            near = self._ask(name, partial(self._siblings, name))
            mine = [v for v in self._page_versions(near) if v.key == name]
            names = {v.key for v in self._page_versions(near)}
            names |= {p["Prefix"][len(self._prefix) :] for p in near.get("CommonPrefixes", [])}
            upset = sorted(n for n in names if is_folder_of(name, last) and upsets(n, name))
            if near["IsTruncated"] or upset:
                raise UnsoundListing(
                    f"{self.name}: more versions than a page, and {upset[0] if upset else name!r} "
                    f"beside the folder {name!r}: this server leaves keys out of such a listing",
                    hint="rename one of them: no name in a folder may begin another name there",
                )
            if mine and (before is None or name.encode() > before.encode()):
                found[name] = mine
                rescued.add(name)
        return rescued

    def _siblings(self, name: str) -> Any:
        return self._s3.list_object_versions(
            Bucket=self._bucket, Prefix=self._prefix + name, Delimiter="/", MaxKeys=_NEAR
        )

    def _in_order(self, keys: Keys, before: str | None) -> None:
        for key in strictly_rising(keys, before):
            raise UnsoundListing(
                f"{self.name}: the listing went back from {before!r} to {key!r}",
                hint="a folder and a name that continues the folder's name (`a/`, `a-b`) upset this "
                "server's paging: rename one of them",
            )

    def _pages(self, prefix: str, pages: Any) -> Iterator[Any]:
        source = iter(pages)
        while (page := self._ask(prefix, lambda: next(source, None))) is not None:
            yield page

    def _page_versions(self, page: Any) -> Versions:
        kept = [self._version(v, marker=False) for v in page.get("Versions", [])]
        return kept + [self._version(v, marker=True) for v in page.get("DeleteMarkers", [])]

    def _version(self, raw: Any, *, marker: bool) -> Version:
        return Version(
            key=raw["Key"][len(self._prefix) :],
            version=raw.get("VersionId"),
            latest=raw["IsLatest"],
            marker=marker,
            size_bytes=raw.get("Size", 0),
            etag=raw.get("ETag", "").strip('"'),
            modified=written_at(raw.get("VersionId"), raw["LastModified"]),
        )

    def _listed(self, raw: Any) -> Stat:
        return Stat(
            key=raw["Key"][len(self._prefix) :],
            size_bytes=raw["Size"],
            version=None,
            modified=raw["LastModified"],
        )

    def _whole(self, key: str, version: str | None) -> bytes:
        where: Any = {} if version is None else {"VersionId": version}
        answer = self._s3.get_object(
            Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED", **where
        )
        data = answer["Body"].read()
        self._as_long_as_told(key, data, answer["ContentLength"])
        return bytes(data)

    def _range(self, key: str, version: str | None, span: str) -> bytes:
        where: Any = {} if version is None else {"VersionId": version}
        answer = self._s3.get_object(
            Bucket=self._bucket, Key=self._prefix + key, Range=span, **where
        )
        data = answer["Body"].read()
        self._as_long_as_told(key, data, answer["ContentLength"])
        return bytes(data)

    def _as_long_as_told(self, key: str, data: bytes, told: int) -> None:
        if len(data) != told:
            raise Damage(f"{self.name}: {key} ended after {len(data)} of {told} bytes")

    def _retained_until(self, key: str, version: str | None) -> datetime | None:
        where: Any = {} if version is None else {"VersionId": version}
        try:
            found = self._ask(
                key,
                lambda: self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key, **where),
            )
        except ZaibeiError:
            return None  # only asked to word another error
        return cast("datetime | None", found.get("ObjectLockRetainUntilDate"))

    def _ask(self, key: str, call: "Callable[[], T]") -> "T":
        """One call, its errors in the contract's words."""
        from botocore.exceptions import (  # noqa: PLC0415
            BotoCoreError,
            ClientError,
            FlexibleChecksumError,
            HTTPClientError,
            IncompleteReadError,
        )
        from botocore.exceptions import ConnectionError as NotConnected  # noqa: PLC0415
        from botocore.parsers import ResponseParserError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            return call()
        except ClientError as error:
            raise self._told(key, error.response) from error
        except FlexibleChecksumError as wrong:
            raise Damage(f"{self.name}: {key}: its checksum does not fit its bytes") from wrong
        except (NotConnected, HTTPClientError, IncompleteReadError, HTTPError) as silent:
            # NotConnected is no HTTPClientError: a site without power answers "no route to host", and
            # was once told as a refusal, which a mirror must not degrade over.
            raise no_connection(f"{self.name}: {key}", silent) from silent
        except BotoCoreError as other:
            raise Refused(f"{self.name}: {key}: {other}") from other
        except (ResponseParserError, KeyError) as odd:  # a field that every S3 answer has
            raise NoConnection(
                f"{self.name}: {key}: what answers does not speak S3",
                hint="is that the store's port, and no proxy or login page before it?",
            ) from odd
        except ValueError as odd:
            # A header or URL that cannot be written: http.client's own words.
            raise Refused(f"{self.name}: {key}: {odd}") from odd

    def _told(self, key: str, response: Any) -> Exception:
        status = int(response["ResponseMetadata"].get("HTTPStatusCode", 0))
        error = response.get("Error", {})
        code, said = error.get("Code", "unknown"), error.get("Message", "")
        retried = response["ResponseMetadata"].get("RetryAttempts", 0) > 0
        what = f"{self.name}: {key}"
        if code == "NoSuchBucket":
            return Refused(
                f"{what}: no such bucket", hint="create it, with Object Lock for a vault"
            )
        if status == _PRECONDITION and retried:
            # An earlier attempt of this very call may be what is there now. Saying AlreadyThere would
            # tell the winner of a race that it lost; the contract has a word for not knowing.
            return Unreachable(f"{what}: created by somebody, perhaps by an attempt of this call")
        if status == _PRECONDITION:
            return AlreadyThere(f"{what} is already there")
        if status == _NOT_FOUND or code == "MethodNotAllowed":  # 405: a delete marker by version id
            return NotThere(f"{what} is not there")
        if status == _RANGE:
            return _PastTheEnd(what)
        if code in ("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"):
            return Damage(f"{what}: changed on its way to the store: {code}")
        if status >= _SERVER_ERROR or status in (_TOO_MANY, _TIMEOUT, _CONFLICT):
            return Unreachable(f"{what}: {code} ({status}): {said}")
        # A clock that is wrong is a 403 too, and no matter of keys.
        of_keys = status == _FORBIDDEN and code != "RequestTimeTooSkewed"
        return Refused(
            f"{what}: {code} ({status}): {said}", hint=self._keys_hint if of_keys else ()
        )


class _PastTheEnd(ZaibeiError):
    """A range that begins after the last byte: an empty answer, as in a file."""


def _last(found: "dict[str, Any]") -> str:
    return max(found, key=str.encode)


def _newest_first(version: Version) -> tuple[bool, float]:
    return not version.latest, -version.modified.timestamp()

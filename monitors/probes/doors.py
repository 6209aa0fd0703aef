"""What answers at the doors of a site: the public entry, etcd, the S3 store."""

import json
import re
import ssl
from datetime import timedelta
from pathlib import Path

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from infra.sites import StoreAccess
from monitors.probes.https import context, request
from zaibei.kernel.errors import Unreachable

_OK = 200
_SIGNED_S = 60
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")


def entry(url: str, *, tls: ssl.SSLContext, deadline: timedelta) -> int:
    """Status of /healthz/ready through the public entry."""
    return request(f"{url}/healthz/ready", tls=tls, deadline=deadline).status


def ready(status: int) -> bool:
    return status == _OK


def etcd(url: str, *, tls: ssl.SSLContext, deadline: timedelta) -> bool:
    """etcd's own /health: a linearizable read, so a member without a quorum says no."""
    reply = request(f"{url}/health", tls=tls, deadline=deadline)
    try:
        said = json.loads(reply.body)
    except (ValueError, RecursionError) as garbled:
        raise Unreachable(f"{url}/health: status {reply.status} without JSON") from garbled
    healthy = isinstance(said, dict) and str(said.get("health")).lower() == "true"
    return healthy and reply.status == _OK


def store(access: StoreAccess, *, bucket: str, ca_file: Path, deadline: timedelta) -> None:
    """List one key of a bucket as the auditor. Raises Unreachable with what the store said.

    Signed by botocore and sent by us: boto3 bounds each wait and not the whole, and reads any length.
    """
    key, secret = access.keys["auditor"]
    asked = AWSRequest("GET", f"{access.endpoint}/{bucket}?list-type=2&max-keys=1")
    S3SigV4QueryAuth(
        Credentials(key, secret.reveal()), "s3", access.region, expires=_SIGNED_S
    ).add_auth(asked)
    where = f"{access.endpoint}/{bucket}"
    tls = context(ca_file=ca_file) if access.endpoint.startswith("https:") else None
    reply = request(str(asked.url), tls=tls, deadline=deadline)
    if reply.status != _OK:
        code = _CODE.search(reply.body)
        said = code[1].decode(errors="replace") if code else "no error code of S3"
        raise Unreachable(f"{where}: status {reply.status}: {said}")
    if b"<ListBucketResult" not in reply.body:
        raise Unreachable(f"{where}: answered, and not with a list of keys")

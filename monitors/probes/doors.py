"""What answers at the doors of a site: the public entry, etcd, the S3 store."""

import json
import ssl
from datetime import timedelta
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.sites import StoreAccess
from monitors.probes.https import request
from zaibei.kernel.errors import Unreachable

_READY = 200


def entry(url: str, *, tls: ssl.SSLContext, deadline: timedelta) -> int:
    """Status of /healthz/ready through the public entry."""
    return request(f"{url}/healthz/ready", tls=tls, deadline=deadline).status


def ready(status: int) -> bool:
    return status == _READY


def etcd(url: str, *, tls: ssl.SSLContext, deadline: timedelta) -> bool:
    """etcd's own /health: a linearizable read, so a member without a quorum says no."""
    reply = request(f"{url}/health", tls=tls, deadline=deadline)
    try:
        said = json.loads(reply.body)
    except ValueError as garbled:
        raise Unreachable(f"{url}/health: status {reply.status} without JSON") from garbled
    return isinstance(said, dict) and str(said.get("health")).lower() == "true"


def store(access: StoreAccess, *, bucket: str, ca_file: Path, deadline: timedelta) -> None:
    """List one key of a bucket as the auditor. Raises Unreachable with what the store said."""
    key, secret = access.keys["auditor"]
    seconds = deadline.total_seconds()
    client = boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        region_name=access.region,
        aws_access_key_id=key,
        aws_secret_access_key=secret.reveal(),
        verify=str(ca_file),
        config=Config(
            connect_timeout=seconds,
            read_timeout=seconds,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            proxies={},
        ),
    )
    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except (BotoCoreError, ClientError) as said:
        raise Unreachable(f"{access.endpoint}/{bucket}: {said}") from said
    finally:
        client.close()

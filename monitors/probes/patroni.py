"""What Patroni says over REST: of itself (`/patroni`) and of its cluster (`/cluster`)."""

import json
import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from monitors.probes.https import request
from zaibei.kernel.errors import Damage, Unreachable

LEADERS = ("leader", "master", "primary")
_MAX_MEMBERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterMember:
    name: str
    host: str
    role: str  # leader, standby_leader, sync_standby, quorum_standby, replica
    state: str  # running, streaming, stopped, …
    timeline: int | None
    lag_bytes: int | None  # None: Patroni does not know


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    members: tuple[ClusterMember, ...]
    paused: bool

    def leader(self) -> ClusterMember | None:
        return next((m for m in self.members if m.role in LEADERS), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patroni:
    role: str
    state: str
    timeline: int | None
    paused: bool

    @property
    def leads(self) -> bool:
        return self.role in LEADERS and self.state == "running"


def own(url: str, *, tls: ssl.SSLContext, deadline: timedelta) -> Patroni:
    raw = _object(f"{url}/patroni", tls=tls, deadline=deadline)
    return Patroni(
        role=str(raw.get("role", "unknown")),
        state=str(raw.get("state", "unknown")),
        timeline=_integer(raw.get("timeline")),
        paused=bool(raw.get("pause", False)),
    )


def cluster(url: str, *, tls: ssl.SSLContext, deadline: timedelta) -> Cluster:
    raw = _object(f"{url}/cluster", tls=tls, deadline=deadline)
    members = raw.get("members", [])
    if not isinstance(members, list) or len(members) > _MAX_MEMBERS:
        raise Damage(f"{url}/cluster: members are not a list of at most {_MAX_MEMBERS}")
    return Cluster(
        members=tuple(
            ClusterMember(
                name=str(m.get("name", "")),
                host=str(m.get("host", "")),
                role=str(m.get("role", "unknown")),
                state=str(m.get("state", "unknown")),
                timeline=_integer(m.get("timeline")),
                lag_bytes=_integer(m.get("lag")),
            )
            for m in members
        ),
        paused=bool(raw.get("pause", False)),
    )


def _object(url: str, *, tls: ssl.SSLContext, deadline: timedelta) -> dict[str, Any]:
    # Patroni answers 503 with the same body when the member is not running: the body is the answer.
    reply = request(url, tls=tls, deadline=deadline)
    if reply.redirects:
        raise Unreachable(
            f"{url}: status {reply.status}: a redirect is not Patroni's word on itself"
        )
    try:
        parsed = json.loads(reply.body)
    except (ValueError, RecursionError) as garbled:
        raise Unreachable(f"{url}: status {reply.status} without JSON") from garbled
    if not isinstance(parsed, dict):
        raise Damage(f"{url}: not a JSON object")
    return parsed


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

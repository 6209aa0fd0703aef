"""Patroni's own view of a cluster, asked over its REST interface, and the one thing zaibei asks it to do:
a planned switchover. Promotion is Patroni's; nothing here ever promotes behind its back.
"""

import json
import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from infra.sites import StackAccess
from zaibei.kernel.errors import Damage, Refused, Unreachable
from zaibei.kernel.exchange import exchange

ANSWER_WITHIN = timedelta(seconds=2)
_SWITCH_WITHIN = timedelta(seconds=60)
_WELL = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    name: str
    role: str  # leader | sync_standby | replica | standby_leader
    state: str  # running | streaming | stopped | …
    timeline: int | None
    lag_bytes: int | None  # None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    scope: str
    members: tuple[Member, ...]

    @property
    def leader(self) -> Member | None:
        return next((m for m in self.members if m.role in ("leader", "standby_leader")), None)

    @property
    def sync_standby(self) -> Member | None:
        return next((m for m in self.members if m.role == "sync_standby"), None)


def ask(access: StackAccess, site: str, *, within: timedelta = ANSWER_WITHIN) -> Cluster:
    """The cluster as `site` sees it. Raises Unreachable; an old view of a cut-off site is still a view."""
    raw = _call(access, site, "GET", "/cluster", within=within)
    members = tuple(
        Member(
            name=m["name"],
            role=m["role"],
            state=m.get("state", "unknown"),
            timeline=m.get("timeline"),
            lag_bytes=m["lag"] if isinstance(m.get("lag"), int) else None,
        )
        for m in raw.get("members", [])
    )
    return Cluster(scope=raw.get("scope", ""), members=members)


def is_writer(access: StackAccess, site: str, *, within: timedelta = ANSWER_WITHIN) -> bool:
    """Whether this member says it is the primary. Unreachable is raised, not answered."""
    try:
        _call(access, site, "GET", "/primary", within=within)
    except Refused:
        return False
    return True


def switchover(access: StackAccess, *, leader: str, candidate: str) -> str:
    """Planned: the leader stops cleanly, the candidate takes over at the same LSN. Answers Patroni's words.

    Raises Refused with Patroni's reason (candidate not in sync, no such leader).
    """
    body = json.dumps({"leader": leader, "candidate": candidate}).encode()
    answer = _call(access, leader, "POST", "/switchover", body=body, within=_SWITCH_WITHIN)
    return str(answer.get("text", ""))


def why_not_healthy(
    access: StackAccess, *, writer: str, standby: str, remote: str | None
) -> str | None:
    """The reason the stack is not in its steady state: writer, synchronous standby, remote streaming."""
    try:
        cluster = ask(access, writer)
    except Unreachable as gone:
        return gone.message
    if cluster.leader is None or cluster.leader.name != writer:
        return f"the leader is {cluster.leader.name if cluster.leader else 'nobody'}, not {writer}"
    if cluster.leader.state != "running":
        return f"{writer} is {cluster.leader.state}"
    if cluster.sync_standby is None or cluster.sync_standby.name != standby:
        return f"{standby} is not a synchronous standby yet"
    if cluster.sync_standby.state != "streaming":
        return f"{standby} is {cluster.sync_standby.state}"
    if remote is None:
        return None
    try:
        far = ask(access, remote)
    except Unreachable as gone:
        return gone.message
    if far.leader is None or far.leader.state != "streaming":
        return f"{remote} does not stream yet ({far.leader.state if far.leader else 'no leader'})"
    return None


def _call(
    access: StackAccess,
    site: str,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    within: timedelta,
) -> dict[str, Any]:
    administrator = access.identity("patroni")
    tls = ssl.create_default_context(cafile=str(administrator.ca_file))
    if method != "GET":
        tls.load_cert_chain(administrator.cert, administrator.key)
    url = access.site(site).patroni_url + path
    try:
        answer = exchange(url, tls=tls, within=within, body=body, method=method)
    except (Unreachable, Damage) as gone:
        raise Unreachable(f"patroni at {site} does not answer: {gone}") from gone
    text = answer.body.decode(errors="replace")
    if answer.status not in _WELL:
        raise Refused(f"patroni at {site} answered {answer.status}: {text[:300]}")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {"text": text}
    return parsed if isinstance(parsed, dict) else {"text": text}

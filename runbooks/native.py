"""The native actions and checks that come with zaibei. Imported for its registrations."""

import http
import json
import re
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from infra.sites import SiteAccess, StackAccess
from monitors.probes import https, patroni, postgres, records
from runbooks.actions import Context, action, check
from runbooks.summary import in_short
from zaibei.kernel import environment
from zaibei.kernel.errors import Refused, ToolFailed, Unreachable, Usage
from zaibei.kernel.process import run
from zaibei.kernel.state import state_dir, write_atomic
from zaibei.kernel.wait import wait_until

_CONNECT = timedelta(seconds=2)
_ASK = timedelta(seconds=3)
_FRESH = timedelta(hours=3)
_LAST = "last-command.txt"
_DATA_PORTS = ("postgres_port", "primary_port", "replica_port")


class FenceNotProven(Refused):
    """A site that does not answer may still take writes from those who can reach it."""


@check("site-answers")
def site_answers(context: Context, *, site: str) -> str | None:
    """ssh of the site accepts a connection from the operator"""
    target = _site(context, site)
    state = _port(target.address, target.ssh_port)
    return None if state == "open" else f"{site}: ssh port {target.ssh_port} is {state}"


@check("site-takes-no-writes")
def site_takes_no_writes(context: Context, *, site: str) -> str | None:
    """no data or entry port of the site is open, and Patroni elsewhere knows no leader there"""
    target = _site(context, site)
    if (ssh := _port(target.address, target.ssh_port)) != "open":
        # Closed ports of a site that is cut off from us prove nothing: its own clients may reach it.
        raise FenceNotProven(
            f"{site} cannot be reached (ssh {ssh}): it is NOT proven that it takes no writes",
            hint=(
                f"cut {site} by other means: power, uplink, or its operators by phone",
                "only when a person attests that it is off may another site be promoted",
            ),
        )

    def why_not() -> str | None:
        for name, port in _write_ports(target):
            if (state := _port(target.address, port)) == "open":
                return f"{site}: {name} (port {port}) is {state}"
        return _leads_elsewhere(context, target)

    return _settled(context, why_not, what=f"{site} takes no writes")


@check("ports-closed")
def ports_closed(context: Context, *, site: str, ports: list[str]) -> str | None:
    """none of the named ports of the site accepts a connection, while its ssh does"""
    target = _site(context, site)
    known = _named(target, ports)
    if (ssh := _port(target.address, target.ssh_port)) != "open":
        raise FenceNotProven(
            f"{site} cannot be reached (ssh {ssh}): its ports are NOT proven closed",
            hint=f"cut {site} by other means: power, uplink, or its operators by phone",
        )

    def why_not() -> str | None:
        opened = [n for n, p in known.items() if _port(target.address, p) == "open"]
        return f"{site}: open: {', '.join(opened)}" if opened else None

    return _settled(context, why_not, what=f"ports of {site} are closed")


@check("ports-open")
def ports_open(context: Context, *, site: str, ports: list[str]) -> str | None:
    """each of the named ports of the site accepts a connection"""
    target = _site(context, site)
    wanted = _named(target, ports)

    def why_not() -> str | None:
        shut = [f"{n} {s}" for n, p in wanted.items() if (s := _port(target.address, p)) != "open"]
        return f"{site}: {', '.join(shut)}" if shut else None

    return _settled(context, why_not, what=f"ports of {site} are open")


@check("drill-has-fresh-verdict")
def drill_has_fresh_verdict(context: Context, *, scenario: str) -> str | None:
    """the last drill of the scenario ended PASS or FAIL within the last three hours"""
    found = records.drills(state_dir() / "drills", scenarios=[scenario], now=context.clock.now())
    age = found[scenario].measured_age
    if age is None:
        return f"{scenario}: no drill with a verdict PASS or FAIL is on record"
    return None if age <= _FRESH else f"{scenario}: the last verdict is {age} old"


@check("member-in-sync")
def member_in_sync(context: Context, *, site: str) -> str | None:
    """the member of the site streams synchronously from the writer and has replayed all of it"""
    access = context.access()

    def why_not() -> str | None:
        writer = _writer(access)
        if writer is None:
            return "no member takes writes"
        name, facts = writer
        if name == site:
            return f"{site} is the writer itself"
        standby = _member(access, site)
        target = access.site(site)
        behind = postgres.lag(standby, facts, site=site, address=target.address)
        partners = [f for f in facts.followers if site == f.name or f.address == target.address]
        if not any(f.sync_state in ("sync", "quorum") for f in partners):
            return f"{site} is not a synchronous standby of {name}"
        if behind.behind_bytes != 0:
            told = "unknown" if behind.behind_bytes is None else f"{behind.behind_bytes} bytes"
            return f"{site} is behind {name} by {told}"
        return None

    return _settled(context, why_not, what=f"{site} is in sync")


@action("wait-for-sync")
def wait_for_sync(context: Context, *, site: str) -> str:
    """wait until the member of the site is a synchronous standby without lag"""
    if reason := member_in_sync(context, site=site):
        raise Unreachable(reason)
    return f"{site} is in sync"


@check("writer-is")
def writer_is(context: Context, *, site: str) -> str | None:
    """the member of the site takes writes, and no other member that answers does"""
    access = context.access()

    def why_not() -> str | None:
        writers = [n for n, m in _members(access).items() if not m.in_recovery]
        return None if writers == [site] else f"writers: {', '.join(writers) or 'none'}"

    return _settled(context, why_not, what=f"{site} is the writer")


@check("one-writer")
def one_writer(context: Context) -> str | None:
    """exactly one of the members that answer takes writes"""
    access = context.access()

    def why_not() -> str | None:
        writers = [n for n, m in _members(access).items() if not m.in_recovery]
        return None if len(writers) == 1 else f"writers: {', '.join(writers) or 'none'}"

    return _settled(context, why_not, what="exactly one writer")


@check("commits-on-two-sites")
def commits_on_two_sites(context: Context) -> str | None:
    """an acknowledged commit is on the writer's site and on a synchronous standby"""
    access = context.access()

    def why_not() -> str | None:
        writer = _writer(access)
        return "no member takes writes" if writer is None else postgres.sync_degraded(writer[1])

    return _settled(context, why_not, what="commits are on two sites")


@action("patroni-switchover")
def patroni_switchover(context: Context, *, site: str) -> str:
    """hand the writer over to the site's member through Patroni (planned, nothing is lost)"""
    access = context.access()
    target = access.site(site)
    tls = https.context_of(access, "patroni")
    cluster = patroni.cluster(target.patroni_url, tls=tls, deadline=_ASK)
    candidate = next((m for m in cluster.members if m.host == target.address), None)
    leader = cluster.leader()
    if candidate is None or leader is None:
        raise Refused(
            f"{site}: Patroni knows no {'member there' if candidate is None else 'leader'}"
        )
    if candidate.name == leader.name:
        return f"{leader.name} leads already"
    body = json.dumps({"leader": leader.name, "candidate": candidate.name}).encode()
    leading = next((s for s in access.sites if s.address == leader.host), target)
    reply = https.request(
        f"{leading.patroni_url}/switchover", tls=tls, deadline=context.deadline, body=body
    )
    said = " ".join(reply.body.decode(errors="replace").split())[:300]
    if reply.status != http.HTTPStatus.OK:
        raise ToolFailed(f"patroni switchover to {candidate.name}: status {reply.status}: {said}")
    return said


@action("patroni-resume")
def patroni_resume(context: Context) -> str:
    """switch automatic failover on again (end a pause)"""
    access = context.access()
    tls = https.context_of(access, "patroni")
    asked = json.dumps({"pause": None}).encode()
    silent = []
    for site in access.sites:
        try:
            reply = https.request(
                f"{site.patroni_url}/config", tls=tls, deadline=_ASK, body=asked, method="PATCH"
            )
        except Unreachable as gone:
            silent.append(str(gone))
            continue
        if reply.status == http.HTTPStatus.OK:
            return f"asked {site.name}"
        silent.append(f"{site.name}: status {reply.status}")
    raise Unreachable(f"no Patroni took it: {'; '.join(silent)}")


@check("failover-armed")
def failover_armed(context: Context) -> str | None:
    """Patroni is not paused, on every site that answers, and at least one answers"""
    access = context.access()

    def why_not() -> str | None:
        paused, answered, reasons = [], 0, []
        for site in access.sites:
            try:
                one = patroni.own(
                    site.patroni_url, tls=https.context_of(access, "patroni"), deadline=_ASK
                )
            except Unreachable as gone:
                reasons.append(str(gone))
                continue
            answered += 1
            paused += [site.name] if one.paused else []
        if not answered:
            raise Unreachable("; ".join(reasons))
        return f"paused: {', '.join(paused)}" if paused else None

    return _settled(context, why_not, what="failover is armed")


@action("zaibei")
def zaibei(context: Context, *, argv: list[str], also_ok: list[str] | None = None) -> str:
    """run a command of zaibei itself as a process of its own; `also-ok`: exit codes beside 0"""
    said = _zaibei(context, argv, ok=(0, *map(int, also_ok or [])))
    write_atomic(context.folder / _LAST, said, mode=0o600)
    return in_short(said)


@check("zaibei-agrees")
def zaibei_agrees(context: Context, *, argv: list[str], expect: str = "") -> str | None:
    """a command of zaibei ends well, and its output matches `expect`"""
    said = _zaibei(context, argv)
    if expect and re.search(expect, said) is None:
        return f"zaibei {' '.join(argv)}: nothing in its output matches {expect!r}"
    return None


@action("person")
def person(context: Context, *, does: str) -> str:
    """nothing by itself: a person does what is written, and the proof of the step asks whether it is so"""
    return f"left to a person: {does}"


@check("last-command-said")
def last_command_said(context: Context, *, expect: str) -> str | None:
    """the output of the step's own zaibei command matches `expect`"""
    try:
        said = (context.folder / _LAST).read_text()
    except OSError as gone:
        raise Unreachable(f"no command of this run left an output: {gone.strerror}") from gone
    return None if re.search(expect, said) else f"nothing in its output matches {expect!r}"


def _zaibei(context: Context, argv: list[str], *, ok: tuple[int, ...] = (0,)) -> str:
    program = [sys.executable, "-P", "-m", "zaibei.cli.main", *argv]
    return run(program, deadline=context.deadline, ok=ok, env=environment.of_our_own())


def _site(context: Context, site: str) -> SiteAccess:
    access = context.access()
    if site not in {s.name for s in access.sites}:
        known = ", ".join(s.name for s in access.sites)
        raise Usage(f"no site {site!r}", hint=f"there are: {known}")
    return access.site(site)


def _write_ports(site: SiteAccess) -> list[tuple[str, int]]:
    """Every port through which a write can reach the site, by name."""
    named = [(n.removesuffix("_port"), int(getattr(site, n))) for n in _DATA_PORTS]
    for name, url in (("entry", site.entry_url), ("store", site.store.endpoint)):
        port = re.fullmatch(r"https?://[^/]+:(\d+)/?", url)
        assert port is not None, f"{site.name}: {url} names no port"
        named.append((name, int(port[1])))
    return named


def _named(site: SiteAccess, ports: list[str]) -> dict[str, int]:
    known = dict(_write_ports(site))
    if unknown := [p for p in ports if p not in known]:
        raise Usage(f"no port {unknown[0]!r}", hint=f"there are: {', '.join(known)}")
    return {p: known[p] for p in ports}


def _port(address: str, port: int) -> str:
    """`open`, `refused` or `silent`."""
    try:
        with socket.create_connection((address, port), timeout=_CONNECT.total_seconds()):
            return "open"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "silent"


def _leads_elsewhere(context: Context, fenced: SiteAccess) -> str | None:
    access = context.access()
    reasons = []
    for other in access.sites:
        if other.name == fenced.name:
            continue
        try:
            seen = patroni.cluster(
                other.patroni_url, tls=https.context_of(access, "patroni"), deadline=_ASK
            )
        except Unreachable as gone:
            reasons.append(str(gone))
            continue
        leader = seen.leader()
        if leader is not None and leader.host == fenced.address:
            return f"Patroni at {other.name} still sees the leader at {fenced.name}"
        if leader is not None or fenced.address in {m.host for m in seen.members}:
            return None
        # A standby cluster has members of its own and no leader: it cannot speak for the other one.
        reasons.append(f"{other.name} belongs to another cluster")
    raise FenceNotProven(
        f"no other Patroni can say who leads ({'; '.join(reasons) or 'none of the cluster is left'})",
        hint="reach one other site's Patroni, or have a person attest that the site is off",
    )


def _settled(context: Context, why_not: Callable[[], str | None], *, what: str) -> str | None:
    """Give it until the step's deadline to become true; then the last reason.

    A question that got no answer is asked again too (a switchover cuts connections); when the
    last one had none, that is raised: not asked is not the same as not so.
    """
    last: Unreachable | str | None = None

    def ask() -> str | None:
        nonlocal last
        try:
            last = why_not()
        except Unreachable as silent:
            last = silent
        return None if last is None else str(last)

    with suppress(Unreachable):
        wait_until(ask, what=what, deadline=context.deadline, clock=context.clock)
    if isinstance(last, Unreachable):
        raise last
    return last


def _member(access: StackAccess, site: str) -> postgres.Member:
    return postgres.ask(
        access.member_dsn(site, user="zaibei_probe", database="postgres"),
        password=access.password("zaibei_probe"),
        deadline=_ASK,
    )


def _members(access: StackAccess) -> dict[str, postgres.Member]:
    """Those that answer. One that is silent may be a writer too: who needs certainty fences it."""
    found = {}
    for site in access.sites:
        try:
            found[site.name] = _member(access, site.name)
        except Unreachable:
            continue
    return found


def _writer(access: StackAccess) -> tuple[str, postgres.Member] | None:
    writers = {n: m for n, m in _members(access).items() if not m.in_recovery}
    if len(writers) > 1:
        raise Refused(f"two writers: {', '.join(writers)}", hint="zaibei runbook run fence-site")
    return next(iter(writers.items()), None)

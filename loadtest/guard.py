"""Whom the generator may load. A pure decision: nothing here resolves or connects.

This is a test tool for one's own services and refuses to be anything else: loopback, and lab addresses
that the provisioned stack itself declares. There is no flag that widens it.
"""

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from zaibei.kernel.errors import Refused

LAB_NETWORK = ipaddress.ip_network("10.77.0.0/24")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Bounds that hold whatever a scenario says."""

    arrivals_rps: float
    requests_rps: int  # all requests begun in one second, refreshes included
    duration_s: float
    in_flight: int  # citizens inside at one time


ABSOLUTE = Caps(arrivals_rps=3000, requests_rps=6000, duration_s=2 * 3600, in_flight=4000)


class NotOurs(Refused):
    """The target is not known to belong to whoever asks for the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A published address, checked and pinned: `host` is for TLS and the Host header, never resolved again."""

    url: str
    tls: bool
    host: str
    port: int
    address: str


def why_not_address(address: str, *, declared: Collection[str]) -> str | None:
    """None when load may be sent there."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return f"{address!r} is not an address"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return f"{address} has a scope"
        # ::ffff:192.0.2.1 reaches 192.0.2.1, whatever it looks like.
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return None
    if ip in LAB_NETWORK:
        if str(ip) in declared:
            return None
        # 10.77.0.0/24 is somebody's office network somewhere.
        return f"{ip} is in the lab's range, but no provisioned stack declares it"
    return f"{ip} is neither loopback nor a declared lab address"


def door(url: str, *, addresses: Sequence[str], declared: Collection[str]) -> Door:
    """Admit a base URL whose host resolved to `addresses`. Raises NotOurs."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as wrong:
        raise NotOurs(f"{url!r}: not a base URL: {wrong}") from wrong
    host = parts.hostname or ""
    if parts.scheme not in _PORTS or not host:
        raise NotOurs(f"{url!r}: not an http or https base URL")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise NotOurs(
            f"{url!r}: a door is scheme, host and port", hint="paths belong to the scenario's steps"
        )
    # Characters that end a header line could carry a second request; names have none of them.
    if not all(c.isalnum() or c in ".-:" for c in host):
        raise NotOurs(f"{url!r}: not a host name")
    if not addresses:
        raise NotOurs(f"{host} resolves to nothing")
    for address in addresses:
        # All of them, not the first: a name with one loopback and one foreign address is how
        # rebinding gets past a check.
        if reason := why_not_address(address, declared=declared):
            raise NotOurs(
                f"{url}: {reason}",
                hint=(
                    "load only the lab (zaibei lab up) or a service on this machine",
                    "other hosts need a proof of ownership, which this version does not accept",
                ),
            )
    tls = parts.scheme == "https"
    if not tls and not ipaddress.ip_address(addresses[0]).is_loopback:
        raise NotOurs(f"{url}: plain http is for loopback only", hint="use the https door")
    return Door(
        url=url.rstrip("/"),
        tls=tls,
        host=host,
        port=_PORTS[parts.scheme] if port is None else port,
        address=addresses[0],
    )


def why_not_caps(
    *, peak_rps: float, duration_s: float, caps: Caps, absolute: Caps = ABSOLUTE
) -> str | None:
    """None when the plan keeps within its own caps and those within the absolute ones."""
    for name in ("arrivals_rps", "requests_rps", "duration_s", "in_flight"):
        if getattr(caps, name) > getattr(absolute, name):
            return f"cap {name} of {getattr(caps, name):g} is above {getattr(absolute, name):g}"
    if peak_rps > caps.arrivals_rps:
        return f"peak of {peak_rps:g}/s is above the cap of {caps.arrivals_rps:g}/s"
    if duration_s > caps.duration_s:
        return f"{duration_s:g} s is longer than the cap of {caps.duration_s:g} s"
    return None

"""The lab's network: a namespace a host, one bridge in a namespace of its own, one cable each.

The bridge is not in the machine's own namespace: no rule of the machine's firewall is crossed, and
the only things the machine sees of the lab are one link and one address, the operator's.
"""

import json
from datetime import timedelta
from pathlib import Path

from infra.lab.plan import (
    BRIDGE,
    OPERATOR_ADDRESS,
    OPERATOR_LINK,
    PREFIX,
    PREFIX_LENGTH,
    WAN,
    Host,
    LabPlan,
)
from zaibei.kernel.errors import ToolFailed
from zaibei.kernel.process import run

_QUICK = timedelta(seconds=10)
_ALIAS_CHARS = 255  # IFALIASZ
_FORWARDING, _DISABLED = 3, 0  # bridge port states (linux/if_bridge.h)


def up(lab: LabPlan) -> None:
    """Make what is not there yet; safe to repeat."""
    here = namespaces()
    if WAN not in here:
        _ip("netns", "add", WAN)
    _ip("-n", WAN, "link", "set", "lo", "up")
    if BRIDGE not in links(WAN):
        _ip("-n", WAN, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    _ip("-n", WAN, "link", "set", BRIDGE, "up")
    if OPERATOR_LINK not in links(None):
        _ip("link", "add", OPERATOR_LINK, "type", "veth", "peer", "name", "op", "netns", WAN)
    _ip("-n", WAN, "link", "set", "op", "master", BRIDGE)
    _ip("-n", WAN, "link", "set", "op", "up")
    _ip("addr", "replace", f"{OPERATOR_ADDRESS}/{PREFIX_LENGTH}", "dev", OPERATOR_LINK)
    _ip("link", "set", OPERATOR_LINK, "alias", str(lab.root.parent.resolve())[:_ALIAS_CHARS])
    _ip("link", "set", OPERATOR_LINK, "up")
    for host in lab.hosts:
        plug_in(host)


def plug_in(host: Host) -> None:
    """The host's namespace and its cable."""
    if host.namespace not in namespaces():
        _ip("netns", "add", host.namespace)
    _ip("-n", host.namespace, "link", "set", "lo", "up")
    if host.wan_link not in links(WAN):
        _ip(
            "-n",
            WAN,
            "link",
            "add",
            host.wan_link,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            host.namespace,
        )
    _ip("-n", WAN, "link", "set", host.wan_link, "master", BRIDGE)
    _ip("-n", WAN, "link", "set", host.wan_link, "up")
    _ip("-n", host.namespace, "addr", "replace", f"{host.address}/{PREFIX_LENGTH}", "dev", "eth0")
    _ip("-n", host.namespace, "link", "set", "eth0", "up")


def cut(host: Host) -> None:
    """Silence: frames of the host are dropped at the bridge; neither end is told."""
    _port(host, _DISABLED)


def join(host: Host) -> None:
    _port(host, _FORWARDING)


def is_cut(host: Host) -> bool:
    shown = run(["bridge", "-n", WAN, "-j", "link", "show", "dev", host.wan_link], deadline=_QUICK)
    return any(p.get("state") == "disabled" for p in json.loads(shown or "[]"))


def down(lab: LabPlan) -> None:
    """Remove everything; what is not there is no error. Processes of the hosts must be gone."""
    remove_all()


def remove_all() -> list[str]:
    """Every link and namespace with our prefix, whoever made it. Answers with what was removed."""
    removed = []
    if OPERATOR_LINK in links(None):
        _gone("link", "del", OPERATOR_LINK)
        removed.append(f"link {OPERATOR_LINK}")
    for name in sorted(namespaces()):
        if name.startswith(PREFIX):
            # Links first: deleting a namespace that a dying process still holds would keep them.
            for link in links(name):
                if link.startswith(PREFIX):
                    _gone("-n", name, "link", "del", link)
            _gone("netns", "del", name)
            removed.append(f"namespace {name}")
    return removed


def namespaces() -> set[str]:
    shown = run(["ip", "-j", "netns", "list"], deadline=_QUICK).strip()
    return {entry["name"] for entry in json.loads(shown or "[]")}


def made_for() -> Path | None:
    """The state folder whose lab the operator's link belongs to."""
    if OPERATOR_LINK not in links(None):
        return None
    (shown,) = json.loads(run(["ip", "-j", "link", "show", "dev", OPERATOR_LINK], deadline=_QUICK))
    return Path(shown["ifalias"]) if shown.get("ifalias") else None


def links(namespace: str | None) -> set[str]:
    where = ["-n", namespace] if namespace else []
    shown = run(["ip", *where, "-j", "link", "show"], deadline=_QUICK)
    return {entry["ifname"] for entry in json.loads(shown or "[]")}


def _port(host: Host, state: int) -> None:
    run(
        ["bridge", "-n", WAN, "link", "set", "dev", host.wan_link, "state", str(state)],
        deadline=_QUICK,
    )


def _ip(*words: str) -> None:
    run(["ip", *words], deadline=_QUICK)


def _gone(*words: str) -> None:
    try:
        _ip(*words)
    except ToolFailed as failed:
        if "Cannot find" not in failed.message and "No such" not in failed.message:
            raise

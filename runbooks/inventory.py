"""Reads which hosts an Ansible inventory holds, so that a play's limit is one of them and no pattern.

`--limit` is a pattern language: `all`, a group, `a:b`, `*`, `!x`, `~re` and `@file` each match more hosts
than the one that was meant, and a whole outage is one typing slip away.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from infra.ansible.play import environment
from zaibei.kernel.errors import Missing, Refused, ToolFailed
from zaibei.kernel.process import run

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_DEADLINE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    hosts: frozenset[str]
    groups: frozenset[str]

    def why_not_one_host(self, limit: str) -> str | None:
        """The reason why Ansible would not take `limit` for exactly one host of this inventory."""
        if _NAME.fullmatch(limit) is None:
            return "it is a pattern, not the name of a host"
        if limit in self.groups:
            return "it is the name of a group"
        if limit not in self.hosts:
            return f"the inventory has no such host (it has: {', '.join(sorted(self.hosts))})"
        return None


def read(file: Path) -> Inventory:
    """Ask Ansible itself. Raises Missing without the file, ToolFailed for one that it cannot parse."""
    if not file.exists():
        raise Missing(f"no inventory: {file} is not there", hint="zaibei lab up")
    program = ["ansible-inventory", "--inventory", str(file.resolve()), "--list"]
    printed = run(program, deadline=_DEADLINE, env=environment())
    try:
        listed: Mapping[str, Any] = json.loads(printed)
    except ValueError as wrong:
        raise ToolFailed(f"ansible-inventory of {file} printed no JSON: {wrong}") from wrong
    hosts = set(listed.get("_meta", {}).get("hostvars", {}))
    groups = {"all", "ungrouped"}
    for name, group in listed.items():
        if name != "_meta":
            groups |= {name, *group.get("children", ())}
            hosts |= set(group.get("hosts", ()))
    return Inventory(hosts=frozenset(hosts), groups=frozenset(groups))


def demand_one_host(inventory: Inventory, limit: str, *, play: str) -> None:
    """Raises Refused unless `limit` names exactly one host."""
    if why := inventory.why_not_one_host(limit):
        raise Refused(
            f"{play}: limit {limit!r} is refused: {why}",
            hint="a step of a runbook acts on one host; write a step for each",
        )

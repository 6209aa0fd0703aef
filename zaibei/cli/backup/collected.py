"""What a garbage collection removed and marked, said to people."""

from typing import Any

from zaibei.kernel.errors import Refused
from zaibei.kernel.units import say_bytes


def cleared_told(name: str, cleared: Any, *, act: bool) -> list[str]:
    """Raises Refused when they stay, or would be in the way of looking what else there is to do."""
    count = cleared.removed.get("unreadable", 0)
    if cleared.locked or cleared.refused:
        why = cleared.refused or f"locked, the first until {cleared.unlocks_at or 'unknown'}"
        raise Refused(f"{name}: marks or statements that cannot be read stay: {why}")
    if count and not act:
        raise Refused(
            f"{name}: {count} marks or statements that cannot be read would be removed first",
            hint=f"--confirm {name}",
        )
    return [f"{name}: {count} marks or statements that could not be read were removed"]


def gc_told(name: str, swept: Any, marked: Any, *, act: bool) -> list[str]:
    would = "" if act else "would be "
    removed = ", ".join(f"{n} {kind}" for kind, n in sorted(swept.removed.items())) or "nothing"
    lines = [
        f"{name}: {would}removed: {removed}; {say_bytes(swept.removed_bytes)}",
        (
            f"{name}: {would}marked: {marked.dead + marked.orphans} packs that nobody needs"
            f" ({say_bytes(marked.dead_bytes)} indexed), {marked.repacked} packed anew"
        ),
    ]
    if swept.resurrected:
        lines.append(f"{name}: {swept.resurrected} packs are needed again and stay")
    if swept.waiting:
        lines.append(f"{name}: {swept.waiting} marks wait for their grace to end")
    if swept.locked:
        when = f"; the first unlocks at {swept.unlocks_at}" if swept.unlocks_at else ""
        lines.append(f"{name}: {swept.locked} objects are locked and stay{when}")
    if swept.refused:
        lines.append(f"{name}: REFUSED: {swept.refused}")
    return lines

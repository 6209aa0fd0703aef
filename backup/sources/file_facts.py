"""What a snapshot of files says about itself, for the one who restores it."""

import os

from backup.format.snapshot import Content
from backup.sources.reading import TORN


def places_of(content: Content) -> list[tuple[bytes, bytes]]:
    """The paths that were backed up, and what each is called in the listing, from its top."""
    names = content.facts.get("names") or {}
    found = []
    for said in content.facts.get("roots") or ():
        root = str(said)
        name = names.get(root) or os.path.basename(os.path.normpath(root)) or "root"  # noqa: PTH119
        found.append((os.fsencode(root), os.fsencode(f"/{name}")))
        real = (content.facts.get("followed") or {}).get(root)
        if real:
            found.append((os.fsencode(str(real)), os.fsencode(f"/{name}")))
    return found


def what_became(problem: str) -> str:
    """A problem of the run as it shows in what is restored."""
    if problem.endswith(TORN):
        return f"TORN: {problem}: the copy that was made is restored"
    if ": its attributes" in problem:
        return f"NOT WHOLE IN THE BACKUP: {problem}"
    return f"NOT IN THE BACKUP: {problem}"


def allowed(content: Content) -> list[str]:
    """What could not be read, and was allowed to be missing."""
    return [str(p) for p in content.facts.get("allowed_problems") or ()]

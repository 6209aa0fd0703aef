"""The lab as it was when it was made, kept beside each disk, so that `reset` costs seconds and not a rebuild.

The disks of all sites are frozen together while they are copied: what is kept is what a power loss at
that moment would have left, and every service of a site starts from that.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from infra.lab import disk
from infra.lab.plan import Host, LabPlan
from zaibei.kernel.process import run
from zaibei.kernel.state import write_atomic

_COPY = timedelta(minutes=2)
_FREEZE = timedelta(seconds=30)


def kept(host: Host) -> Path:
    return host.folder / "fresh.img"


def _mark(lab: LabPlan) -> Path:
    return lab.root / "fresh"


def take(lab: LabPlan, *, made_from: str) -> None:
    """`made_from` names code and layer: a snapshot of other ones is no known state."""
    _mark(lab).unlink(missing_ok=True)
    with ExitStack() as thaw:
        for host in lab.hosts:
            run(["fsfreeze", "--freeze", host.disk], deadline=_FREEZE)
            thaw.callback(run, ["fsfreeze", "--unfreeze", host.disk], deadline=_FREEZE)
        _copy_all([(h.image, kept(h)) for h in lab.hosts])
    write_atomic(_mark(lab), made_from)  # last: without it the copies count for nothing


def why_not_usable(lab: LabPlan, *, made_from: str) -> str | None:
    if not _mark(lab).exists():
        return "no snapshot was taken"
    if _mark(lab).read_text() != made_from:
        return "it was taken with other code"
    return None


def put_back(lab: LabPlan) -> None:
    """In the place of the disks of hosts without power. A copy that was killed is repeated: the snapshot stays.

    A new file under the old name, never over the old one: a loop device lives on for as long as any dying mount
    namespace holds its mount, `mount` takes it up again for the same file, and what it had cached is then laid
    over what was copied. Seen as `Bad message` from ext4, and as a standby cluster that found no leader.
    """
    assert not [h for h in lab.hosts if disk.is_attached(h)], "a mounted disk is not copied over"
    fresh = [(h.image.with_suffix(".back"), h.image) for h in lab.hosts]
    _copy_all([(kept(h), back) for h, (back, _) in zip(lab.hosts, fresh, strict=True)])
    for back, image in fresh:
        back.replace(image)


def _copy_all(pairs: list[tuple[Path, Path]]) -> None:
    with ThreadPoolExecutor(len(pairs)) as pool:
        list(pool.map(lambda p: run(["cp", "--sparse=always", p[0], p[1]], deadline=_COPY), pairs))

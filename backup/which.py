"""Which snapshot is meant: a number, or the newest, of any kind or of one."""

from typing import TYPE_CHECKING, Final

from backup.snapshot import Snapshot
from zaibei.kernel.errors import Damage, Usage

if TYPE_CHECKING:
    from backup.repository import Repository

KINDS: Final = ("files", "bucket", "postgres", "point")
MEND: Final = "zaibei backup heal takes it from the other vault; repair states what is lost"


def find(repo: "Repository", which: str, *, kind: str | None = None) -> Snapshot:
    """`latest` or a number. The newest may be incomplete: its content says so. One that cannot be read is not passed
    over: nobody may take an older one for the newest without having said so."""
    if kind is not None and kind not in KINDS:
        raise Usage(f"no kind {kind!r}", hint=f"one of {', '.join(KINDS)}")
    sequences = repo.sequences()
    if which != "latest":
        if not which.isdecimal() or int(which) not in sequences:
            raise Usage(f"{repo.name}: no snapshot {which!r}", hint="zaibei backup list shows them")
        return repo.snapshot(int(which))
    for at, sequence in reversed(list(enumerate(sequences))):
        try:
            one = repo.snapshot(sequence)
        except Damage as bad:
            older = (f"an older one by its number: {sequences[at - 1]}",) if at else ()
            bad.hints = (*bad.hints, *older, MEND)
            raise
        if kind in (None, one.content.kind):
            return one
    if sequences:
        raise Usage(f"{repo.name}: none of its snapshots is of {kind}", hint="zaibei backup list")
    raise Usage(f"{repo.name}: there is no snapshot yet", hint="zaibei backup run")


def opening(repo: "Repository", sequence: int) -> Snapshot:
    """For who needs all of them: one that does not open stops it, and the error says where, and what mends it."""
    try:
        return repo.snapshot(sequence)
    except Damage as bad:
        if repo.name not in bad.message:
            bad.message = f"{repo.name}: {bad.message}"
        bad.hints = (*bad.hints, MEND)
        raise

"""The newest snapshot of each repository, remembered outside the vault.

A store can drop the end of a signed chain and nobody inside can tell; this memory can. It is a hint, not a
secret: lost with the machine, it is learnt again (and then a rollback before that is not seen).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from backup import unread
from backup.errors import RolledBack
from backup.repository import Repository
from backup.snapshot import Snapshot
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.state import state_dir, write_atomic

_ROLLED_BACK: Final = (
    "the vault was rolled back or withholds it: compare with the other vault, and look at deleted versions before"
    " anything is written"
)
_FOR_GOOD: Final = (
    "zaibei backup heal takes it from the other vault; if it is lost for good, zaibei backup repair states that, and"
    " everything goes on from there"
)


def _file(repo: Repository) -> Path:
    # By place as well as by repository: two copies of one repository may lag behind each other.
    place = hashlib.sha256(repo.name.encode()).hexdigest()[:12]
    return state_dir() / "backup" / "heads" / f"{repo.config.repository.hex()}-{place}.json"


def remember(repo: Repository, newest: Snapshot) -> None:
    known = remembered(repo)
    if known is None or (known[0], known[2]) < (newest.sequence, repo.keys.epoch):
        write_atomic(
            _file(repo),
            json.dumps(
                {
                    "vault": repo.name,
                    "sequence": newest.sequence,
                    "digest": newest.digest,
                    "epoch": repo.keys.epoch,
                }
            ),
            mode=0o600,
        )


def check(repo: Repository, sequences: Sequence[int]) -> None:
    """Raises RolledBack when the vault shows less than it once did, or another snapshot in its place."""
    known = remembered(repo)
    if known is None:
        return
    sequence, digest, epoch = known
    if repo.keys.epoch < epoch:
        # Going on would seal new data under a root that was retired, maybe because it was stolen.
        raise RolledBack(
            f"{repo.name}: epoch {epoch} of the keys was there and is not any more",
            hint="the vault was rolled back or withholds it: compare with the other vault",
        )
    if sequence not in sequences:
        said = repo.forgotten(unread.Told(repo)).get(sequence)
        if said is not None and said.link.digest in (digest, None):
            return
        raise RolledBack(
            f"{repo.name}: snapshot {sequence} was there and is not any more",
            hint=(_ROLLED_BACK, _FOR_GOOD),
        )
    if repo.link(sequence).digest != digest:
        raise RolledBack(
            f"{repo.name}: snapshot {sequence} is not the one that was written",
            hint="somebody put another in its place: compare with the other vault before anything is written",
        )


def lost(repo: Repository) -> RolledBack | None:
    """The same as an answer: for who goes on with what is left, and says so."""
    try:
        if remembered(repo) is not None:
            check(repo, repo.sequences())
    except RolledBack as bad:
        return bad
    except Damage:
        return None  # it is there and does not open: told by whoever reads it
    return None


def remembered(repo: Repository) -> tuple[int, str, int] | None:
    """Of the newest snapshot that this machine saw there: number, digest, epoch."""
    try:
        raw = json.loads(_file(repo).read_text())
        return int(raw["sequence"]), str(raw["digest"]), int(raw.get("epoch", 1))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as shut:
        raise Refused(
            f"{_file(repo)}: what this machine saw of the vault cannot be read: {shut.strerror}",
            hint="run as the account that owns the state directory, or name another: ZAIBEI_STATE",
        ) from shut
    except (ValueError, KeyError, TypeError) as torn:
        raise Refused(
            f"{_file(repo)}: what this machine saw of the vault cannot be read: {torn}",
            hint="compare the vault with the other one, then remove that file: the next run writes it anew",
        ) from torn

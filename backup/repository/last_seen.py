"""Remembers the newest snapshot of each repository outside the vault.

A store can drop the end of a signed chain and no reader can tell; this memory can. It is a hint,
not a secret: lost with the machine, it is learnt again, and a rollback before that goes unseen.
"""

import hashlib
import json
from pathlib import Path

from backup.format.snapshot import Snapshot
from backup.repository.vault import OpenVault
from zaibei.kernel.errors import Refused
from zaibei.kernel.state import state_dir, write_atomic


def _file(repo: OpenVault) -> Path:
    # By place as well as by repository: two copies of one repository may lag behind each other.
    place = hashlib.sha256(repo.name.encode()).hexdigest()[:12]
    return state_dir() / "backup" / "heads" / f"{repo.config.repository.hex()}-{place}.json"


def remember(repo: OpenVault, newest: Snapshot) -> None:
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


def remembered(repo: OpenVault) -> tuple[int, str, int] | None:
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

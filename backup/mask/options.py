"""Turns the options about masking on a command line into a checked `Masking`."""

import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from backup.format.snapshot import Snapshot
from backup.mask import authorisation as mask_authorisation
from backup.mask.apply import KEY_BYTES, Masking
from backup.mask.policy import RULES, parse
from backup.repository.repository import Repository
from zaibei.kernel.errors import Missing, Usage


def masking(
    snapshot: Snapshot,
    repo: Repository,
    *,
    now: datetime,
    authorisation: Path | None = None,
    authorised_by: Sequence[Path] = (),
    rules: Path | None = None,
    key_file: Path | None = None,
) -> Masking:
    """Without a key file the key is the room's own and dies with it: two rooms cannot be joined. Raises
    Refused for leave that does not hold here and now."""
    key = secrets.token_bytes(KEY_BYTES)
    if key_file is not None:
        key = _bytes(key_file)
        if len(key) != KEY_BYTES:
            raise Usage(
                f"{key_file}: {len(key)} bytes, not {KEY_BYTES}",
                hint=f"head -c {KEY_BYTES} /dev/urandom > {key_file}",
            )
    chosen = RULES
    if rules is not None:
        try:
            chosen = (*parse(json.loads(_bytes(rules))), *RULES)
        except ValueError as bad:
            raise Usage(f"{rules}: not JSON: {bad}") from bad
    leave = None
    if authorisation is not None:
        leave = mask_authorisation.checked(
            _bytes(authorisation),
            snapshot,
            repository=repo.config.repository,
            trusted=[_bytes(p) for p in authorised_by] or mask_authorisation.trusted_keys(),
            now=now,
        )
    return Masking(key=key, rules=chosen, authorisation=leave)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as gone:
        raise Missing(f"{path}: no such file") from gone

"""Leases of schedule slots: numbered objects in the vault, each created once.

    leases/<32 hex>/<4 digits>        the n-th holder: signed, says for how long
    leases/<32 hex>/<4 digits>.end    it is over: signed, done, failed or handed over

The hex names the slot under a key, so that the vault does not learn the jobs' names. The next
number may be created when the one before has ended, or has outlived its time by the store's clock.
A lease saves double work; `backup.schedule.slot.fence` guarantees that a slot gets one snapshot,
also when a lease was taken from a holder that is still alive.
"""

import json
import random
import secrets
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from backup.crypto import signed
from backup.repository.vault import OpenVault, retry
from infra.objectstore.contract import NotThere, Stat
from zaibei.kernel.errors import Busy, Damage

PREFIX: Final = "leases/"
KEPT: Final = timedelta(days=30)
TAKEN_MAX: Final = 999  # holders of one slot: then a person must look
_KIND = "lease"
_END = ".end"
_DIGITS = 4
_NAME_BYTES = 16


class End(StrEnum):
    DONE = "done"
    FAILED = "failed"
    HANDED_OVER = "handed-over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    repo: OpenVault
    key: str
    token: int

    def end(self, how: End) -> None:
        """Raises what the store raises; a lease that is not ended runs out."""
        body: signed.Body = {"of": self.key, "end": how.value}
        data = signed.sign(_KIND, body, self.repo.keys.signer)
        self.repo.create_if_absent(self.key + _END, data)


def take(
    repo: OpenVault, name: str, *, holds: timedelta, holder: str, rng: random.Random | None = None
) -> Lease:
    """Raises Busy while another holder has it. `name`: of the slot. `holds`: after that it counts as given up."""
    folder = _folder(repo, name)
    held = {s.key: s for s in repo.listed(folder)}
    numbers = sorted(int(tail) for k in held if (tail := k.removeprefix(folder)).isdecimal())
    if numbers:
        last = _key(folder, numbers[-1])
        if last + _END not in held and (why := _why_held(repo, held[last])) is not None:
            raise Busy(f"{repo.name}: {name}: {why}")
    token = (numbers[-1] if numbers else 0) + 1
    if token > TAKEN_MAX:
        raise Busy(
            f"{repo.name}: {name} was taken {TAKEN_MAX} times",
            hint="somebody dies over it again and again: look why",
        )
    body: signed.Body = {
        "slot": folder,
        "token": token,
        "holder": holder,
        "holds_s": int(holds.total_seconds()),
        # Two hosts of one name must not take each other's object for their own.
        "nonce": (rng or secrets.SystemRandom()).randbytes(_NAME_BYTES).hex(),
    }
    key = _key(folder, token)
    if not repo.create_if_absent(key, signed.sign(_KIND, body, repo.keys.signer)):
        raise Busy(f"{repo.name}: {name}: another host was first")
    return Lease(repo=repo, key=key, token=token)


def over(repo: OpenVault, now: datetime) -> list[str]:
    """Leases of slots at which nobody has been for so long that nobody asks for them any more. The end of a lease
    before the lease itself: a lease without an end has run out, an end without its lease would end the next one.
    """
    folders: dict[str, list[Stat]] = defaultdict(list)
    for stat in repo.listed(PREFIX):
        folders[stat.key.rpartition("/")[0]].append(stat)
    return [
        s.key
        for stats in folders.values()
        if now - max(s.modified for s in stats) >= KEPT
        for s in sorted(stats, key=lambda s: s.key, reverse=True)
    ]


def _why_held(repo: OpenVault, last: Stat) -> str | None:
    """None when it may be taken over. What is not signed by this repository holds nothing up."""
    try:
        body, signature = signed.parse(repo.store.read(last.key), what=last.key)
        signed.check(_KIND, body, signature, repo.keys.public, what=last.key)
        holds = timedelta(seconds=int(body["holds_s"]))
        holder = str(body["holder"])
    except (Damage, NotThere, KeyError, TypeError, ValueError, json.JSONDecodeError):
        return None
    now = retry(repo.clock, repo.store.now)
    left = last.modified + holds - now
    if left <= timedelta(0):
        return None
    return f"held by {holder} for at most {left.total_seconds():.0f} s more"


def _folder(repo: OpenVault, name: str) -> str:
    hidden = repo.keys.suite.mac(repo.keys.id, b"lease", name.encode())
    return f"{PREFIX}{hidden[:_NAME_BYTES].hex()}/"


def _key(folder: str, token: int) -> str:
    return f"{folder}{token:0{_DIGITS}d}"

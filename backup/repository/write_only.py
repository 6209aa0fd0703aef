"""A repository opened by a host that may write and not read.

It cannot open the index, so it remembers what it wrote: the plain text of each of its own index
segments, under the state directory. A segment that is not in the vault any more is forgotten here
too, and what it named is sent again. Losing the memory costs deduplication against the past,
nothing else.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backup.crypto.host_key import HostKey, HostRing
from backup.errors import RolledBack, WrongKey
from backup.index.blob_index import BlobIndex
from backup.index.segment import PackEntries, Segment, parse_segment, seal_segment, segment_plain
from backup.repository.access import read_access
from backup.repository.config import read_config
from backup.repository.repository import Repository
from infra.objectstore.contract import ObjectStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Damage, Refused
from zaibei.kernel.state import state_dir, write_atomic


@dataclass(frozen=True, slots=True)
class HostRepository(Repository):
    """Everything that reads contents raises Refused."""

    def catalogue(
        self,
        *,
        without: frozenset[str] = frozenset(),
        damaged: Callable[[str, Damage], None] | None = None,
    ) -> BlobIndex:
        return BlobIndex().load(self.segments(damaged), without=without)

    def segments(self, damaged: Callable[[str, Damage], None] | None = None) -> Iterator[Segment]:
        """Its own, as remembered. A damaged memory is no memory."""
        there = {s.key.removeprefix("index/") for s in self.listed("index/")}
        memory = self._memory()
        for file in sorted(memory.iterdir()) if memory.is_dir() else ():
            if file.name not in there:
                file.unlink(missing_ok=True)
                continue
            try:
                checksum, _, plain = file.read_bytes().partition(b"\n")
                if checksum != _checksum(plain):
                    raise Damage(f"{file}: not what was written")
                yield parse_segment(file.name, plain)
            except Damage as bad:
                file.unlink(missing_ok=True)
                if damaged is not None:
                    damaged(f"index/{file.name}", bad)

    def write_segment(self, packs: Sequence[PackEntries], *, retain_until: datetime | None) -> int:
        plain = segment_plain(packs)
        name, sealed = seal_segment(self.keys, plain)
        # The memory first: of a segment that never comes to be it forgets at the next look.
        write_atomic(self._memory() / name, _checksum(plain) + b"\n" + plain, mode=0o600)
        self.create(f"index/{name}", sealed, retain_until=retain_until)
        return len(sealed)

    def _memory(self) -> Path:
        place = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        return state_dir() / "backup" / "hosts" / f"{self.config.repository.hex()}-{place}"


def open_write_only(store: ObjectStore, host: HostKey, *, clock: Clock) -> HostRepository:
    """Raises Refused for a host without a valid certificate, WrongKey for another repository's key, RolledBack
    for a vault that hides a rotation this host has seen."""
    config = read_config(store, clock=clock)
    if (config.repository, config.suite, config.ids) != (host.repository, host.suite, host.ids):
        raise WrongKey(f"{store.name}: the host key is of another repository")
    authority = read_access(store, config, clock=clock).authority
    if authority.newest.epoch < host.epoch:
        raise RolledBack(
            f"{store.name}: epoch {host.epoch} of the keys was there and is not any more",
            hint="the vault was rolled back or withholds it: compare with the other vault",
        )
    if authority.reigns[host.epoch - 1].signer != host.signer:
        raise Damage(f"{store.name}: config was signed by somebody else")
    mine = authority.hosts.get(host.public)
    if mine is None or mine.until is not None:
        raise Refused(
            f"{store.name}: {host.name!r} "
            + ("has no certificate here" if mine is None else "may not write any more: revoked"),
            hint="zaibei backup key add --host NAME, with a key that opens the repository",
        )
    ring = HostRing.of_host(host, authority=authority)
    return HostRepository(store, clock, config, ring)


def _checksum(plain: bytes) -> bytes:
    return hashlib.sha256(plain).hexdigest().encode()

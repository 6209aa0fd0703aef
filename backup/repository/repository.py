"""A repository in a vault: made once, opened with a passphrase, read in one direction.

Write order: packs → index segment → snapshot. Read order is the reverse: snapshots are listed before the
index is read, so everything that a listed snapshot needs is in the index that is read after.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from backup.crypto.identity import Secret
from backup.crypto.seal import Kind
from backup.crypto.suite import suite
from backup.format import epoch
from backup.format.chain_link import Link
from backup.format.forget_statement import Forgotten
from backup.format.snapshot import Snapshot
from backup.repository import access as key_access
from backup.repository import chain, resealed, unreadable
from backup.repository.access import read_access
from backup.repository.config import read_config
from backup.repository.vault import OpenVault, Vault
from infra.objectstore.contract import ObjectStore, Stat
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Busy, Damage

if TYPE_CHECKING:
    from backup.index.blob_index import BlobIndex
    from backup.index.segment import PackEntries, Segment


@dataclass(frozen=True, slots=True)
class Repository(OpenVault):
    """The façade: one line a question, answered by the modules beside this one."""

    def forgotten(self, damaged: unreadable.Damaged | None = None) -> dict[int, Forgotten]:
        """What the signed statements take out of the repository, by sequence. Without `damaged` the first that
        cannot be read raises: for who removes. With it, its snapshots count as not forgotten."""
        return chain.statements(self, damaged)

    def present(self) -> list[int]:
        """Snapshots that are there, forgotten or not; after a rotation perhaps only sealed anew. No strays."""
        return chain.present(self)

    def named(self, prefix: str) -> list[Stat]:
        """`listed`, where what was sealed anew stands for an original that is gone. In key order."""
        return resealed.named(self, prefix)

    def sequences(self) -> list[int]:
        """Those that are there and not forgotten."""
        return chain.sequences(self)

    def snapshots(self) -> list[Snapshot]:
        """All that are not forgotten, oldest first, each link of the chain checked. A hole is damage unless
        a statement explains it, or one that cannot be read may do so: then it is told."""
        return chain.snapshots(self)

    def snapshot(self, sequence: int) -> Snapshot:
        """Through a copy where the original does not open. Raises Damage when nothing does."""
        return resealed.snapshot_of(self, sequence).value

    def original(self, sequence: int) -> Snapshot:
        return resealed.original(self, sequence)

    def link(self, sequence: int) -> Link:
        """What everybody may know of a snapshot, also who cannot open it."""
        return resealed.link_of(self, sequence)

    def ensure_current_keys(self) -> None:
        """Raises Busy when the keys that were opened are not the newest any more."""
        if len(self.listed(epoch.PREFIX)) >= self.keys.epoch:
            raise Busy(
                f"{self.name}: the keys were rotated meanwhile",
                hint="run it again: what it wrote is found, not written twice",
            )

    def opened(self, kind: Kind, key: str) -> bytes:
        """What was sealed whole under `key`, or once more after a rotation."""
        return resealed.opened(self, kind, key).value

    def tip(self) -> Link | None:
        """The end of the chain, forgotten or not: what the next snapshot follows. Reads one snapshot."""
        return chain.tip(self)

    def find(self, which: str, *, kind: str | None = None) -> Snapshot:
        """`latest` or a number. The newest may be incomplete: its content says so."""
        return chain.find(self, which, kind=kind)

    def catalogue(
        self,
        *,
        without: frozenset[str] = frozenset(),
        damaged: Callable[[str, Damage], None] | None = None,
    ) -> "BlobIndex":
        """Every index segment, read now, but for packs that are not to be relied on. The caller closes it.

        `damaged` as in `segments`: for who stores again, or misses loudly, what a bad segment names. Never
        for who deletes.
        """
        from backup.repository import index_loading  # noqa: PLC0415 - it takes as long to import as a key to derive

        return index_loading.catalogue(self, without=without, damaged=damaged)

    def segments(self, damaged: Callable[[str, Damage], None] | None = None) -> "Iterator[Segment]":
        """Each index segment, a few read ahead. Without `damaged` the first bad one raises. One that is
        marked is no loss: others name what it names."""
        from backup.repository import index_loading  # noqa: PLC0415

        return index_loading.segments(self, damaged)

    def write_segment(
        self, packs: "Sequence[PackEntries]", *, retain_until: datetime | None
    ) -> int:
        """Packs that are in the vault get their names in the index. Its size."""
        from backup.index.segment import encode_segment  # noqa: PLC0415

        name, sealed = encode_segment(self.keys, packs)
        self.create(f"index/{name}", sealed, retain_until=retain_until)
        return len(sealed)

    def rebuilt_catalogue(
        self, damaged: Callable[[str, Damage], None] | None = None
    ) -> "BlobIndex":
        """The same from the packs' own trailers, when segments are lost or damaged: two small reads a pack.
        Without `damaged` the first pack that does not tell raises."""
        from backup.repository import index_loading  # noqa: PLC0415

        return index_loading.rebuilt(self, damaged)


def open_repository(store: ObjectStore, secret: Secret, *, clock: Clock) -> Repository:
    """With a passphrase or a private key. Raises WrongKey, Damage, NewerFormat, NotARepository."""
    config = read_config(store, clock=clock)
    chosen = suite(config.suite, config.ids)
    found = read_access(store, config, clock=clock)
    ring = key_access.keyring(Vault(store, clock), found, secret, suite=chosen)
    return Repository(store, clock, config, ring)

"""Creates a repository in an empty vault, and proves first that the vault keeps what is created once."""

import secrets
from contextlib import suppress
from datetime import datetime

from backup.crypto import keyring as keying
from backup.crypto import signed
from backup.crypto.keyring import Kdf, Keyring
from backup.crypto.suite import IDS_OF_NEW, suite
from backup.errors import Taken
from backup.format import recipient as recipient_format
from backup.format.config import CONFIG, FORMAT, Config
from backup.repository import config as config_object
from backup.repository.repository import Repository
from backup.repository.vault import retry
from infra.objectstore.contract import AlreadyThere, NotThere, ObjectStore
from zaibei.kernel.clock import Clock
from zaibei.kernel.errors import Refused


def create_repository(
    store: ObjectStore,
    passphrase: str,
    *,
    clock: Clock,
    suite_name: str = "intl",
    kdf: Kdf | None = None,
    retain_until: datetime | None = None,
) -> Repository:
    """Raises Taken when there is one, Damage when there was. The key object goes first: without `config` there is
    nothing to open, so a crash between the two leaves only a stray key, which the next `init` does not mind."""
    with suppress(NotThere):
        retry(clock, lambda: store.stat(CONFIG))
        raise Taken(
            f"{store.name}: there is a repository already",
            hint="choose another prefix or directory",
        )
    config_object.demand_none(store, clock=clock)
    chosen = suite(suite_name, IDS_OF_NEW.get(suite_name, ""))
    repository = secrets.token_bytes(keying.REPOSITORY_BYTES)
    root = keying.new_root()
    ring = Keyring.of_root(root, suite=chosen, repository=repository)
    recipient = recipient_format.passphrase(
        root, passphrase, suite=chosen, repository=repository, kdf=kdf or Kdf()
    )
    config = Config(
        repository=repository,
        suite=chosen.name,
        signer=ring.public,
        created=clock.now().isoformat(),
        ids=chosen.ids,
    )
    one = Repository(store, clock, config, ring)
    key = signed.sign("key", recipient, ring.signer)
    where = f"keys/{chosen.digest(key)}"
    one.create(where, key, retain_until=retain_until)
    _demand_write_once(one, where, key)
    body = {"format": FORMAT, "repository": repository.hex(), "suite": config.suite}
    body |= {"signer": config.signer.hex(), "created": config.created}
    body |= {"ids": config.ids} if config.ids else {}
    one.create(CONFIG, signed.sign("config", body, ring.signer), retain_until=retain_until)
    return one


def _demand_write_once(repo: Repository, key: str, data: bytes) -> None:
    """A store that ignores If-None-Match lets one writer undo another, and says 200 to both. Found out here,
    before there is a repository to lose."""
    with suppress(AlreadyThere):
        retry(repo.clock, lambda: repo.store.create(key, b"a second writer"))
        raise Refused(
            f"{repo.name}: it overwrites what must be created once; no repository was made",
            hint="zaibei store probe --role vault tells what else it does not keep",
        )
    if repo.read(key) != data:
        raise Refused(f"{repo.name}: refused a second writer and kept its bytes all the same")

"""The object `epochs/<number>`: announces a new root, signed by the one before it.

In the clear: who signs from now on, what write-only hosts seal to, and what the old signer had
signed until then. Sealed under the new root: the older roots, so that a recipient needs only the
newest.
"""

import base64
import json
from typing import Final

import rfc8785

from backup.crypto import signed
from backup.crypto.keyring import Epoch, Keyring
from backup.crypto.seal import Kind, open_whole, seal_whole
from backup.crypto.suite import Suite
from backup.crypto.trust import FIRST_EPOCH, KeyEpoch, Settled
from backup.errors import NewerFormat
from zaibei.kernel.errors import Damage

PREFIX: Final = "epochs/"
EPOCHS_MAX: Final = 10_000
_DOCUMENT = "epoch"


def key_of(epoch: int) -> str:
    return f"{PREFIX}{epoch:010d}"


def number_of(key: str) -> int:
    tail = key.removeprefix(PREFIX)
    if not (tail.isascii() and tail.isdigit()) or key != key_of(int(tail)):
        raise Damage(f"{key}: not the name of an epoch")
    return int(tail)


def encode(old: Keyring, new: Keyring, *, settled: Settled, why: str, at: str) -> bytes:
    """`new` holds the old epochs and one more."""
    assert new.epoch == old.epoch + 1
    key = key_of(new.epoch)
    older = {str(n): e.root.hex() for n, e in old.epochs.items()}
    sealed = seal_whole(new, Kind.EPOCH, key, rfc8785.dumps(older))
    return signed.sign(
        _DOCUMENT,
        {
            "format": 1,
            "repository": old.repository.hex(),
            "epoch": new.epoch,
            "previous": old.authority.newest.digest,
            "signer": new.public.hex(),
            "box": new.box.hex(),
            "settled": {"snapshots": settled.snapshots, "statements": settled.statements},
            "older": base64.b64encode(sealed).decode(),
            "why": why,
            "at": at,
        },
        old.signer,
    )


def decode(data: bytes, *, before: KeyEpoch, repository: bytes, suite: Suite) -> KeyEpoch:
    """What everybody may know of it. Raises Damage unless the epoch before signed it."""
    epoch = before.epoch + 1
    what = key_of(epoch)
    body, signature = signed.parse(data, what=what)
    signed.check(_DOCUMENT, body, signature, before.signer, what=what)
    if body.get("format") != 1:
        raise NewerFormat(f"{what}: format {body.get('format')}", hint="use a newer zaibei")
    if body.get("repository") != repository.hex() or body.get("epoch") != epoch:
        raise Damage(f"{what}: an epoch of another repository or place")
    try:
        if body["previous"] != before.digest:
            raise Damage(f"{what}: does not follow the epoch before it")
        return KeyEpoch(
            epoch=epoch,
            signer=bytes.fromhex(body["signer"]),
            box=bytes.fromhex(body["box"]),
            settled=Settled(
                snapshots=int(body["settled"]["snapshots"]),
                statements={str(k): str(v) for k, v in body["settled"]["statements"].items()},
            ),
            digest=suite.digest(data),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise Damage(f"{what}: {bad}") from bad


def older(data: bytes, newest: Keyring, *, epoch: int) -> list[Epoch]:
    """The epochs before, out of the announcement of `epoch`; `newest` holds that one only."""
    what = key_of(epoch)
    body, _ = signed.parse(data, what=what)
    try:
        sealed = base64.b64decode(body["older"], validate=True)
        roots = json.loads(open_whole(newest, Kind.EPOCH, what, sealed))
        return [
            Epoch.of_root(
                bytes.fromhex(roots[str(n)]),
                suite=newest.suite,
                repository=newest.repository,
                number=n,
            )
            for n in range(FIRST_EPOCH, epoch)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise Damage(f"{what}: {bad}") from bad

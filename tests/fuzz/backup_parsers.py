"""Everything in backup/ that reads bytes from a vault or text from a person, as one table of targets.

    python tests/fuzz/backup_parsers.py                     the names
    python tests/fuzz/backup_parsers.py tree 60             coverage-guided (atheris), for so many seconds

The law for each: any input gives a value or a ZaibeiError, never another exception, never a hang, and memory in
proportion to the input. What lies behind a seal is sealed here after it was garbled: whoever holds a host's
key can write such bytes.
"""

import base64
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785

from backup.crypto import escrow, identity, keyring, seal, signed
from backup.crypto.host_key import HostKey
from backup.crypto.seal import Kind
from backup.crypto.suite import suite
from backup.crypto.trust import KeyEpoch, Settled
from backup.format import (
    blob,
    chain_link,
    epoch,
    forget_statement,
    mark,
    pack,
    recipient,
    snapshot,
    tree,
    wal_segment,
)
from backup.format.snapshot import Content
from backup.index import segment
from backup.keys import rotation
from backup.mask import policy
from backup.postgres.recovery_target import Target
from backup.schedule import model
from backup.sources.walk import Rules
from backup.wal.timelines import parse_history
from zaibei.kernel.errors import ZaibeiError

RING = keyring.Keyring.of_root(bytes(range(32)), suite=suite("intl"), repository=bytes(16))
_NOW = datetime(2026, 11, 22, tzinfo=UTC)
_NODE = tree.Node(
    path="人口/表".encode(), type=tree.Type.FILE, mode=0o640, mtime_ns=1, blobs=(bytes(32),)
)
_LINK = tree.Node(path=b"\xff", type=tree.Type.LINK, mode=0o777, mtime_ns=1, target=b"../x")
_CONTENT = Content(
    kind="files",
    label="l",
    host="h",
    started=_NOW,
    finished=_NOW,
    tree=(bytes(32),),
    entries=1,
    size_bytes=1,
    complete=True,
    facts={"system_identifier": "7300000000000000001"},
)
_FORGOTTEN = forget_statement.Statement(
    number=1,
    snapshots=(chain_link.Link(sequence=1, digest="00" * 32, previous=None),),
    kept=(),
    why="x",
    at="2026-11-22",
)


@dataclass(frozen=True, slots=True)
class Parser:
    """`parse` is the law's subject; `seeds` are good inputs to begin from."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _pack() -> bytes:
    one = pack.Builder(blob.Kind.DATA)
    for text in (b"a" * 100, b"b" * 1000):
        encoding, encoded = blob.encode(text)
        one.add(RING.blob_id(b"blob/data", text), encoding, encoded, len(text))
    return one.seal(RING, random.Random(1)).data


def _segment_plain() -> bytes:
    sealed_pack = _pack()
    name = RING.suite.digest(sealed_pack)
    entries = pack.read_trailer(RING, name, sealed_pack)
    _, sealed = segment.encode_segment(RING, [segment.PackEntries(name, len(sealed_pack), entries)])
    return seal.open_whole(RING, Kind.INDEX, "index", sealed)


def _segment(plain: bytes) -> object:
    sealed = seal.seal_whole(RING, Kind.INDEX, "index", plain)
    return segment.decode_segment(RING, RING.suite.digest(sealed), sealed)


def _snapshot_text() -> bytes:
    raw = snapshot.encode(RING, _CONTENT, sequence=1, previous=None)
    body, _ = signed.parse(raw, what="seed")
    sealed = base64.b64decode(body["sealed"])
    return seal.open_whole(RING, Kind.SNAPSHOT, snapshot.key_of(1), sealed)


def _snapshot(plain: bytes) -> object:
    """A garbled inside in a good envelope."""
    sealed = seal.seal_whole(RING, Kind.SNAPSHOT, snapshot.key_of(1), plain)
    body = {
        "format": 1,
        "repository": RING.repository.hex(),
        "sequence": 1,
        "previous": None,
        "sealed": base64.b64encode(sealed).decode(),
    }
    return snapshot.decode(RING, signed.sign("snapshot", body, RING.signer), sequence=1)


def _signed_body(kind: str, parse: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """A garbled body under a good signature: what a thief of the root could write."""

    def one(text: bytes) -> object:
        try:
            body = json.loads(text)
            document = signed.sign(kind, body, RING.signer)
        except (ValueError, RecursionError, rfc8785.CanonicalizationError):
            return None
        return parse(document)

    return one


def _key(text: bytes) -> object:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return recipient.unwrap(body, "x", suite=RING.suite) if isinstance(body, dict) else None


def _body_of(document: bytes) -> bytes:
    return rfc8785.dumps(signed.parse(document, what="seed")[0])


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda raw: parse(raw.decode(errors="replace"))


def _wal_payload(plain: bytes) -> object:
    encoding, _, raw, stored = wal_segment._PAYLOAD.unpack_from(plain.ljust(13, b"\0"))
    return blob.decode(
        encoding, plain[13 : 13 + stored], raw_bytes=raw, bound=wal_segment.SEGMENT_BYTES
    )


_RECIPIENT = recipient.passphrase(
    bytes(32),
    "x",
    suite=RING.suite,
    repository=RING.repository,
    kdf=keyring.Kdf(memory_kib=8, iterations=1, lanes=1),
)


def _file(parse: Callable[[Path], object]) -> Callable[[bytes], object]:
    def one(raw: bytes) -> object:
        with tempfile.NamedTemporaryFile() as held:  # mode 0600, as a file of secrets must be
            held.write(raw)
            held.flush()
            return parse(Path(held.name))

    return one


def _json(parse: Callable[[Any], object]) -> Callable[[bytes], object]:
    def one(raw: bytes) -> object:
        try:
            return parse(json.loads(raw))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            return None  # whoever reads the file says so before

    return one


def _saved(save: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "x")
        return (Path(folder) / "x").read_bytes()


def _epoch(raw: bytes) -> object:
    before = KeyEpoch(epoch=1, signer=RING.public)
    return epoch.decode(raw, before=before, repository=RING.repository, suite=RING.suite)


def _mark(raw: bytes) -> object:
    return mark._decode(RING, RING.suite.digest(raw), raw, _NOW)


_EPOCH = epoch.encode(
    RING,
    rotation._next(RING, RING.authority),
    settled=Settled(snapshots=1, statements={}),
    why="x",
    at="x",
)
_MARK = signed.sign(
    "mark",
    {
        "format": 1,
        "repository": RING.repository.hex(),
        "packs": ["00" * 32],
        "segments": [],
        "observed": [1],
        "why": "x",
        "at": "x",
    },
    RING.signer,
)
_IDENTITY = identity.Identity(curve="x25519", private=bytes(range(1, 33)))
_JOB = model.Job(name="nightly", files=("/srv",), cron="0 2 * * *", created=_NOW)
PARSERS: dict[str, Parser] = {
    "epoch": Parser(_epoch, (_EPOCH,)),
    "epoch-body": Parser(_signed_body("epoch", _epoch), (_body_of(_EPOCH),)),
    "mark-body": Parser(_signed_body("mark", _mark), (_body_of(_MARK),)),
    "host-key": Parser(_file(HostKey.load), (_saved(HostKey.new(RING, name="web-1").save),)),
    "identity-file": Parser(
        _file(identity.load), (_saved(lambda at: identity.save(_IDENTITY, at)),)
    ),
    "shares-file": Parser(
        _file(identity.load_shares),
        ("\n".join(escrow.split(bytes(range(1, 33)), threshold=2, shares=2)).encode(),),
    ),
    "public-key": Parser(_text(identity.parse_public), (identity.public_text(_IDENTITY).encode(),)),
    "exclude-rules": Parser(
        _text(lambda text: Rules.of(text.splitlines())), (b"*.tmp\n!keep\n/a/**/b",)
    ),
    "mask-rules": Parser(_json(policy.parse), (b'[{"column": "a.b.c.d", "treat": "phone"}]',)),
    "schedule-job": Parser(_json(model.from_json), (json.dumps(model.to_json(_JOB)).encode(),)),
    "signed": Parser(
        lambda raw: signed.parse(raw, what="x"),
        (signed.sign("config", {"format": 1, "x": "人"}, RING.signer),),
    ),
    "key": Parser(_key, (rfc8785.dumps(_RECIPIENT),)),
    "pack": Parser(lambda raw: pack.check_whole(RING, RING.suite.digest(raw), raw), (_pack(),)),
    "trailer": Parser(lambda raw: pack.read_trailer(RING, "x", raw), (_pack(),)),
    "segment": Parser(_segment, (_segment_plain(),)),
    "snapshot": Parser(_snapshot, (_snapshot_text(),)),
    "snapshot-envelope": Parser(
        lambda raw: snapshot.decode(RING, raw, sequence=1),
        (snapshot.encode(RING, _CONTENT, sequence=1, previous=None),),
    ),
    "tree": Parser(
        lambda raw: list(tree.decode([raw])),
        (b"".join(tree.encode(_NODE)) + b"".join(tree.encode(_LINK)),),
    ),
    "blob": Parser(
        lambda raw: blob.decode(
            raw[0] % 3 if raw else 0, raw[5:], raw_bytes=int.from_bytes(raw[1:5])
        ),
        (b"\1" + (500).to_bytes(4) + blob.encode(b"a" * 500)[1],),
    ),
    "wal": Parser(_wal_payload, (wal_segment._payload(b"log" * 50, 8192),)),
    "wal-first-page": Parser(
        wal_segment.system_of, (wal_segment._HEADER.pack(0xD110, 2, 1, 0, 0, 7, 16 << 20, 8192),)
    ),
    "timeline-history": Parser(parse_history, (b"1\t0/3000028\tno recovery target\n",)),
    "target": Parser(
        _text(Target.parse), (b"latest", b"lsn=0/3000028", b"time=2026-11-22T04:00:00Z", b"name=x")
    ),
    "lsn": Parser(_text(wal_segment.lsn), (b"0/3000028",)),
    "segment-name": Parser(_text(wal_segment.parse_segment), (b"000000010000000000000003",)),
    "forget": Parser(
        _signed_body("forget", lambda raw: forget_statement.decode(RING, raw, number=1)),
        (_body_of(forget_statement.encode(RING, _FORGOTTEN)),),
    ),
}


def check(name: str, raw: bytes) -> None:
    """Raises whatever is against the law."""
    try:
        PARSERS[name].parse(raw)
    except ZaibeiError:
        return


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """A good input with a few wounds: flips, cuts, insertions, numbers at their limits, pieces doubled."""
    out = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1:
                del out[at : at + rng.randint(1, 16)]
            case 2:
                out[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                limit = rng.choice((b"\0", b"\xff", b"\x80", b"\x7f"))
                out[at : at + 4] = limit * 4
            case 4:
                out[at:at] = out[rng.randrange(len(out) + 1) :][: rng.randint(1, 64)]
            case _:
                word = (
                    b"-1",
                    b"null",
                    b"[]",
                    b"{}",
                    b'""',
                    b"1e999",
                    b"true",
                    b"99999999999999999999",
                )
                out[at : at + rng.randint(0, 3)] = rng.choice(word)
    return bytes(out)


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        print("\n".join(PARSERS))
        return 0
    import atheris  # noqa: PLC0415 — instruments what is imported after it; only this mode needs it

    name, seconds = argv[1], argv[2] if len(argv) > 2 else "60"
    with tempfile.TemporaryDirectory() as corpus:
        for n, seed in enumerate(PARSERS[name].seeds):
            with open(f"{corpus}/{n}", "wb") as out:  # noqa: PTH123
                out.write(seed)
        atheris.instrument_all()
        atheris.Setup(
            [argv[0], f"-max_total_time={seconds}", "-rss_limit_mb=1024", corpus],
            lambda raw: check(name, raw),
        )
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

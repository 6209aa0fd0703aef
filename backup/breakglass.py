#!/usr/bin/env python3
"""Break glass: restore from a zaibei repository with this one file and nothing else of zaibei.

Needs Python 3.11, `cryptography` and `zstandard`. Keep it, docs/design/repository.md and the secret where no
lost site can take them. A vault on S3 is first copied to a directory, with whatever client is at hand.

    python3 breakglass.py VAULT SECRET-FILE [TARGET [NUMBER]]  lists; restores the newest; or that one

SECRET-FILE: a passphrase, an identity file, or a private key in hex (escrow: what SLIP-39 makes of shares). With
a PostgreSQL snapshot comes its log: restore_command = 'cp TARGET/wal/%f %p'. Damage is named and ends with 1.
"""

import hashlib
import json
import os
import re
import struct
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, aead, algorithms, modes
from cryptography.hazmat.primitives.kdf import argon2, hkdf

PACK, SNAPSHOT, WAL, EPOCH = 1, 3, 4, 5  # kinds of sealed objects
HEADER, TAG, FOOTER, SEGMENT = 76, 16, 20, 16 << 20
ENTRY = struct.Struct(">32sBBIII")  # of a pack's trailer: id, kind, encoding, offset, stored, raw
WAL_KEY = re.compile(r".*system=(\d+)/.*/(\w{8}\.history|\w{24})(?:\.part/(\d+))?")
# What others leave among them (.DS_Store, lost+found) is not read.
OURS = re.compile(r"(keys|packs/..)/[0-9a-f]{64}|(resealed/\d{10}/)?(snapshots/\d{10}|wal/.*)")
unhex, epoch_key, ids_in = bytes.fromhex, "epochs/{:010d}".format, re.compile(b"(?s).{32}").findall
Body = dict[str, Any]
Say = Callable[[str], None]  # takes what is damaged


class Broken(Exception):
    """Something is not what was written, or this file does not know it."""


class Repository:
    def __init__(self, root: Path, secret: str) -> None:
        self.root = root
        config = json.loads((root / "config").read_bytes())["body"]
        self.signers = [unhex(config["signer"])]  # of the epochs, and then of hosts that only write
        self.signed("config", "config")
        if config["format"] != 1 or config["suite"] not in ("intl", "sm"):
            raise Broken(f"format {config['format']}, suite {config['suite']}: a later one")
        self.id, self.sm = unhex(config["repository"]), config["suite"] == "sm"
        self.code, self.key_bytes = (2, 16) if self.sm else (1, 32)
        while (root / epoch_key(len(self.signers) + 1)).exists():
            body = self.signed("epoch", epoch_key(len(self.signers) + 1))
            self.signers.append(unhex(body["signer"]))
        newest = len(self.signers)
        self.roots = {newest: self.unwrapped(secret, newest)}
        if newest > 1:
            older = self.whole(EPOCH, epoch_key(newest), b64decode(body["older"]))
            self.roots |= {int(n): unhex(r) for n, r in json.loads(older).items()}
        self.places: dict[bytes, list[tuple[Any, ...]]] = {}

    def list(self, prefix: str) -> list[str]:
        found = (p.relative_to(self.root).as_posix() for p in (self.root / prefix).rglob("*"))
        return sorted(key for key in found if OURS.fullmatch(key) and (self.root / key).is_file())

    def derive(self, secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
        digest = hashes.SM3() if self.sm else hashes.SHA256()
        return hkdf.HKDF(digest, length, salt, info).derive(secret)

    def opened(self, key: bytes, nonce: int, data: bytes, aad: bytes) -> bytes:
        try:
            if not self.sm:
                return aead.AESGCM(key).decrypt(nonce.to_bytes(12), data, aad)
            sm = Cipher(algorithms.SM4(key), modes.GCM(nonce.to_bytes(12), data[-TAG:])).decryptor()
            sm.authenticate_additional_data(aad)
            return sm.update(data[:-TAG]) + sm.finalize()
        except (InvalidTag, ValueError) as bad:
            raise Broken("sealed bytes are not what was sealed") from bad

    def signed(self, kind: str, key: str) -> Body:
        """The body of a signed document, by whoever may sign here."""
        document = json.loads((self.root / key).read_bytes())
        message = f"zaibei/{kind}\0".encode() + canonical(document["body"])
        for signer in self.signers:
            with suppress(InvalidSignature):
                one = ed25519.Ed25519PublicKey.from_public_bytes(signer)
                one.verify(unhex(document["signature"]), message)
                return dict(document["body"])
        raise Broken(f"{key}: the signature does not fit")

    def unwrapped(self, secret: str, newest: int) -> bytes:
        """The newest root; and on the way the hosts that may sign."""
        found, hosts = None, []
        for key in self.list("keys/"):
            claimed = json.loads((self.root / key).read_bytes())["body"]
            if claimed["repository"] != self.id.hex() or claimed["epoch"] > newest:
                continue  # a stranger's, or of a rotation that died
            body = self.signed("key", key)
            if body["kind"] == "writer":
                hosts.append(unhex(body["public"]))
            elif body["epoch"] == newest and found is None:
                found = self.root_in(body, secret)
        if found is None:
            raise Broken("this secret opens none of the keys: is it the right one?")
        self.signers += hosts
        return found

    def root_in(self, body: Body, secret: str) -> bytes | None:
        sealed, size = b64decode(body.pop("sealed")), self.key_bytes
        private = unhex(secret) if re.fullmatch("[0-9a-f]{64}", secret) else b""
        if body["kind"] == "passphrase":
            kdf = body["kdf"]
            cost = {"memory_cost": kdf["memory_kib"], "iterations": kdf["iterations"]}
            cost |= {"lanes": kdf["lanes"], "length": size + 32}
            key = argon2.Argon2id(salt=unhex(kdf["salt"]), **cost).derive(secret.encode())
            if key[size:].hex() != body["commitment"]:
                return None
            if body["format"] == 1:
                return self.opened(key[:size], 0, sealed, canonical(body))
            names = ("repository", "suite", "curve", "public", "kdf")
            info, aad = b"zaibei/half" + self.id, canonical({k: body[k] for k in names})
            key = self.derive(key[:size], unhex(body["public"]), info, size)
            private = self.opened(key, 0, b64decode(body["half"]), aad)
        curve = str(body.get("curve"))
        if not private or agreed(curve, private, BASE[curve]).hex() != body["public"]:
            return None
        given, info = unhex(body["wrap"]["encapsulated"]), b"zaibei/recipient" + self.id
        shared = sm2_opened(private, given) if curve == "sm2" else agreed(curve, private, given)
        key = self.derive(shared + unhex(body["public"]), given, info, size + 32)
        return self.opened(key[:size], 0, sealed, canonical(body))

    def purpose(self, epoch: int, use: str, size: int) -> bytes:
        return self.derive(self.roots[epoch], self.id, f"zaibei/{use}/epoch={epoch}".encode(), size)

    def opener(self, kind: int, name: str, raw: bytes) -> Callable[[int, bytes], bytes]:
        """What opens the slots of one sealed object."""
        header, what, salt = raw[:HEADER], name or "pack", raw[12:44]
        if len(header) < HEADER or header[:6] != b"ZBO1" + bytes([kind, self.code]):
            raise Broken(f"{what}: not an object of this kind and repository")
        mode, epoch = header[6], int.from_bytes(header[8:12])
        if mode > 3 or epoch not in self.roots:
            raise Broken(f"{what}: sealed in mode {mode} and epoch {epoch}")
        secret = self.purpose(epoch, "data", 32)
        if mode:  # by a host that can only write: to the public half of `box`
            box, curve = self.purpose(epoch, "box", 48), "x25519" if mode == 1 else "sm2"
            box = box[:32] if mode == 1 else (1 + int.from_bytes(box) % (SM2_N - 1)).to_bytes(32)
            point = salt if mode == 1 else sm2_lifted(salt, mode - 2)
            secret = agreed(curve, box, point) + agreed(curve, box, BASE[curve])
        info = b"zaibei/object" + header[:12] + self.id
        key = self.derive(secret, salt, info, self.key_bytes + 32)
        if key[self.key_bytes :] != header[44:]:
            raise Broken(f"{what}: sealed under another key")
        key, aad = key[: self.key_bytes], header + self.id + len(name).to_bytes(2) + name.encode()
        return lambda slot, data: self.opened(key, slot, data, aad + slot.to_bytes(8))

    def whole(self, kind: int, name: str, raw: bytes) -> bytes:
        return self.opener(kind, name, raw)(0, raw[HEADER:])

    def load_trailers(self, say: Say) -> None:
        """Where every blob is, from the packs themselves: the index is a convenience that is not needed here."""
        for key in self.list("packs/"):
            try:
                with open(self.root / key, "rb") as pack:
                    opened = self.opener(PACK, "", pack.read(HEADER))
                    pack.seek(-FOOTER, os.SEEK_END)
                    length = int.from_bytes(opened(2**32 - 1, pack.read()))
                    pack.seek(-FOOTER - length, os.SEEK_END)
                    listed = opened(2**32 - 2, pack.read(length))
                for slot in range(int.from_bytes(listed[:4])):
                    id_, _, *rest = ENTRY.unpack_from(listed, 4 + slot * ENTRY.size)
                    self.places.setdefault(id_, []).append((self.root / key, opened, slot, *rest))
            except (Broken, OSError, struct.error) as bad:
                say(f"{key}: {bad}")

    def blob(self, wanted: bytes) -> bytes:
        why = f"blob {wanted.hex()[:16]} is in no pack that can be read"
        for path, opened, slot, encoding, offset, stored, size in self.places.get(wanted, ()):
            try:
                with open(path, "rb") as pack:
                    pack.seek(offset)
                    return inflated(encoding, opened(slot, pack.read(stored)), size)
            except (Broken, OSError, zstandard.ZstdError) as bad:
                why = f"{path.name[:16]}: {bad}"
        raise Broken(why)

    def snapshots(self, say: Say) -> dict[int, Body]:
        """By number. A copy under a later root serves where the first cannot be read."""
        found: dict[int, Body] = {}
        for key in [*self.list("snapshots/"), *reversed(self.list("resealed/"))]:
            number = int(key.rpartition("/")[2]) if "snapshots/" in key else 0
            if not number or number in found:
                continue
            try:
                body = self.signed("snapshot" if key[:4] == "snap" else "resealed", key)
                if (body["repository"], body["sequence"]) != (self.id.hex(), number):
                    raise Broken("of another repository or place")
                found[number] = json.loads(self.whole(SNAPSHOT, key, b64decode(body["sealed"])))
            except (Broken, OSError, ValueError, KeyError) as bad:
                say(f"{key}: {bad}")
        return dict(sorted(found.items()))

    def nodes(self, snapshot: Body, say: Say) -> Iterator[Body]:
        node: Body | None = None
        for id_ in ids_in(b64decode(snapshot["tree"])):
            try:
                listed = self.blob(id_)
            except Broken as bad:
                say(f"a part of the listing is lost: {bad}")
                continue
            for fields in map(json.loads, listed.splitlines()):
                if "more" in fields and node is not None:
                    node["blobs"] += ids_in(b64decode(fields["more"]))
                    continue
                yield from filter(None, [node])
                node = fields | {"blobs": ids_in(b64decode(fields.get("blobs", "")))}
        yield from filter(None, [node])


def canonical(body: Body) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def inflated(encoding: int, data: bytes, size: int) -> bytes:
    if encoding == 1:
        data = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    if len(data) != size:
        raise Broken(f"{len(data)} bytes and should be {size}")
    return data


# SM2 (GB/T 32918) the short way: not for a machine where others can measure its time.
SM2_P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
SM2_N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
SM2_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
SM2_X = "32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7"
SM2_Y = "bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0"
BASE = {"x25519": (9).to_bytes(32, "little"), "sm2": unhex(SM2_X + SM2_Y)}


def agreed(curve: str, private: bytes, public: bytes) -> bytes:
    if curve == "sm2":
        return sm2_times(private, public)
    one = x25519.X25519PrivateKey.from_private_bytes(private)
    return one.exchange(x25519.X25519PublicKey.from_public_bytes(public))


def sm2_times(private: bytes, point: bytes) -> bytes:
    out, power = (0, 0), (int.from_bytes(point[:32]), int.from_bytes(point[32:]))
    for bit in range(256):
        if int.from_bytes(private) >> bit & 1:
            out = sm2_sum(out, power) if out != (0, 0) else power
        power = sm2_sum(power, power)
    return out[0].to_bytes(32) + out[1].to_bytes(32)


def sm2_sum(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
    over = 3 * one[0] ** 2 - 3 if one == two else two[1] - one[1]
    slope = over * pow(2 * one[1] if one == two else two[0] - one[0], -1, SM2_P)
    x = (slope * slope - one[0] - two[0]) % SM2_P
    return x, (slope * (one[0] - x) - one[1]) % SM2_P


def sm2_lifted(x: bytes, odd: int) -> bytes:
    at = int.from_bytes(x)
    y = pow(at**3 - 3 * at + SM2_B, (SM2_P + 1) // 4, SM2_P)
    return x + (y if y & 1 == odd else SM2_P - y).to_bytes(32)


def sm2_opened(private: bytes, sealed: bytes) -> bytes:
    both = sm2_times(private, sealed[:64])
    mask = hashlib.new("sm3", both + (1).to_bytes(4)).digest()
    data = bytes(a ^ b for a, b in zip(sealed[96:], mask, strict=True))
    if hashlib.new("sm3", both[:32] + data + both[32:]).digest() != sealed[64:96]:
        raise Broken("SM2: not encrypted to this key")
    return data


def restore(repo: Repository, snapshot: Body, target: str, say: Say) -> None:
    """Into the working directory. Links and directories last, the deepest first: none leads out."""
    late = list[tuple[bytes, Body]]()
    for node in repo.nodes(snapshot, say):
        path, kind = text_of(node, "path"), node["type"]
        if kind == "marker" or (kind == "object" and not node["object"]["latest"]):
            continue  # older versions of a bucket's keys: zaibei itself restores those
        if b"\0" in path or any(p in (b"", b".", b"..") for p in path.split(b"/")):
            say(f"{path!r}: a name that leads out of the target; not restored")
            continue
        os.makedirs(path if kind == "dir" else os.path.dirname(path) or b".", exist_ok=True)
        if kind not in ("file", "object"):
            late.append((path, node))
            continue
        try:
            with open(path, "xb") as out:
                write(repo, node, out)
            dress(path, node)
        except (Broken, ValueError, OverflowError) as bad:  # or what no system call takes
            os.replace(path, path + b".damaged")
            say(f"{os.fsdecode(path)!a}: {bad}; what there was is in ….damaged")
    for path, node in sorted(late, key=lambda one: one[0].count(b"/"), reverse=True):
        name = ascii(f"{target}/{os.fsdecode(path)}")
        try:
            if node["type"] == "fifo":
                os.mkfifo(path)
            if node["type"] == "link":
                os.symlink(text_of(node, "target"), path)
            elif node["type"] in ("dir", "fifo"):
                dress(path, node)
            else:
                print(f"not made: {name}: a {node['type']}", file=sys.stderr)
        except (OSError, ValueError, OverflowError) as bad:
            say(f"{name}: {type(bad).__name__}: {str(bad)[:200]!a}")


def write(repo: Repository, node: Body, out: Any) -> None:
    blobs, held, at = map(repo.blob, node["blobs"]), b"", 0
    for offset, length in [*node.get("holes", ()), (node["size"], 0)]:
        out.seek(at)
        while at < offset:
            held = held or next(blobs, b"")
            if not (wrote := out.write(held[: offset - at])):
                raise Broken(f"ends at {at} of {node['size']} bytes")
            at, held = at + wrote, held[wrote:]
        at = offset + length
    out.truncate(node["size"])


def dress(path: bytes, node: Body) -> None:
    if os.geteuid() == 0:
        os.chown(path, node["uid"], node["gid"])
    for name, value in node.get("xattrs", {}).items():
        os.setxattr(path, name, b64decode(value))
    os.chmod(path, node["mode"])
    os.utime(path, ns=(node["mtime_ns"], node["mtime_ns"]))
    if node["type"] == "file" and (node["mode"] & 0o6000 or "security.capability" in str(node)):
        print(f"gives rights: {os.fsdecode(path)!a}: setuid, setgid or capable", file=sys.stderr)


def text_of(node: Body, name: str) -> bytes:
    return node[name].encode() if name in node else unhex(node[f"{name}_hex"])


def wal(repo: Repository, system: str, target: Path, say: Say) -> None:
    """One cluster's log under PostgreSQL's names. A finished segment makes its increments superfluous."""
    held: dict[str, dict[int, str]] = {}
    for key in [*repo.list("resealed/"), *repo.list("wal/")]:
        if (found := WAL_KEY.fullmatch(key)) and found[1] == system:
            held.setdefault(found[2], {})[int(found[3] or 0)] = key
    for name, parts in held.items():
        try:
            out = bytearray(0 if name.endswith("history") else SEGMENT)
            for part in [0] if 0 in parts else sorted(parts):
                plain = repo.whole(WAL, parts[part], (repo.root / parts[part]).read_bytes())
                encoding, offset, size, stored = struct.unpack_from(">BIII", plain)
                out[offset : offset + size] = inflated(encoding, plain[13 : 13 + stored], size)
            (target / name).write_bytes(out)
        except (Broken, OSError, struct.error, zstandard.ZstdError) as bad:
            say(f"{name}: {bad}")


def main(vault: str, secret: str, target: str = "", which: str = "") -> int:
    os.umask(0o077)  # nothing may be read by others before it has its own mode
    trouble, text = list[str](), Path(secret).read_text("utf-8-sig")
    private = re.search(r"^zaibei-identity:\w+:(\w+)$", text, re.MULTILINE)
    repo = Repository(Path(vault).absolute(), private[1] if private else text.splitlines()[0])
    found = repo.snapshots(trouble.append)
    if not target:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        for number, each in found.items():
            state = "complete" if each["complete"] else "INCOMPLETE"
            print(number, each["finished"], each["kind"], each["size_bytes"], state, each["label"])
    else:
        one = found.get(int(which or max(found, default=0)))
        if one is None:
            raise Broken(f"no snapshot {which} can be read")
        os.makedirs(target, exist_ok=True)
        os.chdir(target)  # from here on in it, whatever becomes of its name
        if os.listdir() or (its := os.stat(".")).st_uid != os.geteuid() or its.st_mode & 0o022:
            raise Broken(f"{target} {'is not empty' if os.listdir() else 'is open to others'}")
        if one["kind"] == "postgres":
            os.mkdir("wal")
            wal(repo, one["facts"]["system_identifier"], Path("wal"), trouble.append)
            os.mkdir("data")
            os.chdir("data")
        repo.load_trailers(trouble.append)
        restore(repo, one, os.getcwd(), trouble.append)
        trouble += [f"not in the backup: {line}" for line in one["problems"]]
    sys.stderr.writelines(f"DAMAGE: {line}\n" for line in trouble)
    return 1 if trouble else 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]) if 3 <= len(sys.argv) <= 5 else __doc__)
    except (Broken, OSError, ValueError, TypeError, LookupError, ArithmeticError) as why:
        sys.exit(f"error: {why}")

"""Seeded changes to a pack, by name: what a careless copy, a clumsy forger and the holder of the keys may do to it."""

import base64
import gzip
import io
import os
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.evidence.conftest import Forger

Change = Callable[[Path, random.Random], None]
DOCUMENTS = {"MANIFEST", "VERIFY.en.md", "VERIFY.zh.md", "verify.sh"}
ODD_NAMES = (
    "x",
    "README",
    ".hidden",
    "runs/extra",
    "keys/other.pub",
    "keys/witness-.pub",
    "log/tile/9/000",
    "a b",
    "a\nb",
    "\x1b[2J\x1b[H",
    "schedule/000009-schedule.json",
    "proofs/x.txt",
    "MANIFEST.old",
    "-x",
    "名",
)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def signed(folder: Path) -> list[Path]:
    """Held by the log or the keys, and not by the manifest alone."""
    return [p for p in files(folder) if p.relative_to(folder).as_posix() not in DOCUMENTS]


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def flip(folder: Path, rng: random.Random) -> None:
    _flip(rng.choice(files(folder)), rng)


def _flip(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def set_byte(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    raw = bytearray(path.read_bytes())
    raw[rng.randrange(len(raw))] = rng.choice(b"\x00\n\r \x1b\xff=/")
    path.write_bytes(raw)


def truncate(folder: Path, rng: random.Random) -> None:
    edit(rng.choice(files(folder)), lambda raw: raw[: rng.randrange(len(raw))])


def append(folder: Path, rng: random.Random) -> None:
    tail = rng.choice([b"\n", b" ", b"\0", b"x", b"\r\n"])
    edit(rng.choice(files(folder)), lambda raw: raw + tail)


def insert(folder: Path, rng: random.Random) -> None:
    what = rng.choice([b"\0", b" ", b"\n", b"A", rng.randbytes(3)])
    path = rng.choice(files(folder))
    at = rng.randrange(path.stat().st_size)
    edit(path, lambda raw: raw[:at] + what + raw[at:])


def cut_out(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    at, size = rng.randrange(path.stat().st_size), rng.choice([1, 2, 30])
    edit(path, lambda raw: raw[:at] + raw[at + size :])


def zeros(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    at = rng.randrange(path.stat().st_size)
    edit(path, lambda raw: raw[:at] + bytes(len(raw[at : at + 16])) + raw[at + 16 :])


def remove(folder: Path, rng: random.Random) -> None:
    rng.choice(files(folder)).unlink()


def empty_folder(folder: Path, rng: random.Random) -> None:
    (rng.choice(files(folder)).parent / rng.choice(["empty", ".x", "000003-drill"])).mkdir()


def extra(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(ODD_NAMES)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


def twice(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    shutil.copyfile(path, path.with_name(f"{path.name}{rng.randrange(9)}"))


def exchange(folder: Path, rng: random.Random) -> None:
    a, b = rng.sample(files(folder), 2)
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


def rename(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    path.rename(
        path.with_name(rng.choice([path.name.swapcase(), f"{path.name}~", f".{path.name}"]))
    )


def link(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    aside = folder.parent / f"aside-{rng.randrange(1 << 30)}"
    path.rename(aside)
    path.symlink_to(aside)


def dangling_link(folder: Path, rng: random.Random) -> None:
    (folder / rng.choice(ODD_NAMES[:4])).symlink_to("/nothing")


def hard_link(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    os.link(path, path.with_name("again"))


def fifo(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    path.unlink()
    os.mkfifo(path)


def folder_for_a_file(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    raw = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / "x").write_bytes(raw)


def crlf(folder: Path, rng: random.Random) -> None:
    edit(_text(folder, rng), lambda raw: raw.replace(b"\n", b"\r\n"))


def _text(folder: Path, rng: random.Random) -> Path:
    return rng.choice([p for p in files(folder) if b"\n" in p.read_bytes()])


def no_newline(folder: Path, rng: random.Random) -> None:
    edit(_text(folder, rng), lambda raw: raw.rstrip(b"\n"))


def line_twice(folder: Path, rng: random.Random) -> None:
    def change(raw: bytes) -> bytes:
        lines = raw.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        return b"".join([*lines[:at], lines[at], *lines[at:]])

    edit(_text(folder, rng), change)


def line_gone(folder: Path, rng: random.Random) -> None:
    def change(raw: bytes) -> bytes:
        lines = raw.splitlines(keepends=True)
        del lines[rng.randrange(len(lines))]
        return b"".join(lines)

    edit(_text(folder, rng), change)


def lines_swapped(folder: Path, rng: random.Random) -> None:
    def change(raw: bytes) -> bytes:
        lines = raw.splitlines(keepends=True)
        at = rng.randrange(max(1, len(lines) - 1))
        lines[at : at + 2] = reversed(lines[at : at + 2])
        return b"".join(lines)

    edit(_text(folder, rng), change)


def other_case(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    at = rng.randrange(path.stat().st_size)
    edit(path, lambda raw: raw[:at] + raw[at : at + 40].swapcase() + raw[at + 40 :])


def digit(folder: Path, rng: random.Random) -> None:
    def change(raw: bytes) -> bytes:
        places = [m.start() for m in re.finditer(rb"[0-9]", raw)] or [0]
        at = rng.choice(places)
        return raw[:at] + rng.choice([b"0", b"9", b"", b"00"]) + raw[at + 1 :]

    edit(rng.choice(files(folder)), change)


def unused_bits(folder: Path, rng: random.Random) -> None:
    """base64 has bits at its end that no decoder looks at."""

    def change(raw: bytes) -> bytes:
        ends = [m.start() - 1 for m in re.finditer(rb"(?<!=)={1,2}", raw)]
        if not ends:
            return raw + b"="
        at = rng.choice(ends)
        return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]

    edit(_text(folder, rng), change)


def key_spelling(folder: Path, rng: random.Random) -> None:
    edit(rng.choice(sorted((folder / "keys").glob("*.pub"))), lambda raw: _spelt(raw, rng))


def _spelt(raw: bytes, rng: random.Random) -> bytes:
    head, *middle, end = raw.splitlines(keepends=True)
    body = b"".join(middle).replace(b"\n", b"")
    return rng.choice(
        [
            raw + b"\n",
            b"\n" + raw,
            raw[:-1],
            raw.replace(b"\n", b"\r\n"),
            raw.replace(b"\n", b" \n", 1),
            raw.replace(b"\n", b"\nX: y\n\n", 1),
            head + body + end,
            head + body[:40] + b"\n" + body[40:] + b"\n" + end,
            head.strip().ljust(254) + body.ljust(254) + end + body + b"\n",
            raw + raw,
            head.lower() + b"".join(middle) + end,
            head + body.rstrip(b"=") + b"\n" + end,
            head + base64.b64encode(base64.b64decode(body) + b"\0") + b"\n" + end,
            head + b"".join(middle) + end.replace(b"PUBLIC", b"PRIVATE"),
        ]
    )


def key_gone(folder: Path, rng: random.Random) -> None:
    rng.choice(sorted((folder / "keys").glob("*.pub"))).unlink()


def witness_added(folder: Path, rng: random.Random) -> None:
    witness = rng.choice(sorted((folder / "keys").glob("witness-*.pub")))
    shutil.copyfile(witness, folder / "keys" / f"witness-site-{rng.randrange(9)}.pub")


def unreadable_proof(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted((folder / "proofs").iterdir()))
    edit(path, lambda raw: raw.replace(b"\n", rng.choice([b"\n\n", b"\n \n", b" \n"]), 1))


PLAIN: tuple[Change, ...] = (
    flip,
    set_byte,
    truncate,
    append,
    insert,
    cut_out,
    zeros,
    remove,
    empty_folder,
    extra,
    twice,
    exchange,
    rename,
    link,
    dangling_link,
    hard_link,
    fifo,
    folder_for_a_file,
    crlf,
    no_newline,
    line_twice,
    line_gone,
    lines_swapped,
    other_case,
    digit,
    unused_bits,
    key_spelling,
    key_gone,
    witness_added,
    unreadable_proof,
)


def resealed(forger: Forger) -> tuple[Change, ...]:
    """Changes after which the key holder signs a manifest again: the log and the keys must hold them."""

    def again(change: Callable[[Path, random.Random], None]) -> Change:
        def change_and_seal(folder: Path, rng: random.Random) -> None:
            change(folder, rng)
            forger.reseal(folder)

        change_and_seal.__name__ = f"{change.__name__} and a new manifest"
        return change_and_seal

    def flip_signed(folder: Path, rng: random.Random) -> None:
        _flip(rng.choice(signed(folder)), rng)

    def truncate_signed(folder: Path, rng: random.Random) -> None:
        edit(rng.choice(signed(folder)), lambda raw: raw[: rng.randrange(len(raw))])

    def remove_signed(folder: Path, rng: random.Random) -> None:
        places = (
            "runs/*/statement.json",
            "proofs/*",
            "schedule/*",
            "runs/*/artifacts/*",
            "keys/sm2.pub",
            "log/tile/0/*/*",
            "log/tile/entries/*/*",
            "keys/FINGERPRINTS.txt",
            "keys/witness-site-b.pub",
        )
        found = sorted(p for place in places for p in folder.glob(place) if p.is_file())
        rng.choice(found).unlink()

    def exchange_signed(folder: Path, rng: random.Random) -> None:
        a, b = rng.sample(signed(folder), 2)
        one, other = a.read_bytes(), b.read_bytes()
        a.write_bytes(other)
        b.write_bytes(one)

    def extra_signed(folder: Path, rng: random.Random) -> None:
        place = rng.choice(
            [
                "runs/000002-drill/artifacts",
                "log",
                "keys",
                "proofs",
                "schedule",
                "runs/000009-drill",
            ]
        )
        (folder / place).mkdir(parents=True, exist_ok=True)
        (
            folder / place / rng.choice(["x", "x.pub", "better.jsonl", "000009-schedule.json"])
        ).write_text("x")

    def line_gone_signed(folder: Path, rng: random.Random) -> None:
        path = rng.choice(
            [*sorted((folder / "proofs").iterdir()), folder / "keys/FINGERPRINTS.txt"]
        )
        lines = path.read_bytes().splitlines(keepends=True)
        del lines[rng.randrange(len(lines))]
        path.write_bytes(b"".join(lines))

    def manifest_line(folder: Path, rng: random.Random) -> None:
        text, _, _ = (folder / "MANIFEST").read_bytes().partition(b"\n\n")
        lines = text.split(b"\n")
        odd = [
            [*lines[:4], *reversed(lines[4:])],
            [*lines, lines[-1]],
            [lines[0], b"\x1b[2J", *lines[2:]],
            [lines[0], b" ", *lines[2:]],
            [lines[0], b"", *lines[2:]],
            [lines[0], b"\xff", *lines[2:]],
            [lines[0], "a\u202eb".encode(), *lines[2:]],
            [lines[0], b"x" * 201, *lines[2:]],
            [*lines[:3], b"packed next week", *lines[4:]],
            [*lines[:3], b"packed 2026-01-01T00:00:00+08:00", *lines[4:]],
            [*lines[:3], b"packed 2026-13-01T00:00:00Z", *lines[4:]],
            [*lines[:3], b"packed 2026-01-01T00:00:00.000Z", *lines[4:]],
            [lines[0], lines[1], lines[2] + b" ", *lines[3:]],
            [lines[0], lines[1], lines[2].replace(b" 5 ", b" 05 "), *lines[3:]],
            [b"urn:zaibei:pack/v2", *lines[1:]],
            [line + b"\r" for line in lines],
            [*lines[:4], *(line.replace(b"  ", b" *", 1) for line in lines[4:])],
            [*lines[:4], *(line.replace(b"  ", b"  ./", 1) for line in lines[4:])],
            [*lines[:-1], lines[-1].upper()],
            [*lines, b"0" * 64 + b"  ../outside"],
            [*lines, b"0" * 64 + b"  /etc/passwd"],
        ]
        forger.manifest(folder, b"\n".join(rng.choice(odd)) + b"\n")

    again_and_again = (
        flip_signed,
        truncate_signed,
        remove_signed,
        exchange_signed,
        extra_signed,
        key_spelling,
        line_gone_signed,
        key_gone,
        witness_added,
        unreadable_proof,
    )
    return (*map(again, again_and_again), manifest_line)


def archive_changes(raw: bytes, rng: random.Random) -> bytes:
    """The wrapping: flips, cuts, members twice, of another kind, with another name."""
    kind = rng.randrange(8)
    if kind == 0:
        at = rng.randrange(len(raw))
        return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
    if kind == 1:
        return raw[: rng.randrange(len(raw))]
    if kind == 2:
        return raw + rng.choice([b"\0" * 512, raw, b"x", gzip.compress(b"x" * 512)])
    plain = bytearray(gzip.decompress(raw))
    heads = _heads(bytes(plain))
    at = rng.choice(heads)
    if kind == 3:
        plain[at + rng.randrange(512)] ^= 1 << rng.randrange(8)
    elif kind == 4:  # whole headers of another kind, with a checksum that fits
        plain[at + 156] = rng.choice(b"\x0012345678xgLKSDV")
        _fit(plain, at)
    elif kind == 5:
        size = rng.choice(
            [
                b"77777777777\0",
                b"00000000000\0",
                b"-0000000001\0",
                b"\x80" + bytes(10) + b"\xff",
                b"\xff" * 12,
            ]
        )
        plain[at + 124 : at + 136] = size
        _fit(plain, at)
    elif kind == 6:
        name = rng.choice(
            [b"../escaped", b"/etc/x", b"pack/MANIFEST", b"other/x", b"pack/\x1b[2J", b"pack//x"]
        )
        plain[at : at + 100] = name.ljust(100, b"\0")
        _fit(plain, at)
    else:
        other = rng.choice(heads)
        plain = plain[:at] + plain[other : other + 512] + plain[at:]
    return gzip.compress(bytes(plain), mtime=0)


def _heads(plain: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return [m.offset for m in tar]


def _fit(plain: bytearray, at: int) -> None:
    plain[at + 148 : at + 156] = b" " * 8
    plain[at + 148 : at + 156] = b"%06o\0 " % sum(plain[at : at + 512])

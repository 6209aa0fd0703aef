"""The set that every tool is measured on: the same bytes from the same seed, nothing downloaded.

Shares of the size, chosen to look like the file server and the database host of an office, not to please a tool:

| share | what | for the engine |
|---|---|---|
| 20 % | relations: 8 KiB pages of rows, 16 MiB a file | compresses about three times |
| 10 % | the same relations a day earlier: one extent of 512 KiB in sixteen is another | dedup of what half changed |
| 25 % | logs, JSON lines and tables as text, 0.5 to 16 MiB a file | compresses well |
| 25 % | images: random bytes after the first few, 0.1 to 8 MiB a file | does not compress |
| 6 % | small files, about 9,000 at 1.3 GB: settings, letters, thumbnails | costs per file |
| 8 % | exact copies of images and texts under other names | dedup of whole files |
| 6 % | copies with some bytes put in at the front and in the middle | dedup by content, not by place |

Times are fixed too, so that "unchanged" means the same to a tool that looks at them.
"""

import json
import os
import random
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = 8192
_EXTENT: Final = 512 << 10
_RELATION: Final = 16 << 20
_SMALL_MEAN: Final = 8700
_MTIME_S: Final = 1_760_000_000
_SURNAMES = [
    "王",
    "李",
    "张",
    "刘",
    "陈",
    "杨",
    "黄",
    "赵",
    "吴",
    "周",
    "徐",
    "孙",
    "马",
    "朱",
    "胡",
    "郭",
    "何",
    "林",
    "高",
    "罗",
]
_GIVEN = [
    "伟",
    "芳",
    "娜",
    "敏",
    "静",
    "秀英",
    "丽",
    "强",
    "磊",
    "军",
    "洋",
    "勇",
    "艳",
    "杰",
    "涛",
    "明",
    "超",
    "秀兰",
    "霞",
    "平",
]
_PATHS = [
    "/person/read",
    "/person/update",
    "/sample/register",
    "/map/tile",
    "/statistics/query",
    "/login",
    "/image/put",
]
_WORDS = [
    "the",
    "request",
    "was",
    "accepted",
    "by",
    "the",
    "second",
    "site",
    "and",
    "its",
    "copy",
    "is",
    "on",
    "both",
    "disks",
    "before",
    "the",
    "answer",
    "went",
    "out",
    "because",
    "a",
    "commit",
    "that",
    "only",
    "one",
    "machine",
    "knows",
    "of",
    "is",
    "lost",
    "with",
    "that",
    "machine",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    files: int
    size_bytes: int


def generate(target: Path, *, size_bytes: int, seed: int = 1) -> Made:
    """Fill `target`, which must not be there yet, with about `size_bytes`."""
    target.mkdir(parents=True)
    count = total = 0
    for part, share in (
        (_databases, 0.30),
        (_texts, 0.25),
        (_images, 0.25),
        (_small, 0.06),
        (_copies, 0.08),
        (_shifted, 0.06),
    ):
        rng = random.Random(f"{seed}/{part.__name__}")
        for path, data in part(target, int(size_bytes * share), rng):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            when = _MTIME_S + rng.randrange(10**7)
            os.utime(path, (when, when))
            count, total = count + 1, total + len(data)
    return Made(files=count, size_bytes=total)


def _databases(target: Path, size: int, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    """Two thirds are today's relations; yesterday's copy is there for half of them."""
    for at, most in enumerate(_lengths(size * 2 // 3, _RELATION)):
        length = most - most % PAGE
        today = b"".join(_page(rng, at * _RELATION + n) for n in range(length // PAGE))
        yield target / "database" / "today" / f"{16384 + at}", today
        if at % 2 == 0:
            yield (
                target / "database" / "yesterday" / f"{16384 + at}",
                b"".join(
                    b"".join(_page(rng, begin + n) for n in range(_EXTENT // PAGE))
                    if rng.random() < 1 / 16
                    else today[begin : begin + _EXTENT]
                    for begin in range(0, length, _EXTENT)
                )[:length],
            )


def _page(rng: random.Random, number: int) -> bytes:
    """Rows as a heap holds them: keys that climb, names that repeat, digests that do neither."""
    rows = bytearray()
    while len(rows) < PAGE - 400:
        name = rng.choice(_SURNAMES) + rng.choice(_GIVEN)
        rows += struct.pack("<IHHIQ", 0, 6, 2306, 24, number * 64 + len(rows))
        rows += name.encode()
        rows += b"%06d%08d%04d" % (
            rng.randrange(110000, 110120),
            19400000 + rng.randrange(800000),
            rng.randrange(10**4),
        )
        rows += struct.pack("<QQ", 700_000_000_000_000 + number * 10**6, rng.getrandbits(48))
        rows += rng.choice(_PATHS).encode().ljust(24, b"\0")
    header = struct.pack("<QHHHHHHI", number, 0, 4, 400, PAGE - len(rows), PAGE, PAGE | 4, 0)
    return header + bytes(PAGE - len(header) - len(rows)) + bytes(rows)


def _texts(target: Path, size: int, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    done = at = 0
    while done < size:
        length = min(rng.randrange(512 << 10, 16 << 20), size - done)
        make, suffix = ((_log, "log"), (_lines, "jsonl"), (_table, "csv"))[at % 3]
        data = make(rng, length)
        yield target / "text" / f"{at:04d}.{suffix}", data
        done, at = done + len(data), at + 1


def _log(rng: random.Random, length: int) -> bytes:
    out, have, at = [], 0, rng.randrange(10**6)
    while have < length:
        bits = rng.getrandbits(64)
        at += bits & 63
        line = (
            f"2026-03-{1 + (at >> 22) % 28:02d}T{(at >> 16) % 24:02d}:{(at >> 10) % 60:02d}:"
            f"{(at >> 4) % 60:02d}.{bits >> 54:03d}Z INFO gateway-{bits & 7} "
            f"{_PATHS[(bits >> 6) % 7]}?id={(bits >> 20) & 0xFFFFF} 200 {(bits >> 8) & 0xFFF} us\n"
        ).encode()
        out.append(line)
        have += len(line)
    return b"".join(out)[:length]


def _lines(rng: random.Random, length: int) -> bytes:
    out, have = [], 0
    while have < length:
        bits = rng.getrandbits(96)
        line = (
            f'{{"person_id":"{bits & 0xFFFFFFF:010d}","name":"{_SURNAMES[bits % 20]}'
            f'{_GIVEN[(bits >> 8) % 20]}","station":"S{(bits >> 12) & 255:03d}",'
            f'"tube":"{bits >> 40:014x}","result":"negative","at":{1_760_000_000 + (bits & 0xFFFFF)}}}\n'
        ).encode()
        out.append(line)
        have += len(line)
    return b"".join(out)[:length]


def _table(rng: random.Random, length: int) -> bytes:
    out, have = [], 0
    while have < length:
        bits = rng.getrandbits(96)
        line = b"%d,%d,%d.%02d,%d,%s\n" % (
            bits & 0xFFFFF,
            (bits >> 20) & 0xFFF,
            (bits >> 32) & 0xFFFF,
            (bits >> 48) % 100,
            (bits >> 56) & 0xFFFF,
            _PATHS[(bits >> 72) % 7].encode(),
        )
        out.append(line)
        have += len(line)
    return b"".join(out)[:length]


def _images(target: Path, size: int, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    done = at = 0
    while done < size:
        length = max(4, min(rng.randrange(100 << 10, 8 << 20), size - done))
        yield target / "image" / f"{at:04d}.jpg", b"\xff\xd8\xff\xe0" + rng.randbytes(length - 4)
        done, at = done + length, at + 1


def _small(target: Path, size: int, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    done = at = 0
    while done < size:
        length = min(1 + int(rng.expovariate(1 / _SMALL_MEAN)), 128 << 10, size - done)
        where = target / "small" / f"{at // 400:03d}" / f"{at // 40 % 10}"
        kind = at % 4
        if kind == 0:
            data, suffix = b"\x89PNG\r\n\x1a\n" + rng.randbytes(length), "png"
        elif kind == 1:
            data, suffix = _settings(rng, length), "json"
        else:
            data, suffix = " ".join(rng.choices(_WORDS, k=length // 4 + 1)).encode(), "txt"
        data = data[:length]
        yield where / f"{at:06d}.{suffix}", data
        done, at = done + length, at + 1


def _settings(rng: random.Random, length: int) -> bytes:
    some = {f"{rng.choice(_WORDS)}_{n}": rng.getrandbits(20) for n in range(length // 18 + 1)}
    return json.dumps(some, indent=1).encode()


def _copies(target: Path, size: int, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    for at, data in enumerate(_others(target, size, rng)):
        yield target / "copy" / f"{at:04d}", data


def _shifted(target: Path, size: int, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    for at, data in enumerate(_others(target, size, rng)):
        middle = rng.randrange(len(data))
        front, more = rng.randbytes(rng.randrange(1, 5000)), rng.randbytes(rng.randrange(1, 5000))
        yield target / "shifted" / f"{at:04d}", front + data[:middle] + more + data[middle:]


def _others(target: Path, size: int, rng: random.Random) -> Iterator[bytes]:
    """Images and texts that are there, whole, until `size` is reached."""
    there = sorted([*(target / "image").iterdir(), *(target / "text").iterdir()])
    rng.shuffle(there)
    done = 0
    for path in there:
        if done >= size:
            return
        data = path.read_bytes()[: size - done]
        done += len(data)
        yield data


def _lengths(size: int, each: int) -> Sequence[int]:
    return [min(each, size - at) for at in range(0, size, each)]


def _main(argv: Sequence[str]) -> None:
    """`python -m backup.bench.dataset DIR BYTES SEED`: a process of its own, so that its memory does not
    count for the tools that the measuring process starts."""
    target, size_bytes, seed = argv
    made = generate(Path(target), size_bytes=int(size_bytes), seed=int(seed))
    print(json.dumps({"files": made.files, "size_bytes": made.size_bytes}))


if __name__ == "__main__":
    _main(sys.argv[1:])

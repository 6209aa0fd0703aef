"""An archive is unpacked within a budget, and read as `tar` reads it or not at all."""

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from tests.evidence.conftest import Desk
from zaibei.evidence import archive, verify

pytestmark = pytest.mark.attack

MIB = 1 << 20


def header(name: str = "p/x", kind: bytes = b"0", size: int = 0, **fields: bytes) -> bytes:
    one = tarfile.TarInfo(name)
    one.type, one.size = kind, size
    raw = bytearray(one.tobuf(tarfile.USTAR_FORMAT))
    for field, value in fields.items():
        at, width = {"size": (124, 12), "magic": (257, 8), "link": (157, 100), "name": (0, 100)}[
            field
        ]
        raw[at : at + width] = value.ljust(width, b"\0")
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def packed(path: Path, *blocks: bytes, zeros: int = 0) -> Path:
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as out:
        for block in blocks:
            out.write(block)
        for _ in range(zeros // MIB):
            out.write(bytes(MIB))
    return path


def peak_bytes(pack: Path) -> int:
    tracemalloc.start()
    try:
        assert not verify(pack).ok
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"X", b"S", b"0", b"V"])
def test_a_bomb_of_any_kind_takes_no_memory(kind: bytes, tmp_path: Path) -> None:
    """tarfile reads the body of a pax or long-name header whole before anybody sees a member."""
    size = 160 * MIB
    bomb = packed(tmp_path / "bomb.tar.gz", header(kind=kind, size=size), zeros=size)
    assert peak_bytes(bomb) < 16 * MIB


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused_before_it_is_written(
    tmp_path: Path,
) -> None:
    size = 400 * MIB
    bomb = packed(tmp_path / "bomb.tar.gz", header(size=size), zeros=MIB)
    assert "larger than any pack of its size" in verify(bomb).problems[0]


def test_zeros_without_end_after_the_last_file_are_refused(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.tar.gz", header(), zeros=2 * archive.MAX_TAIL_BYTES)
    assert "goes on after its end" in verify(bomb).problems[0]


@pytest.mark.parametrize(
    "size",
    [
        b"\x80" + bytes(10) + b"\x01",
        b"\xff" * 12,
        b"-0000000001",
        b"0000000001 ",
        b"          1",
        b"1",
        b"",
        b"00000000008",
        b"0x000000001",
        b"\x80" + b"\x7f" * 11,
    ],
)
def test_a_size_in_any_other_spelling_is_refused(size: bytes, tmp_path: Path) -> None:
    odd = packed(tmp_path / "odd.tar.gz", _with_size(size), bytes(2048))
    assert "size" in verify(odd).problems[0]


def _with_size(size: bytes) -> bytes:
    raw = bytearray(header())
    raw[124:136] = size.ljust(12, b"\0")
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


@pytest.mark.parametrize(
    "kind", [b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"D", b"M", b"N", b"A"]
)
def test_what_is_no_regular_file_is_refused(kind: bytes, tmp_path: Path) -> None:
    odd = packed(tmp_path / "odd.tar.gz", header(kind=kind), bytes(2048))
    assert "not a file of a pack" in verify(odd).problems[0]


@pytest.mark.parametrize(
    "name", ["x", "/p/x", "p/../x", "../p/x", "p//x", "p/./x", "./p/x", "p/a b", "p/\x1b[2J"]
)
def test_a_name_that_is_none_of_a_pack_is_refused(name: str, tmp_path: Path) -> None:
    odd = packed(tmp_path / "odd.tar.gz", header(name=name), bytes(2048))
    (problem,) = verify(odd).problems
    assert "not a file of a pack" in problem
    assert "\x1b" not in problem


@pytest.mark.parametrize(
    ("field", "value"), [("magic", b"ustar  \0"), ("magic", b""), ("link", b"../x")]
)
def test_a_header_of_another_form_is_refused(field: str, value: bytes, tmp_path: Path) -> None:
    odd = packed(tmp_path / "odd.tar.gz", header(**{field: value}), bytes(2048))
    assert "not a file of a pack" in verify(odd).problems[0]


def test_a_name_that_goes_on_after_its_end_is_refused(tmp_path: Path) -> None:
    odd = packed(tmp_path / "odd.tar.gz", header(name="p/x\0../../y"), bytes(2048))
    assert "goes on after its end" in verify(odd).problems[0]


def test_members_twice_in_two_folders_or_cut_off_are_refused(tmp_path: Path) -> None:
    def why(*blocks: bytes) -> str:
        return verify(packed(tmp_path / "odd.tar.gz", *blocks)).problems[0]

    assert "twice" in why(header(), header(), bytes(1024))
    assert "one folder" in why(header(), header(name="q/x"), bytes(1024))
    assert "one folder" in why(bytes(1024))
    assert "of one name" in why(header(), header(name="p/x/y"), bytes(1024))
    assert "cut off" in why(header(size=4), b"ab")
    assert "cut off" in why(header())
    assert "checksum" in why(header()[:148] + b"000000\0 " + header()[156:], bytes(1024))
    assert "between its files" in why(header(size=1), b"a" + b"b" * 511, bytes(1024))


def test_the_archive_of_an_honest_pack_is_read_as_tar_reads_it(
    honest_desk: Desk, tmp_path: Path
) -> None:
    whole = honest_desk.root / "pack.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(whole.read_bytes()))) as tar:
        held = {m.name.partition("/")[2]: tar.extractfile(m) for m in tar}
        with archive.unpacked(whole) as folder:
            found = {
                p.relative_to(folder).as_posix(): p.read_bytes()
                for p in folder.rglob("*")
                if p.is_file()
            }
        assert found == {name: f.read() if f else b"" for name, f in held.items()}

"""A text file of a person is read as its editor showed it, or refused with the reason."""

from pathlib import Path

import pytest

from zaibei.kernel.errors import Usage
from zaibei.kernel.persontext import NotText, demand, read


def test_the_mark_of_utf_8_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("芝麻\n", encoding="utf-8-sig")

    assert read(tmp_path / "f") == "芝麻\n"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("x".encode("utf-16"), "saved as UTF-16"),
        ("x".encode("utf-32"), "saved as UTF-32"),
        ("xy".encode("utf-16-le"), "a NUL in it"),
        ("a\n芝麻".encode("gbk"), "line 2 is not text in UTF-8"),
    ],
)
def test_what_is_no_utf_8_is_refused_with_the_reason(tmp_path: Path, raw: bytes, why: str) -> None:
    (tmp_path / "f").write_bytes(raw)

    with pytest.raises(NotText, match=why):
        read(tmp_path / "f")
    with pytest.raises(Usage, match=f"{tmp_path}/f: {why}"):
        demand(tmp_path / "f")

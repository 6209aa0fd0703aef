"""What is not even a tree: each is told with its line, and none of it is a traceback."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaibei.config import check, load
from zaibei.config._yaml import DEPTH_LIMIT, NODE_LIMIT, SIZE_LIMIT_BYTES, parse
from zaibei.kernel.errors import BadStack


def one(faults):
    assert len(faults) == 1, faults
    return faults[0]


def test_a_file_that_is_not_there_is_told_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadStack) as caught:
        load(tmp_path / "stack.yaml")
    assert caught.value.message == f"{tmp_path}/stack.yaml:1: no such file"
    assert "zaibei init" in caught.value.hints[0]
    assert caught.value.exit_code == 2


def test_a_folder_and_a_pipe_are_not_stack_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert one(check(tmp_path).faults).what == "not a file"
    assert one(check(tmp_path / "pipe").faults).what == "not a file"


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "---\n", "null\n"])
def test_an_empty_file_says_so(faults_of, content: str) -> None:
    said = one(faults_of(content))
    assert said.what in ("the file is empty", "the file is not a mapping of keys to values")
    assert "zaibei init" in said.hint


@pytest.mark.parametrize("content", ["- a\n- b\n", "just text\n", "42\n"])
def test_a_file_that_is_no_mapping_says_so(faults_of, content: str) -> None:
    assert one(faults_of(content)).what == "the file is not a mapping of keys to values"


def test_a_tab_is_told_with_its_line(faults_of) -> None:
    said = one(faults_of("name: x\nsites:\n\t- name: a\n"))
    assert said.line == 3
    assert said.hint == "indent with spaces: YAML has no tabs"


def test_a_broken_bracket_is_told_with_its_line(faults_of) -> None:
    said = one(faults_of("name: x\nentry: [a, b\ntitle: }\n"))
    assert said.line == 3
    assert said.what.startswith("not YAML: ")


def test_every_duplicate_key_is_told_with_both_its_lines(faults_of) -> None:
    said = [f for f in faults_of("a: 1\nb: 2\na: 3\nc: {d: 1, d: 2}\n") if "again" in f.what]
    assert [(f.line, f.what) for f in said] == [
        (3, "'a' again: it is already on line 1"),
        (4, "'d' again: it is already on line 4"),
    ]


def test_two_documents_in_one_file_are_refused(faults_of) -> None:
    said = one(faults_of("a: 1\n---\nb: 2\n"))
    assert "remove the second" in said.hint


def test_a_file_saved_as_gbk_is_told_with_its_line(faults_of) -> None:
    said = one(faults_of("name: x\ntitle: 人口\n".encode("gbk")))
    assert (said.line, said.what) == (2, "not UTF-8")
    assert "GBK" in said.hint


def test_a_control_character_is_told_with_its_line(faults_of) -> None:
    said = one(faults_of("name: x\ntitle: a\x07b\n"))
    assert said.line == 2
    assert "not YAML" in said.what


def test_a_byte_order_mark_is_not_part_of_the_first_key() -> None:
    assert parse("\ufeffname: x".encode().decode("utf-8-sig")).tree == {"name": "x"}


def test_a_file_of_another_size_class_is_not_read_to_its_end(faults_of) -> None:
    assert one(faults_of(b"#" * (SIZE_LIMIT_BYTES + 1))).what == "larger than 1 MiB"


def test_aliases_of_aliases_do_not_fill_the_memory(faults_of) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert f"more than {NODE_LIMIT} values" in one(faults_of("\n".join(lines))).what


@pytest.mark.parametrize("content", ["&a [*a]", "[" * 30 + "]" * 30, "[" * 5000])
def test_depth_has_a_bound(faults_of, content: str) -> None:
    assert one(faults_of(content)).what == f"nested deeper than {DEPTH_LIMIT} levels"


def test_merge_keys_and_tags_are_refused_because_they_hide_where_a_value_is_from(faults_of) -> None:
    said = faults_of("a: &x {k: v}\nb:\n  <<: *x\nc: !secret abc\n? [1, 2]\n: d\n")
    whats = {(f.line, f.what) for f in said}
    assert (3, "merge key << is not allowed") in whats
    assert (4, "tag !secret is not allowed") in whats
    assert (5, "a key must be plain text") in whats


def test_no_is_text_and_a_date_is_text() -> None:
    assert parse("a: no\nb: on\nc: 2026-01-01\nd: 0o17").tree == {
        "a": "no",
        "b": "on",
        "c": "2026-01-01",
        "d": 15,
    }


def test_every_value_has_the_line_it_stands_on() -> None:
    source = parse("a:\n  - x: 1\n    y: 2\n  - z\n")
    assert source.line(("a", 0, "y")) == 3
    assert source.line(("a", 1)) == 4
    # What is missing is told at what should hold it.
    assert source.line(("a", 0, "nothing", "here")) == 2


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>\n \t'\"#?,<%@`0", max_size=60))
def test_no_text_whatever_ends_in_a_traceback(text: str) -> None:
    source = parse(text)
    assert source.faults or source.lines


@given(st.binary(max_size=300))
def test_no_bytes_whatever_end_in_a_traceback(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    assert check(path).faults, "no few hundred random bytes are a stack"

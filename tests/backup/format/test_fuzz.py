"""Every parser under garbled input: a value or an error of ours, nothing else. `make fuzz` goes on for longer,
guided by coverage."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_FILE = Path(__file__).parents[2] / "fuzz" / "backup_parsers.py"


def _table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backup_parsers", _FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parsers = _table()


@pytest.mark.parametrize("name", list(parsers.PARSERS))
def test_the_good_inputs_are_good(name: str) -> None:
    """Without this a parser that refuses everything would pass the tests below."""
    for seed in parsers.PARSERS[name].seeds:
        parsers.PARSERS[name].parse(seed)


@pytest.mark.parametrize("name", list(parsers.PARSERS))
@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_garbled_input_is_a_value_or_an_error_of_ours(name: str, seed: int) -> None:
    rng = random.Random(seed)
    parsers.check(name, parsers.mutated(rng.choice(parsers.PARSERS[name].seeds), rng))


@pytest.mark.parametrize("name", list(parsers.PARSERS))
@settings(max_examples=40, deadline=None)
@given(raw=st.binary(max_size=400))
def test_any_bytes_are_a_value_or_an_error_of_ours(name: str, raw: bytes) -> None:
    parsers.check(name, raw)


ODD = (
    b"5",
    b'"x"',
    b"[1]",
    b"[[]]",
    b"null",
    b"true",
    b"{}",
    b'{"a":1}',
    b"[null]",
    b"1e400",
    b'{"body":5,"signature":"00"}',
    b'{"body":[],"signature":""}',
    b"",
)


@pytest.mark.parametrize("name", list(parsers.PARSERS))
def test_json_of_another_shape_is_an_error_of_ours(name: str) -> None:
    """Mutation seldom gets there: it stays near the good inputs."""
    for raw in ODD:
        parsers.check(name, raw)

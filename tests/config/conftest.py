"""A stack file that is right, and how to make it wrong in one place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from zaibei.config import check, sample
from zaibei.config._fault import Located

Wrong = Callable[..., tuple[Located, ...]]


@pytest.fixture
def stack_file(tmp_path: Path) -> Path:
    path = tmp_path / "stack.yaml"
    path.write_text(sample())
    return path


@pytest.fixture
def faults_after(stack_file: Path) -> Wrong:
    """Replace text that is in the sample once (or `count` times), and return the faults of the result."""

    def change(*swaps: tuple[str, str], count: int = 1) -> tuple[Located, ...]:
        text = sample()
        for old, new in swaps:
            assert text.count(old) == count, f"{old!r} is in the sample {text.count(old)} times"
            text = text.replace(old, new)
        stack_file.write_text(text)
        return check(stack_file).faults

    return change


@pytest.fixture
def faults_of(tmp_path: Path) -> Callable[[bytes | str], tuple[Located, ...]]:
    def of(content: bytes | str) -> tuple[Located, ...]:
        path = tmp_path / "stack.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return check(path).faults

    return of

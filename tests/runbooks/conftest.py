"""A library of one's own, and an inventory of this machine alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runbooks.library import Source, read


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZAIBEI_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    file = tmp_path / "inventory.yml"
    host = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
    file.write_text(json.dumps({"sites": {"hosts": {"site-b": host}}}))
    return file


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Source]:
    def write(content: str) -> Source:
        name = content.split("\n", 1)[0].removeprefix("id: ")
        file = tmp_path / "library" / f"{name}.yml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        return read(file)

    return write

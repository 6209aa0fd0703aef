"""Which stack a command is about: the file that was named, stack.yaml here, or the sample."""

import tempfile
from pathlib import Path

from zaibei import config
from zaibei.config.model import Stack
from zaibei.kernel.errors import Usage

_HERE = Path("stack.yaml")
_TEMPLATE = "two-places-three-centres"


def chosen_stack(given: Path | None) -> Stack:
    if given is not None:
        if not given.exists():
            raise Usage(f"{given}: no such file", hint=f"zaibei init {given} writes a sample")
        return config.load(given)
    if _HERE.exists():
        return config.load(_HERE)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / f"{_TEMPLATE}.yaml"
        sample.write_text(config.sample(_TEMPLATE))
        return config.load(sample)

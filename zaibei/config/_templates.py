"""Commented stacks to start from. Each loads as it is; a test sees to that."""

from importlib.resources import files

from zaibei.config._faults_of_shape import nearest
from zaibei.kernel.errors import Usage

DEFAULT = "two-places-three-centres"
TEMPLATES = (DEFAULT, "core-plus-three", "single")


def sample(template: str = DEFAULT) -> str:
    if template not in TEMPLATES:
        raise Usage(f"no template {template!r}", hint=nearest(template, TEMPLATES))
    return files("zaibei.config").joinpath("templates", f"{template}.yaml").read_text("utf-8")

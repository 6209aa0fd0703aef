"""The declared stack: `load` turns stack.yaml into frozen dataclasses, or tells all its faults."""

from zaibei.config._build import canonical
from zaibei.config._explain import Explained, explain
from zaibei.config._load import Checked, check, load
from zaibei.config._schema import json_schema, reference
from zaibei.config._secrets import reveal, why_not_public
from zaibei.config._templates import DEFAULT, TEMPLATES, sample

__all__ = [
    "DEFAULT",
    "TEMPLATES",
    "Checked",
    "Explained",
    "canonical",
    "check",
    "explain",
    "json_schema",
    "load",
    "reference",
    "reveal",
    "sample",
    "why_not_public",
]

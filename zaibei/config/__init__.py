"""The declared stack: `load` turns stack.yaml into frozen dataclasses, or tells all its faults."""

from zaibei.config._build import canonical
from zaibei.config._explain import Explained, explain
from zaibei.config._load import Checked, check, load
from zaibei.config._schema import json_schema, reference
from zaibei.config._secrets import reveal, why_not_public
from zaibei.config._templates import DEFAULT, TEMPLATES, sample
from zaibei.config._yaml import SIZE_LIMIT_BYTES, Source, demand, parse, parse_bytes

__all__ = [
    "DEFAULT",
    "SIZE_LIMIT_BYTES",
    "TEMPLATES",
    "Checked",
    "Explained",
    "Source",
    "canonical",
    "check",
    "demand",
    "explain",
    "json_schema",
    "load",
    "parse",
    "parse_bytes",
    "reference",
    "reveal",
    "sample",
    "why_not_public",
]

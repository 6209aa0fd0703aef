"""A runbook as people write it: prose for both languages and the machine's step in one file.

Every step says what it does, how to take it back (or why that cannot be), what must be true after it, what a
person does when no machine answers, and how long it may take. A step without a proof cannot be written.
"""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from zaibei.kernel.errors import Usage
from zaibei.kernel.units import duration

_TEMPLATE = re.compile(r"\{\{|\{%|\{#")


def _data(text: str) -> str:
    """Arguments are data. A template would run on the operator's machine, with the operator's rights."""
    if found := _TEMPLATE.search(text):
        raise ValueError(f"{found[0]} begins a template; arguments are data")
    return text


_Data = Annotated[str, AfterValidator(_data)]
Value = _Data | int | float | bool | list[_Data]
Args = dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")], Value]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]


def _duration(raw: object) -> object:
    try:
        return duration(raw) if isinstance(raw, str) else raw
    except Usage as wrong:
        raise ValueError(wrong.message) from wrong


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0))]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(_Strict):
    zh: str = Field(min_length=1)
    en: str = Field(min_length=1)

    def say(self, language: str) -> str:
        return self.zh if language == "zh" else self.en


class Danger(_Strict):
    level: Literal["none", "disruptive", "destructive"]
    what: Text


class Parameter(_Strict):
    type: Literal["site", "database", "bucket", "time", "text", "integer"]
    title: Text
    default: str | int | None = None


class Approvals(_Strict):
    needed: int = Field(ge=0, le=9)


class Native(_Strict):
    """A function of `runbooks.actions`, by name."""

    native: Name
    args: Args = {}


class Play(_Strict):
    """A playbook of `runbooks/playbooks`, on the hosts of `limit`, with `args` as its variables."""

    play: str = Field(pattern=r"^[a-z][a-z0-9-]*\.yml$")
    limit: str = Field(pattern=r"^(\{[a-z][a-z0-9-]*\}|[A-Za-z0-9_][A-Za-z0-9_.-]*)$")  # one host
    args: Args = {}

    @model_validator(mode="after")
    def _variables_are_its_own(self) -> Self:
        for name in self.args:
            # `ansible_host` or `ansible_connection` as an argument would send the play elsewhere.
            if name.startswith("ansible"):
                raise ValueError(f"{name}: names that begin with `ansible` are Ansible's own")
        return self


class NoUndo(_Strict):
    none: Text  # why it cannot, or need not, be taken back


def _arm(raw: object) -> str | None:
    """Which of them is meant, by its first key: one clear fault instead of one for each arm."""
    for arm in ("native", "play", "none"):
        if hasattr(raw, arm) or (isinstance(raw, dict) and arm in raw):
            return arm
    return None


_Native = Annotated[Native, Tag("native")]
_Play = Annotated[Play, Tag("play")]
_NoUndo = Annotated[NoUndo, Tag("none")]
Action = Native | Play


class Check(_Strict):
    """A native check that must answer with no objection."""

    check: Name
    args: Args = {}
    says: Text  # what is true when it holds


class Step(_Strict):
    id: Name
    title: Text
    action: Annotated[_Native | _Play, Discriminator(_arm)]
    undo: Annotated[_Native | _Play | _NoUndo, Discriminator(_arm)]
    proof: Check
    fallback: Text
    deadline: Duration


class Runbook(_Strict):
    id: Name
    title: Text
    when: Text
    claim: Text  # what is true when the run ended well; told as NOT proven otherwise
    owner: str = Field(min_length=1)
    hazards: tuple[Literal["H1", "H2", "H3", "H4"], ...] = Field(min_length=1)
    danger: Danger
    drill: str
    approvals: Approvals
    parameters: dict[Name, Parameter] = {}
    preconditions: tuple[Check, ...] = ()
    steps: tuple[Step, ...] = Field(min_length=1, max_length=40)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        ids = [s.id for s in self.steps]
        if len(set(ids)) != len(ids):
            raise ValueError("two steps have the same id")
        if self.danger.level == "destructive" and "site" not in self.parameters:
            # The engine asks for the site's name typed: without one there is nothing to type.
            raise ValueError("a destructive runbook needs the parameter `site`")
        return self

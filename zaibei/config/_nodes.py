"""YAML text to nodes with their lines, in time that grows with its length and in bounded memory.

libyaml scans; its events are put together here, without recursion and up to a limit, so that nothing a
file says can make it long, deep or wide beyond that. What a file for people never needs is refused with
its line: directives (`%YAML 1.1` would make 1:30 a number), keys that are no plain text, anchors by the thousand.
"""

import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

NODE_LIMIT = 30_000  # values, aliases as often as they are used: some 2,000 databases
DEPTH_LIMIT = 20
ANCHOR_LIMIT = 200
NUMBER_LIMIT = 40  # characters: no size, port or count has more
TOO_DEEP = f"nested deeper than {DEPTH_LIMIT} levels"
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_HIDDEN_BREAK = re.compile(r"[\x85\u2028\u2029]")  # a new line to YAML 1.1, and to no editor
_BREAK = re.compile(r"\r\n|[\n\r]")

Scalar: TypeAlias = str | int | float | bool | None

_CORE = "tag:yaml.org,2002:"
# YAML 1.2 core: `no`, `on` and 1:30 are text, and so is a date.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9_]*[0-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9_]+(?:[eE][-+][0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_BASES = {"0b": 2, "0o": 8, "0x": 16}


class Broken(Exception):
    """The text is refused as a whole."""

    def __init__(self, what: str, *, line: int = 1, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.line, self.hint = what, line, hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A scalar. `tag`: as written; None when there is none."""

    line: int
    text: str
    plain: bool
    tag: str | None

    def value(self) -> Scalar:
        """Raises ValueError when it is not what its tag says, or a number of no use."""
        kind = (self.tag or "").removeprefix(_CORE)
        if kind == "str" or (self.tag is None and not self.plain):
            return self.text
        wanted = _kind(self.text) if self.tag is None else kind
        return _as(wanted, self.text)

    @property
    def names(self) -> bool:
        """Whether it may be a key: text or a whole number, and not `<<`, which merges."""
        if self.tag is not None and self.tag not in (_CORE + "str", _CORE + "int"):
            return False
        if not self.plain or self.tag is not None:
            return True
        return self.text not in ("<<", "=") and _kind(self.text) in ("str", "int")

    @property
    def allowed(self) -> bool:
        return self.tag is None or self.tag in {
            _CORE + t for t in ("str", "int", "float", "bool", "null")
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    line: int
    tag: str | None
    pairs: list[tuple["Node", "Node"]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    line: int
    tag: str | None
    items: list["Node"] = field(default_factory=list)


Node: TypeAlias = Text | Pairs | Items


def compose(text: str) -> Node | None:
    """The one document of the text, None when there is none. Raises Broken.

    An alias is the node that it names: one that holds itself is a circle, which the builder's depth ends.
    """
    if directive := _DIRECTIVE.search(text):
        line = _line(text, directive.start())
        raise Broken("a directive (%) is not allowed", line=line, hint="remove the line")
    if hidden := _HIDDEN_BREAK.search(text):
        what = f"a line separator that no editor shows (U+{ord(hidden[0]):04X})"
        raise Broken(what, line=_line(text, hidden.start()), hint="write a plain new line")
    whole = _Whole()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            whole.take(event)
    except yaml.MarkedYAMLError as bad:
        mark = bad.problem_mark or bad.context_mark
        line = mark.line + 1 if mark else 1
        raise Broken(f"not YAML: {bad.problem}", line=line, hint=_hint(text, line)) from bad
    except yaml.YAMLError as bad:
        position = getattr(bad, "position", 0)
        what = str(bad).splitlines()[0][:200]
        raise Broken(f"not YAML: {what}", line=_line(text, position)) from bad
    except UnicodeEncodeError as bad:  # half a surrogate pair
        raise Broken("not YAML: half a character", line=_line(text, bad.start)) from bad
    return whole.root


class _Whole:
    """Puts events together; what is open lies on a stack and not on Python's."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Pairs | Items] = []
        self._keys: list[Node | None] = []  # of each open mapping: the key that waits for its value
        self._named: dict[str, Node] = {}
        self._documents = self._values = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    hint = "one document a file: remove the second `---`"
                    raise Broken("not YAML: another document begins", line=line, hint=hint)
            case yaml.AliasEvent():
                if event.anchor not in self._named:
                    raise Broken(f"not YAML: undefined alias *{event.anchor[:50]}", line=line)
                self._put(self._named[event.anchor], line)
            case yaml.ScalarEvent():
                # The same text between quotes is a str: `implicit` says how it was written.
                tag = event.tag if event.tag != "!" else _CORE + "str"
                self._new(
                    Text(line=line, text=event.value, plain=event.implicit[0], tag=tag), event, line
                )
            case yaml.MappingStartEvent():
                self._begin(Pairs(line=line, tag=event.tag), event, line)
            case yaml.SequenceStartEvent():
                self._begin(Items(line=line, tag=event.tag), event, line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._open.pop()
                self._keys.pop()

    def _begin(self, node: Pairs | Items, event: Any, line: int) -> None:
        self._new(node, event, line)
        if len(self._open) > DEPTH_LIMIT:
            raise Broken(TOO_DEEP, line=line)
        self._open.append(node)
        self._keys.append(None)

    def _new(self, node: Node, event: Any, line: int) -> None:
        if event.anchor is not None:
            self._named[event.anchor] = node
            if len(self._named) > ANCHOR_LIMIT:
                raise Broken(f"more than {ANCHOR_LIMIT} anchors (&)", line=line)
        self._put(node, line)

    def _put(self, node: Node, line: int) -> None:
        if not self._open:
            self.root = node
            return
        match self._open[-1]:
            case Items(items=items):
                items.append(node)
            case Pairs(pairs=pairs):
                if (key := self._keys[-1]) is None:
                    self._keys[-1] = node
                    return
                pairs.append((key, node))
                self._keys[-1] = None
        self._values += 1
        if self._values > NODE_LIMIT:
            hint = "this file is for what people write; a fleet belongs in an inventory"
            raise Broken(f"more than {NODE_LIMIT} values", line=line, hint=hint)


def _kind(text: str) -> str:
    for kind, form in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT)):
        # A number is short: nothing is matched against a text of a megabyte.
        if len(text) <= 2 * NUMBER_LIMIT and form.fullmatch(text):
            return kind
    return "int" if len(text) > NUMBER_LIMIT and text.lstrip("-+").isdecimal() else "str"


def _as(kind: str, text: str) -> Scalar:
    match kind:
        case "null" if _NULL.fullmatch(text):
            return None
        case "bool" if _BOOL.fullmatch(text):
            return text.lower() == "true"
        case "int" | "float" if len(text) > NUMBER_LIMIT:
            raise ValueError(f"a number of more than {NUMBER_LIMIT} digits")
        case "int" if _INT.fullmatch(text):
            bare = text.replace("_", "").lstrip("-+")
            base = _BASES.get(bare[:2], 10)
            return int(bare if base == 10 else bare[2:], base) * (-1 if text[0] == "-" else 1)
        case "float" if _FLOAT.fullmatch(text):
            return float(
                text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
            )
        case "str":
            return text
    raise ValueError("not the kind of value its tag says")


def _line(text: str, position: int) -> int:
    return len(_BREAK.findall(text, 0, position)) + 1


def _hint(text: str, line: int) -> str:
    written = _BREAK.split(text, line)[line - 1 : line]
    if written and "\t" in written[0][: len(written[0]) - len(written[0].lstrip())]:
        return "indent with spaces: YAML has no tabs"
    return "check the indentation and the quotes on this line and the one before"

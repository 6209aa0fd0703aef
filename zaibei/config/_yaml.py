"""Text to a plain tree that remembers the line of every key. Nothing here knows what a stack is.

ruamel.yaml composes nodes and we build the tree from them: a duplicate key is then a fault with both
its lines among the other faults, where a loader would stop at the first or keep the last, silently.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from zaibei.config._fault import Fault, Where

SIZE_LIMIT_BYTES = 1 << 20  # a stack of 20,000 databases belongs in an inventory, not in this file
NODE_LIMIT = 50_000  # aliases of aliases make a small file a large tree
DEPTH_LIMIT = 20
TOO_DEEP = f"nested deeper than {DEPTH_LIMIT} levels"

Scalar: TypeAlias = str | int | float | bool | None
Tree: TypeAlias = "dict[str, Tree] | list[Tree] | Scalar"

_CORE = "tag:yaml.org,2002:"
_PLAIN = {_CORE + t for t in ("str", "int", "float", "bool", "null")}


class _TooMuch(Exception):
    """The tree is past a limit; the message says which."""


@dataclass(slots=True)
class Source:
    """What was read: the tree, the 1-based line of each path, and what is wrong so far."""

    tree: Tree = None
    lines: dict[Where, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, where: Where) -> int:
        """The line of `where`, or of the nearest thing that contains it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)


def read(path: Path) -> Source:
    """Never raises for what is in the file or for its absence: those are faults."""
    try:
        if path.exists() and not path.is_file():
            return _only(Fault(what="not a file"))
        with path.open("rb") as file:
            raw = file.read(SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return _only(
            Fault(what="no such file", hint="`zaibei init` writes a commented sample to start from")
        )
    except OSError as why:
        return _only(Fault(what=f"cannot be read: {why.strerror or why}"))
    if len(raw) > SIZE_LIMIT_BYTES:
        return _only(
            Fault(
                what=f"larger than {SIZE_LIMIT_BYTES >> 20} MiB",
                hint="a stack file is a few hundred lines; is this another file?",
            )
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        line = raw.count(b"\n", 0, bad.start) + 1
        return _only(Fault(line=line, what="not UTF-8", hint="save the file as UTF-8 (not GBK)"))
    return parse(text)


def parse(text: str) -> Source:
    for number, written in enumerate(text.splitlines(), 1):
        # The scanner looks ahead over a whole line for each open bracket: 5,000 of them took 14 s.
        if _brackets_open(written) > DEPTH_LIMIT:
            return _only(Fault(line=number, what=TOO_DEEP))
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as bad:
        mark = bad.problem_mark or bad.context_mark
        line = mark.line + 1 if mark else 1
        return _only(Fault(line=line, what=f"not YAML: {bad.problem}", hint=_yaml_hint(bad)))
    except YAMLError as bad:
        position = getattr(bad, "position", 0)
        line = text.count("\n", 0, position) + 1
        return _only(Fault(line=line, what=f"not YAML: {str(bad).splitlines()[0]}"))
    except RecursionError:
        return _only(Fault(what=TOO_DEEP))
    if root is None:
        return _only(
            Fault(what="the file is empty", hint="`zaibei init` writes a commented sample")
        )
    source = Source()
    source.lines[()] = root.start_mark.line + 1
    try:
        source.tree = _Builder(yaml, source).build(root, ())
    except _TooMuch as why:
        return _only(Fault(what=str(why)))
    return source


class _Builder:
    def __init__(self, yaml: Any, source: Source) -> None:
        self._yaml = yaml
        self._source = source
        self._nodes = 0

    def build(self, node: Node, where: Where) -> Tree:
        self._nodes += 1
        if self._nodes > NODE_LIMIT:
            raise _TooMuch(f"more than {NODE_LIMIT} values, aliases counted as often as used")
        # Also the end of an alias that contains itself.
        if len(where) > DEPTH_LIMIT:
            raise _TooMuch(TOO_DEEP)
        if isinstance(node, MappingNode):
            return dict(self._pairs(node, where))
        if isinstance(node, SequenceNode):
            items: list[Tree] = []
            for i, item in enumerate(node.value):
                self._source.lines[*where, i] = item.start_mark.line + 1
                items.append(self.build(item, (*where, i)))
            return items
        assert isinstance(node, ScalarNode), node
        return self._scalar(node)

    def _pairs(self, node: MappingNode, where: Where) -> Iterator[tuple[str, Tree]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, ScalarNode) else None
            if name is None or key.tag not in (_CORE + "str", _CORE + "int"):
                what = "merge key << is not allowed" if name == "<<" else "a key must be plain text"
                self._fault(line, what, "write the values out, so that each has its own line")
                continue
            if name in seen:
                first = seen[name]
                self._fault(
                    line,
                    f"{name!r} again: it is already on line {first}",
                    "keep one of the two: which one counts would be a guess",
                )
                continue
            seen[name] = line
            self._source.lines[*where, name] = line
            yield name, self.build(value, (*where, name))

    def _scalar(self, node: ScalarNode) -> Scalar:
        if node.tag in _PLAIN:
            try:
                value: Scalar = self._yaml.constructor.construct_object(node)
            except (
                ValueError,
                YAMLError,
            ):  # `!!int ninety`, and integers past Python's digit limit
                self._fault(node.start_mark.line + 1, "not the kind of value its tag says", "")
                return None
            return value
        if node.tag == _CORE + "timestamp":
            return str(node.value)
        self._fault(
            node.start_mark.line + 1, f"tag {node.tag} is not allowed", "plain YAML values only"
        )
        return None

    def _fault(self, line: int, what: str, hint: str) -> None:
        self._source.faults.append(Fault(line=line, what=what, hint=hint))


def _brackets_open(line: str) -> int:
    """The most that are open at once on the line; quotes are not looked at, comment lines are skipped."""
    if line.lstrip().startswith("#"):
        return 0
    now = most = 0
    for char in line:
        now += (char in "[{") - (char in "]}")
        most = max(most, now)
    return most


def _only(fault: Fault) -> Source:
    return Source(faults=[fault])


def _yaml_hint(bad: MarkedYAMLError) -> str:
    problem = str(bad.problem)
    if r"\t" in problem:
        return "indent with spaces: YAML has no tabs"
    if "another document" in problem:
        return "one document a file: remove the second `---`"
    return "check the indentation and the quotes on this line and the one before"

"""Text to a plain tree that remembers the line of every key. Nothing here knows what a stack is.

A duplicate key is a fault with both its lines among the other faults, where a loader would stop at the first
or keep the last, silently.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from zaibei.config._fault import FAULT_LIMIT, SHOWN_LIMIT, Fault, Where
from zaibei.config._nodes import (
    DEPTH_LIMIT,
    NODE_LIMIT,
    TOO_DEEP,
    Broken,
    Items,
    Node,
    Pairs,
    Scalar,
    Text,
    compose,
)
from zaibei.kernel import persontext
from zaibei.kernel.errors import Usage

SIZE_LIMIT_BYTES = 1 << 20  # a stack of 20,000 databases belongs in an inventory, not in this file
Tree: TypeAlias = "dict[str, Tree] | list[Tree] | Scalar"


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


def demand(source: Source, *, name: str) -> Tree:
    """The tree of a text without a fault. Raises Usage with every fault and its line."""
    if source.faults:
        lines = [f"{name}:{f.line or source.line(f.where)}: {f.what}" for f in source.faults]
        raise Usage(
            "\n".join(lines[:SHOWN_LIMIT]),
            hint=tuple(dict.fromkeys(f.hint for f in source.faults if f.hint))[:1],
        )
    return source.tree


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
    return parse_bytes(raw)


def parse_bytes(raw: bytes) -> Source:
    """Never raises for what is in them."""
    if len(raw) > SIZE_LIMIT_BYTES:
        return _only(Fault(what=f"larger than {SIZE_LIMIT_BYTES >> 20} MiB"))
    try:
        text = persontext.unmarked(raw).decode()
    except persontext.NotText as bad:
        return _only(Fault(what=str(bad)))
    except UnicodeDecodeError as bad:
        line = raw.count(b"\n", 0, bad.start) + 1
        return _only(Fault(line=line, what="not UTF-8", hint="save the file as UTF-8 (not GBK)"))
    return parse(text)


def parse(text: str) -> Source:
    """Never raises for what is in the text."""
    source = Source()
    try:
        root = compose(text.removeprefix("\ufeff"))
        if root is None:
            return _only(
                Fault(what="the file is empty", hint="`zaibei init` writes a commented sample")
            )
        source.lines[()] = root.line
        source.tree = _Builder(source).build(root, ())
    except Broken as bad:
        return _only(Fault(line=bad.line, what=bad.what, hint=bad.hint))
    return source


class _Builder:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._nodes = 0

    def build(self, node: Node, where: Where) -> Tree:
        self._nodes += 1
        if self._nodes > NODE_LIMIT:
            raise Broken(f"more than {NODE_LIMIT} values, aliases counted as often as used")
        # Also the end of an alias that contains itself.
        if len(where) > DEPTH_LIMIT:
            raise Broken(TOO_DEEP)
        match node:
            case Pairs():
                return dict(self._pairs(node, where))
            case Items(items=items):
                made: list[Tree] = []
                for i, item in enumerate(items):
                    self._source.lines[*where, i] = item.line
                    made.append(self.build(item, (*where, i)))
                return made
            case Text():
                return self._scalar(node)

    def _pairs(self, node: Pairs, where: Where) -> Iterator[tuple[str, Tree]]:
        seen: dict[str, int] = {}
        for key, value in node.pairs:
            if not isinstance(key, Text) or not key.names:
                merges = isinstance(key, Text) and key.text == "<<"
                what = "merge key << is not allowed" if merges else "a key must be plain text"
                self._fault(key.line, what, "write the values out, so that each has its own line")
                continue
            name = key.text
            if name in seen:
                first = seen[name]
                self._fault(
                    key.line,
                    f"{name!r} again: it is already on line {first}",
                    "keep one of the two: which one counts would be a guess",
                )
                continue
            seen[name] = key.line
            self._source.lines[*where, name] = key.line
            yield name, self.build(value, (*where, name))

    def _scalar(self, node: Text) -> Scalar:
        if not node.allowed:
            self._fault(
                node.line, f"tag {str(node.tag)[:60]} is not allowed", "plain YAML values only"
            )
            return None
        try:
            return node.value()
        except ValueError as wrong:  # `!!int ninety`, and a number of a megabyte
            self._fault(node.line, str(wrong), "")
            return None

    def _fault(self, line: int, what: str, hint: str) -> None:
        if len(self._source.faults) < FAULT_LIMIT:
            self._source.faults.append(Fault(line=line, what=what, hint=hint))


def _only(fault: Fault) -> Source:
    return Source(faults=[fault])

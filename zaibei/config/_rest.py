"""What is still well-formed in a stack file that is not: one run should tell all there is to mend.

Unknown keys are dropped, and so are the entries of lists that have another fault. The rest may be a
stack of its own, whose meaning can be judged; its faults are then told at their places in the file.
"""

from dataclasses import dataclass

from zaibei.config._fault import Where
from zaibei.config._yaml import Tree


@dataclass(frozen=True, slots=True)
class Lost:
    """Names whose entries were dropped, so that pointing at them is not called a fault."""

    sites: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()


class Rest:
    def __init__(self, tree: dict[str, Tree]) -> None:
        self._whole = tree
        self._keys: set[Where] = set()
        self._entries: set[Where] = set()
        self._shared_gone = False
        self._kept: dict[Where, list[int]] = {}

    def drop_key(self, where: Where) -> None:
        self._keys.add(where)

    def drop(self, where: Where) -> bool:
        """Drop what holds `where` and can be left out; False when the whole hangs on it."""
        for depth, part in enumerate(where):
            if isinstance(part, int):
                self._entries.add(where[: depth + 1])
                return True
        match where:
            case ("secrets", name, *_):
                self._keys.add(("secrets", name))
            case ("on_site_loss",):
                self._keys.add(where)
            case ("objectives", *_) | ("data", "backup", *_):
                self._keys.add(where[: 1 if where[0] == "objectives" else 2])
                self._shared_gone = True
            case _:
                return False
        return True

    @property
    def promises_are_whole(self) -> bool:
        """Without all the sites and all that assets inherit, nothing can be said about what they can
        keep together: most faults found would be of our own making.
        """
        return not self._shared_gone and not any(e[0] == "sites" for e in self._entries)

    def lost(self) -> Lost:
        return Lost(sites=self._names("sites"), people=self._names("people"))

    def tree(self) -> Tree:
        return self._copy(self._whole, ())

    def _names(self, section: str) -> frozenset[str]:
        entries = self._whole.get(section)
        if not isinstance(entries, list):
            return frozenset()
        dropped = [entry for i, entry in enumerate(entries) if (section, i) in self._entries]
        return frozenset(str(d["name"]) for d in dropped if isinstance(d, dict) and "name" in d)

    def _copy(self, value: Tree, where: Where) -> Tree:
        if isinstance(value, dict):
            return {
                k: self._copy(v, (*where, k))
                for k, v in value.items()
                if (*where, k) not in self._keys
            }
        if isinstance(value, list):
            kept = [i for i in range(len(value)) if (*where, i) not in self._entries]
            self._kept[where] = kept
            return [self._copy(value[i], (*where, i)) for i in kept]
        return value

    def where_it_was(self, where: Where) -> Where:
        """From a place in the rest to the place in the file."""
        was: Where = ()
        for part in where:
            kept = self._kept.get(was)
            if isinstance(part, int) and kept is not None and part < len(kept):
                was = (*was, kept[part])
            else:
                was = (*was, part)
        return was

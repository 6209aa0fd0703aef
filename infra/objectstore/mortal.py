"""A store whose caller dies: for proofs that a death at any storage call costs nothing that was committed."""

from collections.abc import Callable
from typing import Any

from infra.objectstore.memory import MemoryStore


class Died(BaseException):
    """The process ends here: no handler of errors may catch it, as none would."""


class Mortal:
    """The store, until its caller's `last` call, which kills before or after it took effect. Counts every
    method; whatever is called after the death dies too."""

    def __init__(self, inner: MemoryStore, last: int, *, after: bool) -> None:
        self._inner, self._left, self._after = inner, last, after
        self.name = inner.name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        inner = getattr(self._inner, method)  # what it cannot do, this cannot do

        def call(*args: Any, **more: Any) -> Any:
            self._left -= 1
            if self._left < 0 or (self._left == 0 and not self._after):
                raise Died
            found = inner(*args, **more)
            if self._left == 0:
                raise Died
            return found

        return call

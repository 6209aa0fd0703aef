"""The tree drawn in the module is the tree that is there: people read it to learn the exit codes."""

import inspect
import pickle
import re

import pytest

from zaibei.kernel import errors
from zaibei.kernel.errors import BadStack, Refused, Unreachable, Usage, ZaibeiError, in_a_line

DRAWN = re.compile(r"^    (?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+) +(?P<code>\d+)  ", re.MULTILINE)


def drawn() -> dict[str, tuple[str | None, int]]:
    """name -> (parent, exit code), from the indentation of the drawing."""
    found: dict[str, tuple[str | None, int]] = {}
    above: list[tuple[int, str]] = []
    for match in DRAWN.finditer(errors.__doc__ or ""):
        depth = len(match["branch"])
        above = [(d, n) for d, n in above if d < depth]
        found[match["name"]] = (above[-1][1] if above else None, int(match["code"]))
        above.append((depth, match["name"]))
    return found


def there() -> dict[str, tuple[str | None, int]]:
    classes = [
        c
        for _, c in inspect.getmembers(errors, inspect.isclass)
        if issubclass(c, ZaibeiError) and c.__module__ == errors.__name__
    ]
    return {
        c.__name__: (None if c is ZaibeiError else c.__bases__[0].__name__, c.exit_code)
        for c in classes
    }


def test_the_drawing_is_true() -> None:
    assert len(drawn()) >= 10
    assert drawn() == there()


def test_only_what_may_mend_itself_is_retryable() -> None:
    retryable = {
        c.__name__
        for _, c in inspect.getmembers(errors, inspect.isclass)
        if getattr(c, "retryable", False)
    }
    assert retryable == {"Unreachable"}


def test_exit_codes_are_those_a_shell_can_tell_apart() -> None:
    """0 is success; from 126 on the shell speaks itself. Branches of the root differ from each other."""
    branches = [
        c.exit_code for c in ZaibeiError.__subclasses__() if c.__module__ == errors.__name__
    ]
    assert len(branches) == len(set(branches))
    assert all(0 < c.exit_code < 126 for c in (ZaibeiError, *ZaibeiError.__subclasses__()))


@pytest.mark.parametrize("hint", ["do this", ("do this",)])
def test_one_hint_may_be_text_or_a_tuple(hint: str | tuple[str, ...]) -> None:
    error = Refused("site-b still accepts writes", hint=hint)
    assert error.hints == ("do this",)
    assert str(error) == "site-b still accepts writes\nhint: do this"


def test_without_a_hint_there_is_no_empty_line() -> None:
    assert str(Unreachable("site-c")) == "site-c"
    assert Unreachable("site-c").hints == ()


def test_a_bad_stack_is_a_usage_error() -> None:
    assert isinstance(BadStack("stack.yaml:1: what"), Usage)
    assert BadStack("x").exit_code == 2


def test_an_error_from_another_process_arrives_whole() -> None:
    """Pools send exceptions by pickle, which keeps the message and the attributes."""
    again = pickle.loads(pickle.dumps(Refused("no", hint="why")))
    assert (type(again), again.message, again.hints) == (Refused, "no", ("why",))


def test_in_a_line_the_hints_come_along_and_nothing_is_broken() -> None:
    assert in_a_line(Refused("a: no", hint=("do b", "or c"))) == "a: no (do b; or c)"
    assert in_a_line(Usage("a: no")) == "a: no"
    assert in_a_line(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"

"""When the newest snapshot that this machine has seen is gone: what is left can be looked at and restored, and nobody
may take it for all there was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zaibei.cli.console import talk
from zaibei.kernel.errors import Damage, Usage, ZaibeiError

if TYPE_CHECKING:
    from backup.repository.repository import Repository


def ends_lost(repos: "Sequence[Repository]") -> list[str]:
    """A line for each repository that shows less than this machine has seen there. What cannot be asked, the memory or
    the vault, is said and stops nobody: after a disaster both may be in pieces."""
    from backup.repository import rollback  # noqa: PLC0415

    lost: list[str] = []
    for one in repos:
        try:
            bad = rollback.lost(one)
        except ZaibeiError as unknown:
            loudly(f"UNKNOWN whether {one.name} is all that was there: {unknown.message}")
        else:
            lost += [bad.message] if bad is not None else []
    return lost


@contextmanager
def or_lost(repos: "Sequence[Repository]") -> Iterator[None]:
    """`no such snapshot` is not the whole truth where it was there."""
    try:
        yield
    except Usage as none:
        if not (lost := ends_lost(repos)):
            raise
        raise Damage(
            f"{none.message}; {lost[0]}",
            hint=(
                "zaibei backup list shows the numbers that are there",
                "zaibei backup heal takes it from the other vault; --as-of TIME reads the vault as it was then",
            ),
        ) from none


def loudly(line: str) -> None:
    talk.print(line, style="bold red", markup=False, emoji=False, soft_wrap=True)

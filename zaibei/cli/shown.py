"""A rich console that shows what others wrote and obeys none of it: no escape sequences, no markup, no emoji.

Names, titles, labels and the answers of servers reach every message and every cell. `[bold]` or `[link=...]` in
one would be drawn by rich, and an escape sequence by the terminal; so markup is off unless a call asks for it.
"""

from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from zaibei.kernel.printable import printable, printable_lines


class Shown(Console):
    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    @property
    def file(self) -> IO[str]:
        """The stream below those that write escape sequences out: ours are meant."""
        found = super().file
        return getattr(found, "drawn", found)

    @file.setter
    def file(self, stream: IO[str]) -> None:
        self._file = stream

    def render_str(self, text: str, **options: Any) -> Text:
        """Before the layout, so that columns are as wide as what is shown."""
        return super().render_str(printable_lines(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """And after it, for what was no plain text before."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


def on_one_line(table: Any) -> Any:
    """A cell is one line: a newline in a name would begin a row of its own."""
    if isinstance(table, Table):
        for column in table.columns:
            column._cells[:] = map(_cell, column._cells)
    return table


def _cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return printable(cell)
    if isinstance(cell, Text) and not cell.plain.isprintable():
        return Text(printable(cell.plain), style=cell.style)
    return cell

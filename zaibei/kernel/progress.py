"""How long work tells where it is. The command line draws it (bar and ETA, or lines); work only reports."""

from typing import Protocol


class Progress(Protocol):
    """One line of work. `total` None: not known yet. Calls are cheap and may come from any thread."""

    def step(self, what: str) -> None:
        """A new step begins: `cutting the power of site-a`."""

    def done(self, amount: int, total: int | None = None, *, unit: str = "") -> None:
        """So much of the current step is done, in `unit` (`B`, `rows`, `s`)."""

    def note(self, what: str) -> None:
        """Something worth a line of its own, between the steps."""


class Silent:
    def step(self, what: str) -> None: ...

    def done(self, amount: int, total: int | None = None, *, unit: str = "") -> None: ...

    def note(self, what: str) -> None: ...

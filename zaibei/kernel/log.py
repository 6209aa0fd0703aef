"""Logs: structlog events on stderr, for the person who looks why. Not evidence, and never on stdout.

`logger` costs nothing until something is said: most runs say nothing, and a backup every few minutes should
not wait for the library.
"""

import os
import sys
from typing import Any

ENV = "ZAIBEI_LOG"  # debug, info, warning, error; another is refused before anything is logged


class Logger:
    """What `structlog.get_logger` gives, made at the first word."""

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **fields: Any) -> None:
        self._made().debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        self._made().info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._made().warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self._made().error(event, **fields)

    def _made(self) -> Any:
        import structlog  # noqa: PLC0415

        # Unconfigured, structlog prints on stdout, and stdout is data.
        if not structlog.is_configured():
            configure()
        return structlog.get_logger(self._name)


def logger(name: str) -> Logger:
    return Logger(name)


def configure() -> None:
    """Lines for a terminal, JSON for a pipe; warnings and worse unless $ZAIBEI_LOG says otherwise."""
    import logging  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    level = getattr(logging, os.environ.get(ENV, "warning").upper(), logging.WARNING)
    shown: structlog.typing.Processor = (
        # No colours: the stream writes every escape sequence out, since one may stand in a field.
        structlog.dev.ConsoleRenderer(colors=False)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Whatever stderr is then: one that was replaced may be closed, and a log line must end no backup.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )

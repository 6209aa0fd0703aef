"""Logs: structlog events on stderr, for the person who looks why. Not evidence, and never on stdout."""

import logging
import os
import sys

import structlog

ENV = "ZAIBEI_LOG"  # debug, info, warning


def configure() -> None:
    """Lines for a terminal, JSON for a pipe; warnings and worse unless $ZAIBEI_LOG says otherwise."""
    level = getattr(logging, os.environ.get(ENV, "warning").upper(), logging.WARNING)
    shown: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )

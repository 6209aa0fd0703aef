"""Signed statements in an append-only log: what was due, what was tried, what was measured.

It proves *unchanged since*, not *true*: whoever holds the signing key can sign a false measurement.
Formats, byte by byte: docs/design/evidence.md. Checked without us: docs/guides/verify-a-pack.md.
"""

from zaibei.evidence.kinds import Kind
from zaibei.evidence.packing import pack
from zaibei.evidence.record import Entry, Evidence, default_dir
from zaibei.evidence.statement import Statement, Subject
from zaibei.evidence.verification import Findings, verify
from zaibei.evidence.witness import Witness

__all__ = [
    "Entry",
    "Evidence",
    "Findings",
    "Kind",
    "Statement",
    "Subject",
    "Witness",
    "default_dir",
    "pack",
    "verify",
]

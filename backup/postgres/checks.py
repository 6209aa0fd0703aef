"""Runs PostgreSQL's own checks on a restored cluster. Each passes, fails, or says why it is
unknown.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from infra.postgres.server import BIN
from zaibei.kernel import process
from zaibei.kernel.errors import ToolFailed

_PAGES = "page checksums"
TOOL_WITHIN: Final = timedelta(hours=4)
_HAS_CHECKSUMS = re.compile(r"^Data page checksum version:\s+(\d+)$", re.MULTILINE)
_CHECKED = re.compile(r"^Blocks scanned:\s+(\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`passed` None: it did not run, and why. `needed` False: not knowing is nobody's fault."""

    name: str
    passed: bool | None
    detail: str
    needed: bool = True

    @property
    def holds(self) -> bool:
        """Nothing that had to be shown is unshown."""
        return self.passed is True or (self.passed is None and not self.needed)


def verified(data: Path, *, brings_wal: bool, files: int, account: str | None) -> Check:
    """Before the first start: a server that ran has changed its files. Raises ToolFailed."""
    argv = [str(BIN / "pg_verifybackup")]
    if not brings_wal:
        argv.append("--no-parse-wal")
    process.run([*argv, str(data)], deadline=TOOL_WITHIN, cwd=data.parent, user=account)
    return Check(name="pg_verifybackup", passed=True, detail=f"{files} files, SHA-256")


def amcheck(directory: Path, *, port: int, role: str, account: str | None) -> Check:
    """In the running room; it must be writable, the extension is installed where it lacks."""
    if not (BIN / "pg_amcheck").exists():
        return Check(name="pg_amcheck", passed=None, detail="the program is not here")
    try:
        process.run(
            [
                *(BIN / "pg_amcheck", "--all", "--install-missing", "--heapallindexed"),
                *("-h", directory, "-p", str(port), "-U", role),
            ],
            deadline=TOOL_WITHIN,
            cwd=directory,
            user=account,
        )
    except ToolFailed as bad:
        return Check(name="pg_amcheck", passed=False, detail=bad.message)
    return Check(name="pg_amcheck", passed=True, detail="every table and B-tree index")


def no_checksums(data: Path, *, account: str | None) -> Check | None:
    """Why pages cannot be checked; None: they can."""
    said = process.run([BIN / "pg_controldata", data], cwd=data.parent, user=account)
    found = _HAS_CHECKSUMS.search(said)
    if found is None or found[1] == "0":
        return Check(
            name=_PAGES, passed=None, detail="this cluster has no data checksums", needed=False
        )
    return None


def checksums(data: Path, *, account: str | None) -> Check:
    """Every page of every relation, in a data directory that was stopped cleanly.

    Not before recovery: a base backup is taken while pages are being written, and a torn one is made whole
    by replay, not by the copy.
    """
    try:
        told = process.run(
            [BIN / "pg_checksums", "--check", "-D", data],
            deadline=TOOL_WITHIN,
            cwd=data.parent,
            user=account,
        )
    except ToolFailed as bad:
        return Check(name=_PAGES, passed=False, detail=bad.message)
    pages = _CHECKED.search(told)
    return Check(name=_PAGES, passed=True, detail=f"{pages[1] if pages else 'all'} pages read")

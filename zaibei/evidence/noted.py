"""Hold a log to checkpoints that were written down earlier, on paper: `SIZE:ROOT`. Pure.

A folder that is put back as it was before a failed drill verifies by itself. A checkpoint that an
auditor noted in between does not fit it any more.
"""

import base64
import re
from collections.abc import Sequence

from zaibei.evidence import tree
from zaibei.kernel.errors import Damage, Usage

_SIZE = re.compile("[1-9][0-9]{0,6}")  # the same in `packed/verify.sh`; no log is longer


def parse(text: str) -> tuple[int, bytes]:
    """`SIZE:ROOT` as it is printed in a report. Raises Usage."""
    size, colon, root = text.partition(":")
    try:
        raw = base64.b64decode(root, validate=True)
    except ValueError:
        raw = b""
    plain = _SIZE.fullmatch(size)
    if not colon or not plain or len(raw) != 32 or base64.b64encode(raw).decode() != root:
        raise Usage(
            f"not a noted checkpoint: {text!r}",
            hint="SIZE:ROOT as the report prints it: a number, a colon, 44 characters",
        )
    return int(size), raw


def held_to(leaves: Sequence[bytes], earlier: Sequence[tuple[int, bytes]]) -> None:
    """The log begins with the entries of every checkpoint that was noted: nothing was taken back."""
    for size, root in earlier:
        if size > len(leaves):
            raise Damage(f"the log has {len(leaves)} entries; {size} were noted earlier")
        if tree.root(leaves[:size]) != root:
            raise Damage(f"the first {size} entries are not the ones that were noted earlier")

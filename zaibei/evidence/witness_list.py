"""State in the log which witnesses are declared, and note the ones that did not sign a checkpoint.

The list is in the log and not beside it: a pack without a witness's line is then seen to lack it, and a
witness whose key was replaced is seen to have another one.
"""

import re
from collections.abc import Collection

from zaibei.evidence import keys
from zaibei.evidence.kinds import Kind
from zaibei.evidence.record import Entry, Evidence
from zaibei.evidence.remote_witness import declared

# Narrow, because the script reads it with one pattern: both must read the same.
_ITEM = r'\{"fingerprint":"[0-9a-f]{64}","name":"[A-Za-z0-9_-]+"\}'
_STATEMENT = re.compile(
    r'\{"_type":"https://in-toto\.io/Statement/v1",'
    rf'"predicate":\{{"declared":\[(?P<items>(?:{_ITEM}(?:,{_ITEM})*)?)\],"recorded_at":"[^"\\]*"\}},'
    r'"predicateType":"urn:zaibei:witnesses/v1","subject":\[\]\}'
)
_PARTS = re.compile(r'"fingerprint":"([0-9a-f]{64})","name":"([A-Za-z0-9_-]+)"')


def record_declared(evidence: Evidence) -> Entry | None:
    """State the declared witnesses, unless they are the ones that were stated last. They are asked to sign.

    `evidence` was opened before the declaration or after it: the list is read from its folder.
    """
    found = declared(evidence.directory)
    wanted = [{"fingerprint": keys.fingerprint(w.public), "name": w.name} for w in found]
    stated = [e for e in evidence.entries() if e.statement.predicate_type == Kind.WITNESSES]
    if (stated[-1].statement.predicate.get("declared") if stated else []) == wanted:
        return None
    opened = Evidence.open(evidence.directory, evidence.clock)
    return opened.record(Kind.WITNESSES, {"declared": wanted})


class WitnessList:
    """What a log states, fed list by list: keeps the newest, and which names got another key."""

    def __init__(self) -> None:
        self._at: int | None = None
        self._newest: list[tuple[str, str]] | None = None  # name, fingerprint; None: another form
        self._last: dict[str, str] = {}
        self._changed: dict[str, int] = {}

    def see(self, index: int, payload: bytes) -> None:
        found = _STATEMENT.fullmatch(payload.decode(errors="replace"))
        self._at = index
        self._newest = (
            [(name, key) for key, name in _PARTS.findall(found["items"])] if found else None
        )
        for name, key in self._newest or ():
            if self._last.setdefault(name, key) != key:
                self._changed[name] = index
            self._last[name] = key

    def notes(self, signed: Collection[str]) -> list[str]:
        """`signed`: fingerprints of the keys that cosigned."""
        if self._at is None:
            return []
        if self._newest is None:
            return [f"witnesses {self._at}: not in a form that can be compared; read it"]
        return [
            *(
                f"witness {name}, declared in entry {self._at}, did not sign the checkpoint"
                for name, key in self._newest
                if key not in signed
            ),
            *(
                f"witness {name} has another key since entry {self._changed[name]}"
                for name, _ in self._newest
                if name in self._changed
            ),
        ]

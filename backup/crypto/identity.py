"""Reads identity files: a private key on one line, or shares of one, a line each. Never a
command-line argument.
"""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backup.crypto import escrow
from backup.crypto.kem import CURVES, curve
from backup.errors import Taken
from zaibei.kernel import persontext
from zaibei.kernel.errors import Damage, Usage
from zaibei.kernel.state import write_atomic

_MARK: Final = "zaibei-identity"
_PUBLIC: Final = "zaibei-public"


def parse_public(text: str) -> tuple[str, bytes]:
    """Curve and public key."""
    mark, _, rest = text.strip().partition(":")
    name, _, raw = rest.partition(":")
    if mark != _PUBLIC or name not in CURVES:
        raise Usage(
            f"not a public key: {text!r}", hint=f"{_PUBLIC}:x25519:HEX, as `key new` prints it"
        )
    try:
        public = bytes.fromhex(raw)
        curve(name).encapsulate(public)
    except (ValueError, Damage) as bad:
        raise Usage(f"not a public key of {name}: {raw!r}") from bad
    return name, public


def _lines(file: Path) -> list[str]:
    try:
        if os.stat(file).st_mode & 0o077:  # noqa: PTH116 - follows links, as the read does
            raise Usage(f"{file} can be read by others", hint=f"chmod 600 {file}")
        text = persontext.read(file)
    except FileNotFoundError as gone:
        raise Usage(f"{file}: no such file") from gone
    except persontext.NotText as bad:
        raise Usage(f"{file}: {bad}") from bad
    return [s for line in text.splitlines() if (s := line.strip()) and not s.startswith("#")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A private key of a recipient."""

    curve: str
    private: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        return curve(self.curve).public(self.private)

    @classmethod
    def new(cls, name: str) -> "Identity":
        return cls(curve=name, private=curve(name).private(secrets.token_bytes(48)))


Secret = str | Identity  # a passphrase, or a private key


def public_text(one: Identity) -> str:
    """What is given to whoever lets it in."""
    return f"{_PUBLIC}:{one.curve}:{one.public.hex()}"


def save(one: Identity, file: Path) -> None:
    if file.exists():
        raise Taken(f"{file} is there already", hint="another name; it is not overwritten")
    text = f"# {public_text(one)}\n{_MARK}:{one.curve}:{one.private.hex()}\n"
    write_atomic(file, text, mode=0o600)


def load(file: Path) -> Identity:
    """Raises Usage, also for a file that others can read: it would be everybody's key."""
    for line in _lines(file):
        mark, _, rest = line.partition(":")
        name, _, raw = rest.partition(":")
        try:
            if mark == _MARK:
                one = Identity(curve=name, private=bytes.fromhex(raw))
                curve(name).public(one.private)
                return one
        except (ValueError, Damage) as bad:
            raise Usage(f"{file}: not a private key of {name}") from bad
    raise Usage(f"{file}: no private key in it", hint="zaibei backup key new makes one")


def load_shares(file: Path) -> tuple[Identity, ...]:
    """What the shares lead to. They do not say of which curve it is, so it is one of these."""
    private = escrow.join(_lines(file))
    return tuple(Identity(curve=name, private=private) for name in CURVES)

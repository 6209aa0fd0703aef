"""The second, national signature (SM2 with SM3, GB/T 32918), made and checked by the `openssl` program.

Python's `cryptography` has no SM2. Where `openssl` cannot do it either, the line is absent and said to
be absent; it is never replaced by something else.
"""

import tempfile
from datetime import timedelta
from pathlib import Path

from zaibei.evidence import note
from zaibei.kernel import process
from zaibei.kernel.errors import Missing, ToolFailed

_DEADLINE = timedelta(seconds=20)
_SCHEME = ("-rawin", "-digest", "sm3", "-pkeyopt", "distid:1234567812345678")


def new_private_pem() -> str:
    """A fresh key. It comes through a pipe: it never lies in a file that others could read."""
    return process.run(["openssl", "genpkey", "-algorithm", "SM2"], deadline=_DEADLINE)


def public_pem(private: Path) -> str:
    return process.run(["openssl", "pkey", "-in", private, "-pubout"], deadline=_DEADLINE)


def sign(private: Path, text: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as work:
        message, out = Path(work, "text"), Path(work, "sig")
        message.write_bytes(text)
        argv: list[str | Path] = [
            "openssl",
            "pkeyutl",
            "-sign",
            "-inkey",
            private,
            "-in",
            message,
            "-out",
            out,
        ]
        process.run([*argv, *_SCHEME], deadline=_DEADLINE)
        return out.read_bytes()


def why_not_signed(public: bytes, text: bytes, signature: bytes) -> str | None:
    """None when the signature holds. A machine that cannot check has not checked: that is a reason."""
    with tempfile.TemporaryDirectory() as work:
        key, message, sig = Path(work, "key"), Path(work, "text"), Path(work, "sig")
        key.write_bytes(public)
        message.write_bytes(text)
        sig.write_bytes(signature)
        argv: list[str | Path] = [
            "openssl",
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            key,
            "-in",
            message,
        ]
        try:
            process.run([*argv, *_SCHEME, "-sigfile", sig], deadline=_DEADLINE)
        except (ToolFailed, Missing) as bad:
            return f"the SM2 signature does not hold, or openssl cannot check it: {bad.message}"
    return None


def line(private: Path, public_der: bytes, *, name: str, text: bytes) -> note.SignatureLine:
    return note.SignatureLine(
        name=name,
        key_id=note.key_id(name, note.SM2_SM3, public_der),
        signature=sign(private, text),
    )

"""Ask a witness at another site, over HTTP, to sign the log's head (C2SP tlog-witness).

Its key was brought here by people and is pinned: an answer by another key is refused. Which witnesses
are asked stands in `witnesses.json` beside the log.
"""

import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from zaibei.evidence import keys, note
from zaibei.evidence.witness import cosigned_at, key_name
from zaibei.evidence.witness_server import PATH, encode_request
from zaibei.kernel.errors import Damage, Refused, Unreachable, Usage
from zaibei.kernel.exchange import Reply, exchange
from zaibei.kernel.state import write_atomic

FILE = "witnesses.json"
WITHIN = timedelta(seconds=3)  # a drill must not wait for a site that is gone
_ANSWER_MAX_BYTES = 4096
_CONFLICT, _NOT_A_CONTINUATION, _OK = 409, 422, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteWitness:
    name: str
    url: str  # http://HOST:PORT or https://…
    public: bytes  # PEM
    ca: str | None = None  # file with the CA of its certificate; https only

    @property
    def key_name(self) -> str:
        return key_name(self.name)

    def ask(self, checkpoint: bytes, prove: Callable[[int], Sequence[bytes]]) -> note.SignatureLine:
        """Its line under the head. Raises Unreachable when it does not answer or does not know the log,
        Refused when it has seen another history, Damage when its answer is not its own.
        """
        signed = note.parse(checkpoint)
        size = note.parse_checkpoint(signed.text).size
        reply = self._post(encode_request(size, [], checkpoint))
        if reply.status == _CONFLICT:
            # It names what it saw last; the proof must begin there.
            seen = _size(reply.body)
            if seen > size:
                raise self._refused(f"it saw {seen} entries, the log has {size}")
            if seen < size:
                proof = prove(seen) if seen else []
                reply = self._post(encode_request(seen, proof, checkpoint))
        if reply.status in {_CONFLICT, _NOT_A_CONTINUATION}:
            raise self._refused(f"the first {size} entries are not the ones it saw")
        if reply.status != _OK:
            raise Unreachable(
                f"witness {self.name} answers {reply.status}: {_plain(reply.body)}",
                hint="zaibei evidence witness watch, where it runs, makes it know this log",
            )
        return self._checked(reply.body, signed.text)

    def _checked(self, body: bytes, text: bytes) -> note.SignatureLine:
        try:
            lines = note.parse(text + b"\n" + body).signatures
            mine = next(line for line in lines if line.name == self.key_name)
        except (Damage, StopIteration) as bad:
            raise Damage(f"witness {self.name}: its answer holds no line of its own") from bad
        cosigned_at(mine, keys.load_ed25519(self.public), text)
        return mine

    def _post(self, body: bytes) -> Reply:
        tls = None
        if self.url.startswith("https:"):
            tls = ssl.create_default_context(cafile=self.ca)
        url = self.url.rstrip("/") + PATH
        return exchange(url, tls=tls, within=WITHIN, body=body, max_body_bytes=_ANSWER_MAX_BYTES)

    def _refused(self, why: str) -> Refused:
        return Refused(
            f"witness {self.name} does not sign: {why}",
            hint="keep both checkpoints: together they prove that the log was rewritten",
        )


def declared(directory: Path) -> tuple[RemoteWitness, ...]:
    """Those of a log's folder. Raises Damage for a file that is not one of ours."""
    try:
        listed = json.loads((directory / FILE).read_bytes())
        found = tuple(
            RemoteWitness(
                name=str(w["name"]), url=str(w["url"]), public=str(w["public"]).encode(), ca=w["ca"]
            )
            for w in listed
        )
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError) as bad:
        raise Damage(f"{directory / FILE} does not list witnesses: {bad!r}") from bad
    return found


def declare(directory: Path, one: RemoteWitness) -> None:
    """Add it, or change its URL. Raises Usage for a URL or key of another form, Refused for another key."""
    if not one.url.startswith(("http://", "https://")) or "@" in one.url:
        raise Usage(f"not the URL of a witness: {one.url!a}", hint="http://HOST:PORT or https://…")
    if not one.name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in one.name):
        raise Usage(f"not a name for a witness: {one.name!a}", hint="letters, digits, - and _")
    keys.load_ed25519(one.public)
    others = [w for w in declared(directory) if w.name != one.name]
    same = [w for w in declared(directory) if w.name == one.name]
    if any(w.public != one.public for w in same):
        raise Refused(
            f"witness {one.name} is declared with another key",
            hint=f"is it the same witness? If so: zaibei evidence witness remove {one.name}",
        )
    _write(directory, [*others, one])


def withdraw(directory: Path, names: Sequence[str]) -> None:
    """Ask those no more. Raises Usage for one that is not declared."""
    held = declared(directory)
    if unknown := set(names) - {w.name for w in held}:
        raise Usage(
            f"no witness {min(unknown)!a} is declared",
            hint=f"declared: {', '.join(w.name for w in held) or 'none'}",
        )
    _write(directory, [w for w in held if w.name not in names])


def _write(directory: Path, witnesses: Sequence[RemoteWitness]) -> None:
    listed = [
        {"name": w.name, "url": w.url, "public": w.public.decode(), "ca": w.ca}
        for w in sorted(witnesses, key=lambda w: w.name)
    ]
    write_atomic(directory / FILE, json.dumps(listed, indent=2) + "\n")


def _size(body: bytes) -> int:
    text = body.strip()
    if not text.isdigit() or len(text) > 19:
        raise Damage(f"a witness answers with no size: {_plain(body)}")
    return int(text)


def _plain(body: bytes) -> str:
    return ascii(body[:200].decode(errors="replace").strip())

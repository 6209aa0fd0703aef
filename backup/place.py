"""Do two URLs mean one place? Pure but for symbolic links: nothing is opened, and no keys are needed."""

import os
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from zaibei.kernel.errors import Usage

KEY, SECRET_FILE = "ZAIBEI_S3_KEY", "ZAIBEI_S3_SECRET_FILE"
_PORTS: Final = {"s3+https": 443, "s3+http": 80}


def place_of(url: str) -> str:
    """What names the place alone, whichever way the URL is written. Raises Usage for what is no repository's URL."""
    without_login(url)
    try:
        parts = urlsplit(url)
        if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
            return "file:" + os.path.realpath(unquote(parts.path))
        if parts.scheme in _PORTS and parts.hostname and parts.path.strip("/"):
            port = parts.port or _PORTS[parts.scheme]
            return f"s3:{parts.hostname}:{port}/{parts.path.strip('/')}"
    except ValueError:
        pass  # a port that is no number, a bracket that stays open
    raise Usage(f"not a repository: {url!r}", hint="file:///DIR or s3+https://HOST/BUCKET/PREFIX")


def without_login(url: str) -> None:
    """Raises Usage for a store's URL with a user or a password in it, and does not repeat them.

    A URL is said in lists and messages, and stored in snapshots and jobs; a key that stood in it was read there.
    """
    scheme, has_host, rest = url.partition("://")
    host, _, path = (rest if has_host else scheme).partition("/")
    bucket = path.partition("/")[0]
    # Also where a `/` in the password ended the host too early, and where `://` was forgotten.
    if "@" in host or (has_host and host and "@" in bucket):
        raise Usage(
            "a store's URL takes no user and no password",
            hint=f"export {KEY} (the access key) and {SECRET_FILE} (a file with the secret key)",
        )


def all_distinct(urls: Sequence[str]) -> None:
    """Raises Usage when one of them is no URL of a repository, or two are one place."""
    seen: dict[str, str] = {}
    for url in urls:
        place = place_of(url)
        if place in seen:
            raise Usage(
                f"{seen[place]} and {url} are one place",
                hint="each --repo is a vault of its own: two snapshots in one are one copy",
            )
        seen[place] = url

"""Where repositories are: a directory, an S3 bucket, or the vaults of the provisioned stack."""

import os
import random
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast, get_args
from urllib.parse import unquote, urlsplit

from backup.locations.throttle import Pace, Paced
from infra import sites
from infra.objectstore.contract import ObjectStore
from zaibei.kernel import environment, persontext, process
from zaibei.kernel.clock import Clock, SystemClock
from zaibei.kernel.errors import Usage
from zaibei.kernel.progress import Progress

KEY, SECRET_FILE = "ZAIBEI_S3_KEY", "ZAIBEI_S3_SECRET_FILE"
_PORTS: Final = {"s3+https": 443, "s3+http": 80}
PASSWORD_COMMAND: Final = "ZAIBEI_PASSWORD_COMMAND"
WRITER: Final = "writer"
# Whose variables say how a store is reached: a repository's, and a bucket's that is backed up or restored into.
_STORE: Final = "ZAIBEI_S3"
_BUCKET_STORE: Final = "ZAIBEI_BUCKET"
# Who may remove, beside who may write; where it is not set there is nobody.
_DELETER_STORE: Final = "ZAIBEI_S3_DELETER"
BUSINESS: Final = "business"
DELETER: Final = "deleter"
_WORD: Final = re.compile(r"[!-~]+")
_REGION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?")
_BUCKET_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")  # what boto3 lets through


def open_url(url: str) -> ObjectStore:
    """`file:///DIR` or `s3+https://HOST[:PORT]/BUCKET[/PREFIX]`; S3 keys from the environment."""
    without_login(url)
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        from infra.objectstore.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(Path(unquote(parts.path)))
    if parts.scheme in ("s3+https", "s3+http") and parts.netloc and len(parts.path) > 1:
        return paced(_s3(url))
    raise Usage(f"not a repository: {url!r}", hint="file:///DIR or s3+https://HOST/BUCKET/PREFIX")


def paced(store: ObjectStore) -> ObjectStore:
    """A store that others use too: it says when it is too much, and is then asked less."""
    return Paced(store, Pace(SystemClock()))


def open_deleter(url: str) -> ObjectStore:
    """The same place as who may remove. A directory knows no identities."""
    without_login(url)
    if urlsplit(url).scheme == "file":
        return open_url(url)
    return paced(_s3(url, keys=_DELETER_STORE))


def passphrase_of_command(command: str) -> str:
    """The first line that a command prints: a keyring's or an HSM's answer, which is on no disk."""
    try:
        argv = shlex.split(command)
    except ValueError as bad:
        raise Usage(f"{PASSWORD_COMMAND}: not a command: {bad}") from bad
    said = process.run(argv, env=environment.of_our_own()).splitlines() if argv else []
    if not said or not said[0]:
        raise Usage(f"{PASSWORD_COMMAND}: the first line of its output is empty")
    return said[0]


def open_bucket(where: str) -> tuple[ObjectStore, str]:
    """A business bucket, and what names it in snapshots. `s3+https://HOST/BUCKET[/PREFIX]`, or `SITE/BUCKET` of
    the provisioned stack as its business identity."""
    without_login(where)
    if urlsplit(where).scheme in ("s3+https", "s3+http"):
        keys = _BUCKET_STORE if os.environ.get(f"{_BUCKET_STORE}_KEY") else _STORE
        return _s3(where, keys=keys, reach=(_BUCKET_STORE, _STORE)), where.rstrip("/")
    site, _, bucket = where.partition("/")
    if not site or not bucket or ":" in where or "/" in bucket:
        raise Usage(
            f"not a bucket: {where!r}",
            hint="s3+https://HOST/BUCKET[/PREFIX], or SITE/BUCKET of the provisioned stack",
        )
    from infra.objectstore.s3 import open_store  # noqa: PLC0415

    stack = sites.load()
    if site not in [s.name for s in stack.sites]:
        raise Usage(f"no site {site!r}", hint=", ".join(s.name for s in stack.sites))
    store = open_store(
        stack.site(site).store, ca_file=stack.ca_file, bucket=bucket, role=BUSINESS, site=site
    )
    return store, where


def admitted(url: str, *, clock: Clock, progress: Progress) -> None:
    """Ask an S3 endpoint everything that a vault must keep, with the environment's keys, which must be allowed to
    make a scratch bucket. Raises Refused with the reasons. A directory has no such promises to break."""
    if urlsplit(url).scheme == "file":
        return
    from infra.objectstore import admission  # noqa: PLC0415

    access, ca, _, _ = _access(url)
    admission.demand(
        admission.probe(
            access,
            ca_file=ca,
            role=admission.StoreRole.VAULT,
            as_role=WRITER,
            clock=clock,
            rng=random.SystemRandom(),
            progress=progress,
        )
    )


def _s3(url: str, *, keys: str = _STORE, reach: Sequence[str] = (_STORE,)) -> ObjectStore:
    from infra.objectstore.s3 import open_store  # noqa: PLC0415

    access, ca_file, bucket, prefix = _access(url, keys=keys, reach=reach)
    return open_store(
        access,
        ca_file=ca_file,
        bucket=bucket,
        role=WRITER,
        prefix=prefix,
        keys_hint=f"may the key of {keys}_KEY do this, and does the file of {keys}_SECRET_FILE hold its secret?",
    )


def _access(
    url: str, *, keys: str = _STORE, reach: Sequence[str] = (_STORE,)
) -> tuple[sites.StoreAccess, Path | None, str, str]:
    """Endpoint and keys, CA, bucket, prefix. `keys`: how the variables that hold them begin; `reach`: those that say
    the way to the store, the first that is set. All is looked at before the first connection: a CA that is not there
    would pass for a fault of the network. Raises Usage."""
    without_login(url)
    parts = urlsplit(url)
    bucket, _, prefix = parts.path.lstrip("/").partition("/")
    if not _BUCKET_NAME.fullmatch(bucket):
        raise Usage(
            f"not a bucket's name: {bucket!r}", hint="letters, digits, dots, hyphens, underscores"
        )
    if prefix and not prefix.endswith("/"):
        prefix += "/"

    def told(what: str) -> str:
        """The variable of `reach` that is set; the last one when none is."""
        return next((n for r in reach if os.environ.get(n := f"{r}_{what}")), f"{reach[-1]}_{what}")

    access = sites.StoreAccess(
        endpoint=f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}",
        region=_region(told("REGION")),
        keys={WRITER: _keys(keys, parts.netloc)},
        token=_word_file(f"{keys}_SESSION_TOKEN_FILE", "session token"),
        addressing=cast(
            "sites.Addressing",
            environment.one_of(told("ADDRESSING"), get_args(sites.Addressing), default="path"),
        ),
        proxy=_proxy(told("PROXY")),
    )
    ca = told("CA_FILE")
    return access, _ca_file(ca) if os.environ.get(ca) else None, bucket, prefix


def _keys(named: str, host: str) -> tuple[str, sites.Secret]:
    key, file = f"{named}_KEY", f"{named}_SECRET_FILE"
    key_id = os.environ.get(key)
    if not key_id or not os.environ.get(file):
        raise Usage(
            f"no keys for {host}",
            hint=f"export {key} (the access key) and {file} (a file with the secret key)",
        )
    if not _WORD.fullmatch(key_id):
        raise Usage(
            f"{key}: not an access key: a space, a line break or no ASCII in it",
            hint="the key id alone; the secret goes into a file",
        )
    secret = _word_file(file, "secret key")
    assert secret is not None, "it is set"
    return key_id, secret


def _word_file(name: str, what: str) -> sites.Secret | None:
    """What the variable's file holds, looked at and not kept; None: it is not set."""
    given = os.environ.get(name)
    if not given:
        return None
    hint = f"{name} names a file with the {what}"
    try:
        text = persontext.read(Path(given))
    except (OSError, persontext.NotText) as bad:
        why = bad.strerror if isinstance(bad, OSError) else str(bad)
        raise Usage(f"{given}: no {what} can be read: {why}", hint=hint) from bad
    if not _WORD.fullmatch(text.strip()):
        why = "it is empty" if not text.strip() else "one word of ASCII is meant"
        raise Usage(f"{given}: no {what} can be read: {why}", hint=hint)
    return sites.Secret(file=Path(given))


def _region(name: str) -> str:
    shown = name if os.environ.get(name) else "AWS_REGION"
    region = os.environ.get(shown) or "us-east-1"
    if not _REGION.fullmatch(region):
        raise Usage(f"{shown}={region!r}: not a region", hint="for example eu-central-1")
    return region


def _proxy(name: str) -> str | None:
    proxy = os.environ.get(name)
    if not proxy:
        return None
    try:
        parts = urlsplit(proxy)
        good = parts.scheme in ("http", "https") and bool(parts.hostname and parts.port)
    except ValueError:
        good = False
    if not good or not _WORD.fullmatch(proxy):
        # Not repeated: a password may stand in it.
        raise Usage(f"{name}: not the URL of a proxy", hint="http://HOST:PORT")
    return proxy


def _ca_file(name: str) -> Path:
    from infra.objectstore.s3 import trusted  # noqa: PLC0415

    file = Path(os.environ[name])
    trusted(file, hint=f"{name} names a PEM file with the certificate of the store's CA")
    return file


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

"""Decide what of the environment reaches us and the programs we start.

Libraries take settings from variables that were meant for other tools: `AWS_PROFILE` once ended a backup in a
traceback, `PGOPTIONS` or a proxy would change where it goes and what it holds. So what we obey is listed here, all
else of theirs is dropped, and a misspelled name of ours is an error instead of a setting that was never read.
"""

import difflib
import os
import stat
from collections.abc import Mapping
from typing import Final

from zaibei.kernel.errors import Usage

# What an operator may set. Each is documented where it is used, all in docs/reference/environment.md.
OURS: Final[Mapping[str, str]] = {
    "ZAIBEI_STATE": "the state directory; default /var/lib/zaibei for root, else ~/.local/state/zaibei",
    "ZAIBEI_LOG": "debug, info, warning or error: what is logged on stderr; default warning",
    "ZAIBEI_REPO": "for --repo: the URLs of the repositories, separated by spaces",
    "ZAIBEI_PASSWORD_FILE": "for --password-file",
    "ZAIBEI_PASSWORD_COMMAND": "a command whose first line of output is the passphrase, where there is no file",
    "ZAIBEI_HOST": "for --host: whose data it is, where the machine's own name changes",
    "ZAIBEI_S3_KEY": "access key of the repositories' store",
    "ZAIBEI_S3_SECRET_FILE": "file with the secret key",
    "ZAIBEI_S3_SESSION_TOKEN_FILE": "file with the session token of temporary credentials",
    "ZAIBEI_S3_CA_FILE": "PEM file of the CA that signed the store's certificate",
    "ZAIBEI_S3_REGION": "region that requests are signed for; default AWS_REGION, else us-east-1",
    "ZAIBEI_S3_ADDRESSING": "path (default), virtual or auto: the bucket in the path or in the host name",
    "ZAIBEI_S3_PROXY": "http://HOST:PORT of a proxy to the store; no other proxy variable is read",
    "ZAIBEI_S3_DELETER_KEY": "access key of the identity that may delete (gc)",
    "ZAIBEI_S3_DELETER_SECRET_FILE": "file with its secret key",
    "ZAIBEI_S3_DELETER_SESSION_TOKEN_FILE": "file with its session token",
    "ZAIBEI_BUCKET_KEY": "access key of a bucket that is backed up; else that of the repositories",
    "ZAIBEI_BUCKET_SECRET_FILE": "file with its secret key",
    "ZAIBEI_BUCKET_SESSION_TOKEN_FILE": "file with its session token",
    "ZAIBEI_BUCKET_CA_FILE": "PEM file of the CA of its store; else that of the repositories",
    "ZAIBEI_BUCKET_REGION": "its region; else that of the repositories",
    "ZAIBEI_BUCKET_ADDRESSING": "as ZAIBEI_S3_ADDRESSING, which it falls back to",
    "ZAIBEI_BUCKET_PROXY": "as ZAIBEI_S3_PROXY, which it falls back to",
}
# Of the sample service, the load generator's own processes, `make`, and shell completion.
_OTHERS_OF_OURS: Final = (
    "ZAIBEI_STARTED_BY",  # whose child this process is: `process.MARK`
    "ZAIBEI_RUN",
    "ZAIBEI_HC_",
    "ZAIBEI_FOREIGN_",
    "ZAIBEI_TEST_",
    "ZAIBEI_SURGE_PLAN",
    "ZAIBEI_SURGE_CONTROL",
    "ZAIBEI_STOCK_RPS",
    "ZAIBEI_SEED",
    "ZAIBEI_CAMPAIGN",
    "ZAIBEI_EVERY_DEATH",
    "ZAIBEI_EXAMPLES",
    "ZAIBEI_COMPLETE",
)
_PREFIX: Final = "ZAIBEI_"
_NEAR: Final = (
    0.9  # a slip of the fingers; a longer name may be another program's and is only reported
)
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

# libpq's variables that are credentials, which the manual names; every other PG… steers.
CREDENTIALS: Final = ("PGPASSFILE", "PGPASSWORD")
_STEERING: Final = ("AWS_", "BOTO", "PG", "OPENSSL_", "ETCDCTL_", "GIT_", "MINIO_")
_STEERING_NAMES: Final = frozenset(
    {"SSLKEYLOGFILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
)
_PROXIES: Final = "_PROXY"
# Region is ours to read; a key pair steers nothing, and a stack.yaml may name these as where its secrets are.
_KEPT: Final = frozenset(
    {
        *("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        *CREDENTIALS,
    }
)
# What a program that we start may know of us.
_PASSED_ON: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "XDG_RUNTIME_DIR"),
        *("LD_LIBRARY_PATH", "SSH_AUTH_SOCK", "OPENBLAS_NUM_THREADS"),
    }
)


def steers(name: str) -> bool:
    """Whether a library of ours would take a setting from this variable."""
    if name in _KEPT or name.startswith(_PREFIX):
        return False
    upper = name.upper()
    return name.startswith(_STEERING) or name in _STEERING_NAMES or upper.endswith(_PROXIES)


def forget_ambient() -> None:
    """Drop from this process what libpq, botocore and OpenSSL would read behind our back."""
    for name in [n for n in os.environ if steers(n)]:
        del os.environ[name]


def child(**own: str) -> dict[str, str]:
    """The environment of a program that we start: where things are, a locale whose messages we can read, `own`."""
    kept = {k: v for k, v in os.environ.items() if k in _PASSED_ON}
    return kept | {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"} | own


def postgres(password: str | None = None) -> dict[str, str]:
    """`child`, for a program of PostgreSQL: with the credentials that the manual names, and none of its PG… besides."""
    given = {k: v for k in CREDENTIALS if (v := os.environ.get(k))}
    return child(**given | ({"PGPASSWORD": password} if password else {}))


def of_our_own() -> dict[str, str]:
    """For a process of zaibei that does what this one would: everything but what steers libraries."""
    return {
        k: v
        for k, v in os.environ.items()
        if not steers(k) and (k == "PYTHONPATH" or not k.startswith("PYTHON"))
    }


def check(*, state_needed: bool = True) -> list[str]:
    """Raises Usage for a value of ours that means nothing, and for a name that is nearly one of ours.

    Returns the names that begin like ours and are none: secrets of a stack.yaml may be called so.
    """
    level = os.environ.get("ZAIBEI_LOG", "")
    if level and level.lower() not in LOG_LEVELS:
        raise Usage(f"ZAIBEI_LOG={level}: not a level", hint=_meant(level.lower(), LOG_LEVELS))
    if state_needed:
        demand_state_folder()
    unknown = []
    for name in sorted(n for n in os.environ if n.startswith(_PREFIX) and n not in OURS):
        if name.startswith(_OTHERS_OF_OURS):
            continue
        if near := difflib.get_close_matches(name, OURS, 1, _NEAR):
            raise Usage(f"{name}: no such variable", hint=f"did you mean {near[0]}?")
        unknown.append(name)
    return unknown


def demand_state_folder() -> None:
    """Raises Usage for a ZAIBEI_STATE at which nothing can be kept: every record would read as one that is not there yet.

    Not asked of backups and restores: these work without their memory, and say what they miss.
    """
    name = "ZAIBEI_STATE"
    if not (path := os.environ.get(name)):
        return
    try:
        found = os.stat(path)  # noqa: PTH116 - imported at every start, and pathlib is slow
    except FileNotFoundError:
        return  # it is made when something is kept
    except (OSError, ValueError) as wrong:
        why = getattr(wrong, "strerror", None) or wrong
        raise Usage(f"{name}={path}: {why}", hint="name a folder") from wrong
    if not stat.S_ISDIR(found.st_mode):
        raise Usage(
            f"{name}={path}: not a folder", hint="name a folder, also one that is not there yet"
        )
    if not os.access(path, os.R_OK | os.X_OK):
        raise Usage(
            f"{name}={path}: this user cannot read it",
            hint="run it as the user who owns the folder",
        )


def one_of(name: str, allowed: tuple[str, ...], *, default: str) -> str:
    """A variable with few values. Raises Usage, naming it, for another."""
    value = os.environ.get(name) or default
    if value not in allowed:
        raise Usage(f"{name}={value}: not one of {', '.join(allowed)}", hint=_meant(value, allowed))
    return value


def _meant(value: str, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(value.lower(), allowed, 1)
    return f"did you mean {near[0]}?" if near else ", ".join(allowed)

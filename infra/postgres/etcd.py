"""Give etcd its users and switch its authentication on: Patroni may change what is Patroni's, the rest nothing.

A certificate lets a client in; what it may do there is decided by user and role. Patroni speaks through etcd's
gateway, which ignores the name in a certificate, so it has a password too. Nobody's certificate is root's: that
password is on the operator's machine alone. Safe to repeat.
"""

import json
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from infra.sites import Identity, StackAccess
from zaibei.kernel.errors import Refused, Unreachable

SCOPES: Final = {"etcd": "/zaibei/zaibei-main/", "etcd-dr": "/zaibei/zaibei-dr/"}
_WITHIN: Final = timedelta(seconds=10)
_NOT_ENABLED: Final = "authentication is not enabled"
_ALREADY: Final = "already"


def prepare(access: StackAccess, passwords: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Answers with the clusters whose authentication was switched on now. `passwords`: cluster -> user -> password."""
    urls = {
        "etcd": [s.etcd_url for s in access.sites],
        "etcd-dr": [s.etcd_dr_url for s in access.sites if s.etcd_dr_url],
    }
    return [
        cluster
        for cluster, scope in SCOPES.items()
        if urls[cluster]
        and secure(urls[cluster], access.identity(cluster), passwords[cluster], scope=scope)
    ]


def secure(
    urls: Sequence[str], identity: Identity, passwords: Mapping[str, str], *, scope: str
) -> bool:
    """One cluster. False: it was done before. Raises Refused when root's password is another."""
    try:
        ask(urls, identity, "auth/authenticate", name="root", password=passwords["root"])
    except Refused as no:
        if _NOT_ENABLED not in no.message:
            raise
    else:
        return False
    first, last = scope.encode(), scope.encode()[:-1] + bytes([scope.encode()[-1] + 1])
    mine = {
        "permType": "READWRITE",
        "key": b64encode(first).decode(),
        "range_end": b64encode(last).decode(),
    }
    steps: list[tuple[str, dict[str, Any]]] = [
        ("auth/role/add", {"name": "root"}),
        ("auth/role/add", {"name": "patroni"}),
        ("auth/role/grant", {"name": "patroni", "perm": mine}),
    ]
    for user in ("root", "patroni"):
        steps += [
            ("auth/user/add", {"name": user, "password": passwords[user]}),
            ("auth/user/grant", {"user": user, "role": user}),
        ]
    for path, body in (*steps, ("auth/enable", {})):
        try:
            ask(urls, identity, path, **body)
        except Refused as there:  # an earlier run came as far as this
            if _ALREADY not in there.message:
                raise
    return True


def ask(
    urls: Sequence[str], identity: Identity, path: str, *, token: str | None = None, **body: Any
) -> dict[str, Any]:
    """POST to the first member that answers. Raises Refused with etcd's reason, Unreachable when none does."""
    tls = ssl.create_default_context(cafile=str(identity.ca_file))
    tls.load_cert_chain(identity.cert, identity.key)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
    )
    silent = []
    for url in urls:
        asked = urllib.request.Request(  # noqa: S310 - the URL is ours, https always
            f"{url}/v3/{path}",
            data=json.dumps(body).encode(),
            headers={"Authorization": token} if token else {},
        )
        try:
            with opener.open(asked, timeout=_WITHIN.total_seconds()) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as no:
            reason = no.read().decode(errors="replace")[:300]
            raise Refused(f"etcd at {url} answered {path} with {no.code}: {reason}") from no
        except OSError as gone:
            silent.append(f"{url}: {gone}")
    raise Unreachable(f"etcd does not answer: {'; '.join(silent)}")

"""Why a store did not answer, in words: who has to look depends on it."""

import socket
import ssl
from collections.abc import Iterator
from typing import Final

from zaibei.kernel.errors import Unreachable

_DEEP: Final = 12  # causes of causes; urllib3 and botocore wrap four times


class NoConnection(Unreachable):
    """Nobody is there to be asked: refused, no such host, silence, or a certificate that is not trusted."""


def no_connection(what: str, error: BaseException) -> NoConnection:
    why, hint = _why(error)
    return NoConnection(f"{what}: {why}", hint=hint)


def _why(error: BaseException) -> tuple[str, str]:
    causes = list(_causes(error))
    if any(type(one).__name__ in ("ProxyConnectionError", "ProxyError") for one in causes):
        return "its proxy lets nothing through", "is ZAIBEI_S3_PROXY right, and does it run?"
    for one in causes:
        match one:
            case ssl.SSLCertVerificationError():
                return (
                    f"its certificate is not trusted: {one.verify_message}",
                    "the CA that signed it: ZAIBEI_S3_CA_FILE of a --repo, else the stack's own",
                )
            case ssl.SSLError():
                said = getattr(one, "reason", None) or str(one)
                return (
                    f"no TLS came about: {said}",
                    "is that the store's TLS port, and does nothing stand before it that speaks for it?",
                )
            case socket.gaierror():
                return "no such host", "the name in the URL, and the resolver of this machine"
            case ConnectionRefusedError():
                return "connection refused", "is the store running, and is that its port?"
            case ConnectionError():
                return (
                    "the connection broke",
                    "the store or something before it closed it: its log says why",
                )
    for one in causes:
        if isinstance(one, TimeoutError) or "Timeout" in type(one).__name__:
            return "no answer in time", "is the store up? a firewall that drops is as silent"
        if isinstance(one, OSError) and one.strerror:
            return one.strerror.lower(), "the way to the store: interface, route, firewall"
    return type(error).__name__, "the store did not answer, or not to the end"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """From the outermost inwards. botocore keeps what it wraps among its arguments, urllib3 as `reason`."""
    left, seen = [error], 0
    while left and seen < _DEEP:
        one = left.pop(0)
        seen += 1
        yield one
        inner = [getattr(one, "kwargs", None) or {}, vars(one)]
        held = [v for d in inner if isinstance(d, dict) for v in d.values()]
        held += [*one.args, one.__cause__, one.__context__]
        left += [h for h in held if isinstance(h, BaseException) and h is not one]

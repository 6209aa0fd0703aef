"""The headers of an object that its writer chose, as S3's API names them and as HTTP does. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from zaibei.kernel.errors import Usage

META: Final = "x-amz-meta-"
_FIELDS: Final = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "content-type": "ContentType",
    "website-redirect-location": "WebsiteRedirectLocation",
}


def known(headers: Mapping[str, str]) -> None:
    """Raises Usage for a header that an object cannot be given."""
    for name in headers:
        if name not in _FIELDS and not (name.startswith(META) and len(name) > len(META)):
            raise Usage(f"an object has no header {name!r}")


def from_answer(answer: Mapping[str, Any]) -> dict[str, str]:
    """Of a HEAD or GET."""
    found = {n: str(answer[f]) for n, f in _FIELDS.items() if answer.get(f)}
    return found | {f"{META}{k.lower()}": str(v) for k, v in answer.get("Metadata", {}).items()}


def to_request(headers: Mapping[str, str]) -> dict[str, Any]:
    """For a PUT."""
    known(headers)
    request: dict[str, Any] = {f: headers[n] for n, f in _FIELDS.items() if n in headers}
    meta = {n.removeprefix(META): v for n, v in headers.items() if n.startswith(META)}
    return request | ({"Metadata": meta} if meta else {})

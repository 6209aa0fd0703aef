"""Keep a text in English and in Chinese together, so that no report has to translate one afterwards.

It is the English text, as a string; `.zh` is the Chinese. Whatever knows nothing of languages (a log, an
exit message, `reasons` of the drill's JSON) goes on using the string.
"""

from collections.abc import Iterable
from typing import Self


class Bilingual(str):
    __slots__ = ("zh",)
    zh: str

    def __new__(cls, en: str, zh: str) -> Self:
        made = super().__new__(cls, en)
        made.zh = zh
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Copying and pickling make it from both texts; `str` alone knows of one."""
        return (str(self), self.zh)


def quoted(message: object) -> Bilingual:
    """What a program reported, word for word in both: an error of PostgreSQL has no translation."""
    return (
        message
        if isinstance(message, Bilingual)
        else Bilingual(f"{message}", f"程序原文“{message}”")
    )


def joined(texts: Iterable[str]) -> Bilingual:
    """Several as one, each language by its own punctuation."""
    found = [quoted(t) for t in texts]
    return Bilingual("; ".join(found), "；".join(t.zh for t in found))


def both(text: str) -> dict[str, str]:
    """For JSON. A text without Chinese is quoted there."""
    return {"zh": quoted(text).zh, "en": str(text)} if text else {"zh": "", "en": ""}

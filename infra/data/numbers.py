"""Identity numbers (GB 11643) and credit codes (GB 32100): composed and checked, assigned to nobody.

Both begin their region with 99. Numbers of citizens begin with 1 to 8; those of foreign permanent
residents (form of 2023) with 9 and the province that issued them, and no province is 90 to 99. So a
number made here can be checked by any software, and belongs to no person and no company.
"""

from datetime import date

FIRST_AREA = 990_000
AREAS = 10_000  # 990000 .. 999999

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK = "10X98765432"  # by the weighted sum modulo 11
_CREDIT = "0123456789ABCDEFGHJKLMNPQRTUWXY"  # 31 characters: no I, O, S, V, Z
_CREDIT_VALUE = {c: n for n, c in enumerate(_CREDIT)}
_CREDIT_WEIGHTS = tuple(pow(3, i, 31) for i in range(17))
_BODY = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # GB 11714: all letters count, A is 10
_BODY_VALUE = {c: n for n, c in enumerate(_BODY)}
_BODY_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)


def identity_check(first17: str) -> str:
    """The eighteenth character."""
    total = sum(w * (ord(c) - 48) for w, c in zip(_ID_WEIGHTS, first17, strict=True))
    return _ID_CHECK[total % 11]


def identity_number(*, area: int, born: date, sequence: int) -> str:
    """`sequence` is odd for a man and even for a woman."""
    assert FIRST_AREA <= area < FIRST_AREA + AREAS, "an area that somebody may have"
    assert 0 <= sequence < 1000
    first17 = f"{area}{born:%Y%m%d}{sequence:03d}"
    return first17 + identity_check(first17)


def why_not_identity(number: str) -> str | None:
    """What is wrong with it, or None."""
    if len(number) != 18 or not (number[:17].isascii() and number[:17].isdigit()):
        return "not 17 digits and a check character"
    if identity_check(number[:17]) != number[17]:
        return f"the check character should be {identity_check(number[:17])}"
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return "no such birth date"
    return None


def organisation_check(first8: str) -> str:
    """GB 11714: the ninth character of an organisation code."""
    total = sum(w * _BODY_VALUE[c] for w, c in zip(_BODY_WEIGHTS, first8, strict=True))
    rest = 11 - total % 11
    return "X" if rest == 10 else "0" if rest == 11 else str(rest)


def credit_check(first17: str) -> str:
    """The eighteenth character of a unified social credit code."""
    total = sum(w * _CREDIT_VALUE[c] for w, c in zip(_CREDIT_WEIGHTS, first17, strict=True))
    return _CREDIT[-total % 31]


def credit_code(*, area: int, serial: int) -> str:
    """A company (91) registered in `area`; `serial` is its organisation code without the check."""
    assert FIRST_AREA <= area < FIRST_AREA + AREAS, "an area that somebody may have"
    assert 0 <= serial < 100_000_000
    body = f"{serial:08d}"
    first17 = f"91{area}{body}{organisation_check(body)}"
    return first17 + credit_check(first17)


def why_not_credit(code: str) -> str | None:
    """What is wrong with it, or None."""
    if len(code) != 18 or any(c not in _CREDIT_VALUE for c in code):
        return "not 18 characters of the code's alphabet"
    if organisation_check(code[8:16]) != code[16]:
        return f"the organisation code should end with {organisation_check(code[8:16])}"
    if credit_check(code[:17]) != code[17]:
        return f"the check character should be {credit_check(code[:17])}"
    return None

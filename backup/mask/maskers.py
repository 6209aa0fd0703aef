"""Masks each form of personal data. Deterministic under a key; check characters are valid.

Masked values are drawn from ranges where nothing real is: regions nobody was born in (99…, or 0…),
surnames that do not occur in the room, telephone numbers that begin with 10, 11 or 12. So a masked
value can be told from every original, and the leak check needs no exceptions.
"""

import re
import unicodedata
from calendar import isleap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

from backup.mask.address import region
from backup.mask.characters import HAN, is_han, stand_ins
from backup.mask.permutation import number, permute, stream
from infra.data.numbers import (
    credit_check,
    identity_check,
    organisation_check,
    why_not_credit,
    why_not_identity,
)
from zaibei.kernel.errors import Refused

CREDIT_ALPHABET: Final = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT_BODY = 8
_SEQUENCES = 500  # of one sex on one day
_POOLS = ((990_000, 10_000), (0, 100_000))  # areas that no number of a person begins with
_CACHED = 1 << 16
_CHUNK = 24
_CLASSES = tuple(
    (c, {x: n for n, x in enumerate(c)})
    for c in ("0123456789", "ABCDEFGHJKLMNPQRSTUVWXYZ", "IO", "abcdefghijklmnopqrstuvwxyz")
)
_SURNAMES = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥某佚匿隐虚拟"
_COMPOUND = (
    "欧阳",
    "司马",
    "上官",
    "诸葛",
    "东方",
    "皇甫",
    "尉迟",
    "公孙",
    "慕容",
    "令狐",
    "长孙",
    "宇文",
    "司徒",
    "夏侯",
)
_ROADS = "甲乙丙丁戊己庚辛壬癸"
_UNITS = frozenset("路街巷道弄号室栋幢座楼层单元组村屯")
_MOBILE = re.compile(r"(?:86)?(1[3-9]\d{9})")
# With something after it, whatever it is; without, only what is one: 010, 02x, and four digits.
_AREA_CODE = re.compile(r"[^0-9]{0,2}(0[0-9]{2,3})[^0-9]|(010|02[0-9]|0[3-9][0-9]{2})[0-9]{7}")
_NOTHING: Final[frozenset[str]] = frozenset()
_SAID_OF_A_LINE = frozenset("电话手机号码转分总内线座传真固移动住宅办公室")
_NATIONAL_DIGITS = 11
_LUHN_NINE = 9


def fold(text: str) -> str:
    """Digits of any script, and full-width letters, as ASCII: a number typed with an input method is the
    same number."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(c))
        if c.isdecimal()
        else chr(ord(c) - 0xFEE0)
        if "\uff21" <= c <= "\uff5a"
        else c
        for c in text
    )


def mobile(text: str) -> str | None:
    """Its eleven digits, however they are written; None: not a mobile number."""
    found = _MOBILE.fullmatch("".join(c for c in text if c.isascii() and c.isdigit()))
    return found[1] if found else None


def luhn(digits: str) -> str:
    """The check digit of a bank card's number."""
    total = 0
    for n, c in enumerate(reversed(digits)):
        doubled = int(c) * (2 if n % 2 == 0 else 1)
        total += doubled - _LUHN_NINE if doubled > _LUHN_NINE else doubled
    return str(-total % 10)


def regions(found: Iterable[str], key: bytes) -> dict[str, str]:
    """For each area that occurs, one that neither occurs nor is anybody's. Different areas, different answers."""
    areas = set(found)
    for first, count in _POOLS:
        taken = {n for a in areas if a.isdecimal() and first <= (n := int(a)) < first + count}
        if count - len(taken) < len(areas):
            continue
        out = {}
        for area in sorted(areas, key=lambda a: number(key, "area", a)):
            slot = first + number(key, "slot", area) % count
            while slot in taken:
                slot = first + (slot + 1 - first) % count
            taken.add(slot)
            out[area] = f"{slot:06d}"
        assert len(set(out.values())) == len(areas) and not areas & set(out.values())
        return out
    raise Refused(
        f"{len(areas)} areas occur, more than there are unassigned ones to take their place",
        hint="are these identity numbers? see the classification of the columns",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What occurs in the room and a masked value must therefore not be made of."""

    areas: frozenset[str] = frozenset()
    surnames: frozenset[str] = frozenset()  # the first character of every name


class Forms:
    """The masked form of a value. Nothing raises on odd input: what has no known form keeps its shape."""

    def __init__(self, key: bytes, found: Found) -> None:
        assert len(key) >= 16, "a key, not a word"
        self._key = key
        self._regions: Mapping[str, str] = regions(found.areas, key)
        self._pool = [c for c in _SURNAMES if c not in found.surnames]
        if not self._pool:
            raise Refused("every surname that a masked name could have occurs in the room")
        # The same people stand in many rows.
        self.identity = lru_cache(_CACHED)(self._identity)
        self.credit = lru_cache(_CACHED)(self._credit)
        self.name = lru_cache(_CACHED)(self._name)

    def _identity(self, value: str) -> str:
        """18 or 15 characters. Year of birth and sex stay, so that ages and statistics do; the rest moves."""
        text = value.upper()
        old = len(text) == 15 and text.isdecimal()  # before 1999: no century, no check
        long = f"{text[:6]}19{text[6:]}" if old else text[:17]
        if (why_not_identity(long + identity_check(long)) if old else why_not_identity(text)) or (
            long[:6] not in self._regions
        ):
            return self._malformed(value)
        year, sequence = int(long[6:10]), int(long[14:17])
        first = date(year, 1, 1)
        day = (date(year, int(long[10:12]), int(long[12:14])) - first).days
        sex = sequence % 2
        days = 366 if isleap(year) else 365
        place = permute(
            self._key,
            day * _SEQUENCES + sequence // 2,
            among=days * _SEQUENCES,
            tweak=("born", long[:6], year, sex),
        )
        born = first + timedelta(days=place // _SEQUENCES)
        moved = f"{self._regions[long[:6]]}{year:04d}{born:%m%d}{place % _SEQUENCES * 2 + sex:03d}"
        if old:
            return moved[:6] + moved[8:]
        whole = moved + identity_check(moved)
        assert why_not_identity(whole) is None
        return whole.lower() if value[-1].islower() else whole

    def born(self, identity: str) -> str | None:
        """The birth date that the masked number says, so that the two agree."""
        masked = self.identity(identity)
        if why_not_identity(masked.upper()) is not None:
            return None
        return f"{masked[6:10]}-{masked[10:12]}-{masked[12:14]}"

    def _credit(self, value: str) -> str:
        """A unified social credit code. Kind of body stays; both check characters are right."""
        area = value[2:8]
        if why_not_credit(value) is not None or area not in self._regions:
            return self._malformed(value)
        place = 0
        for c in value[8:16]:
            place = place * len(CREDIT_ALPHABET) + CREDIT_ALPHABET.index(c)
        among = len(CREDIT_ALPHABET) ** _CREDIT_BODY
        place = permute(self._key, place, among=among, tweak=("body", value[:8]))
        body = ""
        for _ in range(_CREDIT_BODY):
            place, digit = divmod(place, len(CREDIT_ALPHABET))
            body = CREDIT_ALPHABET[digit] + body
        first17 = value[:2] + self._regions[area] + body + organisation_check(body)
        whole = first17 + credit_check(first17)
        assert why_not_credit(whole) is None
        return whole

    def _malformed(self, value: str) -> str:
        """A number that no check accepts stays one: made right, it might be somebody's."""
        moved = self.shape(value)
        while why_not_identity(moved.upper()) is None or why_not_credit(moved) is None:
            moved = self.shape(moved)
        return moved

    def _name(self, value: str) -> str:
        """As long as it was; one surname stays one surname, so a family stays a family."""
        surname = value[:2] if value[:2] in _COMPOUND and len(value) > 2 else value[:1]
        out = []
        for n, c in enumerate(value):
            if n == 0 and is_han(c):
                out.append(self._pick(self._pool, "surname", surname))
            elif is_han(c) and n < len(surname):
                out.append(self._pick(HAN, "surname", surname, n))
            elif is_han(c):
                out.append(self._pick(HAN, "given", value, n))
            else:
                out.append(self._letter(c, "name", value, n))
        return "".join(out)

    def phone(self, value: str) -> str:
        """A mobile number becomes one of 10, 11 or 12, which nobody has; the writing of it stays. Two numbers
        may meet: there are fewer free ones than used ones."""
        digits = "".join(c for c in value if c.isascii() and c.isdigit())
        national = mobile(value)
        if national is not None:
            made = number(self._key, "mobile", national)
            new = f"1{made % 3}{made // 3 % 10**9:09d}"
            fresh = iter(digits[: len(digits) - _NATIONAL_DIGITS] + new)
        else:
            code = _AREA_CODE.match(value)
            head = (code[1] or code[2]) if code else ""
            rest = len(digits) - len(head)
            made = number(self._key, "line", digits)
            # No subscriber's number begins with 1 after the area code.
            tail = f"1{made % 10 ** max(0, rest - 1):0{max(0, rest - 1)}d}"[:rest]
            fresh = iter(head + tail)
        return self._filled(value, fresh, stays=_SAID_OF_A_LINE)

    def address(self, value: str) -> str:
        """Up to the district as it was, as the number's own area is told elsewhere; road and door are others."""
        kept = region(value)
        rest = value[len(kept) :]
        out = []
        for n, c in enumerate(rest):
            if c in _UNITS:
                out.append(c)
            elif is_han(c):
                out.append(self._pick(_ROADS.replace(c, ""), "road", value, n))
            elif c.isascii() and c.isdigit():
                # No zero: the first digit of a door stays a first digit.
                out.append(self._pick("123456789".replace(c, ""), "door", value, n))
            else:
                out.append(self._letter(c, "address", value, n))
        return kept + "".join(out)

    def bank_card(self, value: str) -> str:
        """As long, right by Luhn, of an issuer (9…) that issues no cards for paying."""
        digits = [c for c in value if c.isascii() and c.isdigit()]
        if len(digits) < 2:
            return self.shape(value)
        rest = len(digits) - 2
        made = number(self._key, "card", "".join(digits))
        body = "9" + (f"{made % 10**rest:0{rest}d}" if rest else "")
        return self._filled(value, iter(body + luhn(body)))

    def plate(self, value: str) -> str:
        """Province and office stay, the serial moves."""
        at = 2 if is_han(value[:1]) and value[1:2].isascii() else 0  # a name here is no province
        return value[:at] + self.shape(value[at:])

    def email(self, value: str) -> str:
        local, at, _ = value.partition("@")
        return self.shape(local) + (f"{at}masked.invalid" if at else "")

    def biometric(self, value: bytes) -> bytes:
        """A keyed digest as long as what it stands for. Nothing of it can be matched with a person's body."""
        return stream(self._key, b"biometric\0" + value, len(value))

    def shape(self, value: str) -> str:
        """Digits to digits, letters to letters of their case, everything else stays. A permutation of the
        strings of that shape, so two different ones stay different."""
        return "".join(
            self._shape(value[at : at + _CHUNK], at) for at in range(0, len(value), _CHUNK)
        )

    def _shape(self, value: str, at: int) -> str:
        out: list[str] = []
        kinds = [next(((c, v) for c, v in _CLASSES if x in v), None) for x in value]
        place, among = 0, 1
        for x, kind in zip(value, kinds, strict=True):
            if kind is not None:
                place, among = place * len(kind[0]) + kind[1][x], among * len(kind[0])
        form = "".join("." if kind is None else kind[0][0] for kind in kinds)
        place = permute(self._key, place, among=among, tweak=("shape", at, form))
        for x, kind in zip(reversed(value), reversed(kinds), strict=True):
            if kind is None:
                # Han has no small alphabet to move in; a shape that kept it would keep a name.
                # Nor has a letter of another script.
                out.append(self._letter(x, "shape", value, len(out)))
            else:
                place, digit = divmod(place, len(kind[0]))
                out.append(kind[0][digit])
        return "".join(reversed(out))

    def _filled(self, value: str, fresh: Iterator[str], *, stays: frozenset[str] = _NOTHING) -> str:
        """Its digits are `fresh` ones. Whose number it is may stand beside it."""
        return "".join(
            next(fresh)
            if c.isascii() and c.isdigit()
            else c
            if c in stays
            else self._letter(c, "beside", value, n)
            for n, c in enumerate(value)
        )

    def _letter(self, c: str, *of: object) -> str:
        others = stand_ins(c)
        return self._pick(others, *of) if others else c

    def _pick(self, alphabet: "str | list[str]", *of: object) -> str:
        return alphabet[number(self._key, *of) % len(alphabet)]

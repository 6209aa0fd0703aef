"""人口: people in households, ten at a time.

Ten consecutive people are a group that is cut into households by one of a few patterns, and 500 are a
neighbourhood with one area code. A person's number is therefore known from the index alone, and two
people cannot share one: inside an area the sequence digits differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from infra.data.dice import Cup, Dice
from infra.data.numbers import AREAS, FIRST_AREA, identity_number

TODAY = date(2026, 1, 1)  # of the made-up world; nothing in it depends on the day it was loaded
GROUP = 10
NEIGHBOURHOOD = 500
MOST_PEOPLE = AREAS * NEIGHBOURHOOD

_PATTERNS = (
    (1, 2, 3, 4),
    (3, 3, 4),
    (1, 1, 2, 2, 4),
    (2, 4, 4),
    (5, 5),
    (1, 3, 6),
    (2, 3, 5),
    (1, 2, 2, 2, 3),
)
_ROLES = ("户主", "配偶", "子女", "子女", "父母", "父母")
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕"
_GIVEN_M = "伟强磊军洋勇杰涛明超刚平辉鹏华飞鑫波斌宇浩凯健俊帆旭宁龙林建国志文海峰"
_GIVEN_F = "芳娜敏静丽艳娟霞秀兰燕玲桂英梅红玉洁萍琳雪颖慧莉倩婷佳欣怡悦萌瑶云月春凤"
_GIVEN_2 = "一子思天晓小文雨若嘉梓家安永立正德清新景"
_STREETS = ("人民路", "解放路", "滨江路", "学府路", "桂花巷", "青年大道", "和平街", "新民里")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    index: int
    number: str
    name: str
    sex: str  # 男 | 女
    born: date
    household: int
    role: str  # in the household


def area_of(index: int) -> int:
    return FIRST_AREA + index // NEIGHBOURHOOD


def person_id(index: int) -> str:
    """How the health code knows a person: `p000000042`. Load generators need no database for it."""
    return f"p{index:09d}"


def address(household: int, dice: Dice) -> str:
    area = area_of(household)
    return f"虚拟区{area}{dice.pick(_STREETS)}{dice.between(1, 300)}号{dice.between(101, 2804)}室"


class Population:
    """`count` people under `seed`."""

    def __init__(self, *, seed: int, count: int) -> None:
        assert count % GROUP == 0
        assert count <= MOST_PEOPLE
        self.count = count
        self._cup = Cup(seed=seed, table="person")
        # Representatives, owners and insured are asked for by the hundred thousand, in no order:
        # 18 bytes a person (90 MB for the most people) instead of making each of them again.
        self._numbers = bytearray(18 * count)

    def __iter__(self) -> Iterator[Person]:
        for n in range(self.count // GROUP):
            yield from self._group(n)

    def number(self, index: int) -> str:
        at = 18 * index
        if not self._numbers[at]:
            self._group(index // GROUP)
        return self._numbers[at : at + 18].decode()

    def adult(self, dice: Dice) -> str:
        """The number of somebody who may sign: the first of a group heads a household."""
        return self.number(dice.roll(self.count // GROUP) * GROUP)

    def households(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Index of the head, and the role of each member, the head first."""
        for n in range(self.count // GROUP):
            yield from self._households(n)

    def _households(self, n: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        head = n * GROUP
        for size in self._cup.throw(n * (GROUP + 1)).pick(_PATTERNS):
            yield head, _ROLES[:size]
            head += size

    def _group(self, n: int) -> list[Person]:
        found: list[Person] = []
        for household, roles in self._households(n):
            surname, heads_age, head_man = "", 0, True
            for place, role in enumerate(roles):
                index = household + place
                dice = self._cup.throw(n * (GROUP + 1) + 1 + index % GROUP)
                family, man = dice.pick(_SURNAMES), bool(dice.roll(2))
                if role == "户主":
                    age = dice.between(30, 72)
                    surname, heads_age, head_man = family, age, man
                elif role == "配偶":
                    man, age = not head_man, max(22, heads_age + dice.between(-5, 5))
                elif role == "子女":
                    family, age = surname, max(0, heads_age - dice.between(22, 40))
                else:
                    age = min(104, heads_age + dice.between(20, 34))
                born = date.fromordinal(TODAY.toordinal() - age * 365 - dice.roll(365) - 1)
                given = dice.pick(_GIVEN_M if man else _GIVEN_F)
                if dice.roll(3):
                    given = dice.pick(_GIVEN_2) + given
                sequence = index % NEIGHBOURHOOD * 2 + (1 if man else 0)
                number = identity_number(area=area_of(index), born=born, sequence=sequence)
                self._numbers[18 * index : 18 * index + 18] = number.encode()
                sex = "男" if man else "女"
                found.append(
                    Person(
                        index=index,
                        number=number,
                        name=family + given,
                        sex=sex,
                        born=born,
                        household=household,
                        role=role,
                    )
                )
        assert len(found) == GROUP
        return found

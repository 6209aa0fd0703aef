"""The made-up world of one seed: which tables each database has, and their rows, as streams.

Nothing here touches a database. A `Table` may be read again and gives the same rows, one at a time.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256

from infra.data.dice import Cup
from infra.data.numbers import FIRST_AREA, credit_code
from infra.data.people import (
    GROUP,
    MOST_PEOPLE,
    NEIGHBOURHOOD,
    TODAY,
    Population,
    address,
    area_of,
    person_id,
)
from infra.data.picture import picture
from zaibei.kernel.errors import Usage

GENERATION = (
    1  # raise it when any row changes: a database of the old one is then not taken for the new
)
DATABASES = ("population", "legal_entity", "geospatial", "economy", "health_code")
BUCKET = "geo-images"
PEOPLE_AT_SCALE_1 = 100_000

PEOPLE_PER_ENTITY = 8
PEOPLE_PER_PARCEL = 5
PARCELS_PER_IMAGE = 100
PEOPLE_PER_INSURED = 4
PEOPLE_PER_TUBE = 20
MOST_VENUES = 1000
TAX_QUARTERS = 4
INSURED_QUARTERS = 2
INDICATOR_QUARTERS = 12

_ROWS_PER_PERSON = {  # about: what a progress bar needs
    "population": 3.65,
    "legal_entity": 0.42,
    "geospatial": 0.2,
    "economy": 1.2,
    "health_code": 2.51,
}

Value = str | int | date | datetime | bytes | None
Row = tuple[Value, ...]

_NOON = datetime.combine(TODAY, datetime.min.time(), UTC) + timedelta(hours=12)
_TRADES = ("餐饮", "建材", "物流", "软件", "医药", "纺织", "农产品", "环保", "教育", "机械")
_WORDS = ("云", "桂", "海", "川", "晨", "恒", "启", "嘉", "禾", "远", "盛", "信", "达", "宏", "瑞")
_KINDS = ("有限责任公司", "股份有限公司", "个人独资企业")
_POSITIONS = ("董事", "监事", "经理")
_LICENCES = ("食品经营许可", "药品经营许可", "道路运输许可", "排污许可", "办学许可")
_LAYERS = (
    ("landuse", "土地利用", 10_000),
    ("cadastre", "地籍", 500),
    ("forest", "森林资源", 50_000),
    ("water", "水系", 50_000),
    ("planning", "国土空间规划", 5_000),
    ("imagery", "卫星影像", 2_000),
)
_INDICATORS = (
    ("gdp", "地区生产总值", "万元"),
    ("retail", "社会消费品零售总额", "万元"),
    ("invest", "固定资产投资", "万元"),
    ("revenue", "一般公共预算收入", "万元"),
    ("power", "全社会用电量", "万千瓦时"),
    ("freight", "货运量", "万吨"),
    ("cpi", "居民消费价格指数", "上年同期=100"),
    ("jobs", "城镇新增就业", "人"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    name: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    code: str
    area: int
    founded: date


class World:
    def __init__(self, *, seed: int, scale: float) -> None:
        people = round(PEOPLE_AT_SCALE_1 * scale / GROUP) * GROUP
        if not GROUP <= people <= MOST_PEOPLE:
            raise Usage(
                f"scale {scale:g} makes {people} people; {GROUP} to {MOST_PEOPLE} are possible",
                hint=f"1.0 is {PEOPLE_AT_SCALE_1} people",
            )
        if not 0 <= seed < 1 << 63:
            raise Usage(f"seed {seed} is not in 0 .. 2**63 - 1")
        self.seed = seed
        self.people = Population(seed=seed, count=people)
        self.entities = max(1, people // PEOPLE_PER_ENTITY)
        self.parcels = people // PEOPLE_PER_PARCEL
        self.images = max(1, self.parcels // PARCELS_PER_IMAGE)
        self.areas = -(-people // NEIGHBOURHOOD)
        self._entity = self._cup("entity")

    def tables(self, database: str) -> tuple[Table, ...]:
        """In an order that foreign keys allow."""
        return {
            "population": self._population,
            "legal_entity": self._legal_entity,
            "geospatial": self._geospatial,
            "economy": self._economy,
            "health_code": self._health_code,
        }[database]()

    def rows_about(self, database: str) -> int:
        return round(self.people.count * _ROWS_PER_PERSON[database])

    def entity(self, n: int) -> Entity:
        dice = self._entity.throw(n)
        area = FIRST_AREA + dice.roll(self.areas)
        founded = TODAY - timedelta(days=dice.between(30, 9000))
        return Entity(code=credit_code(area=area, serial=n), area=area, founded=founded)

    def image(self, n: int) -> tuple[str, bytes]:
        """Key and bytes. The key is the hash: writing the same picture twice is one object."""
        data = picture(n, self._cup("image").throw(n))
        digest = sha256(data).hexdigest()
        return f"images/{digest[:2]}/{digest}.pgm", data

    def _cup(self, table: str) -> Cup:
        return Cup(seed=self.seed, table=table)

    # 人口

    def _population(self) -> tuple[Table, ...]:
        return (
            _table("household", "id area address", self._households),
            _table(
                "person",
                "identity_number name sex birth_date household_id role",
                self._persons,
            ),
            _table(
                "family_relation",
                "identity_number relative_number relation",
                self._relations,
            ),
            _table("biometric", "identity_number sealed", self._biometrics),
        )

    def _households(self) -> Iterator[Row]:
        cup = self._cup("household")
        for head, _ in self.people.households():
            yield head, str(area_of(head)), address(head, cup.throw(head))

    def _persons(self) -> Iterator[Row]:
        for p in self.people:
            yield p.number, p.name, p.sex, p.born, p.household, p.role

    def _relations(self) -> Iterator[Row]:
        """How each member stands to the head, and the way back."""
        back = {"配偶": "配偶", "子女": "父母", "父母": "子女"}
        for head, roles in self.people.households():
            heads = self.people.number(head)
            for place, role in enumerate(roles[1:], start=1):
                member = self.people.number(head + place)
                yield heads, member, role
                yield member, heads, back[role]

    def _biometrics(self) -> Iterator[Row]:
        cup = self._cup("biometric")
        for index in range(self.people.count):
            yield self.people.number(index), cup.sealed(index)

    # 法人

    def _legal_entity(self) -> tuple[Table, ...]:
        return (
            _table(
                "entity",
                "credit_code name kind area capital_fen founded status representative_number",
                self._entities,
            ),
            _table("officer", "credit_code position identity_number", self._officers),
            _table(
                "licence",
                "number credit_code kind issued expires",
                self._licences,
            ),
        )

    def _entities(self) -> Iterator[Row]:
        cup = self._cup("entity_more")
        for n in range(self.entities):
            e, dice = self.entity(n), cup.throw(n)
            name = dice.pick(_WORDS) + dice.pick(_WORDS) + dice.pick(_TRADES)
            kind = dice.pick(_KINDS)
            capital = dice.between(1, 5000) * 1_000_000
            status = "存续" if dice.roll(12) else dice.pick(("吊销", "注销"))
            who = self.people.adult(dice)
            yield (
                e.code,
                f"虚拟{name}{n}号{kind}",
                kind,
                str(e.area),
                capital,
                e.founded,
                status,
                who,
            )

    def _officers(self) -> Iterator[Row]:
        cup = self._cup("officer")
        for n in range(self.entities):
            e, dice = self.entity(n), cup.throw(n)
            for position in _POSITIONS[: 1 + dice.roll(3)]:
                yield e.code, position, self.people.adult(dice)

    def _licences(self) -> Iterator[Row]:
        cup = self._cup("licence")
        for n in range(0, self.entities, 3):
            e, dice = self.entity(n), cup.throw(n)
            issued = TODAY - timedelta(days=dice.between(1, 1500))
            expires = issued + timedelta(days=365 * dice.between(3, 5))
            yield f"虚许{e.area}{n:08d}", e.code, dice.pick(_LICENCES), issued, expires

    # 自然资源和空间地理

    def _geospatial(self) -> tuple[Table, ...]:
        return (
            _table("layer", "id name title scale", self._layers),
            _table("image", "key sha256 size_bytes taken", self._images),
            _table(
                "parcel",
                "id layer_id area west_deg south_deg area_m2 outline owner_person owner_entity image_key",
                self._parcels,
            ),
        )

    def _layers(self) -> Iterator[Row]:
        for n, (name, title, scale) in enumerate(_LAYERS, start=1):
            yield n, name, title, scale

    def _images(self) -> Iterator[Row]:
        for n in range(self.images):
            key, data = self.image(n)
            digest = key.rpartition("/")[2].removesuffix(".pgm")
            yield key, digest, len(data), TODAY - timedelta(days=n % 365)

    def _parcels(self) -> Iterator[Row]:
        """On a grid in the open Pacific, where no land is: nobody's field is shown."""
        cup = self._cup("parcel")
        key = None
        for n in range(self.parcels):
            dice = cup.throw(n)
            area = FIRST_AREA + n * PEOPLE_PER_PARCEL // NEIGHBOURHOOD
            west = 150_000_000 + n % 4000 * 1000  # microdegrees
            south = 20_000_000 + n // 4000 * 1000
            wide, high = dice.between(100, 900), dice.between(100, 900)
            by_entity = dice.roll(4) == 0
            person = None if by_entity else self.people.adult(dice)
            entity = self.entity(dice.roll(self.entities)).code if by_entity else None
            if n % PARCELS_PER_IMAGE == 0:
                key = self.image(min(n // PARCELS_PER_IMAGE, self.images - 1))[0]
            yield (
                f"{area}GB{n:08d}",
                1 + dice.roll(len(_LAYERS)),
                str(area),
                _degrees(west),
                _degrees(south),
                wide * high * 12 // 1000 + 1,  # a microdegree there is about 0.11 m
                _outline(west, south, west + wide, south + high),
                person,
                entity,
                key,
            )

    # 经济治理

    def _economy(self) -> tuple[Table, ...]:
        return (
            _table("indicator", "code title unit", lambda: iter(_INDICATORS)),
            _table(
                "indicator_value",
                "code area quarter value",
                self._indicator_values,
            ),
            _table(
                "tax_payment",
                "receipt credit_code quarter kind amount_fen",
                self._taxes,
            ),
            _table(
                "insurance_payment",
                "identity_number quarter credit_code amount_fen",
                self._insurances,
            ),
        )

    def _indicator_values(self) -> Iterator[Row]:
        cup = self._cup("indicator_value")
        for a in range(self.areas):
            for n, (code, _, _) in enumerate(_INDICATORS):
                dice = cup.throw(a * len(_INDICATORS) + n)
                level = dice.between(10_000, 10_000_000)
                for back in range(INDICATOR_QUARTERS):
                    level = level * dice.between(960, 1030) // 1000
                    value = f"{level // 100}.{level % 100:02d}"
                    yield code, str(FIRST_AREA + a), _quarter(back), value

    def _taxes(self) -> Iterator[Row]:
        cup = self._cup("tax_payment")
        for n in range(self.entities):
            e, dice = self.entity(n), cup.throw(n)
            for back in range(TAX_QUARTERS):
                kind = dice.pick(("增值税", "企业所得税"))
                amount = dice.roll(50_000_000)
                yield f"虚税{n:08d}{back}", e.code, _quarter(back), kind, amount

    def _insurances(self) -> Iterator[Row]:
        cup = self._cup("insurance_payment")
        for index in range(0, self.people.count, PEOPLE_PER_INSURED):
            number, dice = self.people.number(index), cup.throw(index)
            employer = self.entity(dice.roll(self.entities)).code
            for back in range(INSURED_QUARTERS):
                yield number, _quarter(back), employer, dice.between(120_000, 900_000)

    # 健康码

    def _health_code(self) -> tuple[Table, ...]:
        return (
            _table("person_code", "person_id identity_number area", self._codes),
            _table(
                "code_state",
                "person_id colour version computed_at valid_until reason",
                self._states,
            ),
            _table("venue", "id name area", self._venues),
            _table(
                "test_result",
                "tube person_id result sampled_at",
                self._results,
            ),
        )

    def _codes(self) -> Iterator[Row]:
        for index in range(self.people.count):
            yield person_id(index), self.people.number(index), str(area_of(index))

    def _states(self) -> Iterator[Row]:
        cup = self._cup("code_state")
        for index in range(self.people.count):
            dice = cup.throw(index)
            risk = dice.roll(1000)
            colour, reason = (
                ("red", "密切接触")
                if risk < 3
                else ("yellow", "重点地区")
                if risk < 20
                else ("green", "未见异常")
            )
            computed = _NOON - timedelta(seconds=dice.roll(86_400))
            yield person_id(index), colour, 1 + dice.roll(20), computed, None, reason

    def _venues(self) -> Iterator[Row]:
        for n in range(min(MOST_VENUES, self.people.count)):
            yield f"v{n:06d}", f"虚拟场所{n}", str(FIRST_AREA + n % self.areas)

    def _results(self) -> Iterator[Row]:
        cup = self._cup("test_result")
        for index in range(0, self.people.count, 2):
            dice = cup.throw(index)
            result = "negative" if dice.roll(500) else "positive"
            sampled = _NOON - timedelta(seconds=dice.roll(172_800))
            yield f"t{index // PEOPLE_PER_TUBE:09d}", person_id(index), result, sampled


def _table(name: str, columns: str, rows: Callable[[], Iterator[Row]]) -> Table:
    return Table(name=name, columns=tuple(columns.split()), rows=rows)


def _quarter(back: int) -> str:
    """`back` quarters before the one that ended before TODAY."""
    n = TODAY.year * 4 + (TODAY.month - 1) // 3 - 1 - back
    return f"{n // 4}Q{n % 4 + 1}"


def _degrees(micro: int) -> str:
    return f"{micro // 1_000_000}.{micro % 1_000_000:06d}"


def _outline(west: int, south: int, east: int, north: int) -> str:
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    corners = [[x / 1_000_000, y / 1_000_000] for x, y in ring]
    return json.dumps({"type": "Polygon", "coordinates": [corners]}, separators=(",", ":"))

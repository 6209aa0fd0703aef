"""Decides how each column is masked. Pure. A column that is not classified is never let through.

Grades come from the database's own catalogue: a table that is said to hold personal data must have
a rule for each of its columns that could hold it, and a table that the catalogue does not know is
treated as if it did.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Final

from zaibei.kernel.errors import Usage

CATALOGUE: Final = "zaibei_catalogue"
_HARMLESS = frozenset("BET")  # PostgreSQL's type categories: booleans, enums, intervals
# Of numbers, times and ranges those too narrow for a telephone's eleven digits or a date. Named one by one: a domain
# over bigint has a name of its own, and is not harmless because nobody has heard of it.
_NARROW = frozenset(
    (
        *("smallint", "integer", "real", "oid", "int4range", "int4multirange"),
        *("time without time zone", "time with time zone"),
    )
)
_TELEPHONE_DIGITS = 11
_NUMERIC = re.compile(r"numeric\(([0-9]+),(-?[0-9]+)\)")


class Treatment(StrEnum):
    IDENTITY = "identity"
    BORN = "born"  # the birth date that the row's masked identity number says
    CREDIT = "credit"
    NAME = "name"
    PHONE = "phone"
    ADDRESS = "address"
    BANK_CARD = "bank-card"
    PLATE = "plate"
    EMAIL = "email"
    BIOMETRIC = "biometric"  # a digest, whatever anybody has authorised
    SHAPE = "shape"  # digits and letters replaced: for what has no form of its own
    PLAIN = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`pattern` of database.schema.table.column, with `*`. The first that fits counts."""

    pattern: str
    treat: Treatment
    by: str = ""  # BORN: the column with the identity number

    def fits(self, column: "Column") -> bool:
        return fnmatchcase(column.path, self.pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    database: str
    schema: str
    table: str
    name: str
    category: str  # of its type, PostgreSQL's letter
    type: str  # with its precision: numeric(9,6)
    personal: bool | None  # its table, by the catalogue; None: not in it

    @property
    def where(self) -> str:
        return f"{self.database}.{self.schema}.{self.table}"

    @property
    def path(self) -> str:
        return f"{self.where}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """For every column one treatment. `unclassified`: those that might hold personal data and have no rule."""

    treated: Mapping[Column, Rule]
    unclassified: tuple[Column, ...]

    def tables(self) -> dict[str, dict[str, Rule]]:
        """Of each table that changes, its columns that do."""
        out: dict[str, dict[str, Rule]] = {}
        for column, rule in self.treated.items():
            if rule.treat is not Treatment.PLAIN:
                out.setdefault(column.where, {})[column.name] = rule
        return out


def _rules(treat: Treatment, *patterns: str) -> list[Rule]:
    return [Rule(pattern=p, treat=treat) for p in patterns]


# The base data's own columns, and names that are as good as always what they say.
RULES: Final = (
    *_rules(Treatment.BIOMETRIC, "*.biometric.sealed", "*.fingerprint*", "*.face_*", "*.iris*"),
    Rule(pattern="*.person.birth_date", treat=Treatment.BORN, by="identity_number"),
    *_rules(
        Treatment.IDENTITY,
        *("*.identity_number", "*.id_card", "*.id_card_number", "*.relative_number"),
        *("*.representative_number", "*.owner_person"),
    ),
    *_rules(Treatment.CREDIT, "*.credit_code", "*.owner_entity"),
    *_rules(Treatment.NAME, "*.person.name", "*.person_name", "*.full_name", "*.real_name"),
    *_rules(Treatment.PHONE, "*.phone", "*.mobile", "*.phone_number", "*.telephone"),
    *_rules(Treatment.ADDRESS, "*.address", "*.home_address"),
    *_rules(Treatment.BANK_CARD, "*.bank_card", "*.bank_card_number"),
    *_rules(Treatment.PLATE, "*.plate", "*.plate_number"),
    *_rules(Treatment.EMAIL, "*.email"),
    # A district of half a million people names nobody; statistics and joins of it stay.
    *_rules(Treatment.PLAIN, "*.area", "*.quarter"),
    *_rules(Treatment.PLAIN, "population.*.person.sex", "population.*.person.role"),
    *_rules(Treatment.PLAIN, "population.*.family_relation.relation"),
    # A register that is public by law; its people are masked by their own columns.
    *_rules(Treatment.PLAIN, "legal_entity.*.entity.*", "legal_entity.*.officer.position"),
    # Households are numbered through; what was paid and when a code was computed names nobody.
    *_rules(Treatment.PLAIN, "population.*.household.id", "population.*.person.household_id"),
    *_rules(Treatment.PLAIN, "economy.*.insurance_payment.amount_fen"),
    *_rules(Treatment.PLAIN, *(f"geospatial.*.parcel.{c}" for c in ("id", "outline", "image_key"))),
    # The health code's own numbers of persons: who they are stands in person_code alone.
    *_rules(
        Treatment.PLAIN,
        *(f"health_code.*.{c}" for c in ("person_id", "colour", "reason", "tube", "result")),
        *(f"health_code.*.sample_registration.{c}" for c in ("idempotency_key", "station")),
        *("health_code.*.sample_registration.payload_sha256", "health_code.*.venue_id"),
        *(f"health_code.*.code_state.{c}" for c in ("computed_at", "valid_until")),
        *("health_code.*.test_result.sampled_at", "health_code.*.scan_event.scanned_at"),
        "health_code.*.sample_registration.registered_at",
    ),
    *_rules(Treatment.PLAIN, f"*.{CATALOGUE}.*"),
)


def _harmless(column: Column) -> bool:
    """No telephone, no identity number and no date fits into it."""
    kind = re.sub(r"^(time)\([0-9]+\)", r"\1", column.type)
    if (numeric := _NUMERIC.fullmatch(kind)) is not None:
        return int(numeric[1]) - int(numeric[2]) < _TELEPHONE_DIGITS
    return column.category in _HARMLESS or kind in _NARROW


def decide(
    columns: Iterable[Column], rules: Sequence[Rule], *, released: Iterable[str] = ()
) -> Decision:
    """`released`: tables that a signed authorisation leaves in plain, as `database.schema.table` patterns.
    Biometrics stay masked in them too."""
    plain = tuple(released)
    treated: dict[Column, Rule] = {}
    unclassified = []
    for column in columns:
        rule = next((r for r in rules if r.fits(column)), None)
        if rule is None:
            # Grade and catalogue speak: not personal. Or a kind of value that names nobody.
            if column.personal is not False and not _harmless(column):
                unclassified.append(column)
                continue
            rule = Rule(pattern=column.path, treat=Treatment.PLAIN)
        released_here = any(fnmatchcase(column.where, p) for p in plain)
        if released_here and rule.treat is not Treatment.BIOMETRIC:
            rule = Rule(pattern=column.path, treat=Treatment.PLAIN)
        treated[column] = rule
    assert not any(
        r.treat is Treatment.PLAIN
        and next((x for x in rules if x.fits(c)), r).treat is Treatment.BIOMETRIC
        for c, r in treated.items()
    ), "a biometric is never plain"
    return Decision(treated=treated, unclassified=tuple(unclassified))


def parse(text: Any) -> tuple[Rule, ...]:
    """Rules of one's own: `[{"column": "crm.public.customer.tel", "treat": "phone"}, …]`, before ours."""
    if not isinstance(text, list):
        raise Usage(
            "mask rules: not a list", hint='[{"column": "db.schema.table.column", "treat": "name"}]'
        )
    out = []
    for n, item in enumerate(text):
        match item:
            case {"column": str(column), "treat": str(treat), **rest} if set(rest) <= {"by"}:
                if treat not in set(Treatment) or (treat == Treatment.BORN) != bool(rest.get("by")):
                    raise Usage(
                        f"mask rules: entry {n}: no such treatment: {treat}",
                        hint=f"one of {', '.join(Treatment)}; born needs `by`, the identity number's column",
                    )
                out.append(Rule(pattern=column, treat=Treatment(treat), by=str(rest.get("by", ""))))
            case _:
                raise Usage(f"mask rules: entry {n} is not a column and its treatment")
    return tuple(out)

"""Small pieces of HTML and SVG: text in the wanted languages, numbers with their evidence. All escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from zaibei.kernel.units import say_bytes
from zaibei.reports.facts import Facts
from zaibei.reports.words import word

HTML_LANG = {"zh": "zh-CN", "en": "en"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    facts: Facts
    languages: Sequence[str]  # in order; the first is shown first

    def say(self, text: Mapping[str, str]) -> Markup:
        """Text that switches with the language."""
        return Markup("").join(
            Markup('<span class="{}" lang="{}">{}</span>').format(code, HTML_LANG[code], text[code])
            for code in self.languages
        )

    def t(self, key: str) -> Markup:
        return self.say(word(key))

    def plain(self, text: Mapping[str, str]) -> str:
        """For a place that cannot switch, as a title inside an SVG: each wanted language after the other."""
        return " / ".join(text[code] for code in self.languages)

    def svg(self, text: Mapping[str, str], x: float, y: float, style: str = "") -> Markup:
        """The same inside an SVG, one <text> for each language at one place."""
        return Markup("").join(
            Markup('<text x="{:.1f}" y="{:.1f}" class="{} {}" lang="{}">{}</text>').format(
                x, y, code, style, HTML_LANG[code], text[code]
            )
            for code in self.languages
        )

    def unknown(self) -> Markup:
        return Markup('<span class="unknown">{}</span>').format(self.t("unknown"))

    def m(self, path: str, unit: str = "") -> Markup:
        """A measured number, with the entry and the path it comes from."""
        value = self.facts.number(path)
        if value is None:
            return self.unknown()
        shown = say_bytes(int(value)) if unit == "bytes" else _shown(value)
        suffix = (
            Markup('<span class="unit"> {}</span>').format(unit)
            if unit not in {"", "bytes"}
            else ""
        )
        return Markup(
            '<data class="m" value="{}" data-evidence="{}:{}" title="#{} {}">{}{}</data>{}'
        ).format(value, self.facts.index, path, self.facts.index, path, shown, suffix, self.mark())

    def never(self) -> Markup:
        """Not unknown: it was measured that it never came."""
        return Markup('<b class="never">{}</b>{}').format(self.t("never"), self.mark())

    def served_ms(self, path: str, unserved_share: float) -> Markup:
        """A percentile over citizens: null is `never` when more than that share were never served."""
        came, ok = self.facts.number("surge.offered"), self.facts.number("surge.ok")
        if self.facts.number(path) is None and came and ok is not None:
            return self.never() if (came - ok) / came > unserved_share else self.unknown()
        return self.m(path, "ms")

    def s(self, path: str) -> Markup:
        """A recorded word."""
        value = self.facts.text(path)
        return escape(value) if value is not None else self.unknown()

    def mark(self) -> Markup:
        return Markup('<a class="ev" href="#e{0}">{0}</a>').format(self.facts.index)


def _shown(value: float) -> str:
    """Counts in full; measured fractions to three figures."""
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"

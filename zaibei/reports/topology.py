"""The three sites as a picture: what failed, who wrote before, who writes now."""

from markupsafe import Markup

from zaibei.reports.marks import Marks
from zaibei.reports.words import word

PLACES = {"site-a": (40.0, 78.0), "site-b": (290.0, 78.0), "site-c": (640.0, 78.0)}
_W, _H = 200.0, 112.0


def picture(marks: Marks) -> Markup:
    facts = marks.facts
    failed = facts.text("fault.site")
    kind = facts.text("fault.kind") or ""
    on_link = "link" in kind or "partition" in kind
    before, after = facts.text("writer.before.site"), facts.text("writer.after.site")
    parts = [
        Markup('<rect class="city" x="16" y="40" width="498" height="176" rx="14"/>'),
        Markup('<rect class="city" x="616" y="40" width="248" height="176" rx="14"/>'),
        marks.svg(word("city"), 30, 61, "small"),
        marks.svg(word("remote"), 630, 61, "small"),
    ]
    cut = {failed} if on_link else set()
    for one, other in (("site-a", "site-b"), ("site-b", "site-c")):
        (x0, y), (x1, _) = PLACES[one], PLACES[other]
        style = "cut" if cut & {one, other} else "wire"
        parts.append(
            Markup('<path class="{}" d="M{} {}H{}"/>').format(style, x0 + _W, y + _H / 2, x1)
        )
    if before in PLACES and after in PLACES and before != after:
        x0, x1 = PLACES[before][0] + _W / 2, PLACES[after][0] + _W / 2
        y = PLACES[before][1] + _H
        parts.append(
            Markup(
                '<path class="moved" marker-end="url(#head)" d="M{} {}C{} {},{} {},{} {}"/>'
            ).format(x0, y + 4, x0, y + 64, x1, y + 64, x1, y + 7)
        )
    for name, (x, y) in PLACES.items():
        parts.append(_site(marks, name, x, y, failed=name == failed and not on_link))
        parts.append(_writer(marks, name, x, y, before=name == before, after=name == after))
    return Markup(
        '<svg class="topology" viewBox="0 0 880 262" role="img" aria-label="{}"><defs>'
        '<marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0L8 4L0 8Z"/></marker>'
        '<pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path class="hatch" d="M0 0V7"/></pattern></defs>{}</svg>'
    ).format(word("topology")["en"], Markup("").join(parts))


def _site(marks: Marks, name: str, x: float, y: float, *, failed: bool) -> Markup:
    box = Markup('<rect class="site{}" x="{}" y="{}" width="{}" height="{}" rx="9"/>').format(
        " down" if failed else "", x, y, _W, _H
    )
    parts = [box]
    if failed:
        parts.append(
            Markup('<rect fill="url(#hatch)" x="{}" y="{}" width="{}" height="{}" rx="9"/>').format(
                x, y, _W, _H
            )
        )
    parts += [
        Markup('<text class="name" x="{}" y="{}">{}</text>').format(x + 16, y + 31, name),
        marks.svg(word(name), x + 16, y + 52, "small"),
    ]
    if failed:
        kind = marks.facts.text("fault.kind") or ""
        told = {
            k: f"{v}: {kind}" if k == "en" else f"{v}：{kind}" for k, v in word("failed").items()
        }
        parts.append(marks.svg(told, x + 16, y + 74, "small bad"))
    return Markup("").join(parts)


def _writer(marks: Marks, name: str, x: float, y: float, *, before: bool, after: bool) -> Markup:
    if not before and not after:
        return Markup("")
    key, when = ("writer_after", "after") if after else ("writer_before", "before")
    if before and after:
        key = "writer"
    epoch = marks.facts.number(f"writer.{when}.epoch")
    number = "?" if epoch is None else f"{epoch:g}"
    told = {
        "zh": f"{word(key)['zh']} · 纪元 {number}",
        "en": f"{word(key)['en']} · epoch {number}",
    }
    style = "now" if after else "then"
    return Markup(
        '<rect class="pill {}" x="{}" y="{}" width="{}" height="23" rx="11.5"/>{}'
    ).format(style, x + 12, y + 82, 150, marks.svg(told, x + 24, y + 98, f"small {style}"))

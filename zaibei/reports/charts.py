"""The time chart of a drill: drawn from the recorded series, bin by bin. What is missing stays blank.

It is drawn twice, wide and narrow, because one that is only scaled down cannot be read on a phone. No meaning
is carried by colour alone: bars differ in pattern, lines in their dashes, and each has its name.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zaibei.reports.facts import Facts
from zaibei.reports.marks import Marks
from zaibei.reports.words import word

MAX_BINS = 7200  # two hours of seconds; a longer series is told, not drawn
Row = Sequence[float | None]
Scale = Callable[[float], float]
_GAP = 62.0  # between panels: the axis of one, the title of the next
_LABELS = 54.0  # rows of the marks above the first panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One size of the chart."""

    name: str  # also the CSS class, and part of every id: both sizes are on one page
    width: float
    left: float
    right: float
    ticks: int
    stacked_legend: bool  # below the title and not beside it


WIDE = Frame(name="wide", width=1040.0, left=58.0, right=16.0, ticks=12, stacked_legend=False)
NARROW = Frame(name="narrow", width=380.0, left=44.0, right=10.0, ticks=5, stacked_legend=True)


_BIN_MIN_S, _FAR_S = 0.001, 1e7  # of a chart's bin, and from the fault to its begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """Seconds to x, and what the panels share."""

    marks: Marks
    frame: Frame
    start_s: float
    end_s: float
    bin_s: float

    def x(self, t_s: float) -> float:
        f = self.frame
        share = (t_s - self.start_s) / (self.end_s - self.start_s)
        return f.left + min(max(share, 0.0), 1.0) * (f.width - f.left - f.right)

    @property
    def edge(self) -> float:
        return self.frame.width - self.frame.right


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    top: float
    height: float

    @property
    def bottom(self) -> float:
        return self.top + self.height


def timeline(marks: Marks, frame: Frame = WIDE) -> Markup | None:
    """Throughput, latency and surge over one axis; None when there is no usable series."""
    facts = marks.facts
    bin_s, start = facts.number("series.bin_s"), facts.number("series.t0_s")
    ok, fail, info = facts.series("ok"), facts.series("fail"), facts.series("info")
    bins = max(len(ok), len(fail), len(info))
    if not bin_s or start is None or not 0 < bins <= MAX_BINS:
        return None
    # Outside of these bounds begin and end are one number, or the axis has no end.
    if not _BIN_MIN_S <= bin_s <= _FAR_S or not abs(start) <= _FAR_S:
        return None
    c = Canvas(marks=marks, frame=frame, start_s=start, end_s=start + bins * bin_s, bin_s=bin_s)
    head = 44.0 if frame.stacked_legend else 24.0
    first = Panel(top=head + _LABELS, height=190.0)
    panels, parts = [first], [_phases(c, first), _stack(c, first, head, ok, fail, info)]
    p50, p99 = facts.series("p50_ms"), facts.series("p99_ms")
    if any(v for v in (*p50, *p99)):
        panels.append(Panel(top=panels[-1].bottom + _GAP + head - 24.0, height=130.0))
        parts.append(_latency(c, panels[-1], p50, p99))
    offered, answered = facts.series("surge_offered"), facts.series("surge_ok")
    if any(v for v in offered):
        panels.append(Panel(top=panels[-1].bottom + _GAP + head - 24.0, height=130.0))
        parts.append(_surge(c, panels[-1], offered, answered))
    parts += [_markers(c, panels), _time_axis(c, panels[-1].bottom)]
    name = f"chart-{frame.name}"
    return Markup(
        '<svg class="chart {}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-labelledby="{}-t {}-d">'
        '<title id="{}-t">{}</title><desc id="{}-d">{}</desc><defs>{}</defs>{}</svg>'
    ).format(
        frame.name,
        frame.width,
        panels[-1].bottom + 40,
        name,
        name,
        name,
        marks.plain(word("charts")),
        name,
        marks.plain(described(marks)),
        _patterns(frame),
        Markup("").join(parts),
    )


def described(marks: Marks) -> dict[str, str]:
    """The chart in a sentence, for whoever does not see it."""
    facts = marks.facts
    first, stable = facts.number("rto_first_s"), facts.number("rto_stable_s")

    def told(value: float | None, unit: str, unknown: str) -> str:
        return unknown if value is None else f"{value:.2f}{unit}"

    return {
        "zh": "每秒写入、时延与高峰请求随时间的变化，零点为故障时刻；首次恢复用时 "
        f"{told(first, ' 秒', '未知')}，稳定恢复用时 {told(stable, ' 秒', '未知')}。逐秒数据见图下表格。",
        "en": "Writes per second, latency and surge requests over time, from the fault at 0; first answer after "
        f"{told(first, ' s', 'an unknown time')}, stable after {told(stable, ' s', 'an unknown time')}."
        " The data of each second are in the table below the chart.",
    }


def _patterns(frame: Frame) -> Markup:
    """Failed is striped and unknown is dotted: told apart without colour, also on a grey printout."""
    return Markup(
        '<pattern id="fail-{0}" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="fill fail" width="5" height="5"/><path class="stripe" d="M0 0V5"/></pattern>'
        '<pattern id="info-{0}" width="5" height="5" patternUnits="userSpaceOnUse">'
        '<rect class="fill info" width="5" height="5"/><circle class="dot" cx="2.5" cy="2.5" r="1.1"/></pattern>'
        '<pattern id="away-{0}" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path class="away" d="M0 0V8"/></pattern>'
    ).format(frame.name)


def _fill(c: Canvas, style: str) -> Markup:
    """Attribute of a bar or a key: a pattern where there is one."""
    if style in {"fail", "info"}:
        return Markup('fill="url(#{}-{})"').format(style, c.frame.name)
    return Markup('class="fill {}"').format(style)


def _stack(c: Canvas, at: Panel, head: float, ok: Row, fail: Row, info: Row) -> Markup:
    rows = [(ok, "ok"), (info, "info"), (fail, "fail")]
    bins = max(len(r) for r, _ in rows)
    sums = [sum((r[n] or 0.0) for r, _ in rows if n < len(r)) for n in range(bins)]
    high = _nice(max(sums) / c.bin_s)
    out = [
        _title(c, head, "throughput", [("ok", "ok"), ("info", "unknown_fate"), ("fail", "fail")])
    ]
    out.append(_grid_of(c, at, high))
    base = [0.0] * bins
    for row, style in rows:
        path: list[str] = []
        for n, value in enumerate(row):
            if value:
                y0 = at.bottom - base[n] / high * at.height
                y1 = at.bottom - (base[n] + value / c.bin_s) / high * at.height
                path.append(_bar(c, n, y0, y1))
                base[n] += value / c.bin_s
        if path:
            out.append(Markup('<path {} d="{}"/>').format(_fill(c, style), "".join(path)))
    return Markup("").join(out)


def _bar(c: Canvas, n: int, y0: float, y1: float) -> str:
    x0, x1 = c.x(c.start_s + n * c.bin_s), c.x(c.start_s + (n + 1) * c.bin_s)
    gap = 0.8 if x1 - x0 > 3 else 0.0  # seconds are told apart where there is room
    return f"M{x0:.1f} {y0:.1f}V{y1:.1f}H{x1 - gap:.1f}V{y0:.1f}Z"


def _latency(c: Canvas, at: Panel, p50: Row, p99: Row) -> Markup:
    known = [v for v in (*p50, *p99) if v is not None and v > 0]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known) * 1.0001))
    high = max(high, low + 1)

    def y(v: float) -> float:
        return at.bottom - (math.log10(v) - low) / (high - low) * at.height

    out = [_title(c, at.top - 18, "latency", [("p50", "p50"), ("p99", "p99")])]
    out += [_grid(c, y(10.0**power), f"{10.0**power:g}") for power in range(low, high + 1)]
    out += [_line(c, p50, y, "p50"), _line(c, p99, y, "p99"), _axis(c, at)]
    return Markup("").join(out)


def _surge(c: Canvas, at: Panel, offered: Row, ok: Row) -> Markup:
    high = _nice(max(v or 0.0 for v in (*offered, *ok)) / c.bin_s)

    def y(v: float) -> float:
        return at.bottom - v / c.bin_s / high * at.height

    area = "".join(_bar(c, n, at.bottom, y(value)) for n, value in enumerate(ok) if value)
    keys = [("surge", "answered"), ("offered", "offered")]
    away = _away(c, at)
    if away:
        keys.append(("away", "excused"))
    return Markup("").join(
        [
            _title(c, at.top - 18, "surge_curve", keys),
            away,
            _grid_of(c, at, high),
            Markup('<path class="fill surge" d="{}"/>').format(area),
            _line(c, offered, y, "offered"),
        ]
    )


def _away(c: Canvas, at: Panel) -> Markup:
    """The seconds whose citizens were counted and not judged."""
    facts = c.marks.facts
    begin, end = (
        facts.number("surge.judged.outage.from_s"),
        facts.number("surge.judged.outage.until_s"),
    )
    if begin is None or end is None or end <= begin:
        return Markup("")
    x0, x1 = c.x(begin), c.x(end)
    return Markup(
        '<rect fill="url(#away-{})" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
    ).format(c.frame.name, x0, at.top, x1 - x0, at.height)


def _line(c: Canvas, row: Row, y: Scale, style: str) -> Markup:
    """A gap in the data is a gap in the line."""
    path, down = [], False
    for n, value in enumerate(row):
        if value is None or value <= 0:
            down = False
            continue
        x = c.x(c.start_s + (n + 0.5) * c.bin_s)
        path.append(f"{'L' if down else 'M'}{x:.1f} {y(value):.1f}")
        down = True
    return Markup('<path class="line {}" d="{}"/>').format(style, "".join(path))


def _title(c: Canvas, y: float, title: str, keys: Sequence[tuple[str, str]]) -> Markup:
    """A title and its legend: beside it, or on a row of its own where there is no room."""
    f, step = c.frame, 112.0
    if f.stacked_legend:
        x, line, step = f.left, y, min(step, (c.edge - f.left) / len(keys))
        y -= 20
    else:
        x, line = c.edge - step * len(keys), y
    out = [c.marks.svg(word(title), f.left, y, "title")]
    for n, (style, name) in enumerate(keys):
        at = x + n * step
        if style in {"p50", "p99", "offered"}:
            out.append(
                Markup('<path class="line {}" d="M{:.1f} {:.1f}h18"/>').format(
                    style, at - 5, line - 4
                )
            )
        else:
            fill = (
                Markup('fill="url(#away-{})"').format(f.name)
                if style == "away"
                else _fill(c, style)
            )
            out.append(
                Markup('<rect {} x="{:.1f}" y="{:.1f}" width="12" height="12"/>').format(
                    fill, at, line - 10
                )
            )
        out.append(c.marks.svg(word(name), at + 17, line, "small"))
    return Markup("").join(out)


def _axis(c: Canvas, at: Panel) -> Markup:
    return Markup('<path class="axis" d="M{} {:.1f}H{}"/>').format(c.frame.left, at.bottom, c.edge)


def _grid_of(c: Canvas, at: Panel, high: float) -> Markup:
    lines = [_grid(c, at.top + at.height * (1 - p), f"{high * p:g}") for p in (0.0, 0.5, 1.0)]
    return Markup("").join([*lines, _axis(c, at)])


def _grid(c: Canvas, y: float, label: str) -> Markup:
    return Markup(
        '<path class="grid" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}" class="small end">{}</text>'
    ).format(c.frame.left, y, c.edge, c.frame.left - 7, y + 4, label)


def _phases(c: Canvas, at: Panel) -> Markup:
    """Bands from the fault on, one phase after the other."""
    begin_s, out = 0.0, []
    for n, (_, took) in enumerate(phases(c.marks.facts)):
        x0, x1 = c.x(begin_s), c.x(begin_s + took)
        out.append(
            Markup('<rect class="band b{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
                n % 2, x0, at.top, max(x1 - x0, 0.0), at.height
            )
        )
        begin_s += took
    return Markup("").join(out)


def phases(facts: Facts) -> Iterator[tuple[str, float]]:
    """Name and seconds, in the order in which the course saw them end: signed JSON has none of its own.
    What the course does not name comes in the order in which a failover usually goes.
    """
    found = facts.get("phases_s")
    if not isinstance(found, Mapping):
        return
    usual = ["detect", "decide", "fence", "elect", "promote", "route", "verify", "app"]
    seen = {"app": math.inf}
    for event in facts.items("timeline"):
        if isinstance(event, Mapping) and isinstance(event.get("t_s"), int | float):
            seen.setdefault(str(event.get("kind")), event["t_s"])
    known = all(name in seen for name in found)

    def place(name: str) -> tuple[float, str]:
        if known:
            return seen[name], name
        return (usual.index(name) if name in usual else len(usual)), name

    for name in sorted(found, key=place):
        took = found[name]
        if isinstance(took, int | float) and not isinstance(took, bool) and took >= 0:
            yield str(name), float(took)


def _markers(c: Canvas, panels: Sequence[Panel]) -> Markup:
    """The fault, the first answer, the stable recovery: each named on a row of its own above the first panel,
    its line inside the panels only, so that it crosses no title and no legend.
    """
    facts, out = c.marks.facts, []
    times = {
        "fault": 0.0,
        "first": facts.number("rto_first_s"),
        "stable": facts.number("rto_stable_s"),
    }
    for n, (style, t) in enumerate(times.items()):
        if t is None or not c.start_s <= t <= c.end_s:
            continue
        x, y = c.x(t), panels[0].top - _LABELS + 12 + n * 15
        path = f"M{x:.1f} {y + 4:.1f}V{panels[0].bottom:.1f}"
        path += "".join(f"M{x:.1f} {p.top:.1f}V{p.bottom:.1f}" for p in panels[1:])
        out.append(Markup('<path class="mark {}" d="{}"/>').format(style, path))
        left = x > c.frame.left + 0.7 * (c.edge - c.frame.left)  # no room to the right
        told = {k: f"{v} {t:.2f} s" if t else v for k, v in word(style).items()}
        out.append(
            c.marks.svg(
                told, x - 5 if left else x + 5, y + 4, f"small {style}{' end' if left else ''}"
            )
        )
    return Markup("").join(out)


def _time_axis(c: Canvas, bottom: float) -> Markup:
    step = _nice((c.end_s - c.start_s) / c.frame.ticks)
    n = math.ceil(c.start_s / step)
    out = []
    while n * step <= c.end_s:
        x = c.x(n * step)
        label = f"{n * step:+g}" if n else "0"
        out.append(
            Markup(
                '<path class="axis" d="M{:.1f} {:.1f}v5"/><text x="{:.1f}" y="{:.1f}" class="small mid">{}</text>'
            ).format(x, bottom, x, bottom + 19, label)
        )
        n += 1
    return Markup("").join(out)


def _nice(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= value * 0.999)

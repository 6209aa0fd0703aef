"""The time chart of a drill: drawn from the recorded series, bin by bin. What is missing stays blank."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zaibei.reports.marks import Marks
from zaibei.reports.words import word

WIDTH, LEFT, RIGHT = 1040.0, 62.0, 18.0
MAX_BINS = 7200  # two hours of seconds; a longer series is told, not drawn
_TICKS = 12
_PHASE_TINTS = ("#e9eef0", "#dbe5e7")
Row = Sequence[float | None]
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Seconds to x."""

    start_s: float
    end_s: float

    def x(self, t_s: float) -> float:
        return LEFT + (t_s - self.start_s) / (self.end_s - self.start_s) * (WIDTH - LEFT - RIGHT)


# Two rows of marks, then the legend, then the first panel.
_TOP, _HEIGHT = 64.0, 190.0


def timeline(marks: Marks) -> Markup | None:
    """Throughput, latency and surge over one axis; None when there is no usable series."""
    facts = marks.facts
    bin_s, start = facts.number("series.bin_s"), facts.number("series.t0_s")
    ok, fail, info = facts.series("ok"), facts.series("fail"), facts.series("info")
    bins = max(len(ok), len(fail), len(info))
    if not bin_s or bin_s <= 0 or start is None or not 0 < bins <= MAX_BINS:
        return None
    axis = Axis(start_s=start, end_s=start + bins * bin_s)
    parts = [_phases(marks, axis)]
    top, height = _TOP, _HEIGHT
    parts.append(_stack(marks, axis, bin_s, top, height, ok, fail, info))
    panels = [(top, height)]
    top += height + 58
    p50, p99 = facts.series("p50_ms"), facts.series("p99_ms")
    if any(v for v in (*p50, *p99)):
        parts.append(_latency(marks, axis, bin_s, top, 130.0, p50, p99))
        panels.append((top, 130.0))
        top += 130 + 58
    offered, answered = facts.series("surge_offered"), facts.series("surge_ok")
    if any(v for v in offered):
        parts.append(_surge(marks, axis, bin_s, top, 130.0, offered, answered))
        panels.append((top, 130.0))
        top += 130 + 58
    parts.append(_markers(marks, axis, panels))
    bottom = top - 58
    parts.append(_time_axis(axis, bottom))
    total = bottom + 34
    return Markup(
        '<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, total, word("charts")["en"], Markup("").join(parts))


def _stack(
    marks: Marks, axis: Axis, bin_s: float, top: float, height: float,
    ok: Row, fail: Row, info: Row,
) -> Markup:  # fmt: skip
    rows = [(ok, "ok"), (info, "info"), (fail, "fail")]
    bins = max(len(r) for r, _ in rows)
    sums = [sum((r[n] or 0.0) for r, _ in rows if n < len(r)) for n in range(bins)]
    high = _nice(max(sums) / bin_s)
    out = [_frame(marks, top, height, "throughput", high)]
    base = [0.0] * bins
    for row, style in rows:
        path: list[str] = []
        for n, value in enumerate(row):
            if value:
                y0 = top + height - base[n] / high * height
                y1 = top + height - (base[n] + value / bin_s) / high * height
                x0, x1 = axis.x(axis.start_s + n * bin_s), axis.x(axis.start_s + (n + 1) * bin_s)
                path.append(f"M{x0:.1f} {y0:.1f}V{y1:.1f}H{x1:.1f}V{y0:.1f}Z")
                base[n] += value / bin_s
        if path:
            out.append(Markup('<path class="bar {}" d="{}"/>').format(style, "".join(path)))
    out.append(_legend(marks, top, [("ok", "ok"), ("info", "unknown_fate"), ("fail", "fail")]))
    return Markup("").join(out)


def _latency(
    marks: Marks, axis: Axis, bin_s: float, top: float, height: float, p50: Row, p99: Row
) -> Markup:
    known = [v for v in (*p50, *p99) if v is not None and v > 0]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known) * 1.0001))
    high = max(high, low + 1)

    def y(v: float) -> float:
        return top + height - (math.log10(v) - low) / (high - low) * height

    out = [_frame(marks, top, height, "latency", None)]
    out += [_grid(y(10.0**power), f"{10.0**power:g}") for power in range(low, high + 1)]
    out += [_line(axis, bin_s, p50, y, "p50"), _line(axis, bin_s, p99, y, "p99")]
    x = WIDTH - RIGHT - 130
    for n, name in enumerate(("p50", "p99")):
        out.append(
            Markup(
                '<path class="line {}" d="M{} {}h16"/><text x="{}" y="{}" class="small">{}</text>'
            ).format(name, x + n * 66, top - 12, x + n * 66 + 22, top - 8, name)
        )
    return Markup("").join(out)


def _surge(
    marks: Marks, axis: Axis, bin_s: float, top: float, height: float, offered: Row, ok: Row
) -> Markup:
    high = _nice(max(v or 0.0 for v in (*offered, *ok)) / bin_s)

    def y(v: float) -> float:
        return top + height - v / bin_s / high * height

    area: list[str] = []
    for n, value in enumerate(ok):
        if value:
            x0, x1 = axis.x(axis.start_s + n * bin_s), axis.x(axis.start_s + (n + 1) * bin_s)
            area.append(f"M{x0:.1f} {top + height:.1f}V{y(value):.1f}H{x1:.1f}V{top + height:.1f}Z")
    return Markup("").join(
        [
            _frame(marks, top, height, "surge_curve", high),
            Markup('<path class="bar surge" d="{}"/>').format("".join(area)),
            _line(axis, bin_s, offered, y, "offered"),
            _legend(marks, top, [("surge", "answered"), ("offered", "offered")]),
        ]
    )


def _line(axis: Axis, bin_s: float, row: Row, y: Scale, style: str) -> Markup:
    """A gap in the data is a gap in the line."""
    path, down = [], False
    for n, value in enumerate(row):
        if value is None or value <= 0:
            down = False
            continue
        x = axis.x(axis.start_s + (n + 0.5) * bin_s)
        path.append(f"{'L' if down else 'M'}{x:.1f} {y(value):.1f}")
        down = True
    return Markup('<path class="line {}" d="{}"/>').format(style, "".join(path))


def _frame(marks: Marks, top: float, height: float, title: str, high: float | None) -> Markup:
    out = [
        marks.svg(word(title), LEFT, top - 8, "title"),
        Markup('<path class="axis" d="M{0} {1}H{2}"/>').format(LEFT, top + height, WIDTH - RIGHT),
    ]
    for part in (0.0, 0.5, 1.0) if high else ():
        assert high is not None
        out.append(_grid(top + height * (1 - part), f"{high * part:g}"))
    return Markup("").join(out)


def _grid(y: float, label: str) -> Markup:
    return Markup(
        '<path class="grid" d="M{} {:.1f}H{}"/><text x="{}" y="{:.1f}" class="small end">{}</text>'
    ).format(LEFT, y, WIDTH - RIGHT, LEFT - 7, y + 4, label)


def _legend(marks: Marks, top: float, entries: Sequence[tuple[str, str]]) -> Markup:
    x = WIDTH - RIGHT - 118.0 * len(entries)
    return Markup("").join(
        Markup(
            '<rect class="key {}" x="{:.0f}" y="{:.0f}" width="11" height="11" rx="2"/>{}'
        ).format(
            style, x + n * 118, top - 17, marks.svg(word(name), x + n * 118 + 16, top - 8, "small")
        )
        for n, (style, name) in enumerate(entries)
    )


def _phases(marks: Marks, axis: Axis) -> Markup:
    """Bands from the fault on, one phase after the other, down to the axis."""
    at, out = 0.0, []
    for n, (_, took) in enumerate(phases(marks.facts.get("phases_s"))):
        x0, x1 = axis.x(at), axis.x(min(at + took, axis.end_s))
        out.append(
            Markup('<rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" fill="{}"/>').format(
                x0, _TOP, max(x1 - x0, 0.0), _HEIGHT, _PHASE_TINTS[n % 2]
            )
        )
        at += took
    return Markup("").join(out)


def phases(found: object) -> Iterator[tuple[str, float]]:
    """Name and seconds, in the order in which a failover goes; unknown names after the known."""
    if not isinstance(found, Mapping):
        return
    order = ["detect", "decide", "fence", "promote", "route", "verify"]
    for name in sorted(found, key=lambda k: (order.index(k) if k in order else len(order), k)):
        took = found[name]
        if isinstance(took, int | float) and not isinstance(took, bool) and took >= 0:
            yield str(name), float(took)


def _markers(marks: Marks, axis: Axis, panels: Sequence[tuple[float, float]]) -> Markup:
    """The fault, the first answer, the stable recovery; then the numbered events of the course."""
    facts, out = marks.facts, []
    bottom = panels[-1][0] + panels[-1][1]
    lines = [(0.0, "fault", "fault"), (facts.number("rto_first_s"), "first", "first"), (facts.number("rto_stable_s"), "stable", "stable")]  # fmt: skip
    known = [
        (t, style, name)
        for t, style, name in lines
        if t is not None and axis.start_s <= t <= axis.end_s
    ]
    # Fault to the left of its line, the others to the right on rows of their own: they are often close.
    rows = {"fault": (-4, 16, "end"), "first": (4, 16, ""), "stable": (4, 31, "")}
    for t, style, name in known:
        x, (dx, y, anchor) = axis.x(t), rows[style]
        told = {k: f"{v} {t:.2f} s" if t else v for k, v in word(name).items()}
        path = Markup('<path class="mark {}" d="M{:.1f} {}V{:.1f}"/>')
        out.append(path.format(style, x, y - 11, bottom))
        out.append(marks.svg(told, x + dx, y, f"small {style} {anchor}"))
    return Markup("").join(out)


def _time_axis(axis: Axis, bottom: float) -> Markup:
    step = _nice((axis.end_s - axis.start_s) / _TICKS)
    n = math.ceil(axis.start_s / step)
    out = []
    while n * step <= axis.end_s:
        x = axis.x(n * step)
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

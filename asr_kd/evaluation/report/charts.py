"""SampledUtterance the charts of a report as static SVG."""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from markupsafe import Markup

from asr_kd.evaluation.report.document import Chart, Curves, Dumbbells, Forest, Point, Scatter, Steps
from asr_kd.evaluation.report.svg import (
    WIDTH,
    Element,
    add,
    apart,
    line,
    linear,
    log_ticks,
    logarithmic,
    mark,
    markup,
    padded,
    picture,
    polyline,
    ticks,
    write,
)  # fmt: skip


def draw(chart: Chart, label: str) -> Markup:
    """A chart as SVG; `label` is its text for screen readers."""
    return markup(_draw(chart, label))


@singledispatch
def _draw(chart: Any, label: str) -> Element:
    raise TypeError(f"no chart: {type(chart).__name__}")


@_draw.register
def _forest(chart: Forest, label: str) -> Element:
    points = chart.points
    top, step = 6.0, 44.0
    bottom = top + step * len(points)
    root = picture(bottom + 24, label)
    x_scale, marks = _rates(points, (8.0, WIDTH - 8.0))
    for value in marks:
        line(root, (x_scale(value), top), (x_scale(value), bottom), "grid")
        write(root, x_scale(value), bottom + 16, f"{100 * value:g} %", "tick", _anchor(x_scale(value)))
    for index, point in enumerate(points):
        y = top + step * index + 30
        write(root, 8, y - 14, _cut(point.style.name, 27), f"label {point.style.kind}")
        interval = "" if point.low is None else f"{100 * point.reach[0]:.1f} to {100 * point.reach[1]:.1f}"
        text = write(root, WIDTH - 8, y - 14, f"{100 * point.wer:.2f} %", "value", "end")
        if interval:
            add(text, "tspan", interval, "quiet", dx=7)
        _whisker(root, point, (x_scale(point.reach[0]), y), (x_scale(point.reach[1]), y))
        mark(root, x_scale(point.wer), y, point.style.shape, point.style.kind)
    return root


@_draw.register
def _scatter(chart: Scatter, label: str) -> Element:
    points, axis, logarithm = chart.points, chart.axis, chart.logarithm
    top, left, bottom, height = 14.0, 38.0, 226.0, 264.0
    known = [point for point in points if point.cost is not None and (point.cost > 0 or not logarithm)]
    edge = [point for point in points if point not in known and point.note]
    right = WIDTH - (96.0 if edge else 14.0)
    root = picture(height, label)
    y_scale, marks = _rates(points, (bottom, top))
    for value in marks:
        line(root, (left, y_scale(value)), (WIDTH - 8, y_scale(value)), "grid")
        write(root, left - 6, y_scale(value) + 4, f"{100 * value:g} %", "tick", "end")
    costs = [point.cost for point in known if point.cost is not None]
    low, high = (min(costs) / 1.7, max(costs) * 1.7) if logarithm else padded([*costs, 0.0], 0.15)
    x_scale = (logarithmic if logarithm else linear)((low, high), (left + 6, right))
    for value in log_ticks(low, high) if logarithm else ticks(low, high):
        line(root, (x_scale(value), bottom), (x_scale(value), bottom + 4), "axis")
        write(root, x_scale(value), bottom + 17, f"{value:g}", "tick", "middle")
    line(root, (left, bottom), (right, bottom), "axis")
    write(root, (left + right) / 2, height - 4, axis, "tick title", "middle")
    places = [x_scale(cost) for cost in costs] + [(right + WIDTH) / 2 - 4] * len(edge)
    if edge:
        write(root, (right + WIDTH) / 2 - 4, bottom + 17, edge[0].note, "tick", "middle")
    _scattered(root, [*known, *edge], places, [y_scale(point.wer) for point in [*known, *edge]], y_scale)
    return root


@_draw.register
def _curves(chart: Curves, label: str) -> Element:
    top, left, bottom, right, height = 10.0, 38.0, 206.0, WIDTH - 14.0, 244.0
    last = max(epoch for _, points in chart.series for epoch, _ in points)
    highest = min(max(rate for _, points in chart.series for _, rate in points), 1.0)
    root = picture(height, label)
    x_scale, y_scale = linear((0, last), (left, right)), linear((0, highest), (bottom, top))
    for mark_at in ticks(0, highest, 4):
        line(root, (left, y_scale(mark_at)), (right, y_scale(mark_at)), "grid")
        write(root, left - 6, y_scale(mark_at) + 4, f"{100 * mark_at:g} %", "tick", "end")
    for mark_at in ticks(0, last, 5):
        write(root, x_scale(mark_at), bottom + 17, f"{mark_at:g}", "tick", "middle")
    write(root, (left + right) / 2, height - 4, "epoch", "tick title", "middle")
    for style, points in chart.series:
        placed = [(x_scale(epoch), y_scale(min(rate, highest))) for epoch, rate in points]
        polyline(root, placed, f"curve {style.kind}")
    return root


@_draw.register
def _steps(chart: Steps, label: str) -> Element:
    found, axis = chart.series, chart.axis
    top, left, bottom, right, height = 14.0, 38.0, 206.0, WIDTH - 30.0, 244.0
    settings = sorted({setting for _, rates in found for setting in rates})
    low, high = padded([rate for _, rates in found for rate in rates.values()])
    root = picture(height, label)
    x_scale, y_scale = linear((0, len(settings) - 1), (left + 24, right)), linear((low, high), (bottom, top))
    for value in ticks(low, high, 4):
        line(root, (left, y_scale(value)), (right + 20, y_scale(value)), "grid")
        write(root, left - 6, y_scale(value) + 4, f"{100 * value:g} %", "tick", "end")
    for place, setting in enumerate(settings):
        write(root, x_scale(place), bottom + 17, str(setting), "tick", "middle")
    write(root, (left + right) / 2, height - 4, axis, "tick title", "middle")
    for style, rates in found:
        placed = [(x_scale(settings.index(setting)), y_scale(rates[setting])) for setting in sorted(rates)]
        polyline(root, placed, f"curve {style.kind}")
        for x, y in placed:
            mark(root, x, y, style.shape, style.kind)
    return root


@_draw.register
def _dumbbells(chart: Dumbbells, label: str) -> Element:
    rates, styles = chart.rates, chart.styles
    top, left, step, right = 22.0, 88.0, 19.0, WIDTH - 12.0
    highest = max((rate for found in rates.values() for rate in found.values()), default=0.0)
    bottom = top + step * len(rates)
    root = picture(bottom + 6, label)
    x_scale = linear((0, max(highest, 0.01)), (left, right))
    for value in ticks(0, max(highest, 0.01), 4):
        line(root, (x_scale(value), top - 4), (x_scale(value), bottom), "grid")
        write(root, x_scale(value), top - 9, f"{100 * value:g} %", "tick", "middle")
    for index, (speaker, found) in enumerate(rates.items()):
        y = top + step * index + step / 2
        write(root, left - 10, y + 4, _cut(speaker, 12), "tick ink", "end")
        there = {key: found[key] for key in styles if key in found}
        line(root, (x_scale(min(there.values())), y), (x_scale(max(there.values())), y), "bar")
        for key, rate in there.items():
            hint = f"{speaker}, {styles[key].name}: {100 * rate:.1f} %"
            mark(root, x_scale(rate), y, styles[key].shape, styles[key].kind, hint)
    return root


def _scattered(root: Any, points: Sequence[Point], xs: Sequence[float], ys: Sequence[float], y_scale: Any) -> None:
    """Points with their intervals and names; points at one place stand beside each other."""
    spread_xs = [x + 7 * _twins(xs, index) for index, x in enumerate(xs)]
    labels = apart([y + 4 for y in ys], 14.0)
    for point, x, y, label_y in zip(points, spread_xs, ys, labels, strict=True):
        low, high = point.reach
        _whisker(root, point, (x, y_scale(low)), (x, y_scale(high)))
        mark(root, x, y, point.style.shape, point.style.kind)
        onwards = x < WIDTH * 0.6
        place = max([x, *(other for other in spread_xs if abs(other - x) < 16)]) if onwards else x
        kind, side = f"label small {point.style.kind}", "start" if onwards else "end"
        write(root, place + 10 if onwards else x - 10, label_y, _cut(point.style.name, 24), kind, side)


def _twins(xs: Sequence[float], index: int) -> float:
    """Offset of a point that shares its place with others."""
    alike = [other for other, x in enumerate(xs) if abs(x - xs[index]) < 8]
    return alike.index(index) - (len(alike) - 1) / 2


def _whisker(root: Any, point: Point, start: tuple[float, float], end: tuple[float, float]) -> None:
    if point.low is not None:
        line(root, start, end, f"whisker {point.style.kind}")


def _rates(points: Sequence[Point], target: tuple[float, float]) -> tuple[Any, list[float]]:
    """Scale and ticks for the WERs of these points with their intervals."""
    low, high = padded([end for point in points for end in point.reach])
    marks = ticks(low, high, 4)
    return linear((low, high), target), marks


def _anchor(x: float) -> str:
    return "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"

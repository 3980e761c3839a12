"""Curves and histograms as SVG whose colours come from the page, so that they follow its dark and light."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

__all__ = ["curves", "histogram", "ticks"]

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
MOST_POINTS = 240
"""Points of a curve; more are averaged."""

Points = Sequence[tuple[float, float]]


def curves(series: Mapping[str, Points], *, title: str, across: str, logarithmic: bool = False) -> str:
    """Lines over a common axis.

    Args:
        series: Points (x, y) by name; what is not finite, or with ``logarithmic`` not above 0, is left out.
        title: What is shown, for screen readers.
        across: Name of the x axis.
        logarithmic: Whether the y axis is.

    Returns:
        An ``svg`` element; empty where there is nothing to draw.
    """
    kept = {
        name: _thinned([point for point in points if _drawable(point, logarithmic)]) for name, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if len(points) > 1}
    if not kept:
        return ""
    xs = [x for points in kept.values() for x, _ in points]
    ys = [math.log10(y) if logarithmic else y for points in kept.values() for _, y in points]
    low, high = _room(min(ys), max(ys))
    left, right = (0.0 if min(xs) < 0.2 * max(xs) else min(xs)), max(xs)
    right = right if right > left else left + 1
    parts = [_frame(left, right, low, high, across, logarithmic=logarithmic)]
    for number, (_, points) in enumerate(kept.items()):
        path = " ".join(
            f"{_across(x, left, right):.1f},{_up(math.log10(y) if logarithmic else y, low, high):.1f}"
            for x, y in points
        )
        parts.append(f'<polyline class="line c{number % 6}" points="{path}"/>')
    legend = "".join(f'<span class="key c{number % 6}">{escape(name)}</span>' for number, name in enumerate(kept))
    return f"{_svg(title, parts)}<p class=legend>{legend}</p>"


def histogram(values: NDArray[np.float64], *, title: str, across: str, whole: bool = False) -> str:
    """How often which values come.

    Args:
        values: N numbers; what is not finite is left out.
        title: What is shown, for screen readers.
        across: Name of the x axis.
        whole: They are whole numbers: a bar for each.

    Returns:
        An ``svg`` element; empty where there is nothing to draw.
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return ""
    if whole:
        edges = np.arange(0, int(values.max()) + 2) - 0.5
    else:
        low, high = float(values.min()), float(values.max())
        edges = np.linspace(min(0.0, low), high if high > low else low + 1, 21)
    counts, _ = np.histogram(values, edges)
    left, right = float(edges[0]), float(edges[-1])
    top = float(counts.max()) * 1.08
    parts = [_frame(left, right, 0.0, top, across, logarithmic=False)]
    for count, begin, end in zip(counts, edges, edges[1:], strict=False):
        x, y = _across(float(begin), left, right) + 0.7, _up(float(count), 0.0, top)
        width = _across(float(end), left, right) - x - 0.7
        tip = f"{begin + 0.5:.0f}: {count}" if whole else f"{begin:.3g} to {end:.3g}: {count}"
        height = HEIGHT - BOTTOM - y
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{max(0.5, width):.1f}" height="{height:.1f}">'
            f"<title>{tip}</title></rect>"
        )
    return _svg(title, parts)


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round numbers between two others.

    >>> ticks(0, 10), ticks(0.1, 0.52)
    ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [0.1, 0.2, 0.3, 0.4, 0.5])
    """
    step = (high - low) / most
    power = 10 ** math.floor(math.log10(step))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= step * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(round(number * step, 12)) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _frame(left: float, right: float, low: float, high: float, across: str, *, logarithmic: bool) -> str:
    """Grid, numbers and the name of the x axis."""
    lines = []
    marks = [float(power) for power in range(math.ceil(low), math.floor(high) + 1)] if logarithmic else ticks(low, high)
    if logarithmic and len(marks) < 2:
        marks = ticks(low, high, most=3)
    for mark in marks:
        y = _up(mark, low, high)
        text = f"{10**mark:.2g}" if logarithmic else f"{mark:g}"
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for mark in ticks(left, right, most=6):
        x = _across(mark, left, right)
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{mark:g}</text>')
    lines.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(across)}</text>')
    return "".join(lines)


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _across(x: float, left: float, right: float) -> float:
    return LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)


def _up(y: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _room(low: float, high: float) -> tuple[float, float]:
    """A range with some air; never empty."""
    air = 0.05 * (high - low) or max(0.5, abs(low) * 0.1)
    return low - air, high + air


def _drawable(point: tuple[float, float], logarithmic: bool) -> bool:
    x, y = point
    return math.isfinite(x) and math.isfinite(y) and (y > 0 or not logarithmic)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Neighbours averaged until they are few enough."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]

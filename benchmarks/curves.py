"""Learning curves as an SVG picture, for the benchmarks that compare recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

__all__ = ["learning_curves"]

COLOURS = ("1b6ac9", "d9480f", "2b8a3e", "862e9c", "495057", "c2255c", "0b7285")
WIDTH, HEIGHT, LEFT, TOP = 330, 220, 40, 26
Point = Mapping[str, float]


def learning_curves(curves: Mapping[str, Sequence[Sequence[Point]]], *, across: str) -> str:
    """ARI-FG left and mIoU right; a line is the mean of a variant's seeds.

    Args:
        curves: By variant, the curves of its seeds: points with ``ari_fg``, ``miou`` and the number that ``across``
            names. Seeds may differ in their number of points: the shortest counts.
        across: What runs to the right, such as ``step`` or ``minutes``.
    """
    last = max((point[across] for seeds in curves.values() for seed in seeds for point in seed), default=0) or 1
    parts = list(_axes(last))
    for index, (name, seeds) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        for panel, key in enumerate(("ari_fg", "miou")):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _line(seeds, key, across, last, panel))
            if points:
                parts.append(f'<polyline points="{points}" fill="none" stroke="#{colour}" stroke-width="2"/>')
        y = TOP + HEIGHT + 44 + 18 * index
        parts.append(f'<rect x="{LEFT}" y="{y - 5}" width="20" height="3" fill="#{colour}"/>')
        parts.append(f'<text x="{LEFT + 28}" y="{y}">{name}</text>')
    size = f'width="{2 * WIDTH + 110}" height="{TOP + HEIGHT + 50 + 18 * len(curves)}"'
    style = 'font-family="sans-serif" font-size="12" fill="#222"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(parts)}</svg>\n'


def _line(
    seeds: Sequence[Sequence[Point]], key: str, across: str, last: float, panel: int
) -> Iterator[tuple[float, float]]:
    for points in zip(*seeds, strict=False):
        mean = sum(point[key] for point in points) / len(points)
        place = sum(point[across] for point in points) / len(points)
        yield LEFT + panel * (WIDTH + 50) + WIDTH * place / last, TOP + HEIGHT * (1 - max(0.0, mean))


def _axes(last: float) -> Iterator[str]:
    for panel, title in enumerate(("ARI-FG", "mIoU")):
        x0 = LEFT + panel * (WIDTH + 50)
        yield f'<text x="{x0}" y="{TOP - 10}">{title}</text>'
        for tenth in range(0, 11, 2):
            y = TOP + HEIGHT * (1 - tenth / 10)
            yield f'<path d="M{x0} {y}h{WIDTH}" stroke="#ddd"/><text x="{x0 - 26}" y="{y + 4}">{tenth / 10}</text>'
        for quarter in range(1, 5):
            x, label = x0 + WIDTH * quarter / 4, f"{last * quarter / 4:.{1 if last < 100 else 0}f}"
            yield f'<text x="{x}" y="{TOP + HEIGHT + 18}" text-anchor="end">{label}</text>'

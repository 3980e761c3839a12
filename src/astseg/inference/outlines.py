"""Outlines as sharp as the picture: label maps that were found at a coarser scale, decided anew at the picture's own.

Each object is looked at in its own window. What the coarse label map says is the prior, which is sure of everything
farther than about one coarse pixel from the outline. In the band between, Bayes' rule decides by colour: the density
of the colours that are surely the object's against that of the colours around it, both near the pixel, by kernels in
colour and position; and the background's own colour where a picture of it is known. Neighbouring pixels of like colour
belong together (mean field on a grid with weights that fall with contrast: Boykov and Jolly 2001, Rother et al. 2004,
GrabCut; the inference is that of Kraehenbuehl and Koltun 2011 with neighbours alone). Large steps in scale are taken
by halves, so that the band stays a few pixels wide and the time goes with the length of the outlines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

__all__ = ["refine"]

WIDEST = 4.0
"""Coarse pixels wider than this, in pixels, are first looked at in the picture at half its size."""

LEFT_OVER = 2.0
"""Pixels by which an outline that was refined at half the size may still be off."""

BAND = 1.75
"""Farther than so many coarse pixels from its coarse outline a pixel is as it was."""

PRIOR_WIDTH = 0.35
"""Coarse pixels over which the prior's log odds rise by one: the best of 0.25, 0.35 and 0.5 on motorway pictures, and
within 0.005 IoU of the best on desk scenes and nuclei."""

SAMPLES = 120
"""Pixels of each side that colour densities are made from, at most; 80 lose up to 0.005 IoU, 160 gain nothing."""

SURE = 1.0
"""Log odds from which a pixel may be such a sample."""

NEAR = 2.0
"""Width in coarse pixels of the kernel in position."""

ANYWHERE = 0.05
"""Added to that kernel: colours seen far away count too."""

FAINTEST = 1e-3
"""Density, relative to that of a colour that all samples have, of colours never seen; so log ratios are bounded."""

COLOUR_WIDTH = 2.0, 2.0, 24.0
"""Width of the kernel in colour: times the noise, at least and at most so many levels."""

AT_ONCE = 2048
"""Pixels whose densities are computed together, so that the kernels stay in the cache."""

DARKEST = 0.4
"""Brightness of the background in the deepest shadow, as a fraction of what it is in the light."""

SHADOW_LIKE = 0.05
"""Share of the object's core that looks like the background in a shadow, from which on looking so says nothing."""

MEDIAN_OF_SQUARES = 2.37
"""Of the sum of three squared standard normal variables."""

PASSES = 2
"""The second one takes its samples from what the first has found."""

WEAKEST = 0.5
"""Mean evidence of the band, in nats, below which colours say nothing and the outline stays as it was."""

COUPLING = 1.2
"""What a neighbour of the same colour adds to the log odds at most; half and nearly twice as much score alike."""

SWEEPS = 8
"""Of the mean field: news travels about so many pixels, twice what is left over of an outline's place."""

FIXED = 30.0
"""Log odds of what is certain."""


def refine(
    picture: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    *,
    scale: float,
    background: NDArray[np.uint8] | None = None,
    error: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.int32]:
    """Decide anew, by the picture's own pixels, which pixels near the outlines of a label map belong to which object.

    No object is lost, none is added, and what lies farther than about two coarse pixels from an outline stays as it is.

    Args:
        picture: H x W x 3.
        labels: H x W, or as found, h x w for the whole picture; 0 is background.
        scale: Pixels that the labels were found at for each pixel of the picture, in (0, 1]: 64 / 512 for a picture of
            512 pixels seen at 64.
        background: The picture without objects, H x W x 3, or h x w x 3 for the whole picture; None: unknown.
        error: What the picture is expected to differ from it by where no object is, as a standard deviation in grey
            levels, H x W or h x w; None: by the picture's noise.

    Returns:
        H x W.
    """
    size = picture.shape[0], picture.shape[1]
    if labels.shape != size:
        labels = _nearest(labels, size)
    if background is not None and background.shape[:2] != size:
        background = np.asarray(Image.fromarray(background).resize(size[::-1], Image.Resampling.BILINEAR))
    if error is not None and error.shape != size:
        error = np.asarray(Image.fromarray(error.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR))
    reach = 1 / scale
    if reach > WIDEST:
        half = refine(
            _half(picture),
            labels[::2, ::2],
            scale=2 * scale,
            background=None if background is None else _half(background),
            error=None if error is None else error[::2, ::2],
        )
        decided, twice = (
            each.repeat(2, axis=0).repeat(2, axis=1)[: size[0], : size[1]] for each in (half != labels[::2, ::2], half)
        )
        labels, reach = _with_lost(np.where(decided, twice, labels), labels), LEFT_OVER
    return _refined(_Scene(picture, labels, background, error), reach)


@dataclass(frozen=True)
class _Scene:
    """What is known of a picture."""

    picture: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]
    background: NDArray[np.uint8] | None
    error: NDArray[np.floating[Any]] | None


def _refined(scene: _Scene, reach: float) -> NDArray[np.int32]:
    """Labels at the same size, where outlines may be off by ``reach`` pixels."""
    best = np.zeros(scene.labels.shape, np.float32)
    refined = np.zeros(scene.labels.shape, np.int32)
    margin = math.ceil((BAND + 1) * reach) + 1
    for number, box in enumerate(ndimage.find_objects(scene.labels), start=1):
        if box is None:
            continue
        window = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
        odds = _log_odds(scene, number, window, reach)
        own = odds > best[window]
        refined[window][own] = number
        best[window][own] = odds[own]
    return _with_lost(refined, scene.labels)


def _with_lost(refined: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int32]:
    """Refined labels, in which objects that have no pixel left have those again that they had."""
    lost = np.setdiff1d(labels, refined)
    lost = lost[lost > 0]
    return np.where(np.isin(labels, lost), labels, refined).astype(np.int32) if len(lost) else refined.astype(np.int32)


def _log_odds(scene: _Scene, number: int, window: tuple[slice, ...], reach: float) -> Array:
    """Log odds that a pixel of the window is the object's."""
    inside = scene.labels[window] == number
    prior = _signed_distance(inside) / np.float32(PRIOR_WIDTH * reach)
    certain = BAND / PRIOR_WIDTH
    band = np.abs(prior) < certain
    fixed = np.where(prior > 0, FIXED, -FIXED).astype(np.float32)
    colours = scene.picture[window].astype(np.float32)
    width = _kernel_width(colours)
    around = _around(scene, window, colours, prior, width)
    links = _links(colours, width)
    odds = prior
    for _ in range(PASSES):
        evidence = _log_ratio(colours, odds, band, width, reach, around)
        if not band.any() or np.abs(evidence).mean() < WEAKEST:
            return prior
        unary = fixed.copy()
        unary[band] = prior[band] + evidence
        odds = _mean_field(unary, links)
        odds = np.where(band, odds, fixed)
    return _connected(odds, inside)


def _signed_distance(inside: NDArray[np.bool_]) -> Array:
    """Pixels from the outline, positive inside."""
    within, without = ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside)
    return np.asarray(np.where(inside, within - 0.5, 0.5 - without), np.float32)


def _kernel_width(colours: Array) -> float:
    """Standard deviation of the kernel in colour, in levels, by how neighbouring pixels differ."""
    steps = np.abs(np.diff(colours, axis=1)).mean(axis=2)
    factor, least, most = COLOUR_WIDTH
    return float(np.clip(factor * np.median(steps) / 1.128, least, most)) if steps.size else least


def _around(scene: _Scene, window: tuple[slice, ...], colours: Array, prior: Array, width: float) -> Array | None:
    """Density of each colour under the known background, in the light or in a shadow; None: it is not known.

    A shadow shows the background darker, all channels by the same factor.
    """
    if scene.background is None:
        return None
    behind = scene.background[window].astype(np.float32)
    shade = np.einsum("ijk,ijk->ij", colours, behind) / np.maximum(np.einsum("ijk,ijk->ij", behind, behind), 1)
    shaded = np.clip(shade, DARKEST, 1)[..., None] * behind
    lit, dark = (((colours - one) ** 2).sum(axis=2) for one in (behind, shaded))
    if scene.error is not None:
        variance = width**2 + scene.error[window].astype(np.float32) ** 2
    else:
        outside = dark[prior < -SURE]
        typical = float(np.median(outside)) / MEDIAN_OF_SQUARES if len(outside) else np.inf
        variance = np.full(prior.shape, max(width**2, typical), np.float32)
    in_light, in_shadow = (np.exp(-apart / (2 * variance)) for apart in (lit, dark))
    core = prior >= min(float(prior.max()), 1 / PRIOR_WIDTH)
    alike = float((in_shadow[core] > 0.5).mean())
    like = np.maximum(in_light, max(0.0, 1 - alike / SHADOW_LIKE) * in_shadow)
    return np.asarray(like * (width**2 / variance) ** 1.5, np.float32)


def _log_ratio(
    colours: Array, odds: Array, band: NDArray[np.bool_], width: float, reach: float, around: Array | None
) -> Array:
    """Log ratio of the colour densities of the object and of what is around it, for the pixels of the band."""
    asked = _Points.of(colours, np.flatnonzero(band), width, NEAR * reach)
    own, other = (_density(asked, _Points.of(colours, _samples(side), width, NEAR * reach)) for side in (odds, -odds))
    if around is not None:
        other = (other + around[band]) / np.float32(2)
    return np.asarray(np.log((own + FAINTEST) / (other + FAINTEST)), np.float32)


@dataclass(frozen=True)
class _Points:
    """Pixels: where they are, n x 2, and their colours, n x 3, in widths of the kernels."""

    where: Array
    what: Array

    @classmethod
    def of(cls, colours: Array, chosen: NDArray[np.intp], width: float, near: float) -> _Points:
        """Those with the given numbers, counted along the rows."""
        where = np.stack(np.divmod(chosen, colours.shape[1]), axis=1)
        return cls((where / near).astype(np.float32), colours.reshape(-1, 3)[chosen] / np.float32(width))


def _density(asked: _Points, samples: _Points) -> Array:
    """How dense the samples' colours are near each of the pixels asked for: 1 if all of them have its colour."""
    density = np.zeros(len(asked.where), np.float32)
    if not len(samples.where):
        return density
    for start in range(0, len(density), AT_ONCE):
        block = slice(start, start + AT_ONCE)
        near = _kernel(asked.where[block], samples.where) + np.float32(ANYWHERE)
        like = _kernel(asked.what[block], samples.what)
        density[block] = np.einsum("ij,ij->i", like, near) / near.sum(axis=1)
    return density


def _samples(side: Array) -> NDArray[np.intp]:
    """Evenly spaced pixels that are surely on one side, those that are most so where none is sure."""
    flat = side.ravel()
    sure = np.flatnonzero(flat > SURE)
    if not len(sure):
        sure = np.flatnonzero(flat > 0)
    if len(sure) <= SAMPLES:
        return sure
    return sure[np.linspace(0, len(sure) - 1, SAMPLES).round().astype(np.intp)]


def _kernel(one: Array, other: Array) -> Array:
    """exp(-d^2 / 2) for each pair of rows."""
    apart = one @ other.T
    apart -= (one * one).sum(axis=1)[:, None] / 2
    apart -= (other * other).sum(axis=1)[None] / 2
    return np.asarray(np.exp(np.minimum(apart, 0, out=apart), out=apart))


def _links(colours: Array, width: float) -> list[tuple[tuple[int, int], Array]]:
    """How strongly each pixel and its neighbour hang together: for each of four directions, and what it is."""
    links = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here, there = _pair(colours, down, right)
        apart = ((here - there) ** 2).sum(axis=2)
        strength = np.exp(-apart / (2 * 3 * (1.5 * width) ** 2)) / math.hypot(down, right)
        links.append(((down, right), (COUPLING * strength).astype(np.float32)))
    return links


def _pair(array: NDArray[Any], down: int, right: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Each pixel, and its neighbour so many rows below and columns to the right."""
    height, width = array.shape[:2]
    left, first = max(0, -right), max(0, right)
    return array[: height - down, left : width - first], array[down:, first : width - left]


def _mean_field(unary: Array, links: list[tuple[tuple[int, int], Array]]) -> Array:
    """Log odds, given those of each pixel alone and how neighbours hang together."""
    odds = unary
    for _ in range(SWEEPS):
        leaning = np.tanh(odds / 2)
        odds = unary.copy()
        for (down, right), strength in links:
            here, there = _pair(leaning, down, right)
            to_here, to_there = _pair(odds, down, right)
            to_here += strength * there
            to_there += strength * here
    return odds


def _connected(odds: Array, inside: NDArray[np.bool_]) -> Array:
    """Without parts that hold no pixel that was the object's before."""
    parts, count = ndimage.label(odds > 0)
    if count <= 1:
        return odds
    stays = np.zeros(count + 1, bool)
    stays[parts[inside]] = True
    stays[0] = True
    return np.where(stays[parts], odds, -1).astype(np.float32)


def _half(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).reduce(2))


def _nearest(labels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Labels at another size."""
    rows, columns = ((np.arange(large) + 0.5) * small / large for small, large in zip(labels.shape, size, strict=True))
    nearest: NDArray[Any] = labels[rows.astype(np.intp)[:, None], columns.astype(np.intp)[None]]
    return nearest

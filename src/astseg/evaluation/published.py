"""Figures that papers give, each with its source, to hold results against.

They are of the data sets as published and of full trainings. No paper itself was at hand: what is said of a source here
says where its figures were read, and they are to be checked before they are quoted.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PUBLISHED", "PublishedFigures"]


class PublishedFigures(NamedTuple):
    """What a paper says of a model on one data set, in percent as printed; a dash where it says nothing."""

    model: str
    ari_fg: str
    miou: str
    source: str


_OWN = "Sauvalle and de La Fortelle, WACV 2023"
_OTHERS = "Karazija, Laina and Rupprecht, NeurIPS 2021 (CLEVRTEX)"
_COMPARED = "read in a comparison of 2025, unchecked"
_MEMORY = "from memory, unchecked"

# Model: ARI-FG and mIoU on CLEVR, CLEVRTEX, its out-of-distribution set and its camouflage set.
_ROWS: dict[str, tuple[str, ...]] = {
    "AST-Seg-B3-CT": ("98.3 ± 0.1 / 90.3 ± 0.2", "94.8 / 79.6", "83.1 / 67.5", "87.3 / 73.1"),
    "Slot Attention": ("95.9 / 36.6", "62.4 / 22.6", "58.5 / 21.0", "57.5 / 19.8"),
    "IODINE": ("93.8 / 45.1", "59.5 / 29.2", "53.2 / 26.3", "36.3 / 17.5"),
    "DTI-Sprites": ("93.2 / 54.5", "79.9 / 33.8", "73.7 / 32.6", "72.9 / 27.5"),
    "eMORL": ("93.3 / 50.2", "45.0 / 12.6", "43.1 / 13.2", "42.3 / 11.6"),
    "SPAIR": ("77.1 / 66.0", "0 / 0", "- / -", "- / -"),
    "GNM": ("65.1 / 59.9", "53.4 / 42.3", "48.4 / 40.8", "15.7 / 17.6"),
    "GENESIS-V2": ("57.9 / 9.5", "31.2 / 7.9", "29.0 / 8.7", "29.6 / 7.5"),
    "MONet": ("54.5 / 30.7", "36.7 / 19.8", "33.0 / 19.3", "12.4 / 10.5"),
}


def _of(column: int) -> tuple[PublishedFigures, ...]:
    read = _COMPARED if column == 0 else _MEMORY
    figures = []
    for model, cells in _ROWS.items():
        ari_fg, miou = cells[column].split(" / ")
        figures.append(PublishedFigures(model, ari_fg, miou, f"{_OWN if 'AST' in model else _OTHERS}; {read}"))
    return tuple(figures)


PUBLISHED: dict[str, tuple[PublishedFigures, ...]] = {
    name: _of(column) for column, name in enumerate(("clevr", "clevrtex", "clevrtex-outd", "clevrtex-camo"))
}
"""By data set. Of ShapeStacks and ObjectsRoom no figures were at hand."""

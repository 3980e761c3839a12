"""Guidance: what differs from the background tells the model where to look, and at first what to draw.

Not in the paper. There the encoder starts blind: objects weigh e^-11, and hours pass before the attention maps have
settled on anything. But once the background is learnt, the regions in which an image differs from it are rough
detections that cost nothing, found without any label:

- :mod:`astseg.guidance.foreground` tells what differs from the background;
- :mod:`astseg.guidance.colours` leaves out shadows and parts what touches but differs in colour;
- :mod:`astseg.guidance.parting` parts what is of two colours but passes softly from one to the other;
- :mod:`astseg.guidance.blobs` cuts what is left at its necks and keeps the largest regions of each image;
- :mod:`astseg.guidance.loss` draws slots to regions and teaches the glimpses to draw them;
- :mod:`astseg.guidance.mixing` makes new pictures of the regions of others, where there are few.
"""

from __future__ import annotations

from astseg.guidance.blobs import Blobs, find_blobs
from astseg.guidance.colours import colour_regions
from astseg.guidance.foreground import find_regions, foreground_mask
from astseg.guidance.loss import ON_MARGIN, glimpse_loss, guidance_loss, slot_anchors, where_losses
from astseg.guidance.mixing import mix

__all__ = [
    "ON_MARGIN",
    "Blobs",
    "colour_regions",
    "find_blobs",
    "find_regions",
    "foreground_mask",
    "glimpse_loss",
    "guidance_loss",
    "mix",
    "slot_anchors",
    "where_losses",
]

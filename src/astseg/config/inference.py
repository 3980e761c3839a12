"""Settings of what surrounds the network: where objects may be, and how its output becomes masks."""

from __future__ import annotations

from dataclasses import dataclass

from astseg.config.setting import AE_NE, CHOSEN, OFF, Settings, check, setting

__all__ = ["DiscoveryConfig", "InferenceConfig"]

HORPRASERT = "ours, after Horprasert et al. 1999; chosen on training images of four data sets"


@dataclass(frozen=True)
class DiscoveryConfig(Settings, part="discovery"):
    """Foreground components, without any object model (:mod:`astseg.discovery`): pseudo-labels and proposals.

    Colours are in [0, 1]. The hue of a pixel is how its channels differ from their mean, divided by its brightness;
    distances of hues are summed over RGB. Areas are fractions of the image.
    """

    high_errors: float = setting(
        7.0,
        "High threshold, where a component begins: predicted errors by which a pixel may differ from its background.",
        source=AE_NE,
        low=0,
    )
    low_errors: float = setting(
        1.0, "The same at the low threshold, to which a component reaches.", source=CHOSEN, low=0
    )
    contrast: float = setting(
        96 / 255,
        "Both thresholds: a pixel is foreground if three times what it differs by beyond that exceeds this fraction"
        " of the background's brightness.",
        source=AE_NE,
        low=0,
    )
    outline_factor: float = setting(
        0.5,
        "Factor on the high threshold and on ``contrast`` for the pixels of an outline, by one of which components"
        " grow.",
        source=CHOSEN,
        low=0,
        high=1,
    )
    background_shift: int = setting(
        2,
        "Pixels by which the background may be off: what that explains counts against thin components.",
        source=CHOSEN,
        low=0,
    )
    shadow_tint: float = setting(
        0.2,
        "In a shadow, the ratios of image and background in the three channels differ from their mean, summed up and"
        " as a fraction of it, by less than this.",
        source=HORPRASERT,
        low=0,
    )
    shadow_brightness: tuple[float, float] = setting(
        (0.45, 1.02), "In a shadow, that mean lies between these.", source=HORPRASERT, low=0
    )
    hue_floor: float = setting(
        0.05,
        "Added to the brightness that hues are divided by: the hue of what is nearly black says little.",
        source=CHOSEN,
        above=0,
    )
    hue_step: float = setting(
        0.25,
        "Neighbouring pixels whose hues are this far apart belong to different components.",
        source=CHOSEN,
        above=0,
    )
    hue_distance: float = setting(
        0.5, "The mean hues of two objects are this far apart at least.", source=CHOSEN, above=0
    )
    hue_separation: float = setting(
        3.0, "And this many times the mean distance of their pixels from them.", source=CHOSEN, low=0
    )
    hue_coverage: float = setting(
        0.5,
        "Fraction of the pixels of each hue that lie in pieces large and thick enough to be objects, for a split.",
        source=CHOSEN,
        low=0,
        high=1,
    )
    hue_thickness: int = setting(
        3,
        "Side in pixels of a square that such pieces hold somewhere: more than a rim of mixed pixels does.",
        source=CHOSEN,
        low=1,
    )
    smallest_piece: float = setting(
        0.003, "Area below which pieces of one hue are no objects.", source=CHOSEN, low=0, below=1
    )
    smallest_component: float = setting(0.002, "Area below which components are noise.", source=CHOSEN, low=0, below=1)
    neck: float = setting(
        0.8,
        "A component is cut where, between two peaks of its distance transform, that falls below this fraction of the"
        " smaller peak.",
        source=CHOSEN,
        low=0,
        high=1,
    )
    thin: float = setting(
        2.0,
        "Components nowhere deeper than this, in pixels, are not cut: necks cannot be told from the pixel grid.",
        source=CHOSEN,
        low=0,
    )
    line: float = setting(
        2.5,
        "Components nowhere deeper than this, in pixels, are dropped if ``background_shift`` explains most of them:"
        " lines that the background draws a bit off.",
        source=CHOSEN,
        low=0,
    )
    glimpse_margin: float = setting(
        1.25,
        "Factor by which the glimpse of a component is larger than its box, so that its mask can end inside.",
        source=CHOSEN,
        above=0,
    )

    def __post_init__(self) -> None:
        """Check every value, and the order of the two of a shadow.

        Raises:
            UserError: A value outside its range.
        """
        super().__post_init__()
        dark, bright = self.shadow_brightness
        check(dark < bright, f"discovery.shadow_brightness is {self.shadow_brightness}, expected the smaller one first")


@dataclass(frozen=True)
class InferenceConfig(Settings, part="inference"):
    """From the network's output to masks (:mod:`astseg.inference.pipeline`); the defaults are the paper's way."""

    colour_std: float = setting(
        0.0,
        "Standard deviation of the colour likelihood by which pixels are assigned to layers, in [0, 1]; 0 is the"
        " paper: the layer weights alone.",
        source=OFF,
        low=0,
    )
    proposals: bool = setting(
        False,
        "Slots move to the foreground components of the image (:mod:`astseg.inference.proposals`); needs a glimpse"
        " encoder.",
        source=OFF,
    )
    proposal_iou: float = setting(
        0.5,
        "A slot and a component mean the same object if the IoU of their boxes is this large.",
        source=CHOSEN,
        above=0,
        high=1,
    )
    proposal_margin: float = setting(
        4.0,
        "Log activation of a slot with a component, above the background's, at least; as"
        " ``pseudo_labels.active_margin``.",
        source=CHOSEN,
    )
    smallest_slot: float = setting(
        0.002,
        "With a colour likelihood, a slot with the largest weight in no more than this fraction of the pixels has"
        " none.",
        source=CHOSEN,
        low=0,
        below=1,
    )
    duplicate_share: float = setting(
        0.7,
        "A slot may be redundant if one other layer would get this fraction of its pixels without it.",
        source=CHOSEN,
        above=0,
        high=1,
    )
    duplicate_nats: float = setting(
        0.5, "It is if that layer explains them worse by less than so many nats a pixel.", source=CHOSEN, low=0
    )
    component_power: float = setting(
        0.5, "The mean responsibility of a layer within a component counts with this power.", source=CHOSEN, low=0
    )
    component_floor: float = setting(
        0.02,
        "Added to that mean, so that what few pixels of a component belong to can still have them.",
        source=CHOSEN,
        above=0,
        high=1,
    )

"""Settings of the architecture; the defaults are those of the paper, its supplement and the reference."""

from __future__ import annotations

from dataclasses import dataclass

from astseg.config.setting import AE_NE, OFF, REFERENCE, TABLE_1, Settings, check, setting

__all__ = ["BACKBONES", "BACKGROUND_FORMS", "BACKGROUND_WIDTHS", "REFINEMENTS", "ModelConfig"]

BACKBONES = (*(f"segformer-b{size}" for size in range(6)), "unet", "cnn")
REFINEMENTS = ("paper", "residual", "none")
BACKGROUND_FORMS = ("paper", "fixed", "varying")
BACKGROUND_WIDTHS = ("small", "simple", "complex", "auto")


@dataclass(frozen=True)
class ModelConfig(Settings, part="model"):
    """The architecture."""

    image_size: tuple[int, int] = setting(
        (128, 128), "(H, W) in pixels.", source=f"{REFERENCE} (CLEVR, CLEVRTEX)", low=16
    )
    slots: int = setting(
        10, "K, the largest number of objects in an image.", source=f"{REFERENCE} (CLEVR, CLEVRTEX)", low=1, high=255
    )  # labels are stored in 8 bits
    appearance: int = setting(32, "Z, size of an object's appearance vector.", source=TABLE_1, low=1)
    glimpse_width: int = setting(
        1,
        "Factor on the channels of the glimpse generator; 1 is the paper.",
        source="supplement, Table 2, has factor 1",
        low=1,
    )
    isotropic: bool = setting(
        False,
        "One scale number for both axes (CLEVR, ShapeStacks) instead of one for each.",
        source=f"{REFERENCE}: two scale numbers but for CLEVR and ShapeStacks",
    )
    scale_min: float = setting(
        1.3,
        "Smallest inverse scale: the largest glimpse covers 1/scale_min of the image side.",
        source=TABLE_1,
        above=0,
    )
    scale_max: float = setting(24.0, "Largest inverse scale.", source=TABLE_1, above=0)
    backbone: str = setting(
        "segformer-b3",
        "``segformer-b0`` to ``segformer-b5``, ``unet`` or ``cnn``.",
        source="supplement, section 3 (MiT-B3)",
        choices=BACKBONES,
    )
    backbone_weights: str | None = setting(
        None,
        "Hub id or folder of pretrained Segformer weights; none: fresh ones.",
        source="ours: the licence of the published ones asks for a choice",
    )
    glimpse_crop: int = setting(
        0,
        "Side in pixels, a multiple of 4, of the image crop from which the glimpse encoder reads a slot's appearance;"
        " 0 is the paper: the appearance is pooled from the feature map.",
        source=OFF,
        low=0,
    )
    refinement: str = setting(
        "paper",
        "``paper`` or ``residual``, the form of the transformer refinement; ``none``: no transformer.",
        source="supplement, Algorithm 1",
        choices=REFINEMENTS,
    )
    transformer_width: int = setting(256, "D.", source=TABLE_1, low=1)
    transformer_heads: int = setting(8, "Attention heads.", source=TABLE_1, low=1)
    transformer_layers: int = setting(6, "Encoder layers.", source=TABLE_1, low=1)
    transformer_feedforward: int = setting(512, "Width of the feed-forward blocks.", source=TABLE_1, low=1)
    dropout: float = setting(
        0.1, "Dropout rate of the transformer.", source=f"{REFERENCE} (PyTorch's default)", low=0, below=1
    )
    background_log_activation: float = setting(11.0, "Log alpha_0 at the start.", source=TABLE_1)
    pixel_activation: bool = setting(
        False, "A learned term for each pixel is added to log alpha_0.", source=f"{REFERENCE}: for videos only"
    )
    background_width: str = setting(
        "complex",
        "``small``, ``simple``, ``complex`` or ``auto`` (simple or complex, by a short run).",
        source="AE-NE: complex where each image has another background",
        choices=BACKGROUND_WIDTHS,
    )
    background_form: str = setting(
        "paper",
        "``paper``, ``fixed`` or ``varying`` (see :class:`astseg.model.background.BackgroundModel`).",
        source=AE_NE,
        choices=BACKGROUND_FORMS,
    )
    reference: bool = setting(
        False,
        "Do what the reference implementation does by accident: with isotropic scale the first appearance number is the"
        " activation too, and all transformer layers start with equal weights.",
        source="ours: accidents of the reference are mended",
    )

    def __post_init__(self) -> None:
        """Check every value, and what they ask of each other.

        Raises:
            UserError: A value outside its range.
        """
        super().__post_init__()
        check(
            self.scale_min < self.scale_max,
            f"model.scale_min is {self.scale_min}, expected less than model.scale_max ({self.scale_max})",
        )
        check(
            self.glimpse_crop % 4 == 0,
            f"model.glimpse_crop is {self.glimpse_crop}, expected 0 or a multiple of 4: pixels of a crop",
        )
        check(
            self.transformer_width % self.transformer_heads == 0,
            f"model.transformer_width is {self.transformer_width}, expected a multiple of model.transformer_heads"
            f" ({self.transformer_heads})",
        )

"""Everything that decides a run: frozen dataclasses, checked when made, saved as JSON beside every result.

The defaults are the numbers of the supplement's Table 1; a preset (:mod:`astseg.config.presets`) states what differs.
Sources: the supplement of AST-Seg (Sauvalle and de La Fortelle, WACV 2023); AE-NE, the background paper of the same
authors; their public implementation, called the reference, for what both leave out. What is ours is off by default.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from astseg.config.inference import DiscoveryConfig, InferenceConfig
from astseg.config.model import ModelConfig
from astseg.config.scene import SceneConfig
from astseg.config.setting import check
from astseg.config.training import AugmentConfig, BackgroundConfig, ObjectsConfig, PseudoLabelConfig

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """Everything that, with the data and the seed, decides a run.

    Attributes:
        model: The architecture.
        background: Training of the background model.
        objects: Training of the object model.
        pseudo_labels: How foreground components teach it.
        discovery: What foreground components are.
        inference: From the network's output to masks.
        augment: Variants of the training images.
        scene: Scenes that are looked at in full.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)

    def __post_init__(self) -> None:
        """Check what parts ask of each other.

        Raises:
            UserError: Proposals without a glimpse encoder.
        """
        check(
            not self.inference.proposals or self.model.glimpse_crop > 0,
            "inference.proposals is on, but model.glimpse_crop is 0: only a glimpse encoder sees what lies where the"
            " attention is not; set proposals to false, too (--inference.no-proposals)",
        )

    def with_steps(self, steps: int | None, *, part: str = "objects") -> Config:
        """The same run with other steps of one part, its schedules stretched along; None changes nothing."""
        if steps is None:
            return self
        if part == "background":
            return dataclasses.replace(self, background=dataclasses.replace(self.background, steps=steps))
        return dataclasses.replace(self, objects=self.objects.stretched(steps))

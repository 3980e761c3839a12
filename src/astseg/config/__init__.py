"""What a run is made of: the settings, the presets, where each value comes from, the device it runs on."""

from astseg.config.inference import DiscoveryConfig, InferenceConfig
from astseg.config.model import BACKBONES, BACKGROUND_FORMS, BACKGROUND_WIDTHS, REFINEMENTS, ModelConfig
from astseg.config.override import from_dict, override, to_dict
from astseg.config.scene import SceneConfig
from astseg.config.schema import Config
from astseg.config.setting import nearest
from astseg.config.training import (
    DECAYS,
    FROZEN_STORAGES,
    PRECISIONS,
    SCENARIOS,
    AugmentConfig,
    BackgroundConfig,
    ObjectsConfig,
    PseudoLabelConfig,
)

__all__ = [
    "BACKBONES",
    "BACKGROUND_FORMS",
    "BACKGROUND_WIDTHS",
    "DECAYS",
    "FROZEN_STORAGES",
    "PRECISIONS",
    "REFINEMENTS",
    "SCENARIOS",
    "AugmentConfig",
    "BackgroundConfig",
    "Config",
    "DiscoveryConfig",
    "InferenceConfig",
    "ModelConfig",
    "ObjectsConfig",
    "PseudoLabelConfig",
    "SceneConfig",
    "from_dict",
    "nearest",
    "override",
    "to_dict",
]

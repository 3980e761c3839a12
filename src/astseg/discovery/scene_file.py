"""``RUN/scene.safetensors``: what a run knows of its scene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from astseg.discovery.finder import Finder
from astseg.discovery.scene_background import SceneBackground
from astseg.discovery.scene_model import SceneModel, Sizes
from astseg.errors import UserError
from astseg.runs.atomic import BrokenFileError
from astseg.runs.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from astseg.config import SceneConfig

__all__ = ["SCENE_FILE", "load_scene", "save_scene"]

SCENE_FILE = "scene.safetensors"


def save_scene(run: Path, scene: SceneModel) -> None:
    """Write a scene into a run folder, whole or not at all.

    Raises:
        UserError: It cannot be written there.
    """
    background, sizes = scene.background, scene.sizes
    numbers = (background.block, *background.levels, sizes.width, sizes.narrow, sizes.mask, *scene.picture_size)
    tensors = {
        "template": torch.from_numpy(background.template),
        "noise": torch.from_numpy(background.noise),
        "numbers": torch.tensor(numbers, dtype=torch.float64),
    }
    if scene.full_template is not None:
        tensors["full_template"] = torch.from_numpy(scene.full_template)
    if scene.finder is not None:
        tensors |= {f"finder.{name}": value for name, value in scene.finder.state_dict().items()}
    save_tensors(run / SCENE_FILE, tensors, checksum=True)


def load_scene(run: Path, config: SceneConfig) -> SceneModel:
    """The scene of a run, its finder in evaluation mode.

    Args:
        run: The run folder.
        config: Its settings.

    Raises:
        UserError: No such file, or a broken one.
    """
    file = run / SCENE_FILE
    try:
        tensors = load_tensors(file)
        block, middle, spread, width, narrow, mask, height, breadth = tensors["numbers"].tolist()
        background = SceneBackground(
            config.background, tensors["template"].numpy(), tensors["noise"].numpy(), block, (middle, spread)
        )
        weights = {name.removeprefix("finder."): tensors[name] for name in tensors if name.startswith("finder.")}
        finder = None
        if weights:
            finder = Finder(width=config.width, reach=width)
            finder.load_state_dict(weights)
            finder.eval()
        full = tensors.get("full_template")
    except FileNotFoundError:
        raise UserError(f"'{file}' is not there: the run has not learned its scene yet") from None
    except (BrokenFileError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"'{file}' is broken ({reason}): restore it or begin the run again") from None
    return SceneModel(
        background,
        finder,
        Sizes(width, narrow, mask),
        (int(height), int(breadth)),
        config,
        None if full is None else full.numpy(),
    )

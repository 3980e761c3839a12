"""Made-up pictures of one place: a textured ground in changing light, small things that move over it, their shadows."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def tank(
    count: int,
    *,
    size: tuple[int, int] = (120, 160),
    things: int = 4,
    seed: int = 0,
    light: float = 0.1,
    noise: float = 2.0,
    shadow: float = 1.0,
    plain: bool = False,
    still: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint8]]:
    """Pictures N x H x W x 3, labels N x H x W, and the ground H x W x 3.

    Args:
        count: N.
        size: (H, W).
        things: In each picture.
        seed: Of everything.
        light: By how much brightness varies from picture to picture.
        noise: Standard deviation, in levels.
        shadow: Brightness of the shadow below and right of each thing; 1: none.
        plain: A ground without texture.
        still: Things that tremble at their places.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    rough = ndimage.gaussian_filter(rng.normal(0, 1, (*size, 3)), (3, 3, 0))
    slope = np.linspace(-15, 15, width)[None, :, None]
    ground = 130 + slope + (0 if plain else 12 * rough / rough.std())
    rows, columns = np.mgrid[:height, :width]
    homes = rng.uniform(0.15, 0.85, (things, 2)) * size
    looks = rng.choice([40, 200, 230], (things, 3)).astype(float)
    pictures, labels = [], []
    for _ in range(count):
        picture, mask = ground * rng.uniform(1 - light, 1 + light), np.zeros(size, np.int32)
        for number in range(things):
            middle = homes[number] + rng.normal(0, 2, 2) if still else rng.uniform(0.08, 0.92, 2) * size
            angle = rng.uniform(0, np.pi)
            down, across = rows - middle[0], columns - middle[1]
            along, beside = (
                across * np.cos(angle) + down * np.sin(angle),
                down * np.cos(angle) - across * np.sin(angle),
            )
            inside = (along / 9) ** 2 + (beside / 5) ** 2 < 1
            cast = ((along - 4) / 9) ** 2 + ((beside - 4) / 5) ** 2 < 1
            picture = np.where((cast & ~inside & (mask == 0))[..., None], picture * shadow, picture)
            picture = np.where(inside[..., None], looks[number], picture)
            mask[inside] = number + 1
        pictures.append(np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255).astype(np.uint8))
        labels.append(mask)
    return np.stack(pictures), np.stack(labels), np.clip(ground, 0, 255).astype(np.uint8)

import numpy as np
import torch

from astseg.data.arrays import images_to_tensor, tensor_to_images


def test_there_and_back_again() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    tensor = images_to_tensor(images)
    assert tensor.shape == (2, 3, 5, 7)
    assert tensor.dtype == torch.float32
    assert tensor[1, 2, 3, 4] == images[1, 3, 4, 2] / np.float32(255)
    np.testing.assert_array_equal(tensor_to_images(tensor), images)


def test_arrays_of_any_layout_and_tensors_give_the_same() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    expected = images_to_tensor(images)
    mirrored = images[:, :, ::-1].copy()[:, :, ::-1]  # a negative stride
    frozen = images.copy()
    frozen.flags.writeable = False
    for same in (mirrored, frozen, torch.from_numpy(images)):
        torch.testing.assert_close(images_to_tensor(same), expected, rtol=0, atol=0)


def test_values_outside_are_clamped_and_the_rest_rounded() -> None:
    pictures = tensor_to_images(torch.tensor([-0.5, 0.0, 0.499, 1.0, 1.5]).view(1, 1, 5))
    assert pictures.ravel().tolist() == [0, 0, 127, 255, 255]

"""Placement of glimpses on the windows of an image that they cover, and its gradient.

Source: the spatial transformer of the supplement's Algorithm 2; windows and their grouping are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from astseg.model.ops import shapes_are_fixed

__all__ = ["Group", "PlacedGlimpses", "groups"]

WINDOW_NUMBERS = 2**19
"""Largest size of a group of windows, in numbers: it then stays in a processor's cache."""

FEW_PIXELS = 2**14
"""Drawing this many needless pixels takes less time than starting another group."""

WHOLE_NUMBERS = 2**26
"""Largest size of a group where whole images are drawn: other devices want few large operations."""


@dataclass(frozen=True)
class Group:
    """N objects that are drawn together, on windows of n x m pixels.

    Attributes:
        objects: Indices of the objects among the BK of the batch, or a slice of them.
        rows: N, the first row of each window.
        columns: N, the first column of each window.
        size: (n, m).
        corners: (image, slot, row, column) of each window; None: windows are whole images, and the objects are all
            those of ``images``.
        images: The images of the objects, where windows are whole images.
    """

    objects: Tensor | slice
    rows: Tensor
    columns: Tensor
    size: tuple[int, int]
    corners: list[tuple[int, int, int, int]] | None
    images: slice

    def add_to(self, images: Tensor, drawn: Tensor) -> None:
        """Add N x n x C x m to images B x H x C x W."""
        if self.corners is None:
            some = images[self.images]
            some.add_(drawn.view(len(some), -1, *some.shape[1:]).sum(dim=1))
            return
        for window, values in zip(self._windows(images), drawn.unbind(), strict=True):
            window.add_(values)

    def take_from(self, images: Tensor) -> Tensor:
        """Images B x H x C x W -> N x n x C x m."""
        if self.corners is None:
            some = images[self.images]
            return some.repeat_interleave(len(self.rows) // len(some), dim=0)
        return torch.stack(self._windows(images))

    def put_into(self, planes: Tensor, visible: Tensor) -> None:
        """Write N x n x m into the objects' own planes of B x L x H x W."""
        if self.corners is None:
            planes[self.images, 1:] = visible.view(-1, planes.shape[1] - 1, *planes.shape[2:])
            return
        for window, values in zip(self._plane_windows(planes), visible.unbind(), strict=True):
            window.copy_(values)

    def take_planes(self, planes: Tensor) -> Tensor:
        """The objects' own planes of B x L x H x W -> N x n x m."""
        if self.corners is None:
            return planes[self.images, 1:].flatten(0, 1)
        return torch.stack(self._plane_windows(planes))

    def _windows(self, images: Tensor) -> list[Tensor]:
        """A view n x C x m of images B x H x C x W for each object."""
        assert self.corners is not None
        (n, m), c, start = self.size, images.shape[2], images.storage_offset()
        image, row, channel, column = images.stride()
        shape, stride = (n, c, m), (row, channel, column)
        return [
            images.as_strided(shape, stride, start + i * image + y * row + x * column) for i, _, y, x in self.corners
        ]

    def _plane_windows(self, planes: Tensor) -> list[Tensor]:
        """A view n x m of planes B x L x H x W for each object."""
        assert self.corners is not None
        image, plane, row, column = planes.stride()
        start, stride = planes.storage_offset() + plane, (row, column)
        return [
            planes.as_strided(self.size, stride, start + i * image + slot * plane + y * row + x * column)
            for i, slot, y, x in self.corners
        ]


def groups(objects: PlacedGlimpses, *, windows: bool | None, some: Tensor | None = None) -> Iterator[Group]:
    """Partition the objects into groups.

    Args:
        objects: All objects of a batch.
        windows: Whether they are drawn in windows instead of on whole images; None: where shapes may vary.
        some: B x K, the objects that are wanted, in windows; None: all of them.
    """
    position, scale, image_size = objects.position, objects.scale, objects.image_size
    b, k, *_, glimpse = objects.shape
    if shapes_are_fixed(position.device) if windows is None else not windows:
        together = max(1, WHOLE_NUMBERS // (k * 4 * image_size[0] * image_size[1]))
        for i in range(0, b, together):
            last_image = min(b, i + together)
            start = torch.zeros((last_image - i) * k, dtype=torch.long, device=position.device)
            objects_of = slice(i * k, last_image * k)
            yield Group(objects_of, start, start, image_size, None, slice(i, last_image))
        return
    sides = position.new_tensor([image_size[1], image_size[0]])  # of x and y, as positions are
    centre = ((position + 1) * sides - 1) / 2
    reach = (1 + 1 / glimpse) / scale * sides / 2  # a pixel further away reads nothing but zeros
    # NaN gets a window too, so that it reaches the losses, by which a diverged model is recognised.
    last = (centre + reach).nan_to_num().floor().clamp_min(0).minimum(sides - 1)
    first = (centre - reach).nan_to_num().ceil().clamp_min(0).minimum(last)
    count = last - first + 1  # BK x 2, pixels
    area, order = count.prod(dim=1).sort(descending=True)
    if some is not None:
        kept = some.flatten()[order]
        area, order = area[kept], order[kept]
    sizes = _group_sizes(area.tolist())
    all_at_once = len(sizes) == 1 and some is None  # then nothing need be gathered
    for numbers in [torch.arange(b * k)] if all_at_once else torch.split(order, sizes):
        m, n = count[numbers].amax(dim=0).int().tolist()
        corner = torch.minimum(first[numbers], sides - sides.new_tensor([m, n])).long()  # N x 2
        corners = [(o // k, o % k, y, x) for o, (x, y) in zip(numbers.tolist(), corner.tolist(), strict=True)]
        picked = slice(None) if all_at_once else numbers
        yield Group(picked, corner[:, 1], corner[:, 0], (n, m), corners, slice(b))


def _group_sizes(areas: list[float]) -> list[int]:
    """Lengths of groups of descending areas, each small enough to be drawn at once.

    All windows of a group are as large as its first. A new group begins where areas fall below half of it, unless
    drawing all the remaining ones that large would add only few pixels.
    """
    sizes: list[int] = []
    largest, left = 0.0, sum(areas)
    for number, area in enumerate(areas):
        more = (len(areas) - number) * largest - left
        cut = area < largest / 2 and more > FEW_PIXELS
        if cut or not sizes or (sizes[-1] + 1) * largest * 4 > WINDOW_NUMBERS:
            sizes.append(0)
            largest = area
        sizes[-1] += 1
        left -= area
    return sizes


class PlacedGlimpses:
    """The glimpses of a batch placed in its images, and the gradients of that."""

    def __init__(self, glimpses: Tensor, position: Tensor, scale: Tensor, image_size: tuple[int, int]) -> None:
        """Prepare.

        Args:
            glimpses: B x K x 4 x g x g.
            position: B x K x 2.
            scale: B x K x 2.
            image_size: (H, W).
        """
        self.dtype = torch.promote_types(glimpses.dtype, torch.float32)
        self.shape = glimpses.shape
        self.given_dtype = glimpses.dtype
        self.image_size = image_size
        self.glimpses = glimpses.flatten(0, 1)  # BK x 4 x g x g
        self.position, self.scale = position.to(self.dtype).flatten(0, 1), scale.to(self.dtype).flatten(0, 1)

    def expect_gradients(self, *, whole: bool) -> None:
        """Allocate the gradients; whole: all objects are drawn, so all of it will be written."""
        made = torch.empty_like if whole else torch.zeros_like
        self.gradients = made(self.glimpses, memory_format=torch.contiguous_format)
        self.position_gradient = made(self.position).view(*self.shape[:2], 2)
        self.scale_gradient = made(self.scale).view(*self.shape[:2], 2)

    def draw(self, group: Group) -> Tensor:
        """A group's glimpses resampled to their windows, N x n x 4 x m."""
        g, (n, m), (height, width) = self.shape[-1], group.size, self.image_size
        position, scale = self.position[group.objects], self.scale[group.objects]
        self.rows = _Axis(position[:, 1], scale[:, 1], group.rows, count=n, side=height, glimpse=g)
        self.columns = _Axis(position[:, 0], scale[:, 0], group.columns, count=m, side=width, glimpse=g)
        # Rows before channels: rows, then columns, are resampled by a matrix product each, without a copy in between.
        by_row = self.glimpses[group.objects].permute(0, 2, 1, 3)  # N x g x 4 x g
        self.flat = by_row.to(self.dtype, memory_format=torch.contiguous_format).flatten(2)
        self.stretched = (self.rows.weights @ self.flat).view(-1, n * 4, g)  # N x 4n x g
        return (self.stretched @ self.columns.weights.mT).view(-1, n, 4, m)

    def backward(self, group: Group, gradient: Tensor) -> None:
        """Gradients of glimpses, positions and scales from that of the group drawn last, N x n x 4 x m."""
        g, (n, m) = self.shape[-1], group.size
        gradient = gradient.view(-1, n * 4, m)
        stretched = gradient @ self.columns.weights  # N x 4n x g
        x, scale_x = self.columns.backward(gradient.mT @ self.stretched)
        stretched = stretched.view(-1, n, 4 * g)
        y, scale_y = self.rows.backward(stretched @ self.flat.mT)
        back = (self.rows.weights.mT @ stretched).view(-1, g, 4, g)
        self.gradients[group.objects] = back.permute(0, 2, 1, 3).to(self.given_dtype)
        self.position_gradient.view(-1, 2)[group.objects] = torch.stack([x, y], dim=-1)
        self.scale_gradient.view(-1, 2)[group.objects] = torch.stack([scale_x, scale_y], dim=-1)

    def glimpse_gradient(self) -> Tensor:
        """B x K x 4 x g x g, after the backward pass of all groups."""
        return self.gradients.view(self.shape)


class _Axis:
    """Bilinear sampling along one axis (:func:`astseg.model.ops.sampling_weights`), in windows, with its gradient."""

    def __init__(self, position: Tensor, scale: Tensor, first: Tensor, *, count: int, side: int, glimpse: int) -> None:
        """Compute the weights.

        Args:
            position: N, in [-1, 1].
            scale: N, inverse scale.
            first: N, the first pixel of each window.
            count: n, pixels of a window.
            side: Pixels of the image.
            glimpse: g, pixels of a glimpse.
        """
        pixels = first[:, None] + torch.arange(count, device=first.device)
        centres = (2 * pixels.to(position.dtype) + 1) / side - 1
        self.offset = centres - position[:, None]  # N x n
        self.scale = scale
        self.glimpse = glimpse
        read = ((scale[:, None] * self.offset + 1) * glimpse - 1) / 2  # in pixels of the glimpse
        cells = torch.arange(glimpse, device=first.device, dtype=position.dtype)
        self.distance = read[..., None] - cells  # N x n x g
        self.weights = (1 - self.distance.abs()).clamp_min_(0)

    def backward(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of position and scale, N each, from that of the weights, N x n x g."""
        derivative = -self.distance.sign() * (self.weights > 0)
        read = (gradient * derivative).sum(dim=2) * (self.glimpse / 2)  # N x n
        return -self.scale * read.sum(dim=1), (read * self.offset).sum(dim=1)

"""Placing and blending as one operation with a gradient written by hand: what training runs at every step.

Source: supplement, Algorithm 2. The numbers are those of :func:`astseg.ops.place_glimpses` followed by
:func:`astseg.ops.blend_layers`. What differs is what is computed and what is kept:

- On a CPU an object is drawn only on the rows and columns that its glimpse covers. Objects are taken one from each
  image at a time, the largest of each image first: windows drawn together then are of similar sizes. On other devices
  whole images are drawn, since the places of windows would have to be fetched from there at each step.
- What is drawn is added up at once, ``sum_k alpha_k M_k L_k`` and ``sum_k alpha_k M_k``, and drawn anew on the way
  back. So nothing of size B x K x 4 x H x W is kept, only the weights, B x L x H x W.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from astseg.ops import SMALLEST_LOG_RATIO, full_precision

__all__ = ["colour_errors", "draw_and_blend"]

WINDOW_NUMBERS = 2**19
"""Windows are drawn together while they hold at most so many numbers: they stay in a processor's cache."""

WHOLE_NUMBERS = 2**26
"""The same where whole images are drawn: few large steps suit other devices."""


def draw_and_blend(
    glimpses: Tensor,
    position: Tensor,
    scale: Tensor,
    log_activation: Tensor,
    background: Tensor,
    background_log_activation: Tensor,
    *,
    windows: bool | None = None,
    drawn: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw each glimpse at its place, settle occlusions and mix the layers into one image (Algorithm 2).

    Computed in float32 at least, whatever the precision of the glimpses, with autocast or without.

    Args:
        glimpses: B x K x 4 x g x g, colours and mask in [0, 1].
        position: B x K x 2, (x, y) in [-1, 1].
        scale: B x K x S, inverse scale: one number, or one for x and one for y.
        log_activation: B x K, log alpha of the objects.
        background: B x 3 x H x W.
        background_log_activation: Log alpha of the background: a scalar, or H x W.
        windows: Whether objects are drawn in windows instead of on whole images; None: on a CPU.
        drawn: B x K, which objects are drawn at all; None: all of them. The others must have masks of zeros, and get
            no gradient.

    Returns:
        Weights, B x L x H x W, that sum to one over the layers (0 = background); and the reconstruction,
        B x 3 x H x W. They can be differentiated once.
    """
    both: tuple[Tensor, Tensor] = _DrawAndBlend.apply(  # type: ignore[no-untyped-call]
        glimpses,
        position,
        scale.expand(*scale.shape[:2], 2),
        log_activation,
        background,
        background_log_activation,
        glimpses.device.type == "cpu" if windows is None else windows,
        drawn,
    )
    return both


@torch.no_grad()
def colour_errors(
    glimpses: Tensor,
    position: Tensor,
    scale: Tensor,
    images: Tensor,
    *,
    windows: bool | None = None,
    drawn: Tensor | None = None,
) -> Tensor:
    """How far images are from the colours of each object, where that is drawn; no gradient.

    Args:
        glimpses: B x K x 4 x g x g, colours and mask in [0, 1].
        position: B x K x 2, (x, y) in [-1, 1].
        scale: B x K x S, inverse scale.
        images: B x 3 x H x W in [0, 1].
        windows: As for :func:`draw_and_blend`.
        drawn: B x K, which objects are looked at; None: all of them.

    Returns:
        B x K x H x W, squared error summed over RGB; 0 far from an object, where its weight is 0, and of objects that
        are not looked at.
    """
    size = (images.shape[2], images.shape[3])
    with full_precision(glimpses.device):
        objects = _Objects(glimpses, position, scale.expand(*scale.shape[:2], 2), size)
        rows = images.to(objects.dtype).transpose(1, 2).contiguous()  # B x H x 3 x W
        errors = rows.new_zeros(len(images), position.shape[1] + 1, *size)
        inside = glimpses.device.type == "cpu" if windows is None else windows
        for group in _groups(
            position, objects.scale.view_as(position), size, objects.shape[-1], windows=inside, some=drawn
        ):
            off = objects.draw(group)[:, :, :3].sub_(group.take_from(rows))
            group.put_into(errors, off.square_().sum(dim=2))
    return errors[:, 1:]


class _DrawAndBlend(torch.autograd.Function):
    """See :func:`draw_and_blend`; scale is B x K x 2 here.

    The gradient, with v_l = alpha_l M_l, D = sum of v_l, w_l = v_l / D, R = sum of w_l L_l, and with the gradients W_l
    of w_l and G of R that arrive: let q_l = W_l + G . L_l, what a unit of w_l is worth, and Q = sum of w_l q_l =
    sum of w_l W_l + G . R. Then v_l gets (q_l - Q) / D, and L_l gets w_l G. None of it needs all layers at once.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        glimpses: Tensor,
        position: Tensor,
        scale: Tensor,
        log_activation: Tensor,
        background: Tensor,
        background_log_activation: Tensor,
        windows: bool,
        drawn: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        b, k = log_activation.shape
        h, w = background.shape[-2:]
        with full_precision(glimpses.device):
            objects = _Objects(glimpses, position, scale, (h, w))
            alpha, behind, _ = _activations(log_activation, background_log_activation, objects.dtype)
            sums = background.new_zeros(b, h, 4, w, dtype=objects.dtype)  # of alpha M L, and of alpha M
            weights = background.new_zeros(b, k + 1, h, w, dtype=objects.dtype)
            for group in _groups(position, scale, (h, w), glimpses.shape[-1], windows=windows, some=drawn):
                seen = objects.draw(group)  # N x n x 4 x m
                visible = seen[:, :, 3].mul_(alpha.flatten()[group.objects, None, None])
                seen[:, :, :3].mul_(visible[:, :, None])
                group.add_to(sums, seen)
                group.put_into(weights, visible)
            weights[:, 0] = behind
            total = sums[:, :, 3].add_(behind)  # B x H x W
            weights.div_(total[:, None])
            reconstruction = sums[:, :, :3].transpose(1, 2) / total[:, None]
            reconstruction.addcmul_(weights[:, :1], background.to(objects.dtype))
        ctx.windows, ctx.drawn = windows, drawn
        ctx.save_for_backward(
            glimpses,
            position,
            scale,
            log_activation,
            background,
            background_log_activation,
            weights,
            reconstruction,
            total.contiguous(),
        )
        return weights, reconstruction

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weights_gradient: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        glimpses, position, scale, log_activation, background, background_log, weights, reconstruction, total = (
            ctx.saved_tensors
        )
        b, h, w = total.shape
        with full_precision(glimpses.device):
            objects = _Objects(glimpses, position, scale, (h, w))
            alpha, _, inside = _activations(log_activation, background_log, objects.dtype)
            mean = (gradient * reconstruction).sum(dim=1)  # Q, B x H x W
            for weight, worth in zip(weights.unbind(1), weights_gradient.unbind(1), strict=True):
                mean.addcmul_(weight, worth)
            pixels = torch.cat([gradient.transpose(1, 2), mean[:, :, None], total.reciprocal()[:, :, None]], dim=2)
            alpha_gradient = torch.zeros_like(alpha)  # of log alpha
            for group in _groups(position, scale, (h, w), glimpses.shape[-1], windows=ctx.windows, some=ctx.drawn):
                drawn, around = objects.draw(group), group.take_from(pixels)  # N x n x 4 x m and N x n x 5 x m
                colours, mask, arriving = drawn[:, :, :3], drawn[:, :, 3], around[:, :, :3]
                worth = (arriving * colours).sum(dim=2).add_(group.take_planes(weights_gradient))
                worth.sub_(around[:, :, 3])  # q - Q
                ratio = around[:, :, 4].mul_(alpha.flatten()[group.objects, None, None])  # alpha / D
                weight = ratio * mask
                alpha_gradient.view(-1)[group.objects] = (weight * worth).sum(dim=(1, 2))
                torch.mul(arriving, weight[:, :, None], out=colours)
                torch.mul(worth, ratio, out=mask)
                objects.backward(group, drawn)
            worth = weights_gradient[:, 0] + (gradient * background).sum(dim=1) - mean
            behind_gradient = worth.mul_(weights[:, 0]).mul_(inside)
            behind_gradient = behind_gradient.sum_to_size(background_log.shape)
            background_gradient = weights[:, :1] * gradient if ctx.needs_input_grad[4] else None
        return (
            objects.glimpse_gradient(),
            objects.position_gradient,
            objects.scale_gradient,
            alpha_gradient,
            background_gradient,
            behind_gradient,
            None,
            None,
        )


def _activations(log_activation: Tensor, background_log: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Alpha of objects, B x K, and background, B x 1 x 1 or B x H x W, the largest of each image divided out.

    The third is 1 where the background's depends on its logarithm and 0 where it is held at the smallest ratio.
    """
    log_activation, background_log = log_activation.to(dtype), background_log.to(dtype)
    largest = torch.maximum(log_activation.amax(dim=1), background_log.amax())  # B
    ratio = background_log - largest[:, None, None]
    behind = ratio.clamp_min(SMALLEST_LOG_RATIO).exp()
    return (log_activation - largest[:, None]).exp(), behind, (ratio >= SMALLEST_LOG_RATIO).to(dtype)


@dataclass(frozen=True)
class _Group:
    """N objects that are drawn together, on windows of n x m pixels.

    Attributes:
        objects: N, which objects, counted through all images: 0 to BK - 1.
        rows: N, the first row of each window.
        columns: N, the first column of each window.
        size: (n, m).
        corners: (image, slot, row, column) of each window; None where windows are whole images and the objects are all
            those of some images.
        images: Which images, where windows are whole images.
    """

    objects: Tensor
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
            return some.repeat_interleave(len(self.objects) // len(some), dim=0)
        return torch.stack(self._windows(images))

    def put_into(self, planes: Tensor, visible: Tensor) -> None:
        """N x n x m into the objects' own planes of B x L x H x W."""
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


def _groups(
    position: Tensor,
    scale: Tensor,
    image_size: tuple[int, int],
    glimpse: int,
    *,
    windows: bool,
    some: Tensor | None = None,
) -> Iterator[_Group]:
    """All objects once, or in windows some: B x K x 2 positions and scales, images (H, W), glimpses g x g."""
    b, k, _ = position.shape
    if not windows:
        together = max(1, WHOLE_NUMBERS // (k * 4 * image_size[0] * image_size[1]))
        for i in range(0, b, together):
            objects = torch.arange(i * k, min(b, i + together) * k, device=position.device)
            start = torch.zeros_like(objects)
            yield _Group(objects, start, start, image_size, None, slice(i, i + together))
        return
    sides = position.new_tensor([image_size[1], image_size[0]])  # of x and y, as positions are
    centre = ((position + 1) * sides - 1) / 2
    reach = (1 + 1 / glimpse) / scale * sides / 2  # a pixel further away reads nothing but zeros
    # A model that has diverged is told by its losses, so NaN has to find a window too.
    last = (centre + reach).nan_to_num().floor().clamp_min(0).minimum(sides - 1)
    first = (centre - reach).nan_to_num().ceil().clamp_min(0).minimum(last).flatten(0, 1)
    count = last.flatten(0, 1) - first + 1  # BK x 2, pixels
    area, order = count.prod(dim=1).sort(descending=True)
    if some is not None:
        kept = some.flatten()[order]
        area, order = area[kept], order[kept]
    for objects in torch.split(order, _group_sizes(area.tolist())):
        m, n = count[objects].amax(dim=0).int().tolist()
        corner = torch.minimum(first[objects], sides - sides.new_tensor([m, n])).long()  # N x 2
        corners = [(o // k, o % k, y, x) for o, (x, y) in zip(objects.tolist(), corner.tolist(), strict=True)]
        yield _Group(objects, corner[:, 1], corner[:, 0], (n, m), corners, slice(b))


def _group_sizes(areas: list[float]) -> list[int]:
    """Falling areas cut into runs: none falls below a half within a run, nor is a run too large to be drawn at once."""
    sizes: list[int] = []
    largest = 0.0
    for area in areas:
        if area < largest / 2 or not sizes or (sizes[-1] + 1) * largest * 4 > WINDOW_NUMBERS:
            sizes.append(0)
            largest = area
        sizes[-1] += 1
    return sizes


class _Objects:
    """The glimpses of a batch on their way into the image, and gradients on their way back."""

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
        # Rows first: so rows, then columns, are sampled by a matrix product each, without moving anything in between.
        self.glimpses = glimpses.flatten(0, 1).permute(0, 2, 1, 3).to(self.dtype).contiguous()  # BK x g x 4 x g
        self.position, self.scale = position.to(self.dtype).flatten(0, 1), scale.to(self.dtype).flatten(0, 1)
        self.gradients = torch.zeros_like(self.glimpses)  # not all objects need be drawn
        self.position_gradient = torch.zeros_like(position, dtype=self.dtype)
        self.scale_gradient = torch.zeros_like(scale, dtype=self.dtype)

    def draw(self, group: _Group) -> Tensor:
        """A group's glimpses as they are seen in their windows, N x n x 4 x m."""
        g, (n, m), (height, width) = self.shape[-1], group.size, self.image_size
        position, scale = self.position[group.objects], self.scale[group.objects]
        self.rows = _Axis(position[:, 1], scale[:, 1], group.rows, count=n, side=height, glimpse=g)
        self.columns = _Axis(position[:, 0], scale[:, 0], group.columns, count=m, side=width, glimpse=g)
        self.seen = self.glimpses[group.objects].flatten(2)  # N x g x 4g
        self.stretched = (self.rows.weights @ self.seen).view(-1, n * 4, g)  # N x 4n x g
        return (self.stretched @ self.columns.weights.mT).view(-1, n, 4, m)

    def backward(self, group: _Group, gradient: Tensor) -> None:
        """Send the gradient of what was drawn last, N x n x 4 x m, back to glimpses, positions and scales."""
        g, (n, m) = self.shape[-1], group.size
        gradient = gradient.view(-1, n * 4, m)
        stretched = gradient @ self.columns.weights  # N x 4n x g
        x, scale_x = self.columns.backward(gradient.mT @ self.stretched)
        stretched = stretched.view(-1, n, 4 * g)
        y, scale_y = self.rows.backward(stretched @ self.seen.mT)
        self.gradients[group.objects] = (self.rows.weights.mT @ stretched).view(-1, g, 4, g)
        self.position_gradient.view(-1, 2)[group.objects] = torch.stack([x, y], dim=-1)
        self.scale_gradient.view(-1, 2)[group.objects] = torch.stack([scale_x, scale_y], dim=-1)

    def glimpse_gradient(self) -> Tensor:
        """B x K x 4 x g x g, once all groups have been sent back."""
        return self.gradients.permute(0, 2, 1, 3).to(self.given_dtype).view(self.shape)


class _Axis:
    """Bilinear sampling along one axis: the pixels of windows from the pixels of glimpses."""

    def __init__(self, position: Tensor, scale: Tensor, first: Tensor, *, count: int, side: int, glimpse: int) -> None:
        """Work out the weights.

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
        """Gradient of the weights, N x n x g, to those of position and scale, N each."""
        slope = -self.distance.sign() * (self.weights > 0)
        read = (gradient * slope).sum(dim=2) * (self.glimpse / 2)  # N x n
        return -self.scale * read.sum(dim=1), (read * self.offset).sum(dim=1)

"""What a model does with pictures as machine code: compiled ahead of time for the processor at hand.

Started one by one from Python, the 600 or so operations of a small model cost more than what they compute, and each
convolution brings its weights into another order first. Here torch's AOTInductor makes programs of it, whose weights
are constants, for a given number of pictures: one that sees them (background, backbone, slots) and some that draw them,
for few objects up to all. What lies between, the regions that slots take their places from, is as without. The
numbers differ by rounding.

Programs hold code, so none is ever read from a run folder. They lie in the user's own cache folder, under a digest of
all that went into them: the operations, the weights, torch and the processor.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from astseg.durable import cannot_write, write_durably
from astseg.guidance import Blobs
from astseg.model.scene import AstSeg
from astseg.replay import Locating, Scene
from astseg.types import ObjectLatents, SceneOutput, UserError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["CompiledModel", "cache_folder"]

MOST_BYTES = 2**31
"""When another program is added, those used last are kept, as many as fit into this."""

CLOSE = 1e-3
"""A program whose numbers are further than this from the model's, relative or absolute, is not used; for a backbone in
bfloat16, three times of what that loses more."""

Program = Callable[..., list[Tensor]]


class CompiledModel:
    """Stands in for a model in evaluation mode, without layers, for batches of one size; the model as it was then."""

    def __init__(self, model: AstSeg, batch_size: int) -> None:
        """Take programs from the cache, which takes seconds, or compile them, which takes up to a minute or two.

        Args:
            model: On the CPU.
            batch_size: B, images of a batch.

        Raises:
            UserError: A batch size below 1, a model elsewhere, torch that is too old, no C++ compiler, a cache folder
                that cannot be written, or programs that do not do what the model does.
        """
        _check(model, batch_size)
        model = deepcopy(model).eval().requires_grad_(False)
        self._model = model
        slots, generator = model.encoder.slots, torch.Generator().manual_seed(0)
        images = torch.rand(batch_size, 3, *model.renderer.image_size, generator=generator)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            see = _See(model)
            self._see = _program(see, [images], close=CLOSE + 3 * _lost(see, images))
            self._draw: dict[int, Program] = {}  # by the number of objects
            if batch_size > 1:
                return  # what is on is drawn as quickly from Python: in windows, and no more of an image than there is
            background, predicted_error, *latents = see(images)
            latents[2] = model.renderer.background_activation().max() + torch.arange(slots)[None] / slots  # all are on
            seen = [images, background, *latents]
            if model.proposals:
                regions = model.propose(images, background, predicted_error, ObjectLatents(*latents[:4]), latents[4])[2]
                seen += [regions.box, regions.present, regions.regions]
            for count in sorted({-(-quarters * slots // 4) for quarters in (1, 2, 3, 4)}):
                self._draw[count] = _program(_Draw(model, count), seen)

    def __call__(self, images: Tensor) -> SceneOutput:
        """B x 3 x H x W in [0, 1] -> what the model says of them; without gradients, for use in inference mode."""
        model = self._model
        background, predicted_error, *seen = self._see(images)
        latents, attention = Locating.output(tuple(seen))
        regions = overlooked = None
        if model.proposals:
            latents, attention, regions, overlooked = model.propose(
                images, background, predicted_error, latents, attention
            )
        if self._draw:
            output = self._drawn(images, background, latents, attention, regions)
        else:
            output = model.draw(images, background, latents, attention, regions, layers=False)
        output.overlooked = overlooked
        return output

    def _drawn(
        self, images: Tensor, background: Tensor, latents: ObjectLatents, attention: Tensor, regions: Blobs | None
    ) -> SceneOutput:
        """Drawn by the smallest program that has room for all objects that are on."""
        drawn = self._model.renderer.drawn(latents.log_activation)
        most = self._model.encoder.slots if drawn is None else int(drawn.sum(dim=1).max())
        draw = next(program for count, program in self._draw.items() if count >= most)
        numbers = [latents.position, latents.scale, latents.log_activation, latents.appearance]
        given = [] if regions is None else [regions.box, regions.present, regions.regions]
        appearance, weights, reconstruction, *posterior = draw(images, background, *numbers, attention, *given)
        output = Scene.output((*numbers[:3], appearance, attention, background, weights, reconstruction))
        output.posterior = posterior[0] if posterior else None
        return output


class _See(nn.Module):
    """The first half of the model: what it sees before anything is drawn."""

    def __init__(self, model: AstSeg) -> None:
        super().__init__()
        self.background_model = model.background_model
        self.locating = Locating(model.encoder)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images -> background, predicted error, position, scale, log activation, appearance, attention."""
        background, predicted_error = self.background_model(images)
        return background, predicted_error, *self.locating(images)


class _Draw(nn.Module):
    """The second half, for the N objects of each image that are on most; the others must be off."""

    def __init__(self, model: AstSeg, count: int) -> None:
        super().__init__()
        self.model = model
        self.count = count

    def forward(
        self,
        images: Tensor,
        background: Tensor,
        position: Tensor,
        scale: Tensor,
        log_activation: Tensor,
        appearance: Tensor,
        attention: Tensor,
        *regions: Tensor,
    ) -> tuple[Tensor, ...]:
        """What :class:`_See` gives, and regions -> appearance, weights, reconstruction, perhaps posterior."""
        latents = ObjectLatents(position, scale, log_activation, appearance)
        blobs = Blobs(*regions) if regions else None
        output = self.model.draw(images, background, latents, attention, blobs, layers=False, most=self.count)
        posterior = [] if output.posterior is None else [output.posterior]
        return output.latents.appearance, output.weights, output.reconstruction, *posterior


def cache_folder() -> Path:
    """Where programs lie: a folder of the user's own."""
    return user_cache_path("astseg") / "compiled"


def _check(model: AstSeg, batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise UserError(f"the model is on {device}: only for the CPU can it be compiled")
    if not hasattr(torch._inductor, "aoti_load_package"):  # lazily imported, but a part of torch
        raise UserError(f"torch {torch.__version__} cannot compile ahead of time: it takes 2.6 or newer")


def _lost(see: _See, images: Tensor) -> float:
    """How far the numbers are off for a backbone in bfloat16, relative or absolute; 0 in float32."""
    encoder = see.locating.encoder
    if encoder.precision == "float32":
        return 0.0
    rounded = see(images)
    encoder.precision = "float32"
    try:
        exact = see(images)
    finally:
        encoder.precision = "bfloat16"
    return max(
        float(((one - other).abs() / (1 + other.abs())).max()) for one, other in zip(rounded, exact, strict=True)
    )


def _program(module: nn.Module, tensors: list[Tensor], close: float = CLOSE) -> Program:
    """A module for tensors of these shapes, compiled; close: how far its numbers may be off."""
    tensors = [tensor.contiguous() for tensor in tensors]
    # The quick way of torch's transformer layer is one operation, which the compiler could not see into.
    quick = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        exported = torch.export.export(module, tuple(tensors), strict=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(quick)
    path = cache_folder() / f"{_digest(exported)}.pt2"
    program = _loaded(path)
    if program is None:
        _compile(exported, path)
        program = _loaded(path)
    if program is None or not _does_what(module, program, tensors, close):
        path.unlink(missing_ok=True)
        raise UserError("what was compiled does not do what the model does: do without")
    return program


def _digest(exported: ExportedProgram) -> str:
    """A name for all that a program depends on."""
    # Its comments say which lines of which files the operations come from.
    operations = [line for line in str(exported).splitlines() if not line.lstrip().startswith("#")]
    digest = hashlib.sha256("\n".join([torch.__version__, _processor(), *operations]).encode())
    for name, value in itertools.chain(exported.state_dict.items(), exported.constants.items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _processor() -> str:
    """What the processor can do: machine code for one may not run on another."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.split(":")[0].strip() in names})
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *told])


def _does_what(module: nn.Module, program: Program, tensors: Sequence[Tensor], close: float) -> bool:
    """Whether a program's numbers are the module's but for rounding; and the second time, for it may spoil its weights.

    The posterior is left out: it hangs on thresholds, too.
    """
    certain = 3 if isinstance(module, _Draw) else None
    wanted = module(*tensors)[:certain]
    return all(
        torch.allclose(one, other, rtol=close, atol=close)
        for _ in range(2)
        for one, other in zip(program(*tensors)[:certain], wanted, strict=True)
    )


def _loaded(path: Path) -> Program | None:
    """The program of a file; None where there is none, or it is broken."""
    if not path.is_file():
        return None
    try:
        program: Program = torch._inductor.aoti_load_package(str(path))
    except Exception:  # zip files, shared objects and json each have errors of their own
        return None
    os.utime(path)
    # It takes memory to lie as it did when it was compiled, and does not look.
    return lambda *tensors: program(*(tensor.contiguous() for tensor in tensors))


def _compile(exported: ExportedProgram, path: Path) -> None:
    """Compile into a file, whole or not at all.

    Raises:
        UserError: See :class:`CompiledModel`.
    """
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise UserError(f"no C++ compiler '{compiler}' is there: install it, name another one in CXX, or do without")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # else that it cannot be is known a minute too late
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    with tempfile.TemporaryDirectory() as scratch:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch  # what it leaves is ten times as large as the program
        try:
            made = torch._inductor.aoti_compile_and_package(
                exported,
                package_path=str(Path(scratch) / path.name),
                inductor_configs={"freezing": True, "cpp.dynamic_threads": True},
            )
        except Exception as error:  # the compiler's, and torch's many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"the model cannot be compiled ({reason}): do without") from error
        finally:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
        write_durably(path, Path(made).read_bytes())
    _make_room(path)


def _make_room(newest: Path) -> None:
    """Remove the programs that were not used for the longest time."""
    programs = sorted(newest.parent.glob("*.pt2"), key=lambda file: file.stat().st_mtime, reverse=True)
    sizes = itertools.accumulate(file.stat().st_size for file in programs)
    for file, size in zip(programs, sizes, strict=True):
        if size > MOST_BYTES and file != newest:
            file.unlink(missing_ok=True)

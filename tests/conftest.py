"""What every test may ask for."""

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

# Two workers share the cores (`-n 2` in pyproject.toml). Read when torch is loaded; workers and commands inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from torch import Tensor

from astseg.config import Config, ModelConfig
from astseg.model.astseg import build
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo

NamedTensors = Iterable[tuple[str, Tensor]]

THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def as_many_threads() -> Iterator[None]:
    """A benchmark sets their number; a run that is held against one in another process needs as many as that."""
    yield
    if torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def dataset_root() -> Path:
    """Folder of the real data sets, from the environment; the test is skipped where there is none."""
    folder = os.environ.get("ASTSEG_DATASETS")
    if not folder:
        pytest.skip("set ASTSEG_DATASETS to the folder that holds the real data sets")
    if not Path(folder).is_dir():
        pytest.skip(f"ASTSEG_DATASETS is {folder!r}, which is not a folder: set it to the one that holds the data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def golden_arrays() -> Callable[[str], dict[str, Any]]:
    """Reads the arrays of a golden file: tensors, and lists where an array holds names."""

    def read(name: str) -> dict[str, Any]:
        with np.load(Path(__file__).parent / "golden" / name) as arrays:
            return {
                key: arrays[key].tolist() if arrays[key].dtype.kind == "U" else torch.from_numpy(arrays[key])
                for key in arrays.files
            }

    return read


def _vector_by_formula(name: str, size: int) -> Tensor:
    """Values of a norm's weight or of a bias, float64; the same under both rules."""
    i = torch.arange(size, dtype=torch.float64)
    return 1 + 0.1 * torch.sin(i) if name.endswith("weight") else 0.05 * torch.cos(i)


@pytest.fixture(scope="session")
def fill_by_rule_a() -> Callable[[NamedTensors], None]:
    """Fills named tensors by a formula of their shapes alone (golden README, weight rule A)."""

    @torch.no_grad()
    def fill(tensors: NamedTensors) -> None:
        for name, tensor in tensors:
            i = torch.arange(tensor.numel(), dtype=torch.float64)
            matrix = torch.sin(0.7 * i + 0.3) / (tensor.numel() / tensor.shape[0]) ** 0.5
            values = matrix if tensor.dim() > 1 else _vector_by_formula(name, tensor.numel())
            tensor.copy_(values.view(tensor.shape))

    return fill


@pytest.fixture(scope="session")
def fill_by_rule_b() -> Callable[[NamedTensors], None]:
    """Fills named tensors, in the order given, with hashed numbers that differ for each (golden README, rule B)."""

    @torch.no_grad()
    def fill(tensors: NamedTensors) -> None:
        for salt, (name, tensor) in enumerate(tensors):
            i = torch.arange(tensor.numel(), dtype=torch.int64)
            v = (i * 2654435761 + salt * 40503 + 12345) % 2**32
            for _ in range(2):
                v = (v ^ (v >> 16)) * 0x45D9F3B % 2**32
            v ^= v >> 16
            matrix = (v.double() / 2**32 * 2 - 1) / (tensor.numel() / tensor.shape[0]) ** 0.5
            values = matrix if tensor.dim() > 1 else _vector_by_formula(name, tensor.numel())
            tensor.copy_(values.view(tensor.shape))

    return fill


@pytest.fixture(scope="session")
def spread_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with fresh weights, 32x48, 3 slots, 5 appearance numbers, whose objects are large and apart."""
    torch.manual_seed(1)
    model_config = ModelConfig(
        image_size=(32, 48),
        backbone="cnn",
        slots=3,
        appearance=5,
        transformer_width=8,
        transformer_heads=2,
        transformer_layers=1,
        transformer_feedforward=12,
        scale_max=3.0,
        background_log_activation=-4.0,
        background_width="small",
    )
    model = build(model_config)
    with torch.no_grad():  # fresh weights look everywhere and at the same place: spread the objects
        model.encoder.refinement.projection.weight.mul_(2)
        model.encoder.refinement.projection.bias.normal_(0, 0.3)
    run = RunFolder(tmp_path_factory.mktemp("run") / "rooms")
    run.save_config(Config(model=model_config), RunInfo(preset="small", resize="squeeze"))
    run.save_weights(model)
    return run.path


@pytest.fixture(scope="session")
def limited_files() -> Callable[[int], AbstractContextManager[None]]:
    """Within it no file may grow beyond so many bytes, as on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture(scope="session")
def limited_memory() -> Callable[[int], AbstractContextManager[None]]:
    """Within it the process may take so many bytes more than it has."""

    @contextmanager
    def limited(more: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def read_only() -> Callable[..., AbstractContextManager[None]]:
    """Within it a path has no rights of writing (or none at all: mode 0), for the superuser too."""

    @contextmanager
    def guarded(path: Path, mode: int = 0o555) -> Iterator[None]:
        before = path.stat().st_mode
        path.chmod(mode)
        try:
            with _without_privileges():
                yield
        finally:
            path.chmod(before)

    return guarded


@contextmanager
def _without_privileges() -> Iterator[None]:
    """The superuser reads and writes whatever he likes (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH): not within this."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    data = ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    effective, *others = struct.unpack("6I", data.raw)
    assert libc.capset(header, struct.pack("6I", effective & ~0b110, *others)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, struct.pack("6I", effective, *others)) == 0

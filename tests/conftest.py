"""What every test may ask for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dataset_root() -> Path:
    """Folder of the real data sets, from the environment; the test is skipped where there is none."""
    folder = os.environ.get("ASTSEG_DATASETS")
    if not folder:
        pytest.skip("set ASTSEG_DATASETS to the folder that holds the real data sets")
    if not Path(folder).is_dir():
        pytest.skip(f"ASTSEG_DATASETS is {folder!r}, which is not a folder: set it to the one that holds the data sets")
    return Path(folder)

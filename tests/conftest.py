"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real datasets; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FOVEATE_DATA", default))
    if not (folder / "hippocampus").is_dir():
        pytest.skip(f"real data not found: set FOVEATE_DATA to a folder that holds hippocampus/ (looked in {folder})")
    return folder

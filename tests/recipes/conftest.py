"""A small generated world that all recipe tests share."""

from pathlib import Path
from types import ModuleType

import pytest
from scripts import ROOT, load_script


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 pictures of 32 pixels with labels."""
    folder = tmp_path_factory.mktemp("world") / "world"
    load_script(ROOT / "data_prep" / "make_world.py").main(
        ["--out", str(folder), "--count", "160", "--size", "32", "--workers", "1"]
    )
    return folder


@pytest.fixture
def recipe() -> ModuleType:
    """recipes/image_mae.py."""
    return load_script(ROOT / "recipes" / "image_mae.py")

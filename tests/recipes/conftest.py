"""A small generated world that all recipe tests share."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_script(path: Path) -> ModuleType:
    """Import a script by its path, as `python path` would see it."""
    name = f"script_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.parent))
        spec.loader.exec_module(module)
    return sys.modules[name]


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

"""Benchmarks are run by hand; what they import has to be there all the same."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
OURS = sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("transformers_"))


@pytest.mark.parametrize("name", OURS)
def test_imports(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

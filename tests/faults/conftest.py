"""The tiny run of tests/training serves here too, and the scripts of tests/recipes."""

import sys
from pathlib import Path

import pytest
import torch

for _folder in ("training", "recipes"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / _folder))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""The tiny run of tests/training serves here too, and the scripts of tests/recipes."""

import sys
from pathlib import Path

import pytest

for _folder in ("training", "recipes"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / _folder))


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread: None) -> None:
    """For all tests here."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of pictures; not to be changed."""
    from runs import pictures

    out = tmp_path_factory.mktemp("whole") / "run"
    trainer, checkpoint = pictures(out, False)
    trainer.fit(checkpoint)
    return out

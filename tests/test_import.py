"""Importing is cheap, and nothing heavy is needed before it is used."""

import runpy
import subprocess
import sys

import pytest

HEAVY = ("torchvision", "timm", "transformers", "PIL", "matplotlib", "datasets", "tyro", "rich")
OPTIONAL = ("torchvision", "timm", "transformers", "datasets", "av", "cv2")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_costs_under_a_second_beyond_torch():
    """With a predictor, in processor time, so that a busy machine does not count; the best of up to three."""
    program = (
        "import time, torch, numpy; start = time.process_time(); "
        "import mmssl, mmssl.masking, mmssl.predictors.masked_autoencoder; print(time.process_time() - start)"
    )
    assert any(float(run(program)) < 1.0 for _ in range(3))


def test_import_loads_nothing_heavy():
    program = (
        "import sys, mmssl, mmssl.masking, mmssl.predictors.masked_autoencoder\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    assert run(program) == ""


def test_every_module_imports_where_optional_libraries_are_missing():
    program = f"""
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import mmssl
names = [module.name for module in pkgutil.walk_packages(mmssl.__path__, "mmssl.")]
for name in names:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(name, repr(error))
assert len(names) > 30, names
"""
    assert run(program) == ""


def test_the_command_also_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mmssl", "--help"])
    monkeypatch.delitem(sys.modules, "mmssl.cli", raising=False)
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("mmssl.cli", run_name="__main__")
    assert "inspect" in capsys.readouterr().out

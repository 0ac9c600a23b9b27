"""torch.compile changes no number. In a process of its own: the checks of shapes cannot be compiled."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import torch
from tiny_autoencoder import pictures, tiny_model

architecture, backend, device = sys.argv[1:]
model = tiny_model(architecture=architecture).to(device).train()
batch = {name: value.to(device) for name, value in pictures(model.config, count=8).items()}
compiled = torch.compile(model, backend=backend)

expected = model(batch)
expected["loss"].backward()
gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
model.zero_grad()
outcome = compiled(batch)
outcome["loss"].backward()

assert outcome.keys() == expected.keys()
for name, value in outcome.items():
    torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
for name, parameter in model.named_parameters():
    torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4, msg=name)
other = compiled(batch | {"epoch": batch["epoch"] + 1})["loss"]
assert not torch.equal(other, outcome["loss"]), "the mask was compiled in"
"""


def check(architecture: str, backend: str, device: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, architecture, backend, device],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_predictor_can_be_traced():
    check("mae", "aot_eager", "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["mae", "cross_mae", "simmim"])
def test_a_compiled_predictor_gives_the_same(architecture):
    check(architecture, "inductor", "cuda")

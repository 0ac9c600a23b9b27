"""The loop on CUDA: bf16, compile, and a run that moves between devices. Skipped without a GPU."""

import pytest
import torch
from tiny import DEFAULTS, Config, make_trainer, tiny_predictor

from mmssl.training.journal import read_journal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class OnDevice:
    """The tiny pictures, moved to the GPU."""

    def __init__(self, pictures, device):
        self.pictures, self.device = pictures, device

    def batches(self, start):
        for batch in self.pictures.batches(start):
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    def names(self, step):
        return self.pictures.names(step)

    def frozen(self):
        for batch in self.pictures.frozen():
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}


def train(out, **changes):
    config = Config(**{"out": out, **DEFAULTS, "device": "cuda", "dropout": 0.0, **changes})
    trainer, checkpoint = make_trainer(config, tiny_predictor(config).cuda())
    trainer.data = OnDevice(trainer.data, "cuda")
    trainer.validation = trainer.data.frozen
    trainer.fit(checkpoint)
    return [entry["loss"] for entry in read_journal(out / "journal.jsonl")]


def test_bf16_stays_close_to_fp32_and_keeps_fp32_weights(tmp_path):
    exact = train(tmp_path / "fp32", precision="fp32", steps=30)
    mixed = train(tmp_path / "bf16", precision="bf16", steps=30)
    assert mixed == pytest.approx(exact, rel=0.02)  # bf16 has 8 bits of mantissa: 0.4 % a rounding


def test_compiled_run_agrees(tmp_path):
    plain = train(tmp_path / "plain", precision="fp32")
    compiled = train(tmp_path / "compiled", precision="fp32", compile=True)
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_cpu_and_gpu_runs_agree(tmp_path):
    from tiny import train as train_on_cpu

    train_on_cpu(tmp_path / "cpu", dropout=0.0)
    gpu = train(tmp_path / "gpu", precision="fp32")
    cpu = [entry["loss"] for entry in read_journal(tmp_path / "cpu" / "journal.jsonl")]
    assert gpu == pytest.approx(cpu, rel=1e-3)


def test_step_does_not_wait_for_the_device(tmp_path):
    config = Config(**{"out": tmp_path / "run", **DEFAULTS, "device": "cuda"})
    trainer, _ = make_trainer(config, tiny_predictor(config).cuda())
    trainer.predictor.train()
    data = OnDevice(trainer.data, "cuda")
    stream = iter([next(data.batches(0))] * 4)
    from mmssl.training.loop import _Clock

    clock = _Clock(0)
    trainer._optimizer_step(stream, clock)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._optimizer_step(stream, clock)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == 2

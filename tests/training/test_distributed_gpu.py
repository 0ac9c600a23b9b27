"""DDP and FSDP2 on CUDA with NCCL, with two processes where there are two GPUs. Skipped without one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import train

from mmssl.training.journal import read_journal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SCRIPT = Path(__file__).with_name("tiny.py")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize(("precision", "more", "tolerance"), [
    ("fp32", [], 1e-3), ("bf16", [], 0.02), ("bf16", ["--compile"], 0.02), ("bf16", ["--accumulation", "2"], 0.02),
])  # fmt: skip
def test_a_run_agrees_with_one_process_on_the_cpu(tmp_path, parallel, precision, more, tolerance):
    count = max(size for size in (1, 2) if size <= torch.cuda.device_count())
    flags = ["--out", str(tmp_path / "gpu"), "--steps", "12", "--dropout", "0", "--device", "cuda"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run(
        [*torchrun, SCRIPT, *flags, "--parallel", parallel, "--precision", precision, *more],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    train(tmp_path / "cpu", dropout=0.0)
    gpu, cpu = (read_journal(tmp_path / name / "journal.jsonl") for name in ("gpu", "cpu"))
    assert [entry["loss"] for entry in gpu] == pytest.approx([entry["loss"] for entry in cpu], rel=tolerance)

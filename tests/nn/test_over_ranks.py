"""Sums, gathered rows and batch norm of several ranks are those of one process with the whole batch."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from ranks import run_ranks

from mmssl.nn.over_ranks import gather_over_ranks, sum_over_ranks, synchronise_batch_norm
from mmssl.training.distributed import place

ROWS, RANKS = 12, 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 4), nn.BatchNorm1d(4)
    ).double()


def forward(net: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """A share of a loss that compares all rows with each other, and with their mean."""
    out = net(batch)
    everywhere = gather_over_ranks(out)
    mean = sum_over_ranks(out.sum(0)) / ROWS
    return (out @ everywhere.T).logsumexp(1).sum() + (out - mean).pow(4).sum()


def shares(folder: Path) -> None:
    rank, ranks = place()
    net = network()
    synchronise_batch_norm(net)
    batch = 3 + 2 * torch.randn(ROWS, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(2):
        loss = forward(net, batch[rank * ROWS // ranks : (rank + 1) * ROWS // ranks])
        loss.backward()
    net.eval()
    told = {"loss": loss.detach(), "out": net(batch).detach()}
    told |= {name: parameter.grad for name, parameter in net.named_parameters()}
    torch.save(told | dict(net.named_buffers()), folder / f"{ranks}-{rank}.pt")


def test_the_step_is_that_of_the_whole_batch(tmp_path):
    shares(tmp_path)
    alone = torch.load(tmp_path / "1-0.pt")
    assert [code for code, _, _ in run_ranks(RANKS, shares, tmp_path, logs=tmp_path / "logs")] == [0] * RANKS
    told = [torch.load(tmp_path / f"{RANKS}-{rank}.pt") for rank in range(RANKS)]
    for name, expected in alone.items():
        if name == "loss" or name in dict(network().named_parameters()):
            torch.testing.assert_close(sum(part[name] for part in told), expected)
        else:
            for part in told:
                torch.testing.assert_close(part[name], expected)
    assert any(name.endswith("running_var") for name in alone)


def test_batch_norm_of_timm_keeps_its_activation():
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    net = BatchNormAct2d(3)
    x = torch.randn(4, 3, 5, 5)
    expected = net(x)
    net.reset_running_stats()
    synchronise_batch_norm(net)
    torch.testing.assert_close(net(x), expected)

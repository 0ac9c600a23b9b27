"""What a loss needs of other ranks: sums, gathered rows and batch norm over the batches of all processes.

Each rank goes backward from its own share of the loss; gradients of shares are added up afterwards. So the gradient of
what came from all ranks is the sum over ranks of their gradients, and the step is that of one process with the whole
batch. With one process, or none started by torchrun, nothing is sent and nothing changes.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn import functional as F  # noqa: N812


def rank_count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_cut(tensor: Tensor) -> bool:
    """Whether it is one of torch's distributed tensors, of which a rank holds a part. Told without importing what makes
    them, which takes a third as long as importing torch."""
    return hasattr(tensor, "to_local")


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(rank_count())]
        dist.all_gather(parts, x.detach().contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.rows, ctx.rows)


# what is sent stays outside of compiled graphs; torch.compiler.disable does the same, but imports the compiler at once,
# which takes seconds at the start of every command
_summed: Callable[[Tensor], Tensor] = cast(Any, _disable_dynamo(lambda x: _Sum.apply(x)))
_gathered: Callable[[Tensor], Tensor] = cast(Any, _disable_dynamo(lambda x: _Gather.apply(x)))


def sum_over_ranks(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Sum of the tensors of all ranks, with a gradient."""
    return x if rank_count() == 1 else _summed(x)


def gather_over_ranks(x: Shaped[Tensor, "row *shape"]) -> Shaped[Tensor, "rows *shape"]:
    """Rows of all ranks, in their order, with a gradient; every rank has as many."""
    return x if rank_count() == 1 else _gathered(x)


def _batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Batch norm with mean and variance over the batches of all ranks, and the running statistics that belong to it."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    dims = [dim for dim in range(x.ndim) if dim != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    own = torch.cat([wide.sum(dims), wide.new_full((1,), x.numel() / x.shape[1])])
    sums = sum_over_ranks(own)
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    # around the mean of all: squares of what lies far from 0 would cancel
    centred = wide - mean.view(shape)
    variance = sum_over_ranks(centred.square().sum(dims)) / count
    with torch.no_grad():
        if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
            share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.detach().to(norm.running_mean.dtype), share)
            unbiased = variance.detach() * count / (count - 1).clamp_min(1)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), share)
    scale = (variance + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    result = centred * scale.view(shape)
    return (result if norm.bias is None else result + norm.bias.view(shape)).to(x.dtype)


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """Over all ranks."""

    def forward(self, input: Tensor) -> Tensor:
        """As one process with the whole batch."""
        return _batch_norm(self, input)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Over all ranks."""

    def forward(self, input: Tensor) -> Tensor:
        """As one process with the whole batch."""
        return _batch_norm(self, input)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of a model see the batches of all ranks. Names and values of its weights stay.

    torch's own SyncBatchNorm is for GPUs alone. timm's batch norms that carry an activation keep it.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SyncedBatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
        elif isinstance(module, nn.BatchNorm2d) and type(module).__name__ == "BatchNormAct2d":
            module.__class__ = _with_activation(type(module))


def _with_activation(original: type[nn.BatchNorm2d]) -> type[nn.BatchNorm2d]:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.act(self.drop(_batch_norm(self, x)))

    return type(f"Synced{original.__name__}", (original,), {"forward": forward})

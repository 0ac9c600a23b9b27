"""How a predictor is trained by several processes: whole on each (DDP), or cut among them (FSDP2).

Both give the sum of the gradients of all ranks, which the loop divides by the number of hidden positions of all ranks:
the mean of ranks that torch would take weighs a rank with few of them too much. Micro-batches before the last of a step
send no gradients.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mmssl.nn.over_ranks import is_cut, rank_count, synchronise_batch_norm
from mmssl.nn.transformer import Block, CrossBlock
from mmssl.predictors.base import Predictor
from mmssl.training.config import RunConfig
from mmssl.training.distributed import launched, total

CUT = (Block, CrossBlock)
"""What FSDP gathers and frees as a whole; what lies outside these is one more piece."""


class Alone:
    """One process with the whole model."""

    def __init__(self, predictor: Predictor, config: RunConfig) -> None:
        self.predictor = predictor
        self.model: Callable[..., Any] = torch.compile(predictor) if config.compile else predictor

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:  # noqa: ARG002
        """Around forward and backward of a micro-batch, the ``last`` of its step or not."""
        return nullcontext()

    def whole(self) -> AbstractContextManager[object]:
        """Within, every rank holds all weights, and may use them or not without the others."""
        return nullcontext()

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Norm of the gradients, of which this rank holds these."""
        return torch.nn.utils.get_total_norm(gradients)

    def finish(self) -> None:
        """After training every rank is left with the whole model."""


class Replicated(Alone):
    """The whole model on each rank (DDP). Buffers are not sent: they come out the same everywhere."""

    def __init__(self, predictor: Predictor, config: RunConfig) -> None:
        self.predictor = predictor
        synchronise_batch_norm(predictor)
        _send_from_first(predictor)
        # the name of this setting changed in torch 2.14
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        more: dict[str, Any] = {name: False}
        self.replica = DistributedDataParallel(predictor, init_sync=False, gradient_as_bucket_view=True, **more)
        self.replica.register_comm_hook(None, _sum_bucket)
        # compiled from outside, so that the graph is cut where gradients are sent
        self.model = torch.compile(self.replica) if config.compile else self.replica

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Gradients are sent in the last one alone."""
        return nullcontext() if last else self.replica.no_sync()


def _send_from_first(predictor: Predictor) -> None:
    """All ranks begin with the weights and the observed statistics of rank 0."""
    for tensor in (*predictor.parameters(), *predictor.buffers()):
        whole = tensor.detach().contiguous()
        dist.broadcast(whole.flatten().view(torch.uint8), 0)  # as bytes: gloo does not know every type
        tensor.detach().copy_(whole)


def _sum_bucket(_: object, bucket: dist.GradBucket):  # pyright: ignore[reportPrivateImportUsage]
    """Add up gradients over ranks, where DDP would take their mean. It refuses to hear what type torch returns."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])


class Sharded(Alone):
    """Weights, gradients and optimizer state cut among ranks (FSDP2).

    Weights stay in single precision and autocast does what it does with one process, so that the arithmetic is the
    same; torch's own mixed precision would also make small numbers of pictures and sound bf16.
    """

    def __init__(self, predictor: Predictor, config: RunConfig) -> None:
        from torch.distributed.fsdp import FSDPModule, fully_shard

        self.predictor = predictor
        synchronise_batch_norm(predictor)
        _send_from_first(predictor)
        # weights laid out channels last cannot be cut; convolutions take them either way
        predictor.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        for module in predictor.modules():
            if isinstance(module, CUT):
                if config.compile:  # what gathers weights stays outside of the graph
                    module.compile()
                fully_shard(module)
        # a single number cannot be cut
        self.scalars = [parameter for parameter in predictor.parameters() if not parameter.ndim]
        fully_shard(predictor, ignored_params=set(self.scalars))
        self.pieces = [module for module in predictor.modules() if isinstance(module, FSDPModule)]
        for piece in self.pieces:
            piece.set_gradient_divide_factor(1.0)
            piece.set_force_sum_reduction_for_comms(True)
        self.model = predictor

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Gradients are sent in the last one alone; until then they are kept whole, which takes memory."""
        self.predictor.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]
        yield
        for scalar in self.scalars if last else ():
            if scalar.grad is not None:
                scalar.grad = total(scalar.grad)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All weights on every rank, gathered once and kept until the end."""
        for piece in self.pieces:
            piece.set_reshard_after_forward(False, recurse=False)
            piece.unshard()
        try:
            yield
        finally:
            for piece in self.pieces:
                piece.reshard()
                piece.set_reshard_after_forward(piece is not self.predictor, recurse=False)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Each rank has a part of each gradient, but all of those of single numbers."""
        squares = torch.nn.utils.get_total_norm([part for part in gradients if part.ndim]).square()
        numbers = [part.square() for part in gradients if not part.ndim]
        if numbers:
            squares = squares + torch.stack(numbers).sum() / rank_count()
        return total(squares).sqrt()

    def finish(self) -> None:
        """Gather all weights and leave them so."""
        for piece in self.pieces:
            piece.set_reshard_after_forward(False, recurse=False)
            piece.unshard()


def spread(predictor: Predictor, config: RunConfig) -> Alone:
    """Prepare a predictor for training by the processes there are, as ``config.parallel`` says."""
    if config.compile:  # masks remember tables that follow from numbers alone: safe to trace, and nothing to be told of
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    if not launched():
        return Alone(predictor, config)
    return Sharded(predictor, config) if config.parallel == "fsdp" else Replicated(predictor, config)


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if is_cut(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]

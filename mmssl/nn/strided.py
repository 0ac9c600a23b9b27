"""Convolutions of a stream, channels last, as matrix products that copy nothing.

Rows of ``stride`` neighbouring frames are the input seen as ``[frame / stride, stride * channel]``, without moving a
number. A kernel that is longer than its stride reaches into the next rows, and each part of it is one product, added
to the others in place:

    kernel 3, stride 2:    y = rows @ w[:2] + rows[1:, :1] @ w[2:]

torch's convolution on a CPU takes channels first, and its backward two to four times as long.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def strided_convolution(
    x: Float[Tensor, "frame channel"],
    weight: Float[Tensor, "out channel kernel"],
    bias: Float[Tensor, " out"] | None,
    stride: int,
) -> Float[Tensor, "step out"]:
    """One output for each ``stride`` frames, whose number must be a multiple of it; behind the last frame are zeros."""
    out, channels, kernel = weight.shape
    flat = weight.transpose(1, 2).reshape(out, kernel * channels)
    if torch.is_autocast_enabled("cpu") and not x.is_cuda:
        dtype = torch.get_autocast_dtype("cpu")
        x, flat = x.to(dtype), flat.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    with torch.autocast("cpu", enabled=False):
        y = _StridedProduct.apply(x, flat, stride)
        assert isinstance(y, Tensor)
        return y if bias is None else y + bias


def _parts(width: int, row: int) -> list[tuple[int, int, int]]:
    """For each row that the kernel reaches into: how far below, and which columns of the flat kernel lie in it."""
    return [(below, start, min(start + row, width)) for below, start in enumerate(range(0, width, row))]


class _StridedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        rows = x.view(-1, stride * x.shape[1])
        ctx.save_for_backward(rows, weight)
        ctx.channels = x.shape[1]
        y = x.new_empty(len(rows), len(weight))
        for below, start, stop in _parts(weight.shape[1], rows.shape[1]):
            part, seen = weight[:, start:stop].T, rows[below:, : stop - start]
            if below == 0:
                torch.mm(seen, part, out=y)
            else:
                y[: len(seen)].addmm_(seen, part)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        want_x, want_weight, _ = ctx.needs_input_grad
        grad_rows = torch.empty_like(rows) if want_x else None
        grad_weight = torch.empty_like(weight) if want_weight else None
        for below, start, stop in _parts(weight.shape[1], rows.shape[1]):
            seen, own = rows[below:, : stop - start], grad[: len(rows) - below]
            if grad_rows is not None:
                part, target = weight[:, start:stop], grad_rows[below:, : stop - start]
                if below:
                    target.addmm_(own, part)
                else:
                    torch.mm(own, part, out=target)
                    grad_rows[:, stop - start :] = 0
            if grad_weight is not None:
                grad_weight[:, start:stop] = own.T @ seen
        return None if grad_rows is None else grad_rows.view(-1, ctx.channels), grad_weight, None

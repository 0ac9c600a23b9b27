"""What the benchmarks of training steps share: an optimizer step in a precision, compiled or not, and its table."""

import argparse
from collections.abc import Callable, Mapping

import torch
from harness import Step, Stopwatch, add_arguments, compare
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of these benchmarks, beside those of all."""
    parser.add_argument("--batch-size", type=int, help="samples in a step; the config's own if not given")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32", help="bf16: by autocast, for everybody")
    parser.add_argument("--compile", action="store_true", help="torch.compile for every model")
    add_arguments(parser)


def trainable(
    model: nn.Module,
    loss: Callable[[], Tensor],
    arguments: argparse.Namespace,
    learning_rate: float = 1e-5,
    weight_decay: float = 0.01,
) -> Step:
    """Loss, gradients, AdamW. ``loss`` calls the model as a whole, so that the call can be compiled."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
    )
    device = parameters[0].device.type
    if arguments.compile:
        model.compile()

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def print_table(
    cases: Mapping[str, Step],
    arguments: argparse.Namespace,
    device: torch.device,
    items: int,
    useful_flops: Mapping[str, float],
    baselines: tuple[str, ...],
) -> None:
    """Time the cases; see :func:`harness.compare`. On a GPU also say what memory a step of each takes."""
    dtype = DTYPES[arguments.precision]
    stopwatch = Stopwatch(device, arguments.clock)
    print(f"precision  {arguments.precision}, {'compiled' if arguments.compile else 'not compiled'}")
    compare(cases, stopwatch, arguments.rounds, arguments.seconds, items, useful_flops, baselines, dtype)
    if device.type == "cuda":
        for name, step in cases.items():
            print(f"{name:<28} takes {memory_of(step, device) / 1e6:,.0f} MB beyond weights and optimizer state")


def memory_of(step: Step, device: torch.device) -> int:
    """Bytes of GPU memory that a step needs at its peak beyond what lies there before it."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before

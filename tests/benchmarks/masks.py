"""Time of span masks, noise included, against a fairseq-style row loop and the transformers sampler, at equal law.

    python tests/benchmarks/masks.py [--rounds 9] [--threads 2]

The law: start probability 0.065, spans of 10 inside the sequence, a fixed number of starts without replacement, rounded
at random (tests/masking/test_spans.py shows the equality). Small differences remain, none of which costs time: the
number of starts is rounded once a sample by us, once a batch by the others; and fairseq leaves out the last possible
start. By default fairseq then removes single random tokens until all rows are as short as the shortest; that is another
law, timed apart from the comparison.

On a machine busy with other work set OMP_WAIT_POLICY=PASSIVE, or take one thread: by default the threads of torch spin
while they wait for each other, so that an operation of some microseconds lasts until its other half gets a core.

The cases alternate within a process and take turns in going first; a ratio is the median of the ratios of the rounds.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmssl.masking import NoiseKey, block_mask, random_mask, span_mask

PROBABILITY, SPAN = 0.065, 10
SIZES = ((256, 1500), (32, 780), (8, 199))


def row_loop(batch: int, length: int, trim: bool = False) -> np.ndarray:
    """A mask row by row: draw starts, list all tokens of all spans, drop repetitions; as fairseq goes about it."""
    starts = int(PROBABILITY * length + np.random.rand())
    rows = []
    for _ in range(batch):
        chosen = np.random.choice(length - SPAN + 1, starts, replace=False)
        tokens = np.asarray([start + offset for start in chosen for offset in range(SPAN)])
        rows.append(np.unique(tokens[tokens < length]))
    shortest = min(len(row) for row in rows)
    mask = np.zeros((batch, length), dtype=bool)
    for index, row in enumerate(rows):
        mask[index, np.random.choice(row, shortest, replace=False) if trim else row] = True
    return mask


def cases(batch: int, length: int) -> dict[str, Callable[[], object]]:
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    key = NoiseKey(0, torch.zeros(batch, dtype=torch.int64), torch.arange(batch))
    real = torch.randint(length // 2, length + 1, (batch, 1), generator=torch.Generator().manual_seed(0))
    valid = torch.arange(length) < real
    transformers_fraction = PROBABILITY * SPAN
    return {
        "ours": lambda: span_mask(key, length, span=SPAN, start_probability=PROBABILITY, inside=True),
        "row loop": lambda: row_loop(batch, length),
        "transformers": lambda: _compute_mask_indices((batch, length), transformers_fraction, SPAN),
        "row loop, rows trimmed to the shortest": lambda: row_loop(batch, length, trim=True),
        "ours, padded": lambda: span_mask(
            key, length, span=SPAN, start_probability=PROBABILITY, inside=True, valid=valid
        ),
        "transformers, padded": lambda: _compute_mask_indices(
            (batch, length), transformers_fraction, SPAN, attention_mask=valid.long()
        ),
        "ours, exact fraction 0.49": lambda: span_mask(key, length, 0.49, span=SPAN),
        "ours, noise for every token": lambda: key.bits(length),
        "torch.rand for every token": lambda: torch.rand(batch, length),
        "ours, random tokens, fraction 0.75": lambda: random_mask(key, length, 0.75),
        "ours, blocks of 14 x 14, fraction 0.4": lambda: block_mask(key, (14, 14), 0.4),
    }


def milliseconds(function: Callable[[], object], repetitions: int) -> float:
    begin = time.perf_counter()
    for _ in range(repetitions):
        function()
    return (time.perf_counter() - begin) / repetitions * 1e3


def measure(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    names = list(functions)
    for function in functions.values():
        function()
    # about 30 ms a measurement
    repetitions = {name: max(1, round(30 / milliseconds(functions[name], 2))) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(milliseconds(functions[name], repetitions[name]))
    return times


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    np.random.seed(0)
    import transformers

    print(f"{processor()}; torch {torch.__version__} on {arguments.threads} threads; numpy {np.__version__};")
    print(f"transformers {transformers.__version__}; Python {platform.python_version()}; {arguments.rounds} rounds")
    for batch, length in SIZES:
        times = measure(cases(batch, length), arguments.rounds)
        print(f"\n{batch} x {length}\n{'':44}{'ms, median':>10}{'fastest':>9}{'x ours':>8}")
        for name, found in times.items():
            rival = "ours, padded" if name.endswith("padded") else "ours"
            compared = not name.startswith(("ours", "torch"))
            ratios = [theirs / ours for theirs, ours in zip(found, times[rival], strict=True)]
            ratio = f"{statistics.median(ratios):8.1f}" if compared else ""
            print(f"{name:44}{statistics.median(found):10.3f}{min(found):9.3f}{ratio}")


if __name__ == "__main__":
    main()

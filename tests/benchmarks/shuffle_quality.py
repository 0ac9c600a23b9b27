"""How well samples are mixed when shards are shuffled a window at a time, against a full permutation.

    python tests/benchmarks/shuffle_quality.py

100,000 samples of 100 classes in 200 shards, stored at random as data_prep/shard.py does, and once as given, sorted by
class (--order given). Orders are computed, no data is read; each figure is the mean over several pairs of epochs, the
first with the smallest and the largest.

    kept near     of the 10 samples on either side of a sample, the share that was within 100 places of it in the epoch
                  before (by chance: 0.2 %)
    moved         mean distance between the places of a sample in two epochs, by the length of an epoch (1/3 at random)
    classes       distinct classes in a batch of 256 (by chance 92.4 of 100)
    runs          correlation of neighbours' classes: 0 where they are independent, 1 where sorted
    batch error   standard deviation, over batches of 256, of the share of the first half of the classes, by that of
                  random batches (1 at random)
"""

import argparse
import itertools

import numpy as np

from mmssl.data.order import Order
from mmssl.data.permutation import sorted_words
from mmssl.data.shards.order import WindowOrder

NEAR, WITHIN, BATCH = 10, 100, 256


def kept_near(first: np.ndarray, second: np.ndarray) -> float:
    """Share of a sample's neighbours that were near it in the epoch before."""
    before = np.empty(len(first), np.int64)
    before[first] = np.arange(len(first))
    places = before[second]
    return float(np.mean([np.mean(np.abs(places[gap:] - places[:-gap]) <= WITHIN) for gap in range(1, NEAR + 1)]))


def moved(first: np.ndarray, second: np.ndarray) -> float:
    places = np.empty((2, len(first)), np.int64)
    for row, order in enumerate((first, second)):
        places[row, order] = np.arange(len(order))
    return float(np.abs(places[0] - places[1]).mean() / len(first))


def of_labels(labels: np.ndarray) -> tuple[float, float, float]:
    """Distinct classes in a batch, correlation of neighbours, error of batches."""
    batches = labels[: len(labels) // BATCH * BATCH].reshape(-1, BATCH)
    distinct = float(np.mean([len(np.unique(batch)) for batch in batches]))
    share = (batches < labels.max() / 2).mean(1)
    return distinct, float(np.corrcoef(labels[:-1], labels[1:])[0, 1]), float(share.std() / np.sqrt(0.25 / BATCH))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    count = arguments.samples
    labels = np.arange(count) * arguments.classes // count
    starts = np.arange(arguments.shards) * count // arguments.shards
    print(f"{count:,} samples of {arguments.classes} classes in {arguments.shards} shards")
    print(f"{'stored':<10}{'order':<14}{'kept near':>24}{'moved':>9}{'classes':>9}{'runs':>8}{'batch error':>13}")
    for stored_as, stored in (("shuffled", sorted_words(count, 0, 0, 7)), ("given", np.arange(count))):
        orders: dict[str, Order] = {"full": Order(count, BATCH, 1)}
        orders |= {f"window {size}": WindowOrder(stored, starts, size, BATCH, 1) for size in arguments.windows}
        for name, order in orders.items():
            epochs = [order.permutation(epoch) for epoch in range(arguments.epochs + 1)]
            pairs = list(itertools.pairwise(epochs))
            near = [kept_near(*pair) for pair in pairs]
            spread = f"{np.mean(near):.2%} ({min(near):.2%}-{max(near):.2%})"
            distinct, runs, error = np.mean([of_labels(labels[epoch]) for epoch in epochs], axis=0)
            distance = np.mean([moved(*pair) for pair in pairs])
            print(f"{stored_as:<10}{name:<14}{spread:>24}{distance:>9.3f}{distinct:>9.1f}{runs:>8.3f}{error:>13.2f}")


if __name__ == "__main__":
    main()

"""What a probe found: accuracies by representation, feature, kind of classifier and number of labels."""

import dataclasses
import statistics
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

PRETRAINED, UNTRAINED, RAW = "pretrained", "random init", "raw input"

BEST_LAYER = "best layer"
"""Name of the feature that held-out labels chose among the layers."""
LAST_LAYER = ("quarters", "mean")
"""What a predictor reads of its last block in the way of earlier ones is the first of these that it has."""


def last_layer(features: Collection[str]) -> str | None:
    """Name of the feature of the last block that is read like ``layer 1`` ...; None where there is none."""
    return next((name for name in LAST_LAYER if name in features), None)


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of one kind of classifier on one representation at one number of labels."""

    representation: str
    """``pretrained``, ``random init`` (same architecture, not trained), or ``raw input``."""
    feature: str
    """``mean`` over tokens, ``cls`` token, ``quarters`` of recordings, ``layer 1`` ... after earlier blocks, ``best
    layer`` for the one of these and the last that held-out labels chose; ``flat`` or another name for raw input."""
    method: str
    """``linear`` and ``knn`` on frozen features; ``finetune`` trains the encoder too (``random init``: scratch)."""
    labels: int
    """Labelled samples used."""
    accuracies: tuple[float, ...]
    """Of the test split, one a seed. A single one where nothing is random: frozen features and all labels."""
    l2: tuple[float, ...] = ()
    """Strength of regularisation that was chosen, one a seed (linear)."""
    layers: tuple[int, ...] = ()
    """Number of the layer that was chosen, one a seed (``best layer``)."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


@dataclass(frozen=True)
class ProbeReport:
    """Everything a probe found, and what it was measured on."""

    label: str | None
    """Which label was predicted."""
    names: tuple[str, ...]
    """Its classes."""
    train_samples: int
    test_samples: int
    majority: float
    """Accuracy of always saying the most frequent class of the training part."""
    seeds: int
    finetune: dict[str, Any]
    """Settings of fine-tuning."""
    results: list[ProbeResult]
    raw: str = RAW
    """What the raw input was made into, for people."""
    notes: tuple[str, ...] = ()
    """What else has to be known of the data and the baseline, in sentences."""
    command: str | None = None
    """What measures it again; None where it was not a run folder that was probed."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing among the classes."""
        return 1 / len(self.names)

    def find(self, representation: str, feature: str, method: str, labels: int | None = None) -> ProbeResult:
        """One result; ``labels`` None means all. Raises KeyError where it was not measured."""
        wanted = (representation, feature, method, self.train_samples if labels is None else labels)
        for result in self.results:
            if (result.representation, result.feature, result.method, result.labels) == wanted:
                return result
        raise KeyError(wanted)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all fields, with mean and std of each result."""
        data = dataclasses.asdict(self)
        data["chance"] = self.chance
        for row, result in zip(data["results"], self.results, strict=True):
            row["mean"], row["std"] = result.mean, result.std
        return data

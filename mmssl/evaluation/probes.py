"""What a representation knows: classifiers on few and many labels, always beside raw input and an untrained encoder.

    report = probe(predictor, train, test, label="shape")
    print_report(report)
    save_report(report, Path("runs/world/probe"))

The test split decides nothing: strengths of regularisation are chosen on held-out parts of the labelled samples, all
other settings are fixed beforehand.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evaluation.classifiers import class_rank
from mmssl.evaluation.features import (
    Encode,
    LabelledSet,
    extract,
    freshly_initialised,
    frozen,
    gather,
    raw_features,
    side_by_side,
    take,
)
from mmssl.evaluation.finetune import FinetuneConfig, accuracy_of, finetune
from mmssl.evaluation.representations import Baseline, Frozen, Representation
from mmssl.predictors.base import Predictor

PRETRAINED, UNTRAINED, RAW = "pretrained", "random init", "raw input"


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of one kind of classifier on one representation at one number of labels."""

    representation: str
    """``pretrained``, ``random init`` (same architecture, not trained), or ``raw input``."""
    feature: str
    """``mean`` over tokens, ``cls`` token, ``flat`` or another name for raw input."""
    method: str
    """``linear`` and ``knn`` on frozen features; ``finetune`` trains the encoder too (``random init``: scratch)."""
    labels: int
    """Labelled samples used."""
    accuracies: tuple[float, ...]
    """Of the test split, one a seed. A single one where nothing is random: frozen features and all labels."""
    l2: tuple[float, ...] = ()
    """Strength of regularisation that was chosen, one a seed (linear)."""

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


def probe(
    predictor: Predictor,
    train: LabelledSet,
    test: LabelledSet,
    *,
    raw: Encode | Baseline = raw_features,
    label: str | None = None,
    seeds: int = 3,
    labels: Sequence[int] = (10, 100, 1000),
    finetune_labels: Sequence[int] = (100, 1000),
    finetune_config: FinetuneConfig | None = None,
    notes: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> ProbeReport:
    """Measure how well ``label`` can be told from a predictor's features, from raw input and from an untrained encoder.

    Linear probe at each number of ``labels`` and with all; weighted 20-nearest-neighbours with all; fine-tuning, and
    training from scratch, at each of ``finetune_labels``. Numbers below one label a class, or not below the number of
    training samples, are left out. Each seed draws other labels (balanced; smaller draws are part of larger ones),
    another untrained encoder and another order of fine-tuning. ``say`` receives a line before each lengthy part.

    ``raw``: what makes features of a batch's raw input, or a baseline that is fitted anew on the labelled samples of
    each draw (:class:`mmssl.evaluation.bag_of_words.BagOfWords`). ``notes`` are printed below the table.

    Raises UserError where the two sets have other classes, a set is empty, or features are not finite.
    """
    if seeds < 1:
        raise UserError(f"a probe needs at least 1 seed, got {seeds}")
    if list(train.names) != list(test.names):
        raise UserError(
            f"the training part has other classes ({_preview(train)}) than the test part ({_preview(test)})"
        )
    say = say or (lambda _line: None)
    config = finetune_config or FinetuneConfig()
    untrained = [freshly_initialised(predictor, seed) for seed in range(seeds)]
    encoders = {PRETRAINED: frozen(predictor)}
    if not isinstance(raw, Baseline):
        encoders[RAW] = raw
    encode = side_by_side(encoders | {f"{UNTRAINED} {seed}": frozen(model) for seed, model in enumerate(untrained)})
    say("features of the training part")
    train_features, train_labels = extract(encode, train)
    say("features of the test part")
    test_features, test_labels = extract(encode, test)
    classes, count = len(train.names), len(train_labels)

    device = predictor.device if predictor.device.type == "cuda" else torch.device("cpu")
    table = _Table(train_labels, test_labels, classes, seeds, _usable(labels, classes, count))
    for name in train_features:
        say(f"classifiers on {name}")
        table.add(name, Frozen(train_features[name], test_features[name], device))
    if isinstance(raw, Baseline):
        say(f"classifiers on {raw.name}")
        table.add(f"{RAW}.{raw.feature}", raw)
    budgets = _usable(finetune_labels, classes, count)
    tuned = _finetune_all(predictor, untrained, train, test, train_labels, budgets, config, say)
    return ProbeReport(
        label=label,
        names=tuple(train.names),
        train_samples=count,
        test_samples=len(test_labels),
        majority=float((test_labels == train_labels.bincount().argmax()).float().mean()),
        seeds=seeds,
        finetune=dataclasses.asdict(config),
        results=[*table.results(), *tuned],
        raw=raw.name if isinstance(raw, Baseline) else RAW,
        notes=tuple(notes),
    )


def _preview(samples: LabelledSet) -> str:
    return ", ".join([*samples.names[:3], *(["..."] if len(samples.names) > 3 else [])])


def _usable(budgets: Sequence[int], classes: int, available: int) -> list[int]:
    return [budget for budget in sorted(set(budgets)) if classes <= budget < available]


def balanced_draw(labels: Int[Tensor, " sample"], count: int, seed: int) -> Int[Tensor, " count"]:
    """Positions of ``count`` samples, as evenly spread over the classes as their sizes allow.

    A smaller draw of the same seed is contained in a larger one. What is left over after whole rounds goes to classes
    that ``seed`` picks.
    """
    order = torch.randperm(int(labels.max()) + 1, generator=torch.Generator().manual_seed(seed))
    return (class_rank(labels, seed) * len(order) + order[labels]).argsort()[:count]


class _Table:
    """Accuracies of classifiers on frozen features, collected by seed."""

    def __init__(self, labels: Tensor, test_labels: Tensor, classes: int, seeds: int, budgets: Sequence[int]) -> None:
        self.labels, self.test_labels, self.classes, self.seeds = labels, test_labels, classes, seeds
        self.budgets = [*budgets, len(labels)]
        self.cells: dict[tuple[str, str, str, int], list[tuple[float, float | None]]] = {}

    def add(self, name: str, subject: Representation) -> None:
        """Probe one representation. Those of an untrained encoder carry its seed in their name."""
        representation, feature = name.rsplit(".", 1)
        seeds, count = list(range(self.seeds)), len(self.labels)
        if representation.startswith(UNTRAINED):
            seeds = [int(representation.removeprefix(UNTRAINED))]
            representation = UNTRAINED
        self._put((representation, feature, "knn", count), subject.nearest(self.labels, self.classes), None)
        for budget in self.budgets:
            # With all labels and given features a seed would only cut the part that chooses l2 differently.
            for seed in seeds if budget < count else seeds[:1]:
                chosen = balanced_draw(self.labels, budget, seed)
                predicted, l2 = subject.linear(chosen, self.labels[chosen], self.classes, seed)
                self._put((representation, feature, "linear", budget), predicted, l2)

    def _put(self, key: tuple[str, str, str, int], predicted: Tensor, l2: float | None) -> None:
        self.cells.setdefault(key, []).append((float((predicted == self.test_labels).float().mean()), l2))

    def results(self) -> list[ProbeResult]:
        """One result a cell."""
        return [
            ProbeResult(*key, tuple(accuracy for accuracy, _ in cell), tuple(l2 for _, l2 in cell if l2 is not None))
            for key, cell in self.cells.items()
        ]


def _finetune_all(
    predictor: Predictor,
    untrained: Sequence[Predictor],
    train: LabelledSet,
    test: LabelledSet,
    labels: Tensor,
    budgets: Sequence[int],
    config: FinetuneConfig,
    say: Callable[[str], None],
) -> list[ProbeResult]:
    """Fine-tuning and training from scratch at each number of labels.

    From scratch there is no layer decay: no layer knows anything that a high rate could destroy.
    """
    if not budgets:
        return []
    seeds, results = range(len(untrained)), []
    draws = [balanced_draw(labels, budgets[-1], seed) for seed in seeds]
    needed = torch.cat(draws).unique()
    pool = gather(train, needed)
    arms = {
        PRETRAINED: ([predictor] * len(untrained), config),
        UNTRAINED: (untrained, dataclasses.replace(config, layer_decay=1.0)),
    }
    total, done, start = len(budgets) * len(arms) * len(untrained), 0, time.perf_counter()
    for budget in budgets:
        for name, (models, settings) in arms.items():
            accuracies = []
            for seed in seeds:
                say(f"fine-tuning {done + 1} of {total}: {name}, {budget} labels{_to_go(start, done, total)}")
                chosen = draws[seed][:budget]
                inside = torch.searchsorted(needed, chosen)
                batch = take(pool, inside)
                tuned = finetune(models[seed], batch, labels[chosen], len(train.names), seed=seed, config=settings)
                accuracies.append(accuracy_of(tuned, test))
                done += 1
            results.append(ProbeResult(name, "mean", "finetune", budget, tuple(accuracies)))
    return results


def _to_go(start: float, done: int, total: int) -> str:
    return f", about {(time.perf_counter() - start) / done * (total - done) / 60:.1f} min to go" if done else ""

"""What a representation knows: classifiers on few and many labels, always beside raw input and an untrained encoder.

    report = probe(predictor, train, test, label="shape")
    print_report(report)
    save_report(report, Path("runs/world/probe"))

The test split decides nothing: strengths of regularisation are chosen on held-out parts of the labelled samples, all
other settings are fixed beforehand.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evaluation.classifiers import class_rank
from mmssl.evaluation.features import (
    Encode,
    LabelledSet,
    Memory,
    features_of,
    freshly_initialised,
    frozen,
    gather,
    raw_features,
    side_by_side,
    take,
)
from mmssl.evaluation.finetune import FinetuneConfig, accuracy_of, finetune
from mmssl.evaluation.probe_results import (
    BEST_LAYER,
    LAST_LAYER,
    PRETRAINED,
    RAW,
    UNTRAINED,
    ProbeReport,
    ProbeResult,
)
from mmssl.evaluation.representations import Baseline, Frozen, Representation
from mmssl.predictors.base import Predictor


def probe(
    predictor: Predictor,
    train: LabelledSet,
    test: LabelledSet,
    *,
    raw: Encode | Baseline = raw_features,
    raw_name: str = RAW,
    encoder: Callable[..., Encode] = frozen,
    label: str | None = None,
    seeds: int | Sequence[int] = 3,
    baselines: bool = True,
    labels: Sequence[int] = (10, 100, 1000),
    finetune_labels: Sequence[int] = (100, 1000),
    finetune_config: FinetuneConfig | None = None,
    by_layer: bool = True,
    notes: Sequence[str] = (),
    memory: Memory | None = None,
    say: Callable[[str], None] | None = None,
) -> ProbeReport:
    """Measure how well ``label`` can be told from a predictor's features, from raw input and from an untrained encoder.

    Linear probe at each number of ``labels`` and with all; weighted 20-nearest-neighbours with all; fine-tuning, and
    training from scratch, at each of ``finetune_labels``. Numbers below one label a class, or not below the number of
    training samples, are left out. Each seed draws other labels (balanced; smaller draws are part of larger ones),
    another untrained encoder and another order of fine-tuning; a number stands for that many, from 0 on. ``say``
    receives a line before each lengthy part.

    ``baselines`` False: the predictor alone, for many of them that are compared with the same untrained encoders.

    ``by_layer``: also a linear probe with all labels after each block of the encoders, and the ``best layer`` of each
    encoder: the one whose probe has the lowest cross entropy on held-out training samples. It is chosen for untrained
    encoders in the same way, so that the choice favours nobody.

    ``raw``: what makes features of a batch's raw input, or a baseline that is fitted anew on the labelled samples of
    each draw (:class:`mmssl.evaluation.bag_of_words.BagOfWords`), which says itself what it is; ``raw_name`` says it of
    features. ``encoder(predictor, layers=by_layer)`` makes features of a predictor: :func:`frozen` one vector a sample,
    another one of each stretch of a recording, say. ``notes`` are printed below the table. ``memory``, the same for
    several labels of a predictor with the same settings, keeps what is computed once for all of them.

    Raises UserError where the two sets have other classes, a set is empty, or features are not finite.
    """
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    if not seeds:
        raise UserError(f"a probe needs at least 1 seed, got {len(seeds)}")
    if list(train.names) != list(test.names):
        raise UserError(
            f"the training part has other classes ({_preview(train)}) than the test part ({_preview(test)})"
        )
    say = say or (lambda _line: None)
    config = finetune_config or FinetuneConfig()
    untrained = {seed: freshly_initialised(predictor, seed) for seed in seeds} if baselines else {}
    models = {PRETRAINED: predictor} | {f"{UNTRAINED} {seed}": model for seed, model in untrained.items()}
    encoders = {name: encoder(model, layers=by_layer) for name, model in models.items()}
    if baselines and not isinstance(raw, Baseline):
        encoders[RAW] = raw
    encode = side_by_side(encoders)
    say("features of the training part")
    train_features, places = features_of(encode, train, memory)
    train_labels = torch.as_tensor(train.targets)[places]
    groups = None if train.groups is None else torch.as_tensor(train.groups)[places]
    say("features of the test part")
    test_features, places = features_of(encode, test, memory)
    test_labels = torch.as_tensor(test.targets)[places]
    classes, count = len(train.names), len(train_labels)

    device = predictor.device if predictor.device.type == "cuda" else torch.device("cpu")
    table = _Table(train_labels, test_labels, classes, seeds, _usable(labels, classes, count), groups)
    for name in train_features:
        say(f"classifiers on {name}")
        table.add(name, Frozen(train_features[name], test_features[name], device))
    table.choose_layers()
    if baselines and isinstance(raw, Baseline):
        say(f"classifiers on {raw.name}")
        table.add(f"{RAW}.{raw.feature}", raw)
    budgets = _usable(finetune_labels, classes, count)
    arms = {PRETRAINED: (dict.fromkeys(seeds, predictor), config)}
    if baselines:  # from scratch without layer decay: no layer knows anything that a high rate could destroy
        arms[UNTRAINED] = untrained, dataclasses.replace(config, layer_decay=1.0)
    tuned = _finetune_all(arms, train, test, train_labels, budgets, say)
    return ProbeReport(
        label=label,
        names=tuple(train.names),
        train_samples=count,
        test_samples=len(test_labels),
        majority=float((test_labels == train_labels.bincount().argmax()).float().mean()),
        seeds=len(seeds),
        finetune=dataclasses.asdict(config),
        results=[*table.results(), *tuned],
        raw=raw.name if isinstance(raw, Baseline) else raw_name,
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

    def __init__(
        self,
        labels: Tensor,
        test_labels: Tensor,
        classes: int,
        seeds: Sequence[int],
        budgets: Sequence[int],
        groups: Tensor | None = None,
    ) -> None:
        self.labels, self.test_labels, self.classes, self.seeds = labels, test_labels, classes, seeds
        self.groups = groups
        self.budgets = [*budgets, len(labels)]
        self.cells: dict[tuple[str, str, str, int], list[_Cell]] = {}
        self.depths: dict[str, list[tuple[float, int, _Cell]]] = {}

    def add(self, name: str, subject: Representation) -> None:
        """Probe one representation. Those of an untrained encoder carry its seed in their name."""
        encoder, feature = name.rsplit(".", 1)
        representation, seeds, count = encoder, list(self.seeds), len(self.labels)
        if encoder.startswith(UNTRAINED):
            seeds = [int(encoder.removeprefix(UNTRAINED))]
            representation = UNTRAINED
        layer = feature.startswith("layer ")
        if not layer:
            accuracy = self._accuracy(subject.nearest(self.labels, self.classes))
            self._put((representation, feature, "knn", count), _Cell(accuracy))
        for budget in self.budgets if not layer else self.budgets[-1:]:
            # With all labels and given features a seed would only cut the part that chooses l2 differently.
            for seed in seeds if budget < count else seeds[:1]:
                chosen = balanced_draw(self.labels, budget, seed)
                groups = None if self.groups is None else self.groups[chosen]
                told = subject.linear(chosen, self.labels[chosen], self.classes, seed, groups)
                cell = _Cell(self._accuracy(told.classes), told.l2)
                self._put((representation, feature, "linear", budget), cell)
                if budget == count and (layer or feature in LAST_LAYER):
                    depth = int(feature.removeprefix("layer ")) if layer else 0
                    self.depths.setdefault(encoder, []).append((told.held_out, depth, cell))

    def choose_layers(self) -> None:
        """Add the layer of each encoder that held-out labels prefer; nothing where there is only one layer."""
        for encoder, layers in self.depths.items():
            last = 1 + max(depth for _, depth, _ in layers)  # features of the last block are among them, as layer 0
            if last < 2 or any(math.isnan(held_out) for held_out, _, _ in layers):
                continue
            _, depth, cell = min(layers, key=lambda layer: layer[0])
            representation = UNTRAINED if encoder.startswith(UNTRAINED) else encoder
            key = (representation, BEST_LAYER, "linear", len(self.labels))
            self._put(key, cell._replace(layer=depth or last))

    def _accuracy(self, predicted: Tensor) -> float:
        return float((predicted == self.test_labels).float().mean())

    def _put(self, key: tuple[str, str, str, int], cell: "_Cell") -> None:
        self.cells.setdefault(key, []).append(cell)

    def results(self) -> list[ProbeResult]:
        """One result a key, over its seeds."""
        return [
            ProbeResult(
                *key,
                tuple(cell.accuracy for cell in cells),
                tuple(cell.l2 for cell in cells if cell.l2 is not None),
                tuple(cell.layer for cell in cells if cell.layer is not None),
            )
            for key, cells in self.cells.items()
        ]


class _Cell(NamedTuple):
    """One classifier."""

    accuracy: float
    l2: float | None = None
    layer: int | None = None


def _finetune_all(
    arms: Mapping[str, tuple[Mapping[int, Predictor], FinetuneConfig]],
    train: LabelledSet,
    test: LabelledSet,
    labels: Tensor,
    budgets: Sequence[int],
    say: Callable[[str], None],
) -> list[ProbeResult]:
    """Every arm, a predictor for each seed, trained on at each number of labels."""
    if not budgets:
        return []
    seeds, results = next(iter(arms.values()))[0].keys(), []
    draws = {seed: balanced_draw(labels, budgets[-1], seed) for seed in seeds}
    needed = torch.cat(list(draws.values())).unique()
    pool = gather(train, needed)
    total, done, start = len(budgets) * len(arms) * len(seeds), 0, time.perf_counter()
    for budget in budgets:
        for name, (models, settings) in arms.items():
            accuracies = []
            for seed, model in models.items():
                say(f"fine-tuning {done + 1} of {total}: {name}, {budget} labels{_to_go(start, done, total)}")
                chosen = draws[seed][:budget]
                batch = take(pool, torch.searchsorted(needed, chosen))
                tuned = finetune(model, batch, labels[chosen], len(train.names), seed=seed, config=settings)
                accuracies.append(accuracy_of(tuned, test))
                done += 1
            results.append(ProbeResult(name, "mean", "finetune", budget, tuple(accuracies)))
    return results


def _to_go(start: float, done: int, total: int) -> str:
    return f", about {(time.perf_counter() - start) / done * (total - done) / 60:.1f} min to go" if done else ""

"""What a probe is made on: one view of all labelled samples, and how classifiers are fitted on it."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.evaluation.classifiers import fit_linear_probe, nearest_neighbours, standardise


class Told(NamedTuple):
    """What a linear classifier says of the test part."""

    classes: Int[Tensor, " test"]
    l2: float
    """Strength of regularisation, chosen on held-out parts of the labelled samples."""
    held_out: float
    """Cross entropy of these parts; nan where there were none."""


@runtime_checkable
class Representation(Protocol):
    """A training and a test part that classifiers can be fitted on. Positions are those of the batches."""

    def nearest(self, labels: Int[Tensor, " train"], classes: int) -> Int[Tensor, " test"]:
        """Classes of the test part by the nearest neighbours in the whole training part."""
        ...

    def linear(
        self,
        chosen: Int[Tensor, " chosen"],
        labels: Int[Tensor, " chosen"],
        classes: int,
        seed: int,
        groups: Int[Tensor, " chosen"] | None = None,
    ) -> Told:
        """Classes of the test part by logistic regression on the ``chosen`` samples and their labels.

        ``groups`` of them, where given, are held out whole when the strength of regularisation is chosen.
        """
        ...


@runtime_checkable
class Baseline(Representation, Protocol):
    """A representation that stands for the raw input in a report."""

    name: str
    """What it is, for people."""
    feature: str
    """The same in a word or two."""


class Frozen:
    """Features that were computed once.

    Mean and spread need no labels, so all training samples give them, however few are labelled.
    """

    def __init__(
        self, train: Float[Tensor, "train dim"], test: Float[Tensor, "test dim"], device: torch.device
    ) -> None:
        self.device = device
        self.train, self.test = train.to(device), test.to(device)
        self.scaled_train, self.scaled_test = standardise(self.train, self.test)

    def nearest(self, labels: Int[Tensor, " train"], classes: int) -> Int[Tensor, " test"]:
        """By cosine similarity of the features as they are."""
        return nearest_neighbours(self.train, labels.to(self.device), self.test, classes).cpu()

    def linear(
        self,
        chosen: Int[Tensor, " chosen"],
        labels: Int[Tensor, " chosen"],
        classes: int,
        seed: int,
        groups: Int[Tensor, " chosen"] | None = None,
    ) -> Told:
        """On standardised features."""
        train, labels = self.scaled_train[chosen.to(self.device)], labels.to(self.device)
        classifier = fit_linear_probe(train, labels, classes, seed=seed, groups=groups)
        return Told(classifier.predict(self.scaled_test).cpu(), classifier.l2, classifier.held_out)

"""The baseline of texts: which words and pairs of words occur, weighted by TF-IDF, and logistic regression on that.

Counting is scikit-learn's TfidfVectorizer: words and pairs of neighbouring words in lower case, 1 + log of their
count, times the logarithm of how rare they are among texts, rows of length 1. Both vocabulary and rarity are learned
from the labelled texts of a budget alone: at 100 labels the baseline has seen 100 texts, a pretrained encoder many
more. That is the question a probe asks, and stated here because the baseline could also be given the unlabelled texts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evaluation.classifiers import choose_l2, vote
from mmssl.evaluation.representations import Told

L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""Strengths tried. Rows have length 1, not variance 1 a feature, so that weaker ones than an encoder's are needed."""
CHUNK = 1024
"""Test texts whose similarities to all training texts are in memory at a time."""


class BagOfWords:
    """A :class:`mmssl.evaluation.representations.Representation` of texts. Their order is that of the batches.

    Raises UserError where scikit-learn is not installed.
    """

    name = "bag of words (TF-IDF)"
    feature = "words and pairs"

    def __init__(self, train: Sequence[str], test: Sequence[str]) -> None:
        try:
            import sklearn  # noqa: F401 - a missing package is told before the work begins
        except ImportError:
            raise UserError(
                "the bag of words beside a text probe needs scikit-learn: pip install 'mmssl[text]'"
            ) from None
        self.train, self.test = list(train), list(test)

    def _count(self, texts: Sequence[str]) -> "tuple[_Rows, _Rows]":
        from sklearn.feature_extraction.text import TfidfVectorizer

        # every run of letters is a word, those of one letter too: "I" and "a" tell questions apart
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]", dtype=np.float64
        )
        return _Rows(vectorizer.fit_transform(texts)), _Rows(vectorizer.transform(self.test))

    def nearest(self, labels: Int[Tensor, " train"], classes: int) -> Int[Tensor, " test"]:
        """By cosine similarity; all training texts are labelled here."""
        train, test = self._count(self.train)
        predicted = []
        for start in range(0, len(self.test), CHUNK):
            similarity = (test.matrix[start : start + CHUNK] @ train.matrix.T).toarray()
            predicted.append(vote(torch.from_numpy(similarity).float(), labels, classes))
        return torch.cat(predicted)

    def linear(
        self,
        chosen: Int[Tensor, " chosen"],
        labels: Int[Tensor, " chosen"],
        classes: int,
        seed: int,
        groups: Int[Tensor, " chosen"] | None = None,
    ) -> Told:
        """Words counted in the ``chosen`` texts alone."""
        train, test = self._count([self.train[index] for index in chosen.tolist()])
        choice = choose_l2(train, labels, classes, seed, L2_GRID, problem=_SparseProblem, groups=groups)
        classifier = _SparseProblem(train, labels, classes).solve(choice.l2)
        return Told(classifier.logits(test).argmax(1), choice.l2, choice.held_out)


class _Rows:
    """A sparse matrix that is indexed with tensors."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix

    def __getitem__(self, rows: Tensor) -> "_Rows":
        return _Rows(self.matrix[rows.numpy()])


class _SparseClassifier:
    def __init__(self, model: Any, classes: int) -> None:
        self.model, self.classes = model, classes

    def logits(self, features: _Rows) -> Float[Tensor, "sample label"]:
        """Log probabilities; a class that had no sample has none."""
        found = torch.from_numpy(self.model.predict_log_proba(features.matrix))
        everything = found.new_full((len(found), self.classes), -torch.inf)
        everything[:, torch.from_numpy(self.model.classes_)] = found
        return everything


class _SparseProblem:
    """The counterpart of :class:`mmssl.evaluation.classifiers.LogisticProblem` on sparse rows, by scikit-learn."""

    def __init__(self, features: _Rows, labels: Int[Tensor, " sample"], classes: int) -> None:
        self.features, self.labels, self.classes = features, labels, classes

    def solve(self, l2: float, start: object = None, tolerance: float = 1e-4) -> _SparseClassifier:  # noqa: ARG002
        """``start`` and ``tolerance`` are for dense problems; these are solved in milliseconds from zero."""
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=1 / (l2 * len(self.labels)), max_iter=1000)
        return _SparseClassifier(model.fit(self.features.matrix, self.labels.numpy()), self.classes)

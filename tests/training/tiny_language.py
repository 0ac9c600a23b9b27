"""A BERT and a language small enough for tests: sentences that count in steps of one or two."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmssl.data.order import Order
from mmssl.nn import TransformerConfig
from mmssl.predictors.base import Batch
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig

COUNT, LENGTH, SPECIAL, WORDS = 64, 16, 5, 12


class Sentences:
    """Ids 5 6 7 ... or 5 7 9 ..., from any beginning, around the circle of words: neighbours tell what is hidden."""

    def __init__(self, batch_size: int, seed: int) -> None:
        begin, place = torch.arange(COUNT)[:, None], torch.arange(LENGTH)
        self.token = SPECIAL + (begin + place * (1 + begin // WORDS % 2)) % WORDS
        self.order = Order(COUNT, batch_size, seed)

    def batches(self, start_step: int) -> Iterator[Batch]:
        step = start_step
        while True:
            ids, epochs = (torch.from_numpy(part) for part in self.order.batch(step))
            yield self._batch(ids, epochs)
            step += 1

    def names(self, step: int) -> list[str]:
        return [f"sentence-{index}" for index in self.order.batch(step)[0]]

    def frozen(self) -> Iterator[Batch]:
        ids = torch.arange(COUNT)
        yield self._batch(ids, torch.zeros_like(ids))

    def _batch(self, ids: Tensor, epochs: Tensor) -> Batch:
        word = torch.arange(LENGTH).expand(len(ids), -1)
        return {"id": ids, "epoch": epochs, "token": self.token[ids], "word": word,
                "length": torch.full_like(ids, LENGTH)}  # fmt: skip


def tiny_bert(sentences: Sentences) -> MaskedLanguageModel:
    torch.manual_seed(0)
    shape = TransformerConfig(dim=32, depth=2, heads=2, mlp_dim=64, norm="post")
    config = MaskedLanguageModelConfig(
        vocabulary_size=SPECIAL + WORDS, encoder=shape, special_ids=tuple(range(SPECIAL)), mask_id=4, max_length=LENGTH
    )
    model = MaskedLanguageModel(config)
    model.observe(torch.bincount(sentences.token.flatten(), minlength=SPECIAL + WORDS).float())
    return model

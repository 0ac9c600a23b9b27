"""Short texts as batches of tokens, each text a sample of its own: for probes and for filling in."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mmssl.data.text.tokenizer import TextTokenizer
from mmssl.errors import UserError

LONGEST_TOKEN = 100
"""Characters that a token may have on average: what of a text lies beyond never reaches the tokens that are kept."""


class TokenizedTexts:
    """Texts in batches of ``id``, ``epoch``, ``length`` ``[text]``, ``token``, ``word`` ``[text, longest]``.

    A text is cut after ``max_length`` tokens, special ones included. Texts of like length are together, the longest
    first, so that little is padded; ``order`` says which text comes where. Every pass gives the same batches.

    Raises UserError where there is no text, or ``max_length`` leaves no room beside the special tokens.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: TextTokenizer, *, max_length: int, batch_tokens: int = 8192
    ) -> None:
        if not texts:
            raise UserError("there are no texts: give some")
        self._start = [] if tokenizer.cls_id is None else [tokenizer.cls_id]
        self._end = [] if tokenizer.sep_id is None else [tokenizer.sep_id]
        room = max_length - len(self._start) - len(self._end)
        if room < 1:
            raise UserError(f"{max_length} tokens leave no room beside the special ones: set max_length to more")
        self.padding = {"token": 0 if tokenizer.pad_id is None else tokenizer.pad_id, "word": -1}
        """What fills the places behind a text."""
        pieces = [text[: LONGEST_TOKEN * max_length] for text in texts]
        # a text of which the tokenizer leaves nothing would have no first token where there are no special ones
        nothing = np.array([tokenizer.mask_id], np.int64)
        self._tokens, self._words = [], []
        for text in tokenizer.encode(pieces):
            ids, words = text.ids[:room].astype(np.int64), text.words[:room].astype(np.int64)
            if not len(ids) and room == max_length:
                ids, words = nothing, np.array([-1], np.int64)
            self._tokens.append(np.concatenate([self._start, ids, self._end]).astype(np.int64))
            ends = np.full(1, -1, np.int64)
            self._words.append(np.concatenate([ends[: len(self._start)], words, ends[: len(self._end)]]))
        self.lengths: Int64[np.ndarray, " text"] = np.array([len(tokens) for tokens in self._tokens], np.int64)
        self.order: Int64[np.ndarray, " text"] = np.argsort(-self.lengths, kind="stable")
        self._batch_tokens = batch_tokens

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Every text once; at most ``batch_tokens`` places a batch, padding included, or a single text."""
        start = 0
        while start < len(self.order):
            longest = int(self.lengths[self.order[start]])
            stop = start + max(1, self._batch_tokens // longest)
            yield self._batch(self.order[start:stop], longest)
            start = stop

    def _batch(self, ids: Int64[np.ndarray, " chosen"], longest: int) -> dict[str, Tensor]:
        token = np.full((len(ids), longest), self.padding["token"], np.int64)
        word = np.full((len(ids), longest), self.padding["word"], np.int64)
        for row, text in enumerate(ids):
            token[row, : self.lengths[text]] = self._tokens[text]
            word[row, : self.lengths[text]] = self._words[text]
        arrays = {"id": ids, "epoch": np.zeros_like(ids), "token": token, "word": word, "length": self.lengths[ids]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

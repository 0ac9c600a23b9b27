"""Masked language model: hide words of a text, encode the rest, predict them back.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", without its next
sentence task, which later work found useless (Liu et al. 2019, "RoBERTa", section 4.2).
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.masking import NoiseKey, random_mask, span_units, unit_mask
from mmssl.nn import Packing, Transformer, TransformerConfig, transformer
from mmssl.perturbations.replace import replace_hidden
from mmssl.predictors.base import Batch, Predictor, View
from mmssl.predictors.neighbours import NeighbourGuess

VALIDATION_FRACTION = 0.15
"""Evaluation hides this share, single tokens, all as [MASK], whatever the run does in training: losses compare."""


def _bert(dim: int, depth: int) -> TransformerConfig:
    """Heads of 64, feed-forward part of four times the width, norms after (Devlin et al. 2019, section 3)."""
    shape = TransformerConfig(dim=dim, depth=depth, heads=max(dim // 64, 1), mlp_dim=4 * dim)
    return replace(shape, norm="post", norm_epsilon=1e-12)


PRESETS: dict[str, tuple[TransformerConfig, int]] = {
    "nano": (_bert(128, 4), 4096),
    "bert_tiny": (_bert(128, 2), 8192),
    "bert_mini": (_bert(256, 4), 16384),
    "bert_small": (_bert(512, 4), 30522),
    "bert_medium": (_bert(512, 8), 30522),
    "bert_base": (replace(transformer.base(), norm="post", norm_epsilon=1e-12), 30522),
    "bert_large": (replace(transformer.large(), norm="post", norm_epsilon=1e-12), 30522),
}
"""Encoder and vocabulary by name. Base and large are BERT's (Devlin et al. 2019, section 3); tiny to medium are those
of Turc et al. 2019, "Well-Read Students Learn Better", table 1, with smaller vocabularies for the smallest, where
30,522 words would cost more than the network. ``nano`` is ours, for two CPU cores and some megabytes of text."""


@dataclass(frozen=True)
class MaskedLanguageModelConfig:
    """A masked language model, most important settings first."""

    vocabulary_size: int
    """Number of tokens there are."""
    encoder: TransformerConfig
    """The trunk; ``norm="post"`` is BERT's."""
    special_ids: tuple[int, ...]
    """Ids that are never hidden and never stand for a random word."""
    mask_id: int
    """Id of [MASK]."""
    pad_id: int = 0
    """Id of padding; nothing is computed on it."""
    max_length: int = 128
    """Most tokens of a sequence, special ones included."""
    mask_fraction: float = 0.3
    """Share of tokens hidden in training: 15 % in BERT; more teaches more a step (Wettig et al. 2023)."""
    unit: Literal["token", "word", "span"] = "token"
    """What is hidden as a whole: a token, a word, or a span of words of geometric length (SpanBERT)."""
    replacement: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of hidden units shown as [MASK], as random tokens, and as they are (Devlin et al. 2019, section 3.1)."""
    segments: int = 2
    """Rows of BERT's segment table, of which the first is used."""
    bigrams: int = 0
    """Pairs of neighbours that are counted for ``reference_neighbours``; 0 switches it off."""

    def __post_init__(self) -> None:
        special = set(self.special_ids)
        if not special <= set(range(self.vocabulary_size)) or self.mask_id not in special:
            raise UserError(
                f"special_ids {self.special_ids} must be ids below {self.vocabulary_size}, mask_id among them"
            )
        if len(special) >= self.vocabulary_size:
            raise UserError(f"a vocabulary of {self.vocabulary_size} special tokens has no words")
        if self.max_length < 4:
            raise UserError(f"max_length must be at least 4 (two tokens and the ends), got {self.max_length}")
        if not 0 < self.mask_fraction < 1:
            raise UserError(f"mask_fraction must lie between 0 and 1, got {self.mask_fraction}")
        if min(self.replacement) < 0 or abs(sum(self.replacement) - 1) > 1e-6:
            raise UserError(
                f"replacement needs three shares that sum to 1, such as 0.8 0.1 0.1, got {self.replacement}"
            )


class MaskedLanguageModel(Predictor):
    """BERT on sequences without padding. A batch holds ``token``, ``word`` (-1: special or padding) and ``length``."""

    name = "masked_language_model"
    config: MaskedLanguageModelConfig
    ordinary: Tensor
    unigram: Tensor

    def __init__(self, config: MaskedLanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, epsilon = config.encoder.dim, config.encoder.norm_epsilon
        self.word_embedding = nn.Embedding(config.vocabulary_size, dim)
        self.position_embedding = nn.Embedding(config.max_length, dim)
        self.segment_embedding = nn.Embedding(config.segments, dim)
        self.embedding_norm = nn.LayerNorm(dim, epsilon)
        self.embedding_dropout = nn.Dropout(config.encoder.dropout)
        self.encoder = Transformer(config.encoder)
        self.head_dense = nn.Linear(dim, dim)
        self.head_norm = nn.LayerNorm(dim, epsilon)
        self.head_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        ordinary = sorted(set(range(config.vocabulary_size)) - set(config.special_ids))
        self.register_buffer("ordinary", torch.tensor(ordinary), persistent=False)
        self.register_buffer("unigram", torch.full((config.vocabulary_size,), -1.0).log_softmax(0))
        self.neighbours = NeighbourGuess(config.vocabulary_size, config.bigrams)
        self.apply(lambda module: _initialise(module, dim))
        with torch.no_grad():
            self.position_embedding.weight.copy_(_waves(config.max_length, dim))

    def observe(
        self,
        counts: Float[Tensor, " vocabulary"],
        bigrams: tuple[Int[Tensor, " pair"], Int[Tensor, " pair"], Int[Tensor, " pair"]] | None = None,
    ) -> None:
        """Take the statistics of the training data that ``reference`` needs: how often each token, and which pairs.

        One is added to each count, so that no token is impossible.
        """
        self.unigram.copy_((counts.double() + 1).log().log_softmax(0))
        if bigrams is not None:
            self.neighbours.observe(*bigrams)

    def valid(self, batch: Batch) -> Bool[Tensor, "batch token"]:
        """Real tokens, special ones included."""
        token = batch["token"]
        return torch.arange(token.shape[1], device=token.device) < batch["length"][:, None]

    def perturb(self, batch: Batch) -> View:
        """Hide units, show [MASK] or something else in their place, and lay all real tokens end to end."""
        config, token, word = self.config, batch["token"], batch["word"]
        key = NoiseKey.of(batch, self.mask_seed)
        eligible = word >= 0
        units, shares, fraction = None, (1.0, 0.0, 0.0), VALIDATION_FRACTION
        if self.training:
            shares, fraction = config.replacement, config.mask_fraction
            if config.unit != "token":
                units = word if config.unit == "word" else span_units(key, word)
        if units is None:
            hidden = random_mask(key, token.shape[1], fraction, valid=eligible)
        else:
            hidden = unit_mask(key, token.shape[1], fraction, units=units, valid=eligible)
        shown = replace_hidden(
            key, token, hidden, mask_id=config.mask_id, ordinary=self.ordinary, shares=shares, units=units
        )
        flat = self._real(batch)
        ids, counted = self._places(hidden.flatten()[flat])
        return {"hidden": hidden, "shown": shown, "flat": flat, "packing": _packing(batch, flat), "ids": ids,
                "counted": counted}  # fmt: skip

    def _real(self, batch: Batch) -> Int[Tensor, " total"]:
        """Places of real tokens in the flattened batch. A loader for GPUs sends them along, so that nothing waits."""
        return batch["flat"] if "flat" in batch else self.valid(batch).flatten().nonzero()[:, 0]

    def _places(self, hidden: Bool[Tensor, " total"]) -> tuple[Int[Tensor, "1 query"], Bool[Tensor, " query"] | None]:
        """Where the packed tokens are hidden, ascending, and which of these places count.

        On CUDA the number is not known to the host. There are as many places as can be expected to be needed with
        room to spare; those left over are the last token again, and are not counted.
        """
        if not hidden.is_cuda:
            return hidden.nonzero().T, None
        total = len(hidden)
        fraction = self.config.mask_fraction if self.training else VALIDATION_FRACTION
        room = min(total, int(1.25 * fraction * total) + 256)
        ids = torch.nonzero_static(hidden, size=room, fill_value=total - 1)
        return ids.T, torch.arange(room, device=hidden.device) < hidden.sum()

    def embed(self, token: Int[Tensor, " total"], packing: Packing) -> Float[Tensor, "1 total dim"]:
        """Input of the encoder: word + position + first segment, normalised."""
        words = self.word_embedding(token) + self.position_embedding(packing.position)
        return self.embedding_dropout(self.embedding_norm(words + self.segment_embedding.weight[0]))[None]

    def encode(self, view: View) -> Float[Tensor, "1 hidden dim"]:
        """The hidden positions, encoded among all tokens of their sequence."""
        x = self.embed(view["shown"].flatten()[view["flat"]], view["packing"])
        return self.encoder(x, view["packing"], output=view["ids"])

    def predict(self, latent: Float[Tensor, "1 hidden dim"], view: View) -> Float[Tensor, "hidden vocabulary"]:  # noqa: ARG002
        """Logits of all tokens of the vocabulary, at the hidden positions alone."""
        return self._head(latent[0])

    def _head(self, latent: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocabulary"]:
        hidden = self.head_norm(F.gelu(self.head_dense(latent)))
        return F.linear(hidden, self.word_embedding.weight, self.head_bias)

    def target(self, batch: Batch, view: View) -> Int[Tensor, " hidden"]:
        """The hidden tokens themselves."""
        return batch["token"].flatten()[view["flat"]][view["ids"][0]]

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy in nats. ``reference``: that of the training data's token frequencies. In evaluation also
        ``reference_neighbours``, a guess from the tokens on both sides, and ``accuracy``."""
        counted = view["counted"]
        if counted is None:
            counted = torch.ones_like(target, dtype=torch.bool)
        sums = {
            "loss": _sum_of(F.cross_entropy(prediction.float(), target, reduction="none"), counted),
            "reference": _sum_of(-self.unigram[target], counted),
            "count": counted.sum().float(),
        }
        if not self.training:
            sums["accuracy"] = _sum_of((prediction.argmax(-1) == target).float(), counted)
            if self.config.bigrams:
                shown = view["shown"].flatten()[view["flat"]]
                guess = self.neighbours(self.unigram, shown, target, view["ids"][0], self.config.mask_id)
                sums["reference_neighbours"] = _sum_of(-guess, counted)
        return sums

    def logits(self, token: Int[Tensor, "batch token"], length: Int[Tensor, " batch"]) -> Float[Tensor, "b t v"]:
        """Logits at every position of sequences as they are given, nothing hidden; padding gets zeros."""
        flat, packing = self._pack({"token": token, "length": length})
        logits = self._head(self.encoder(self.embed(token.flatten()[flat], packing), packing)[0])
        return logits.new_zeros(token.numel(), logits.shape[-1]).index_copy(0, flat, logits).view(*token.shape, -1)

    def _pack(self, batch: Batch) -> tuple[Int[Tensor, " total"], Packing]:
        """Places of all real tokens, and how they lie end to end."""
        flat = self._real(batch)
        return flat, _packing(batch, flat)

    def encode_clean(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Features of whole sequences: ``mean`` over tokens that are not special, and ``cls``, the first token."""
        flat, packing = self._pack(batch)
        tokens = self.encoder(self.embed(batch["token"].flatten()[flat], packing), packing)[0].float()
        ordinary = batch["word"].flatten()[flat] >= 0
        return {"mean": _means(tokens, ordinary, packing), "cls": tokens[packing.offsets[:-1]]}

    def encode_layers(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Means over tokens that are not special after each block; ``mean`` and ``cls`` of the last."""
        flat, packing = self._pack(batch)
        ordinary = batch["word"].flatten()[flat] >= 0
        states = self.encoder.layers(self.embed(batch["token"].flatten()[flat], packing), packing)
        *means, last = (_means(state[0].float(), ordinary, packing) for state in states)
        features = {"mean": last, "cls": states[-1][0].float()[packing.offsets[:-1]]}
        return features | {f"layer {number}": mean for number, mean in enumerate(means, 1)}

    def parameter_depths(self) -> dict[str, int]:
        """Depth of each encoder parameter, 0 at the input, for learning rates that decay with depth."""
        depth = {}
        for name, _ in self.named_parameters():
            if name.startswith(("word_", "position_", "segment_", "embedding_")):
                depth[name] = 0
            elif name.startswith("encoder.blocks."):
                depth[name] = 1 + int(name.split(".")[2])
            elif name.startswith("encoder."):
                depth[name] = 1 + self.config.encoder.depth
        return depth

    @torch.no_grad()
    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        """Tokens ``original``, ``perturbed``, ``predicted``, ``composite`` ``[batch, token]``; the ``hidden`` mask; and
        at hidden positions the five likeliest tokens, ``guesses``, with their ``probability`` ``[batch, token, 5]``."""
        training = self.training
        self.eval()
        try:
            view = self.perturb(batch)
            probability, guesses = self.predict(self.encode(view), view).float().softmax(-1).topk(5)
        finally:
            self.train(training)
        token, where = batch["token"], view["flat"][view["ids"][0]]
        blank = token.new_zeros(token.numel(), 5)
        guesses = blank.index_copy(0, where, guesses).view(*token.shape, 5)
        probability = blank.float().index_copy(0, where, probability).view(*token.shape, 5)
        predicted = torch.where(view["hidden"], guesses[..., 0], token)
        return {"original": token, "perturbed": view["shown"], "predicted": predicted, "composite": predicted,
                "hidden": view["hidden"], "guesses": guesses, "probability": probability}  # fmt: skip


def _packing(batch: Batch, flat: Int[Tensor, " total"]) -> Packing:
    return Packing(batch["length"], len(flat), batch["token"].shape[1])


def _means(
    tokens: Float[Tensor, "total dim"], counted: Bool[Tensor, " total"], packing: Packing
) -> Float[Tensor, "sequence dim"]:
    """Mean of each sequence over the tokens that count; zeros where there is none."""
    weight = counted.float()
    sums = tokens.new_zeros(len(packing.lengths), tokens.shape[1])
    sums = sums.index_add(0, packing.sequence, tokens * weight[:, None])
    counts = sums.new_zeros(len(sums)).index_add(0, packing.sequence, weight)
    return sums / counts.clamp_min(1)[:, None]


def _sum_of(values: Float[Tensor, " hidden"], counted: Bool[Tensor, " hidden"]) -> Float[Tensor, ""]:
    return torch.where(counted, values, 0).sum()


def _waves(length: int, dim: int) -> Float[Tensor, "position dim"]:
    """Sines and cosines (Vaswani et al. 2017, section 3.5) with the deviation of the words, to learn from.

    From random positions a small model first has to find out which are neighbours, and stays at token frequencies for
    hundreds of steps.
    """
    rates = 10_000 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :dim]
    return (0.02 * 2**0.5 * waves).float()


def _initialise(module: nn.Module, dim: int) -> None:
    """Normal with deviation 0.02 at BERT-base's width of 768, biases 0 (the paper's code; the paper does not say).

    Linear layers of narrower models have a larger deviation, so that what they add to the residual stream is not lost
    in it: at a width of 128 and 0.02 attention is all but uniform, and learning starts late.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02 * (768 / dim) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)

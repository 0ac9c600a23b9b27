"""wav2vec 2.0: hide spans of a recording, encode the rest, tell the hidden frames' codes from those of other ones.

Baevski et al. 2020, "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations".
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.masking import NoiseKey, draw_negatives
from mmssl.nn import AudioEncoderConfig, MelConfig, QuantizerConfig, TransformerConfig, WaveformConfig, transformer
from mmssl.nn.audio_encoder import AudioEncoder
from mmssl.nn.mel import MelFrontEnd
from mmssl.nn.over_ranks import sum_over_ranks
from mmssl.nn.quantizer import GumbelQuantizer, Quantized, gumbel, perplexity, usage
from mmssl.predictors.audio import AudioPredictor, Hidden, check_cepstra, check_spans, check_variation
from mmssl.predictors.base import Batch, View

STREAM_GUMBEL = 0x77617632


@dataclass(frozen=True)
class Wav2Vec2Config:
    """A contrastive predictor, most important settings first; the defaults are those of base (section 4.2)."""

    encoder: AudioEncoderConfig
    """Front end and trunk."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """The codes that are told apart."""
    projection_dim: int = 256
    """Width in which predictions and codes are compared."""
    mask_fraction: float = 0.49
    """Share of frames hidden in training, as achieved: 6.5 % of frames as starts of spans of 10 give this."""
    span: int = 10
    """Frames of a span."""
    negatives: int = 100
    """Other hidden frames of the same recording that the true one is told from."""
    temperature: float = 0.1
    """What cosines are divided by."""
    diversity_weight: float = 0.1
    """Weight of the loss that keeps all entries of the codebook in use."""
    feature_penalty_weight: float = 10.0
    """Weight of the mean square of the convolutions' output; front ends that do not learn have none."""
    feature_gradient: float = 0.1
    """What the gradient of the front end is multiplied by."""
    gumbel_start: float = 2.0
    """Temperature of the quantizer in the first training batch."""
    gumbel_end: float = 0.5
    """Its smallest temperature."""
    gumbel_decay: float = 0.999995
    """What each training batch multiplies it by."""
    quantizer_dropout: float = 0.0
    """Dropout on the quantizer's input; 0.1 in base."""
    cepstra: int = 0
    """Cepstral coefficients of a frame that codes are made of, for mel front ends; 0: all that the encoder is given."""
    keep_fraction: float = 0.0
    """Share of frames predicted in training without being hidden, as the tenth that BERT keeps; none in the paper. In a
    small network nothing else asks for the visible frames, whose features are used in the end."""
    variation: float = 0.0
    """Strength of other voices and microphones in training, see :mod:`mmssl.perturbations.spectrogram`."""

    def __post_init__(self) -> None:
        check_spans(self.mask_fraction, self.span, self.keep_fraction)
        check_variation(self.variation, self.encoder.front_end)
        check_cepstra(self.cepstra, self.encoder.front_end)
        if self.negatives < 1 or self.projection_dim < 1:
            raise UserError(
                f"negatives and projection_dim must be at least 1, got {self.negatives} and {self.projection_dim}"
            )
        if self.temperature <= 0 or not 0 < self.gumbel_end <= self.gumbel_start or not 0 < self.gumbel_decay <= 1:
            raise UserError(
                "temperatures must be above 0, with gumbel_end at most gumbel_start and gumbel_decay at most 1, got "
                f"{self.temperature}, {self.gumbel_start} to {self.gumbel_end} by {self.gumbel_decay}"
            )
        if min(self.diversity_weight, self.feature_penalty_weight, self.feature_gradient) < 0:
            raise UserError("diversity_weight, feature_penalty_weight and feature_gradient cannot be negative")
        if not 0 <= self.quantizer_dropout < 1:
            raise UserError(f"quantizer_dropout must be at least 0 and below 1, got {self.quantizer_dropout}")


def _trunk(shape: TransformerConfig, **changes: Any) -> TransformerConfig:
    return replace(shape, norm_epsilon=1e-5, **changes)


def nano() -> Wav2Vec2Config:
    """Four layers of 192 on mel frames of 40 ms: for two CPU cores and an hour of speech. Not a published model."""
    trunk = _trunk(TransformerConfig(dim=192, depth=4, heads=3, mlp_dim=768), norm="pre")
    encoder = AudioEncoderConfig(trunk, MelConfig(prior_seconds=0.5), position_kernel=16)
    quantizer = QuantizerConfig(groups=2, entries=64, dim=128)
    return Wav2Vec2Config(
        encoder, quantizer, projection_dim=128, span=3, negatives=50, cepstra=10, keep_fraction=0.3, variation=1.0
    )


def small() -> Wav2Vec2Config:
    """Four layers of 256 on a narrow waveform front end: for CPUs and hours of speech. Not a published model."""
    trunk = _trunk(TransformerConfig(dim=256, depth=4, heads=4, mlp_dim=1024), norm="post")
    return Wav2Vec2Config(AudioEncoderConfig(trunk, WaveformConfig(dim=128)), QuantizerConfig(entries=160))


def base() -> Wav2Vec2Config:
    """wav2vec 2.0 base (section 4.2, and the settings published with it)."""
    trunk = _trunk(transformer.base(), norm="post", dropout=0.1, attention_dropout=0.1)
    encoder = AudioEncoderConfig(trunk, WaveformConfig(), input_dropout=0.1)
    return Wav2Vec2Config(encoder, quantizer_dropout=0.1)


def large() -> Wav2Vec2Config:
    """wav2vec 2.0 large (section 4.2): layer norm and biases in the front end, which learns without restraint."""
    encoder = AudioEncoderConfig(_trunk(transformer.large(), norm="pre"), WaveformConfig(norm="layer", bias=True))
    return Wav2Vec2Config(
        encoder, QuantizerConfig(dim=768), projection_dim=768, gumbel_end=0.1, feature_penalty_weight=0.0,
        feature_gradient=1.0,
    )  # fmt: skip


PRESETS = {"nano": nano, "small": small, "base": base, "large": large}


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class Wav2Vec2(AudioPredictor):
    """The contrastive predictor.

    In training ``loss`` is the contrastive loss with the two weighted terms beside it, in evaluation the contrastive
    loss alone, which compares across runs. The diversity of codes is that of the micro-batch, in training of all
    ranks together, so micro-batches do not add up to their recordings in that term; they do in all others.
    """

    name = "wav2vec2"
    config: Wav2Vec2Config
    updates: Tensor

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config.encoder)
        front_end = self.encoder.front_end
        coded = config.cepstra * front_end.config.stack if isinstance(front_end, MelFrontEnd) else 0
        self.quantizer = GumbelQuantizer(config.quantizer, coded or front_end.dim)
        self.quantizer_dropout = nn.Dropout(config.quantizer_dropout)
        self.project_hidden = nn.Linear(config.encoder.trunk.dim, config.projection_dim)
        self.project_code = nn.Linear(config.quantizer.dim, config.projection_dim)
        # training batches seen: a tensor, so that nothing waits for a GPU, and saved, so that a resumed run goes on
        self.register_buffer("updates", torch.zeros((), dtype=torch.float64))

    def gumbel_temperature(self) -> Float[Tensor, ""]:
        """Temperature of the quantizer after the training batches seen so far."""
        config = self.config
        return (config.gumbel_start * config.gumbel_decay**self.updates).clamp_min(config.gumbel_end).float()

    def perturb(self, batch: Batch) -> View:
        """Compute the frames, hide spans of them, quantize what was hidden, and draw what it is told from."""
        frames = self.encoder.layout(batch["audio"], batch["length"])
        front_end, cepstra = self.encoder.front_end, None
        if isinstance(front_end, MelFrontEnd):
            mel = self.spectrogram(batch)
            features = front_end.steps(mel, batch["length"], frames)
            if self.config.cepstra:
                cepstra = front_end.cepstra(mel, batch["length"], frames, self.config.cepstra)
        else:
            features = self.encoder.features(batch["audio"], batch["length"], frames)
        if features.requires_grad and self.config.feature_gradient != 1:
            features = _ScaleGradient.apply(features, self.config.feature_gradient)
            assert isinstance(features, Tensor)
        covered = self.hide(batch, frames)
        # the mask says what the encoder does not see, everything else what it is asked about
        hidden = self.ask(batch, frames, covered)._replace(mask=covered.mask)
        normed = self.encoder.feature_norm(features)
        key = NoiseKey.of(batch, self.mask_seed)
        temperature = self.gumbel_temperature()
        if self.training:
            self.updates += 1
        return {
            "frames": frames,
            "features": features,
            "normed": normed,
            "hidden": hidden,
            "quantized": self._quantize(normed if cepstra is None else cepstra, hidden, key, temperature),
            "negatives": draw_negatives(key, hidden.counts, hidden.most, self.config.negatives),
            "temperature": temperature,
        }

    def _quantize(
        self, coded: Float[Tensor, "total dim"], hidden: Hidden, key: NoiseKey, temperature: Float[Tensor, ""]
    ) -> Quantized:
        """Codes of the hidden frames alone; the noise of a frame is a function of its recording and its rank."""
        frames = self.quantizer_dropout(coded.index_select(0, hidden.ids[0]))
        if not self.training:
            return self.quantizer(frames)
        shape = (self.config.quantizer.groups, self.config.quantizer.entries)
        uniform = key.uniform(hidden.most * shape[0] * shape[1], STREAM_GUMBEL)
        uniform = uniform.view(-1, *shape).index_select(0, hidden.slot.clamp_max(len(key) * hidden.most - 1))
        return self.quantizer(frames, gumbel(uniform), temperature)

    def encode(self, view: View) -> Float[Tensor, "1 hidden dim"]:
        """The hidden frames, encoded among all frames of their recording."""
        x = self.encoder.embed(view["normed"], view["frames"], view["hidden"].mask)
        return self.encoder.trunk(x, view["frames"].packing, output=view["hidden"].ids)

    def predict(self, latent: Float[Tensor, "1 hidden dim"], view: View) -> Float[Tensor, "hidden projection"]:  # noqa: ARG002
        """Where the code of each hidden frame is expected."""
        return self.project_hidden(latent[0])

    def target(self, batch: Batch, view: View) -> Float[Tensor, "hidden projection"]:  # noqa: ARG002
        """Where it is."""
        return self.project_code(view["quantized"].code)

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy in nats of the true code among itself and the negatives (equation 3).

        ``reference``: chance, ln(1 + negatives) with the negatives that a frame really has. Codes equal to the true one
        are none; ``excluded_negatives`` is their share, 1 where the codebook has collapsed.
        """
        hidden: Hidden = view["hidden"]
        with torch.autocast(prediction.device.type, enabled=False):
            similarity = self._similarity(prediction, target, hidden)
            weight, drawn = self._candidates(view)
            logits = similarity / self.config.temperature + weight.log()
            most, own = hidden.most, torch.arange(hidden.most, device=weight.device)
            loss = F.cross_entropy(logits.flatten(0, 1), own.repeat(len(weight)), reduction="sum")
            count = hidden.counts.sum()
            best = torch.where(weight > 0, similarity.detach(), -torch.inf).argmax(-1)
            inside = own < hidden.counts[:, None]
            sums = {
                "loss": loss,
                "reference": weight.sum(-1).log().sum(),
                "contrastive_loss": loss.detach(),
                "accuracy": ((best == own) & inside).sum().float(),
                "excluded_negatives": count * (drawn - weight.sum() + len(weight) * most) / drawn.clamp_min(1),
            }
            return sums | self._regularise(sums, view, count.float())

    def _similarity(
        self, prediction: Float[Tensor, "hidden dim"], target: Float[Tensor, "hidden dim"], hidden: Hidden
    ) -> Float[Tensor, "batch most most"]:
        """Cosines of all predictions with all targets of the same recording."""
        prediction, target = (hidden.rows(F.normalize(x.float(), dim=-1)) for x in (prediction, target))
        return prediction @ target.transpose(1, 2)

    def _candidates(self, view: View) -> tuple[Float[Tensor, "batch most most"], Float[Tensor, ""]]:
        """How often each hidden frame of a recording is a candidate for each, itself once; and the negatives drawn.

        Drawn twice it counts twice. Added to the logits as a logarithm this is the loss over a list of candidates,
        without gathering any.
        """
        hidden: Hidden = view["hidden"]
        negatives = view["negatives"]
        own = torch.arange(hidden.most, device=negatives.device)
        asks = ((own < hidden.counts[:, None]) & (hidden.counts[:, None] > 1))[:, :, None]
        weight = negatives.new_zeros((len(negatives), hidden.most, hidden.most), dtype=torch.float32)
        weight.scatter_add_(2, negatives, asks.float().expand(negatives.shape))
        drawn = weight.sum()
        weight.masked_fill_(self._same_codes(view["quantized"].entry, hidden), 0.0)
        weight.diagonal(dim1=1, dim2=2).fill_(1.0)
        return weight, drawn

    @staticmethod
    def _same_codes(entry: Int[Tensor, "hidden group"], hidden: Hidden) -> Bool[Tensor, "batch most most"]:
        rows = hidden.rows(entry.float(), -1.0)
        return (rows[:, :, None] == rows[:, None]).all(-1)

    def _regularise(
        self, sums: dict[str, Float[Tensor, ""]], view: View, count: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        """Diversity of the codes (equation 4) and mean square of the features, and in training the sum of all."""
        config, hidden, quantized = self.config, view["hidden"], view["quantized"]
        counted = hidden.counted.float()
        chosen = usage(quantized.entry, config.quantizer.entries, counted) * count
        softly, everywhere = torch.einsum("f,fgv->gv", counted, quantized.soft), count
        if self.training:
            chosen, softly, everywhere = sum_over_ranks(chosen), sum_over_ranks(softly), sum_over_ranks(count)
        everywhere = everywhere.clamp_min(1)
        soft, size = perplexity(softly / everywhere), config.quantizer.groups * config.quantizer.entries
        diversity = (size - soft) / size
        frames = view["frames"]
        squares = frames.sums(view["features"].float().square().mean(-1)) / frames.lengths.clamp_min(1)
        penalty = (squares * hidden.counts).sum()
        loss = sums["loss"]
        if self.training:
            loss = loss + config.diversity_weight * diversity * count
            if self.encoder.front_end.learns:
                loss = loss + config.feature_penalty_weight * penalty
        return {
            "loss": loss,
            "code_perplexity": perplexity(chosen / everywhere) * count,
            "code_perplexity_soft": soft.detach() * count,
            "diversity_loss": diversity.detach() * count,
            "feature_penalty": penalty.detach(),
            "temperature": view["temperature"] * count,
            "mask_coverage": count * hidden.mask.sum() / frames.lengths.sum().clamp_min(1),
            # a batch with nothing hidden has a loss of 0, not one that is not a number
            "count": count.clamp_min(1),
        }

    @torch.no_grad()
    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        """For the eye: ``original`` and ``perturbed``, log-mel ``[batch, frame, mel]``; ``hidden`` ``[batch, step]``.

        At hidden steps ``similarity``, the cosine of prediction and true code, ``rank``, how many negatives came before
        the true code (-1 where nothing is hidden), and ``target``, the code itself ``[batch, step, group]``.
        """
        training = self.training
        self.eval()
        try:
            view = self.perturb(batch)
            prediction, target = self.predict(self.encode(view), view), self.target(batch, view)
            hidden, frames = view["hidden"], view["frames"]
            similarity = self._similarity(prediction, target, hidden)
            weight, _ = self._candidates(view)
        finally:
            self.train(training)
        true = similarity.diagonal(dim1=1, dim2=2)
        rank = (weight * (similarity > true[:, :, None])).sum(-1)
        slot = hidden.slot.clamp_max(true.numel() - 1)

        def steps(values: Tensor, fill: float) -> Tensor:
            return frames.put_back(hidden.spread(values, frames.packing.total, fill), fill)

        return self._pictures(batch, frames, hidden) | {
            "similarity": steps(true.flatten()[slot], 0.0),
            "rank": steps(rank.flatten()[slot], -1.0).long(),
            "target": steps(view["quantized"].entry.float(), -1.0).long(),
        }

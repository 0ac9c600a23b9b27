"""BEST-RQ: hide spans of a spectrogram, predict which random code each hidden step has.

Chiu et al. 2022, "Self-Supervised Learning with Random-Projection Quantizer for Speech Recognition". Several codebooks
at once, as in Whetten et al. 2024, "Open Implementation and Study of BEST-RQ" (arXiv 2405.04296), and the work it
builds on. Nothing of the targets learns, so nothing can collapse.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.nn import AudioEncoderConfig, Frames, MelConfig, TransformerConfig, transformer
from mmssl.nn.audio_encoder import AudioEncoder
from mmssl.nn.mel import MelFrontEnd
from mmssl.nn.over_ranks import sum_over_ranks
from mmssl.nn.quantizer import perplexity, usage
from mmssl.predictors.audio import AudioPredictor, Hidden, check_cepstra, check_spans, check_variation
from mmssl.predictors.base import Batch, View

LAGS = 32
"""Distances at which equal codes are counted; beyond, a visible neighbour is taken to say as much as at the last."""


@dataclass(frozen=True)
class BestRQConfig:
    """A predictor of random codes, most important settings first."""

    encoder: AudioEncoderConfig
    """Front end, which must be mel, and trunk."""
    codebooks: int = 4
    """Independent codebooks; several make training stable (2405.04296, section 4)."""
    codebook_size: int = 8192
    """Codes in each (Chiu et al. 2022, section 4.1)."""
    codebook_dim: int = 16
    """Width of a code (the same)."""
    mask_fraction: float = 0.49
    """Share of steps hidden in training, as achieved."""
    span: int = 10
    """Steps of a span: 0.4 s in steps of four frames of 10 ms, as in the paper."""
    keep_fraction: float = 0.0
    """Share of steps predicted in training without being hidden, as the tenth that BERT keeps (Devlin et al. 2019,
    section 3.1): frozen features are those of visible steps, which nothing else asks for."""
    cepstra: int = 0
    """Cepstral coefficients of a frame that the codes are of; 0: its mel energies, as in the paper."""
    variation: float = 0.0
    """Strength of other voices and microphones in training, see :mod:`mmssl.perturbations.spectrogram`."""

    def __post_init__(self) -> None:
        check_spans(self.mask_fraction, self.span, self.keep_fraction)
        check_variation(self.variation, self.encoder.front_end)
        if not isinstance(self.encoder.front_end, MelConfig):
            raise UserError("the codes of best_rq are those of a spectrogram: give it a mel front end")
        check_cepstra(self.cepstra, self.encoder.front_end)
        if self.codebooks < 1 or self.codebook_size < 2 or self.codebook_dim < 1:
            raise UserError(
                f"codebooks, codebook_size and codebook_dim must be at least 1, 2 and 1, got {self.codebooks}, "
                f"{self.codebook_size} and {self.codebook_dim}"
            )


def _preset(trunk: TransformerConfig, codebook_size: int) -> BestRQConfig:
    trunk = replace(trunk, norm="pre", norm_epsilon=1e-5)
    return BestRQConfig(AudioEncoderConfig(trunk, MelConfig()), codebook_size=codebook_size)


def _few_hours(trunk: TransformerConfig, codebook_size: int, position_kernel: int) -> BestRQConfig:
    """Settings for little speech, found on digits of unheard speakers (README): short spans, codes of cepstra, kept
    steps, variation, and statistics that leave a single word what it is."""
    plain = _preset(trunk, codebook_size)
    encoder = replace(plain.encoder, front_end=MelConfig(prior_seconds=0.5), position_kernel=position_kernel)
    return replace(plain, encoder=encoder, span=3, keep_fraction=0.3, cepstra=10, variation=1.0)


def nano() -> BestRQConfig:
    """Four layers of 192, small codebooks: for two CPU cores and some minutes of speech. Not a published model."""
    return _few_hours(TransformerConfig(dim=192, depth=4, heads=3, mlp_dim=768), 256, 16)


def small() -> BestRQConfig:
    """Six layers of 256: for CPUs and hours of speech. Not a published model."""
    return _few_hours(TransformerConfig(dim=256, depth=6, heads=4, mlp_dim=1024), 1024, 32)


def base() -> BestRQConfig:
    """The trunk of wav2vec 2.0 base with the codebooks of Chiu et al. 2022; their trunk is a larger Conformer."""
    return _preset(transformer.base(), 8192)


def large() -> BestRQConfig:
    """The trunk of wav2vec 2.0 large with the codebooks of Chiu et al. 2022."""
    return _preset(transformer.large(), 8192)


PRESETS = {"nano": nano, "small": small, "base": base, "large": large}


class BestRQ(AudioPredictor):
    """The predictor of codes. Spans are drawn on stacked steps, so all frames of a hidden step are hidden.

    Hidden steps become a mask vector behind the first projection, before the convolution of positions. Loss, reference
    and accuracy are means over codebooks.
    """

    name = "best_rq"
    config: BestRQConfig
    random_projection: Tensor
    codes: Tensor
    marginal: Tensor
    repeats: Tensor

    def __init__(self, config: BestRQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config.encoder)
        books, size, width = config.codebooks, config.codebook_size, config.codebook_dim
        coded = config.cepstra * self.front_end.config.stack or self.front_end.dim
        projection = nn.init.xavier_uniform_(torch.empty(coded, books * width))
        self.register_buffer("random_projection", projection)
        self.register_buffer("codes", F.normalize(torch.randn(books, size, width), dim=-1))
        self.register_buffer("marginal", torch.zeros(books, size).log_softmax(-1))
        self.register_buffer("repeats", torch.zeros(books, LAGS))
        self.head = nn.Linear(config.encoder.trunk.dim, books * size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def front_end(self) -> MelFrontEnd:
        """What makes the spectrograms."""
        assert isinstance(self.encoder.front_end, MelFrontEnd)
        return self.encoder.front_end

    def code_of(self, features: Float[Tensor, "step dim"]) -> Int[Tensor, "step codebook"]:
        """The nearest code of each codebook by cosine; the length of a projected step has no say in it."""
        with torch.autocast(features.device.type, enabled=False):
            projected = (features.float() @ self.random_projection).unflatten(-1, (self.config.codebooks, -1))
            return (projected.transpose(0, 1) @ self.codes.transpose(1, 2)).argmax(-1).T

    @torch.no_grad()
    def observe(self, batches: Iterable[Batch]) -> None:
        """Take the statistics of the training data that normalisation and ``reference`` need, before training.

        ``batches`` is gone through twice, or once where each recording is normalised by itself: mean and deviation of
        each mel bin; how often each code occurs, with one added; how often a code comes again after 1, 2, ... steps.
        """
        super().observe(batches)
        books, size = self.marginal.shape
        counts = torch.ones(books, size, dtype=torch.float64, device=self.device)
        again = torch.zeros(2, books, LAGS, dtype=torch.float64, device=self.device)
        for batch in batches:
            frames = self.encoder.layout(batch["audio"], batch["length"])
            mel = self.front_end.spectrogram_of(batch["audio"])
            codes = frames.put_back(self.code_of(self._coded(mel, batch["length"], frames)))
            shares = usage(codes.flatten(0, 1), size, frames.real.flatten().double())
            counts += shares * frames.real.sum()
            for lag in range(1, min(LAGS, frames.width - 1) + 1):
                both = frames.real[:, lag:, None]
                again[0, :, lag - 1] += ((codes[:, lag:] == codes[:, :-lag]) & both).sum((0, 1))
                again[1, :, lag - 1] += both.sum()
        self.marginal.copy_((counts / counts.sum(-1, keepdim=True)).log())
        chance = self.marginal.double().exp().square().sum(-1, keepdim=True)
        # P(equal) = s + (1 - s) * chance: s is the share that repeats for a reason
        share = (again[0] / again[1].clamp_min(1) - chance) / (1 - chance).clamp_min(1e-9)
        self.repeats.copy_(share.clamp(0, 1 - 1e-3))

    def perturb(self, batch: Batch) -> View:
        """Make the spectrogram and hide spans of it."""
        frames, length = self.encoder.layout(batch["audio"], batch["length"]), batch["length"]
        mel = self.spectrogram(batch)
        features, hidden = self.front_end.steps(mel, length, frames), self.hide(batch, frames)
        coded = self._coded(mel, length, frames) if self.config.cepstra else features
        asked = self.ask(batch, frames, hidden)
        return {"frames": frames, "features": features, "coded": coded, "hidden": hidden, "asked": asked}

    def _coded(self, mel: Tensor, length: Int[Tensor, " batch"], frames: Frames) -> Float[Tensor, "step dim"]:
        """What the codes are of."""
        if self.config.cepstra:
            return self.front_end.cepstra(mel, length, frames, self.config.cepstra)
        return self.front_end.steps(mel, length, frames)

    def encode(self, view: View) -> Float[Tensor, "1 hidden dim"]:
        """The hidden steps, and those kept, encoded among all steps of their recording."""
        x = self.encoder.embed(self.encoder.feature_norm(view["features"]), view["frames"], view["hidden"].mask)
        return self.encoder.trunk(x, view["frames"].packing, output=view["asked"].ids)

    def predict(self, latent: Float[Tensor, "1 hidden dim"], view: View) -> Float[Tensor, "hidden codebook code"]:  # noqa: ARG002
        """Logits of all codes of each codebook."""
        return self.head(latent[0]).unflatten(-1, self.marginal.shape)

    def target(self, batch: Batch, view: View) -> Int[Tensor, "hidden codebook"]:  # noqa: ARG002
        """The codes that the hidden steps have."""
        return self.code_of(view["coded"].index_select(0, view["asked"].ids[0]))

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy in nats. ``reference``: that of how often each code occurs. In evaluation also
        ``reference_repeat``, a guess that the nearest visible step's code comes again."""
        hidden: Hidden = view["asked"]
        loss = F.cross_entropy(prediction.float().flatten(0, 1), target.flatten(), reduction="none")
        book = torch.arange(target.shape[1], device=target.device)
        known = self.marginal[book, target]
        count = hidden.counts.sum().float()
        chosen, everywhere = usage(target, self.config.codebook_size, hidden.counted.float()) * count, count
        if self.training:
            chosen, everywhere = sum_over_ranks(chosen), sum_over_ranks(count)
        shares = chosen / everywhere.clamp_min(1)
        sums = {
            "loss": hidden.sum(loss.view(target.shape).mean(-1)),
            "reference": hidden.sum(-known.mean(-1)),
            "accuracy": hidden.sum((prediction.argmax(-1) == target).float().mean(-1)),
            "code_perplexity": perplexity(shares) / len(shares) * count,
            "mask_coverage": count * view["hidden"].counts.sum() / view["frames"].lengths.sum().clamp_min(1),
            # a batch with nothing hidden has a loss of 0, not one that is not a number
            "count": count.clamp_min(1),
        }
        if not self.training:
            sums["reference_repeat"] = hidden.sum(-self._repeat(target, known, view).mean(-1))
        return sums

    def _repeat(
        self, target: Int[Tensor, "hidden codebook"], known: Float[Tensor, "hidden codebook"], view: View
    ) -> Float[Tensor, "hidden codebook"]:
        """Log probability of the targets where a code at distance d comes again with the share counted for d."""
        frames: Frames = view["frames"]
        hidden: Hidden = view["hidden"]
        codes = frames.put_back(self.code_of(view["coded"]))
        place, distance = nearest_visible(hidden.mask, frames)
        step = hidden.ids[0] if frames.place is None else frames.place[hidden.ids[0]]
        near = codes.flatten(0, 1)[place.flatten()[step] + hidden.row * frames.width]
        far = distance.flatten()[step]
        share = self.repeats.T[(far - 1).clamp(0, LAGS - 1)] * (far <= frames.width)[:, None]
        return (share * (near == target) + (1 - share) * known.exp()).log()

    @torch.no_grad()
    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        """For the eye: ``original`` and ``perturbed``, log-mel ``[batch, frame, mel]``; ``hidden`` ``[batch, step]``.

        At hidden steps ``target`` and ``predicted`` codes ``[batch, step, codebook]``, -1 elsewhere, and the
        ``probability`` that the true one was given.
        """
        training = self.training
        self.eval()
        try:
            view = self.perturb(batch)
            logits, target = self.predict(self.encode(view), view).float(), self.target(batch, view)
        finally:
            self.train(training)
        frames, hidden = view["frames"], view["hidden"]
        probability = logits.softmax(-1).gather(-1, target[..., None])[..., 0]

        def steps(values: Tensor, fill: float) -> Tensor:
            return frames.put_back(hidden.spread(values.float(), frames.packing.total, fill), fill)

        return self._pictures(batch, frames, hidden) | {
            "target": steps(target, -1.0).long(),
            "predicted": steps(logits.argmax(-1), -1.0).long(),
            "probability": steps(probability, 0.0),
        }


def nearest_visible(mask: Tensor, frames: Frames) -> tuple[Int[Tensor, "batch width"], Int[Tensor, "batch width"]]:
    """For each step the nearest one that is real and visible, the earlier of two, and how far it is.

    Where a recording has none, the distance is larger than ``frames.width``.
    """
    visible = frames.real & ~mask
    column = torch.arange(frames.width, device=mask.device).expand(mask.shape)
    never = 2 * frames.width + 1
    before = torch.where(visible, column, -never).cummax(1).values
    after = torch.where(visible, column, never + frames.width).flip(1).cummin(1).values.flip(1)
    earlier = column - before <= after - column
    place = torch.where(earlier, before, after)
    return place.clamp(0, frames.width - 1), (place - column).abs()

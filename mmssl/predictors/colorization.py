"""Colorization: predict the colours of a picture from its lightness.

In CIE Lab, where L is the lightness and a, b are the colour. Squared error alone predicts the mean of all plausible
colours, which is grey; so the colour is by default a choice among classes, the cells of a grid in the ab plane, rare
ones weighing more, and what is shown is the annealed mean of their probabilities (Zhang et al. 2016, "Colorful Image
Colorization").
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from mmssl.errors import UserError
from mmssl.nn.pixel_network import PixelNetwork
from mmssl.perturbations.colour import AbQuantizer, lab_to_srgb, rebalancing, smooth_prior, srgb_to_lab, within_srgb
from mmssl.predictors.base import Batch, View
from mmssl.predictors.pixels import PixelConfig, PixelPredictor

AB_SCALE = 100.0
"""Colours are predicted in units of this, so that they are about 1; a and b of sRGB lie between -110 and 110."""

UNSEEN = 1e-3
"""Share of the guess without learning that all colours have alike, observed or not."""


@dataclass(frozen=True, kw_only=True)
class ColorizationConfig(PixelConfig):
    """Colorization, most important settings first."""

    objective: Literal["classes", "regression"] = "classes"
    """classes: a distribution over colours, rebalanced. regression: squared error, which prefers grey when in doubt."""
    reduce: int = 4
    """Colours are predicted at as many times fewer rows and columns (4: Zhang et al. 2016, §3.1)."""
    rebalance: float = 0.1
    """How much rare colours weigh: 1 minus the share of the uniform distribution that the data's is mixed with; 0 not
    at all. Zhang et al. 2016, eq. 4, take 0.5: with that, the smallest trunk was farther from the true colours of
    unseen photos than grey is, after 1,000 steps on CIFAR-10; with 0.1 nearer."""
    temperature: float = 0.38
    """Of the annealed mean: 1 is the mean of the distribution, 0 its most likely colour (Zhang et al. 2016, eq. 5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels != 3:
            raise UserError(
                f"colorization learns from colour pictures of 3 channels, got {self.channels}: leave it at 3"
            )
        if self.reduce < 1 or not 0 <= self.rebalance < 1 or not 0 < self.temperature <= 1:
            raise UserError("reduce must be at least 1, rebalance in 0 to below 1, temperature above 0 and at most 1")


class Colorization(PixelPredictor[ColorizationConfig]):
    """Lightness in, colours out."""

    name = "colorization"
    accepted = (1, 3)
    prior: Tensor
    marginal: Tensor

    def __init__(self, config: ColorizationConfig) -> None:
        classes = config.objective == "classes"
        quantizer = AbQuantizer()
        outputs = len(quantizer.bins) if classes else 2
        network = PixelNetwork(config, config.image_size, config.channels, outputs, reduce=config.reduce)
        super().__init__(config, network)
        self.quantizer = quantizer
        # how often each colour class occurs in the data, smoothed; and what of it the loss sees, where rare ones weigh
        # more: the best answer of a predictor that sees nothing. Uniform until observed
        uniform = torch.full((len(quantizer.bins),), 1 / len(quantizer.bins))
        self.register_buffer("prior", uniform)
        self.register_buffer("marginal", uniform.clone())

    @torch.no_grad()
    def observe(self, batches: Iterable[Batch]) -> None:
        """Count the colours of the data, before training: rare ones will weigh more, and the common ones are the guess
        of a predictor that knows nothing. The prior is smoothed (Zhang et al. 2016, §2.2), that guess is not, so that
        to know the data's colours and nothing of a picture is worth nothing; all but a thousandth of it, for colours
        that were not observed."""
        bins = len(self.prior)
        # how much of each class is seen where another is the nearest; float64, because float32 stops counting at 2^24
        counts = torch.zeros(bins * bins, dtype=torch.float64, device=self.prior.device)
        for batch in batches:
            ids, share = self.quantizer.soft(self._reduced(srgb_to_lab(self.pictures(batch))[:, 1:]))
            counts.index_add_(0, (ids[:, :1] * bins + ids).flatten(), share.flatten().double())
        counts = counts.view(bins, bins).clamp_min(1e-9)
        self.prior.copy_(smooth_prior(counts.sum(0).float()))
        weighed = (self._class_weights().double()[:, None] * counts).sum(0)
        self.marginal.copy_(torch.lerp(weighed / weighed.sum(), torch.full_like(weighed, 1 / bins), UNSEEN))

    def take_observed(self, other: "Colorization") -> None:
        """What was observed of the colours."""
        self.prior.copy_(other.prior)
        self.marginal.copy_(other.marginal)

    def clean_input(self, batch: Batch) -> Float[Tensor, "batch channel height width"]:
        """Whole pictures without their colours: that is all this network ever sees."""
        return self._given(srgb_to_lab(self.pictures(batch))[:, :1])

    def _reduced(self, planes: Float[Tensor, "batch plane height width"]) -> Tensor:
        return F.avg_pool2d(planes, self.config.reduce)

    def perturb(self, batch: Batch) -> View:
        """Take the colours away."""
        image = self.pictures(batch)
        lab = srgb_to_lab(image)
        return {**self._view(lab[:, :1]), "image": image, "ab": lab[:, 1:]}

    def view_of(
        self,
        image: Float[Tensor, "batch channel height width"],
        hidden: Bool[Tensor, "batch 1 height width"],  # noqa: ARG002 - the lightness is there everywhere
    ) -> dict[str, Any]:
        """Pictures, grey (1 channel) or in colour, of which nothing but the lightness is used."""
        return self._view(srgb_to_lab(image.expand(-1, 3, -1, -1))[:, :1])

    def _view(self, lightness: Float[Tensor, "batch 1 height width"]) -> dict[str, Any]:
        classes = self.config.objective == "classes"
        trivial = self.marginal.log()[:, None, None] if classes else lightness.new_zeros(2, 1, 1)
        where = torch.ones_like(lightness, dtype=torch.bool)
        return {"input": self._given(lightness), "lightness": lightness, "trivial": trivial, "where": where}

    def _given(self, lightness: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """The lightness as three equal channels: the backbone takes RGB like all others."""
        return self.normalise((lightness / 100).expand(-1, self.config.channels, -1, -1))

    def _class_weights(self) -> Float[Tensor, " bin"]:
        return rebalancing(self.prior, 1 - self.config.rebalance)

    def target(self, batch: Batch, view: View) -> Float[Tensor, "batch 2 height width"]:  # noqa: ARG002
        """The colours, at the resolution at which they are predicted."""
        return self._reduced(view["ab"])

    def colours(self, prediction: Float[Tensor, "batch output height width"]) -> Float[Tensor, "batch 2 height width"]:
        """Planes a and b of a prediction, at its resolution."""
        if self.config.objective == "regression":
            return prediction * AB_SCALE
        return self.quantizer.decode(prediction, self.config.temperature)

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Tensor]:
        """Cross entropy with the softened classes of the true colour, rare ones weighing more, against the best
        constant distribution; or squared error in units of 100, against grey.

        In evaluation also ``loss_ab``, the mean distance in the ab plane to the true colour, with grey as
        ``reference_ab``, and how colourful the prediction is (``chroma``) and the truth (``chroma_true``).
        """
        count = target.new_full((), target[:, 0].numel())
        if self.config.objective == "regression":
            sums = {
                "loss": ((prediction - target / AB_SCALE) ** 2).sum(),
                "reference": ((target / AB_SCALE) ** 2).sum(),
                "count": count,
            }
        else:
            sums = {**self._cross_entropies(prediction, target, view["trivial"].flatten()), "count": count}
        if not self.training:
            guess = self.colours(prediction.detach())
            sums["loss_ab"], sums["reference_ab"] = (guess - target).norm(dim=1).sum(), target.norm(dim=1).sum()
            sums["chroma"], sums["chroma_true"] = guess.norm(dim=1).sum(), sums["reference_ab"]
        return sums

    def _cross_entropies(
        self, logits: Float[Tensor, "batch bin height width"], ab: Float[Tensor, "batch 2 height width"], known: Tensor
    ) -> dict[str, Float[Tensor, ""]]:
        ids, share = self.quantizer.soft(ab)
        weight = self._class_weights()[ids[:, 0]]  # of the nearest
        told = (logits.gather(1, ids) * share).sum(1) - logits.logsumexp(1)
        constant = (known[ids] * share).sum(1)
        return {"loss": -(weight * told).sum(), "reference": -(weight * constant).sum()}

    def picture_of(self, view: View) -> Float[Tensor, "batch 3 height width"]:
        """The given lightness with the predicted colours, in sRGB; paler where that has none so light or dark."""
        lightness = view["lightness"]
        ab = self.colours(self.predict(self.encode(view), view))
        ab = F.interpolate(ab, lightness.shape[2:], mode="bicubic", align_corners=False)
        return lab_to_srgb(within_srgb(torch.cat([lightness, ab], 1)))

    def trivial_picture(self, view: View) -> Float[Tensor, "batch 3 height width"]:
        """Grey of the given lightness."""
        return lab_to_srgb(F.pad(view["lightness"], (0, 0, 0, 0, 0, 2)))

    def shown(self, view: View) -> Float[Tensor, "batch 3 height width"]:
        """What is left: grey."""
        return self.trivial_picture(view)

    def quality(
        self,
        prediction: Float[Tensor, "batch 3 height width"],
        target: Float[Tensor, "batch 3 height width"],
        where: Bool[Tensor, "batch 1 height width"],  # noqa: ARG002 - the colour of every pixel is predicted
    ) -> dict[str, Float[Tensor, " batch"]]:
        """``ab_error``: mean distance in the ab plane, pixel by pixel."""
        distance = srgb_to_lab(prediction)[:, 1:] - srgb_to_lab(target)[:, 1:]
        return {"ab_error": distance.norm(dim=1).mean((1, 2))}

    @property
    def reveal_note(self) -> str:
        """What is compared."""
        return "Without learning: grey. Errors are distances in the ab plane; plausible colours need not be true."

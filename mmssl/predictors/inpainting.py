"""Inpainting: predict a hole in a picture from what is around it.

Pathak et al. 2016, "Context Encoders: Feature Learning by Inpainting". The network is told where the hole is, sees it
filled smoothly from its edge, and predicts the difference to that filling. (With the mean colour in the hole, it had
learned nothing about photos in the two minutes in which it surpassed the filling otherwise.)
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from mmssl.errors import UserError
from mmssl.masking import NoiseKey
from mmssl.masking.holes import HOLES
from mmssl.nn.pixel_network import PixelNetwork
from mmssl.perturbations.fill import interpolate_hidden
from mmssl.predictors.base import Batch, View
from mmssl.predictors.pixels import PixelConfig, PixelPredictor


@dataclass(frozen=True, kw_only=True)
class InpaintingConfig(PixelConfig):
    """Inpainting, most important settings first."""

    hole: Literal["centre", "blocks", "free_form"] = "free_form"
    """Shape of the hole: one rectangle in the centre, several anywhere, or brush strokes."""
    mask_fraction: float = 0.25
    """Share of the picture in the hole (a quarter: Pathak et al. 2016, §4)."""
    overlap: int = 4
    """Pixels around the hole that are predicted too, in training, so that the result joins what is there (Pathak et al.
    2016, §3.2, use 7 at ten times the weight; 4 in their code)."""
    overlap_weight: float = 0.1
    """Weight of a pixel of the overlap beside that of one in the hole."""
    gradient_weight: float = 1.0
    """Weight of the error of differences between neighbouring pixels: edges want to be as sharp as they were."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_fraction < 1:
            raise UserError(f"mask_fraction must lie between 0 and 1, got {self.mask_fraction}")
        if self.overlap < 0 or min(self.overlap_weight, self.gradient_weight) < 0:
            raise UserError("overlap, overlap_weight and gradient_weight cannot be negative")


class Inpainting(PixelPredictor[InpaintingConfig]):
    """Pictures with a hole in, whole pictures out."""

    name = "inpainting"

    def __init__(self, config: InpaintingConfig) -> None:
        network = PixelNetwork(config, config.image_size, config.channels + 1, config.channels)
        super().__init__(config, network)

    def perturb(self, batch: Batch) -> View:
        """Cut a hole."""
        image = self.pictures(batch)
        key = NoiseKey.of(batch, self.mask_seed)
        hidden = HOLES[self.config.hole](key, self.config.image_size, self.config.mask_fraction)
        return {**self.view_of(image, hidden.unflatten(1, (1, *self.config.image_size))), "image": image}

    def view_of(
        self, image: Float[Tensor, "batch channel height width"], hidden: Bool[Tensor, "batch 1 height width"]
    ) -> dict[str, Any]:
        """The picture with its hole filled smoothly, and a channel of its own that says where the hole is.

        Where nothing at all is visible, the filling is the mean colour of the data.
        """
        nothing = hidden.all(3).all(2)[:, :, None, None]
        trivial = torch.where(nothing, self.pixel_mean, interpolate_hidden(image, hidden))
        given = torch.cat([self.normalise(trivial), hidden.to(trivial.dtype)], 1)
        return {"input": given, "trivial": trivial, "where": hidden}

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Tensor]:
        """Absolute error over the hole, with that of gradients; in training also over a small overlap around it.

        ``reference`` is the same of the smooth filling, ``loss_pixels`` and ``reference_pixels`` the plain absolute
        error over the hole. ``psnr`` and ``ssim`` are those of :class:`PixelPredictor`, over the hole.
        """
        sums = super().score(prediction, target, view)
        sums["loss_pixels"], sums["reference_pixels"] = sums["loss"].detach(), sums["reference"]
        hidden, overlap = view["where"], self.config.overlap if self.training else 0
        if overlap:  # the smooth filling is the picture itself there, so the reference has no error in it
            near = F.max_pool2d(hidden.to(target.dtype), 2 * overlap + 1, stride=1, padding=overlap).bool() & ~hidden
            sums["loss"] = sums["loss"] + self.config.overlap_weight * ((prediction - target).abs() * near).sum()
        if self.config.gradient_weight:
            sums["loss"] = sums["loss"] + self.config.gradient_weight * _gradient_error(prediction - target, hidden)
            trivial_error = _gradient_error(view["trivial"] - target, hidden)
            sums["reference"] = sums["reference"] + self.config.gradient_weight * trivial_error
        return sums

    def shown(self, view: View) -> Float[Tensor, "batch channel height width"]:
        """The hole in the mean colour."""
        return torch.where(view["where"], self.pixel_mean, view["trivial"])

    @property
    def reveal_note(self) -> str:
        """What is compared."""
        return "Without learning: smooth filling from the edge. PSNR and SSIM over the hole alone."


def _gradient_error(
    error: Float[Tensor, "batch channel height width"], hidden: Bool[Tensor, "batch 1 height width"]
) -> Float[Tensor, ""]:
    """Half the sum of absolute differences between neighbours down and across: a pixel has one of each with the next.

    Visible pixels are shown as they are, without an error: so at the edge of the hole this is the height of the seam.
    """
    error = error * hidden
    return ((error[..., 1:, :] - error[..., :-1, :]).abs().sum() + (error[..., 1:] - error[..., :-1]).abs().sum()) / 2

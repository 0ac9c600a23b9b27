"""Restoration: any composition of perturbations, blur, noise, zoom, masks, coarseness, grey, undone by one network.

The generalised denoising autoencoder (Vincent et al. 2010); as pretext tasks beside masking: Tian et al. 2022, "Beyond
Masking: Demystifying Token-Based Pre-Training for Vision Transformers".
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.masking import NoiseKey
from mmssl.nn.pixel_network import PixelNetwork
from mmssl.perturbations.pictures import compose, parse_perturbations, undo_all
from mmssl.predictors.base import Batch, View
from mmssl.predictors.pixels import PixelConfig, PixelPredictor


@dataclass(frozen=True, kw_only=True)
class RestorationConfig(PixelConfig):
    """What a picture goes through before it is predicted back."""

    perturbations: tuple[str, ...] = ("blur=2",)
    """One after the other: mask=SHARE, downsample=TIMES, blur=SIGMA, noise=SIGMA, zoom=TIMES, grey. A SIGMA of blur is
    in pixels, of noise on the scale 0..1."""
    sampler: Literal["random", "block", "inverse_block"] = "random"
    """Which patches ``mask`` hides together."""


class Restoration(PixelPredictor[RestorationConfig]):
    """Perturbed pictures in, pictures as they were out."""

    name = "restoration"

    def __init__(self, config: RestorationConfig) -> None:
        perturbations = parse_perturbations(config.perturbations, config.patch_size, config.sampler)
        super().__init__(config, PixelNetwork(config, config.image_size, config.channels + 1, config.channels))
        self.perturbations = perturbations
        # says now, not at the first step, which perturbation does not suit pictures of this size
        key = NoiseKey.of({"id": torch.zeros(1, dtype=torch.int64), "epoch": torch.zeros(1, dtype=torch.int64)}, 0)
        compose(perturbations, torch.zeros(1, config.channels, *config.image_size), key)

    def perturb(self, batch: Batch) -> View:
        """Let the picture go through everything."""
        image = self.pictures(batch)
        perturbed = compose(self.perturbations, image, NoiseKey.of(batch, self.mask_seed))
        return {**self.view_of(perturbed.image, perturbed.hidden), "image": image}

    def view_of(
        self, image: Float[Tensor, "batch channel height width"], hidden: Bool[Tensor, "batch 1 height width"]
    ) -> dict[str, Any]:
        """The perturbed picture and where it says nothing; the guess undoes what can be undone without learning.

        Where all perturbations are local (masks), only their pixels are predicted, otherwise all.
        """
        local = all(perturbation.local for perturbation in self.perturbations)
        return {
            "input": self.with_hole(image, hidden),
            "perturbed": image,
            "trivial": undo_all(self.perturbations, image, hidden),
            "where": hidden if local else torch.ones_like(hidden),
        }

    def shown(self, view: View) -> Float[Tensor, "batch channel height width"]:
        """The picture after all perturbations."""
        return view["perturbed"]

    @property
    def reveal_note(self) -> str:
        """What is compared."""
        return (
            f"Perturbed by {', then '.join(self.config.perturbations)}; without learning: as far as that can be undone."
        )

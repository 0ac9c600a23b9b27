"""Super-resolution: predict a sharp picture from a coarse one.

The network works on the coarse picture and enlarges at the end by sub-pixel convolution (Shi et al. 2016), predicting
the difference to bicubic enlargement (Kim et al. 2016, "Accurate Image Super-Resolution Using Very Deep Convolutional
Networks", §3.1). The coarse picture is antialiased: nothing of the fine detail is left in it.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.errors import UserError
from mmssl.nn.pixel_network import PixelNetwork
from mmssl.perturbations.colour import luma
from mmssl.perturbations.pictures import downsample, enlarge
from mmssl.predictors.base import Batch, View
from mmssl.predictors.fidelity import psnr, ssim
from mmssl.predictors.pixels import PixelConfig, PixelPredictor


@dataclass(frozen=True, kw_only=True)
class SuperResolutionConfig(PixelConfig):
    """Super-resolution; ``image_size`` is that of the sharp pictures."""

    scale: Literal[2, 4, 8] = 4
    """How many times higher and wider the result is."""
    given: Literal["small", "enlarged"] = "small"
    """What the network sees: the small picture (fast, best for use), or that enlarged by bicubic interpolation, so that
    its backbone sees as many patches as one of whole pictures does, for comparing representations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels not in (1, 3):
            raise UserError(f"super-resolution is for pictures of 1 or 3 channels, got {self.channels}")
        if any(side % self.scale for side in self.image_size):
            raise UserError(f"scale {self.scale} does not divide pictures of {self.image_size}: choose another size")

    @property
    def input_size(self) -> tuple[int, int]:
        """That of the small picture, where the network is given that."""
        times = self.scale if self.given == "small" else 1
        return self.image_size[0] // times, self.image_size[1] // times


class SuperResolution(PixelPredictor[SuperResolutionConfig]):
    """Small pictures in, sharp pictures ``scale`` times as high and wide out."""

    name = "super_resolution"

    def __init__(self, config: SuperResolutionConfig) -> None:
        times = config.scale if config.given == "small" else 1
        network = PixelNetwork(config, config.input_size, config.channels, config.channels, enlarge=times)
        super().__init__(config, network)
        self.scale = config.scale

    @property
    def tile(self) -> tuple[int, int]:
        """Of the small picture."""
        return self.config.image_size[0] // self.scale, self.config.image_size[1] // self.scale

    @property
    def multiple(self) -> tuple[int, int]:
        """Of the small picture; what the network needs, or less where it is given an enlarged one."""
        times = 1 if self.config.given == "small" else self.scale
        height, width = self.network.multiple
        return height // math.gcd(height, times), width // math.gcd(width, times)

    def perturb(self, batch: Batch) -> View:
        """Shrink the pictures, antialiased."""
        image = self.pictures(batch)
        small = downsample(image, self.scale)
        return {**self.view_of(small, torch.zeros_like(small[:, :1], dtype=torch.bool)), "image": image}

    def view_of(
        self,
        image: Float[Tensor, "batch channel height width"],
        hidden: Bool[Tensor, "batch 1 height width"],  # noqa: ARG002 - every pixel of a small picture is real
    ) -> dict[str, Any]:
        """Small pictures, and what bicubic interpolation makes of them."""
        height, width = image.shape[2:]
        trivial = enlarge(image, (height * self.scale, width * self.scale))
        given = image if self.config.given == "small" else trivial
        where = torch.ones_like(trivial[:, :1], dtype=torch.bool)
        return {"input": self.normalise(given), "small": image, "trivial": trivial, "where": where}

    def clean_input(self, batch: Batch) -> Float[Tensor, "batch channel height width"]:
        """The sharp picture itself, at its own size: it stands for a small one that was not shrunk."""
        return self.normalise(self.pictures(batch))

    def quality(
        self,
        prediction: Tensor,
        target: Tensor,
        where: Bool[Tensor, "batch 1 height width"],  # noqa: ARG002 - all of the picture is predicted
    ) -> dict[str, Float[Tensor, " batch"]]:
        """PSNR and SSIM of the luma, ``scale`` pixels at each edge left out, as the field measures them.

        Nothing is left out of pictures with a side of at most four times that.
        """
        border = self.scale if min(target.shape[2:]) > 4 * self.scale else 0
        guess, truth = luma(prediction), luma(target)
        return {"psnr": psnr(guess, truth, border=border), "ssim": ssim(guess, truth, border=border)}

    def shown(self, view: View) -> Float[Tensor, "batch channel height width"]:
        """The small picture, its pixels as squares."""
        return view["small"].repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)

    @property
    def reveal_note(self) -> str:
        """What is compared."""
        return (
            f"Shrunk {self.scale} times; without learning: bicubic. PSNR and SSIM of luma, {self.scale} px at edges "
            "left out."
        )

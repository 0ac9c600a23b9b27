"""A backbone under a light pixel decoder: what every task that predicts pictures trains."""

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.backbones import Backbone, TimmBackbone, VitBackbone
from mmssl.nn.patches import patch_grid
from mmssl.nn.pixel_decoder import PixelDecoder
from mmssl.nn.transformer import TransformerConfig


@dataclass(frozen=True)
class PixelNetworkConfig:
    """A backbone and its decoder, most important settings first."""

    encoder: TransformerConfig | None
    """The Transformer trunk; None: a model of timm."""
    timm_model: str = ""
    """Name of a model of timm, such as resnet18, where there is no ``encoder``."""
    patch_size: tuple[int, int] = (8, 8)
    """Height and width of a patch of the trunk; a model of timm has its own strides."""
    decoder_dim: int = 32
    """Channels of the decoder."""
    detail: int = 4
    """Residual blocks that also see the input, pixel by pixel; 0: the backbone must know everything."""
    positions: Literal["sincos", "learned"] = "sincos"
    """Fixed sine-cosine positions in the trunk (MAE), or a learned table (weights that came from ViT)."""

    def __post_init__(self) -> None:
        if (self.encoder is None) == (not self.timm_model):
            raise UserError("a pixel network has either a trunk or a timm_model as its backbone: give one of the two")
        if self.decoder_dim < 1 or self.detail < 0:
            raise UserError(f"decoder_dim must be at least 1 and detail not negative, got {self}")


class PixelNetwork(nn.Module):
    """Pixels to pixels through a backbone.

    Args:
        config: shape of both parts.
        size: height and width of the pictures in training. A trunk takes others whose sides are multiples of
            ``multiple``, a convolutional backbone too; some models of timm take no others.
        channels: of the input, that of the hole included.
        outputs: of the result.
        reduce, enlarge: how many times smaller or larger the result is, see :class:`PixelDecoder`.
    """

    def __init__(
        self,
        config: PixelNetworkConfig,
        size: tuple[int, int],
        channels: int,
        outputs: int,
        reduce: int = 1,
        enlarge: int = 1,
    ) -> None:
        super().__init__()
        self.size, self.channels = size, channels
        self.backbone: Backbone
        if config.encoder is not None:
            patch_grid(size, config.patch_size)  # says what is wrong with them
            self.backbone = VitBackbone(config.encoder, size, config.patch_size, channels, config.positions)
        else:
            self.backbone = TimmBackbone(config.timm_model, size, channels)
        self.decoder = PixelDecoder(
            self.backbone.levels, channels, outputs, config.decoder_dim, config.detail, reduce, enlarge
        )
        strides = [stride for _, stride in self.backbone.levels]
        self.multiple = (
            math.lcm(reduce, *(stride[0] for stride in strides)),
            math.lcm(reduce, *(stride[1] for stride in strides)),
        )
        if size[0] % self.multiple[0] or size[1] % self.multiple[1]:
            raise UserError(
                f"this backbone takes pictures whose sides are multiples of {self.multiple[0]} and {self.multiple[1]}, "
                f"and would be given {size[0]}x{size[1]}: choose another --image-size"
            )

    def encode(self, pixels: Float[Tensor, "batch channel height width"]) -> list[Tensor]:
        """Feature maps, finest first."""
        return self.backbone(pixels)

    def decode(
        self, maps: list[Tensor], pixels: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch output out_height out_width"]:
        """The picture that the maps of ``pixels`` speak of."""
        return self.decoder(maps, pixels)

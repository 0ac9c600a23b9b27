"""Backbones of pictures: pixels in, feature maps out. The part of a pixel network that is kept."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.patches import patch_grid, patchify, resize_positions, sincos_positions
from mmssl.nn.transformer import Transformer, TransformerConfig

Stride = tuple[int, int]
"""Pixels down and across between neighbours of a feature map."""


class Backbone(nn.Module, ABC):
    """Pixels to feature maps, and to one vector a picture."""

    levels: Sequence[tuple[int, Stride]]
    """Channels and stride of each map of :meth:`forward`, finest first."""

    @abstractmethod
    def forward(self, pixels: Float[Tensor, "batch channel height width"]) -> list[Tensor]:
        """Feature maps ``[batch, dim, height / stride, width / stride]``, finest first."""

    @abstractmethod
    def pooled(self, pixels: Float[Tensor, "batch channel height width"]) -> dict[str, Float[Tensor, "batch dim"]]:
        """``mean``, perhaps ``cls``, and ``layer 1`` ... of what comes before, as probes want them."""

    @abstractmethod
    def depths(self) -> dict[str, int]:
        """Depth of each parameter, 0 at the input, for learning rates that decay with depth."""


class VitBackbone(Backbone):
    """The Transformer trunk on patches, as in MAE: patch embedding, positions, cls token, blocks.

    Positions are fixed sine-cosine ones, or a learned table (weights that came from ViT). Those of a picture of another
    size than trained for are those of the trained grid, read at finer or coarser steps: no position lies outside what
    training saw.
    """

    position: Tensor

    def __init__(
        self,
        config: TransformerConfig,
        size: tuple[int, int],
        patch: Stride,
        channels: int,
        positions: Literal["sincos", "learned"] = "sincos",
    ) -> None:
        super().__init__()
        self.grid, self.patch = patch_grid(size, patch), patch
        self.levels = [(config.dim, patch)]
        self.patch_embedding = nn.Linear(patch[0] * patch[1] * channels, config.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.encoder = Transformer(config)
        if positions == "sincos":
            self.register_buffer("position", sincos_positions(self.grid, config.dim), persistent=False)
        else:
            self.position = nn.Parameter(
                nn.init.trunc_normal_(torch.empty(self.grid[0] * self.grid[1], config.dim), std=0.02)
            )
        self.apply(_xavier)
        nn.init.normal_(self.cls_token, std=0.02)  # MAE reference; the paper does not say

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "patch dim"]:
        """Positions of a picture of so many rows and columns of patches."""
        if grid == self.grid:
            return self.position
        if isinstance(self.position, nn.Parameter):
            return resize_positions(self.position, self.grid, grid)
        return sincos_positions(grid, self.position.shape[1], reach=self.grid).to(self.position)

    def tokens(self, pixels: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token dim"]:
        """cls and patches with their positions: the input of the trunk."""
        grid = patch_grid((pixels.shape[2], pixels.shape[3]), self.patch)
        patches = self.patch_embedding(patchify(pixels, self.patch))
        cls = self.cls_token.to(patches.dtype).expand(patches.shape[0], -1, -1)
        return torch.cat([cls, patches + self.positions(grid)], 1)

    def forward(self, pixels: Float[Tensor, "batch channel height width"]) -> list[Tensor]:
        """One map, of the patches."""
        grid = patch_grid((pixels.shape[2], pixels.shape[3]), self.patch)
        encoded = self.encoder(self.tokens(pixels), output=slice(1, None))
        return [encoded.transpose(1, 2).unflatten(2, grid)]

    def pooled(self, pixels: Float[Tensor, "batch channel height width"]) -> dict[str, Float[Tensor, "batch dim"]]:
        """Means over the patch tokens, and the cls token, after the final norm; layers before it."""
        *states, last = (state.float() for state in self.encoder.layers(self.tokens(pixels)))
        features = {"mean": last[:, 1:].mean(1), "cls": last[:, 0]}
        return features | {f"layer {number}": state[:, 1:].mean(1) for number, state in enumerate(states, 1)}

    def depths(self) -> dict[str, int]:
        """Patch embedding and cls 0, the blocks from 1 on, the final norm behind them."""
        blocks = len(self.encoder.blocks)
        return {
            name: 0 if not name.startswith("encoder.")
            else 1 + int(name.split(".")[2]) if name.startswith("encoder.blocks.") else 1 + blocks
            for name, _ in self.named_parameters()
        }  # fmt: skip


class TimmBackbone(Backbone):
    """A model of timm that gives feature maps, under timm's own names, so that its weights go in and out as they are.
    ``sized``: it is made for pictures of one size.

    Raises UserError where timm has no such model, or the model no feature maps.
    """

    def __init__(self, name: str, size: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.model: Any
        self.model, self.sized = _build_timm(name, size, channels)
        info = [(entry["num_chs"], entry["reduction"]) for entry in self.model.feature_info]
        last = {stride: number for number, (_, stride) in enumerate(info)}  # the deepest map of each stride
        self.chosen = [last[stride] for stride in sorted(last)]
        self.levels = [(info[number][0], (info[number][1],) * 2) for number in self.chosen]

    def forward(self, pixels: Float[Tensor, "batch channel height width"]) -> list[Tensor]:
        """The deepest map of each stride, behind the model's last norm where it has one."""
        return self.model.forward_intermediates(pixels, indices=self.chosen, norm=True, intermediates_only=True)

    def pooled(self, pixels: Float[Tensor, "batch channel height width"]) -> dict[str, Float[Tensor, "batch dim"]]:
        """Means over the pixels of each map; ``mean`` is that of the deepest."""
        *earlier, last = (level.float().mean((2, 3)) for level in self(pixels))
        return {"mean": last} | {f"layer {number}": level for number, level in enumerate(earlier, 1)}

    def depths(self) -> dict[str, int]:
        """By timm's own grouping of its models."""
        from timm.models import group_parameters

        depths: Any = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        return {f"model.{name}": depth for name, depth in depths.items()}


def create_timm(name: str, size: tuple[int, int], channels: int, **weights: Any) -> nn.Module:
    """A model of timm without a head; those of a fixed picture size are made for ``size`` (height, width).

    ``weights``: what of timm's create_model says where they come from; by default they are random.

    Raises UserError for a name that timm does not know, for a model without feature maps, and where timm is missing.
    """
    return _build_timm(name, size, channels, **weights)[0]


def _build_timm(name: str, size: tuple[int, int], channels: int, **weights: Any) -> tuple[nn.Module, bool]:
    try:
        import timm
    except ImportError:
        raise UserError("a backbone of timm needs timm: pip install 'mmssl[interchange]'") from None
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        raise UserError(f"timm has no model '{name}'" + (f": did you mean {', '.join(near)}?" if near else ""))
    if "." in name and name not in (tagged := timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)):
        raise UserError(f"timm has no weights '{name}'" + (f": it has {', '.join(tagged)}" if tagged else ""))
    settings = {"num_classes": 0, "in_chans": channels, **weights}
    model, sized = None, True
    # Vision Transformers can take other sizes besides; convolutional models take any, and no such argument
    for sizes in ({"img_size": size, "dynamic_img_size": True}, {"img_size": size}):
        with suppress(TypeError):
            model = timm.create_model(name, **sizes, **settings)
            break
    if model is None:
        model, sized = timm.create_model(name, **settings), False
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise UserError(f"timm's {name} gives no feature maps: choose another, such as resnet18 or convnext_atto")
    return model, sized


def _xavier(module: nn.Module) -> None:
    """For every linear layer, the patch embedding among them (He et al. 2022, appendix A.1)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

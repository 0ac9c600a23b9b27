"""What the weights of a ViT are called elsewhere and how they are laid out there. Pure functions on tensors.

Ours and theirs differ in three things. The patch embedding is a linear layer on pixels in the order (row, column,
channel) here, a convolution there. Query, key and value are one projection here and in timm, three in transformers.
Positions here have no row for cls; there they have one, which is zeros when we write it, and is added to the cls token
when we read it: the same sum.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.interchange.weights import Parts, Weights, blocks_from, blocks_to


@dataclass(frozen=True)
class Layout:
    """Names of a ViT encoder's parts in a library."""

    patch: str
    cls: str
    position: str
    blocks: str
    norm: str
    parts: Parts
    """For each layer of our block, the layers it is made of there, in the order of their output rows."""


TIMM = Layout(
    patch="patch_embed.proj",
    cls="cls_token",
    position="pos_embed",
    blocks="blocks",
    norm="norm",
    parts={
        "norm1": ("norm1",),
        "attention.qkv": ("attn.qkv",),
        "attention.proj": ("attn.proj",),
        "norm2": ("norm2",),
        "mlp.fc1": ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    },
)
"""timm's VisionTransformer."""

TRANSFORMERS = Layout(
    patch="embeddings.patch_embeddings.projection",
    cls="embeddings.cls_token",
    position="embeddings.position_embeddings",
    blocks="encoder.layer",
    norm="layernorm",
    parts={
        "norm1": ("layernorm_before",),
        "attention.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        "attention.proj": ("attention.output.dense",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("intermediate.dense",),
        "mlp.fc2": ("output.dense",),
    },
)
"""transformers' ViTModel and ViTMAEModel as published weights name them, which every version of the library reads."""

_RENAMED = (
    ("decoder.decoder_encoder.layer.", "decoder.decoder_layers."),
    ("attention.q_proj.", "attention.attention.query."),
    ("attention.k_proj.", "attention.attention.key."),
    ("attention.v_proj.", "attention.attention.value."),
    ("attention.o_proj.", "attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
"""What transformers 5 calls some tensors in memory, or on disk (5.23 writes the first), and the published names."""


def published_names(weights: Mapping[str, Tensor]) -> Weights:
    """Weights of a transformers ViT under the published names, without the ``vit.`` before the encoder's."""
    renamed = {}
    for name, tensor in weights.items():
        for new, old in _RENAMED:
            name = name.replace(new, old)
        name = name.removeprefix("vit.")
        renamed["encoder.layer." + name.removeprefix("layers.") if name.startswith("layers.") else name] = tensor
    return renamed


def linear_from_conv(
    weight: Float[Tensor, "dim channel patch_height patch_width"],
) -> Float[Tensor, "dim pixel"]:
    """A convolution that cuts patches, as a linear layer on pixels in the order (row, column, channel)."""
    return weight.permute(0, 2, 3, 1).flatten(1).contiguous()


def conv_from_linear(
    weight: Float[Tensor, "dim pixel"], patch_size: tuple[int, int]
) -> Float[Tensor, "dim channel patch_height patch_width"]:
    """Inverse of :func:`linear_from_conv`."""
    return weight.unflatten(1, (*patch_size, -1)).permute(0, 3, 1, 2).contiguous()


def encoder_to(
    layout: Layout, weights: Mapping[str, Tensor], position: Float[Tensor, "position dim"], patch_size: tuple[int, int]
) -> Weights:
    """Our encoder under another library's names. ``weights`` are a predictor's; its decoder is passed over."""
    cls = weights["cls_token"]
    return {
        f"{layout.patch}.weight": conv_from_linear(weights["patch_embedding.weight"], patch_size),
        f"{layout.patch}.bias": weights["patch_embedding.bias"].clone(),
        layout.cls: cls.clone(),
        layout.position: torch.cat([torch.zeros_like(cls[0]), position])[None],
        **blocks_to(layout.parts, weights, "encoder.blocks", layout.blocks),
        f"{layout.norm}.weight": weights["encoder.norm.weight"].clone(),
        f"{layout.norm}.bias": weights["encoder.norm.bias"].clone(),
    }


def encoder_from(
    layout: Layout, weights: MutableMapping[str, Tensor], cls_has_position: bool = True
) -> tuple[Weights, Float[Tensor, "position dim"]]:
    """An encoder under our names, and its positions without a row for cls. What is used is taken out of ``weights``.

    The final norm is left out where there is none. Raises KeyError with the name of a tensor that is missing.
    """
    cls, position = weights.pop(layout.cls), weights.pop(layout.position)[0]
    if cls_has_position:
        cls, position = cls + position[0], position[1:]
    ours = {
        "patch_embedding.weight": linear_from_conv(weights.pop(f"{layout.patch}.weight")),
        "patch_embedding.bias": weights.pop(f"{layout.patch}.bias"),
        "cls_token": cls,
        **blocks_from(layout.parts, weights, layout.blocks, "encoder.blocks"),
    }
    if f"{layout.norm}.weight" in weights:
        ours |= {f"encoder.norm.{kind}": weights.pop(f"{layout.norm}.{kind}") for kind in ("weight", "bias")}
    return ours, position


_DECODER = {
    "decoder_embedding.weight": "decoder.decoder_embed.weight",
    "decoder_embedding.bias": "decoder.decoder_embed.bias",
    "decoder.norm.weight": "decoder.decoder_norm.weight",
    "decoder.norm.bias": "decoder.decoder_norm.bias",
    "head.weight": "decoder.decoder_pred.weight",
    "head.bias": "decoder.decoder_pred.bias",
}
"""Pixels of the head are in the order (row, column, channel) in both."""


def decoder_to(weights: Mapping[str, Tensor], position: Float[Tensor, "position dim"]) -> Weights:
    """The decoder of a full MAE as in ViTMAEForPreTraining; ``position`` includes the row for cls."""
    return {
        "decoder.mask_token": weights["mask_token"][None].clone(),
        "decoder.decoder_pos_embed": position[None].clone(),
        **{theirs: weights[ours].clone() for ours, theirs in _DECODER.items()},
        **blocks_to(TRANSFORMERS.parts, weights, "decoder.blocks", "decoder.decoder_layers"),
    }


def decoder_from(weights: MutableMapping[str, Tensor]) -> tuple[Weights, Float[Tensor, "position dim"]]:
    """Inverse of :func:`decoder_to`; what is used is taken out of ``weights``. Raises KeyError as encoder_from does."""
    ours = {ours: weights.pop(theirs) for ours, theirs in _DECODER.items()}
    ours["mask_token"] = weights.pop("decoder.mask_token")[0]
    ours |= blocks_from(TRANSFORMERS.parts, weights, "decoder.decoder_layers", "decoder.blocks")
    return ours, weights.pop("decoder.decoder_pos_embed")[0]

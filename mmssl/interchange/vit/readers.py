"""Checkpoints of transformers and timm, read into our terms. What our trunk cannot represent is refused by name."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.interchange.vit.checkpoint import Checkpoint
from mmssl.interchange.vit.names import (
    TIMM,
    TRANSFORMERS,
    decoder_from,
    encoder_from,
    published_names,
)
from mmssl.interchange.weights import Weights, complete, depth_of
from mmssl.nn.patches import sincos_positions
from mmssl.nn.transformer import TransformerConfig

_VIT_DEFAULTS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3, "hidden_act": "gelu",
    "decoder_hidden_size": 512, "decoder_num_hidden_layers": 8, "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048, "norm_pix_loss": False,
}  # fmt: skip
"""What transformers' ViTConfig and ViTMAEConfig take for keys that a config.json leaves out."""

_FOREIGN = {
    "reg_token": "register tokens",
    "register_tokens": "register tokens",
    "dist_token": "a distillation token",
    "distillation_token": "a distillation token",
    "norm_pre": "a norm before its first block",
    "q_norm": "norms of query and key",
    "k_norm": "norms of query and key",
    "fc1_g": "a gated feed-forward part",
    "w12": "a gated feed-forward part",
    "rel_pos": "relative positions",
    "relative_position": "relative positions",
    "rope": "rotary positions",
}
"""Parts of other ViTs by a piece of their tensors' names."""


_PLAIN = "plain ViT with a class token"
_TIMM_HEAD = ("head.", "fc_norm.", "attn_pool.", "pre_logits.")


def transformers_checkpoint(path: Path, folder: Path, config: Mapping[str, Any], weights: Weights) -> Checkpoint:
    """ViTMAEForPreTraining and ViTMAEModel (decoder too where it is there), ViTModel and its classifiers."""
    kind = config["model_type"]
    if kind not in ("vit_mae", "vit"):
        raise UserError(f"{path} is a transformers '{kind}' model: --init reads 'vit_mae' and 'vit'")
    settings = {**_VIT_DEFAULTS, **config}
    if settings["hidden_act"] != "gelu":
        raise UserError(f"{path} uses the activation '{settings['hidden_act']}': only exact gelu can be represented")
    weights = published_names(weights)
    decoder = decoder_weights = decoder_position = None
    with complete(path, _PLAIN):
        if kind == "vit_mae" and "decoder.decoder_pred.weight" in weights:
            decoder_weights, decoder_position = decoder_from(weights)
            decoder = _trunk(settings, "decoder_")
        encoder_weights, position = encoder_from(TRANSFORMERS, weights)
    _refuse_rest(path, weights, head=("pooler.", "classifier.", "decoder.", "embeddings.mask_token"))
    patch_size = _pair(settings["patch_size"])
    grid = _grid(path, _pair(settings["image_size"]), patch_size, position.shape[0])
    no_decoder = "there is none"
    if decoder_position is not None and not _matches_sincos(decoder_position, grid):
        decoder = decoder_weights = None
        no_decoder = "its positions are not MAE's"
    mean, std = _preprocessing(folder / "preprocessor_config.json")
    return Checkpoint(
        path=path,
        kind="transformers ViT-MAE" if kind == "vit_mae" else "transformers ViT",
        weights=encoder_weights,
        position=position,
        grid=grid,
        patch_size=patch_size,
        channels=settings["num_channels"],
        encoder=_trunk(settings, ""),
        mean=mean,
        std=std,
        architecture="mae" if decoder else None,
        decoder=decoder,
        decoder_weights=decoder_weights,
        no_decoder=no_decoder,
        target=("normalized_pixels" if settings["norm_pix_loss"] else "pixels") if decoder else None,
    )


def _trunk(settings: Mapping[str, Any], prefix: str) -> TransformerConfig:
    return TransformerConfig(
        dim=settings[f"{prefix}hidden_size"],
        depth=settings[f"{prefix}num_hidden_layers"],
        heads=settings[f"{prefix}num_attention_heads"],
        mlp_dim=settings[f"{prefix}intermediate_size"],
        norm_epsilon=settings["layer_norm_eps"],
    )


def _matches_sincos(position: Tensor, grid: tuple[int, int]) -> bool:
    """Our decoder has no other positions than MAE's; the first row is cls."""
    if position.shape[1] % 4 or position.shape[0] != grid[0] * grid[1] + 1:
        return False
    difference = (position[1:] - sincos_positions(grid, position.shape[1])).abs().max()
    return bool(difference < 1e-5 and position[0].abs().max() < 1e-5)


def _preprocessing(file: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation that inputs were normalised with, where the folder says."""
    settings = read_json(file) if file.is_file() else {}
    if not settings.get("do_rescale", True) or "image_mean" not in settings or "image_std" not in settings:
        return None, None
    if not settings.get("do_normalize", True):
        return (0.0,), (1.0,)
    return tuple(settings["image_mean"]), tuple(settings["image_std"])


def timm_checkpoint(path: Path, folder: Path, config: Mapping[str, Any], weights: Weights) -> Checkpoint:
    """A VisionTransformer of timm from a folder such as timm puts on the Hugging Face hub. timm says what it is."""
    model = _timm_model(path, folder, config["architecture"])
    _fold_layer_scale(weights)
    with complete(path, _PLAIN):
        encoder_weights, position = encoder_from(TIMM, weights, cls_has_position=not model.no_embed_class)
    _refuse_rest(path, weights, head=_TIMM_HEAD)
    patch, block = model.patch_embed, model.blocks[0]
    probe = torch.linspace(-4, 4, 101)
    if not torch.allclose(block.mlp.act(probe), functional.gelu(probe), rtol=0, atol=1e-6):
        raise UserError(f"{path} uses the activation {block.mlp.act}: only exact gelu can be represented")
    if block.mlp.fc1.out_features != block.mlp.fc2.in_features:
        raise UserError(f"{path} has a gated feed-forward part, which this encoder has not: give a plain ViT")
    image_size = patch.patch_size[0] * patch.grid_size[0], patch.patch_size[1] * patch.grid_size[1]
    return Checkpoint(
        path=path,
        kind=f"timm {config['architecture']}",
        weights=encoder_weights,
        position=position,
        grid=_grid(path, image_size, patch.patch_size, position.shape[0]),
        patch_size=patch.patch_size,
        channels=encoder_weights["patch_embedding.weight"].shape[1] // (patch.patch_size[0] * patch.patch_size[1]),
        encoder=TransformerConfig(
            dim=model.embed_dim,
            depth=len(model.blocks),
            heads=block.attn.num_heads,
            mlp_dim=block.mlp.fc1.out_features,
            norm_epsilon=block.norm1.eps,
        ),
        mean=tuple(model.pretrained_cfg["mean"]),
        std=tuple(model.pretrained_cfg["std"]),
    )


def _timm_model(path: Path, folder: Path, name: str) -> Any:
    """The model that a config.json describes, with random weights: for its sizes."""
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer
    except ImportError:
        raise UserError(f"{path} is a timm model, reading it needs timm: pip install 'mmssl[interchange]'") from None
    try:
        model = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=False)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{folder / 'config.json'} describes no model that timm {timm.__version__} can build ({reason}): "
            "update timm, or give another folder"
        ) from None
    if not isinstance(model, VisionTransformer):
        raise UserError(f"{path} is a {name}: --init reads plain vision transformers only")
    if model.cls_token is None or model.pos_embed is None:
        lacking = "class token" if model.cls_token is None else "positions"
        raise UserError(f"{path} ({name}) has no {lacking}: give a plain ViT that has both")
    return model


def bare_timm_checkpoint(path: Path, weights: Weights) -> Checkpoint:
    """A safetensors file with timm's names and nothing beside it: sizes come from the shapes, heads are a guess."""
    if f"{TIMM.patch}.weight" not in weights or weights[f"{TIMM.patch}.weight"].ndim != 4:
        raise UserError(f"{path} holds no timm ViT: put the config.json that belongs to it into the same folder")
    dim, channels, *patch_size = weights[f"{TIMM.patch}.weight"].shape
    depth = depth_of(weights, TIMM.blocks)
    _fold_layer_scale(weights)
    with complete(path, _PLAIN):
        encoder_weights, position = encoder_from(TIMM, weights)
    _refuse_rest(path, weights, head=_TIMM_HEAD)
    return Checkpoint(
        path=path,
        kind="timm names, no config.json",
        weights=encoder_weights,
        position=position,
        grid=None,
        patch_size=(patch_size[0], patch_size[1]),
        channels=channels,
        encoder=TransformerConfig(
            dim=dim,
            depth=depth,
            heads=max(1, dim // 64) if dim % 64 == 0 else 1,
            mlp_dim=encoder_weights["encoder.blocks.0.mlp.fc1.weight"].shape[0],
        ),
        heads_assumed=True,
    )


def _fold_layer_scale(weights: Weights) -> None:
    """LayerScale (Touvron et al. 2021, CaiT) multiplies a branch by a vector: exactly a linear layer scaled by it."""
    for branch, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
        for name in [name for name in weights if name.endswith(f".{branch}.gamma")]:
            scale, block = weights.pop(name), name.removesuffix(f".{branch}.gamma")
            weights[f"{block}.{layer}.weight"] = weights[f"{block}.{layer}.weight"] * scale[:, None]
            weights[f"{block}.{layer}.bias"] = weights[f"{block}.{layer}.bias"] * scale


def _refuse_rest(path: Path, weights: Mapping[str, Tensor], head: Iterable[str]) -> None:
    """Tensors that nobody has taken must belong to a head; any other is a part that our trunk has not."""
    rest = [name for name in weights if not name.startswith(tuple(head))]
    for name in rest:
        for piece, what in _FOREIGN.items():
            if piece in name:
                raise UserError(f"{path} has {what} ('{name}'), which this encoder has not: give a plain ViT")
    if rest:
        raise UserError(f"{path} has '{rest[0]}', which this encoder has no place for: give a plain ViT")


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _grid(path: Path, image: tuple[int, int], patch: tuple[int, int], positions: int) -> tuple[int, int]:
    grid = image[0] // patch[0], image[1] // patch[1]
    if grid[0] * grid[1] != positions:
        raise UserError(
            f"{path}: config.json says {grid[0]}x{grid[1]} patches, the weights hold {positions} positions: "
            "use the config.json that was saved with them"
        )
    return grid

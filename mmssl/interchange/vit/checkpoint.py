"""Trained weights in our terms, wherever they were written: by us, by transformers or by timm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.interchange.pixels import TASKS
from mmssl.interchange.pixels.hole import split_hole
from mmssl.interchange.weights import Weights, complete, find_model, no_config, read_weights
from mmssl.nn.patches import sincos_positions
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors import read_config
from mmssl.predictors.masked_autoencoder import MaskedAutoencoderConfig
from mmssl.predictors.pixels import PixelConfig

BACKBONE = "network.backbone."
"""What precedes the names of an encoder in a predictor of pixels."""


@dataclass(frozen=True)
class Checkpoint:
    """An encoder of images, perhaps with the decoder that it was trained with."""

    path: Path
    """Where it was read from."""
    kind: str
    """What it is, for people."""
    weights: Weights
    """Encoder under our names: ``patch_embedding``, ``cls_token``, ``encoder``; without positions, and without the
    channel of the hole."""
    position: Float[Tensor, "position dim"]
    """Positions of the patches, row by row; none for cls."""
    grid: tuple[int, int] | None
    """Rows and columns of patches; None where the source does not say."""
    patch_size: tuple[int, int]
    """Height and width of a patch in pixels."""
    channels: int
    """Channels of the pictures."""
    encoder: TransformerConfig
    """Shape of the encoder."""
    heads_assumed: bool = False
    """The source does not say its number of heads; 64 dimensions each, as published ViTs have it, is a guess."""
    mean: tuple[float, ...] | None = None
    """Mean of the pictures by channel on the scale 0..1 that inputs were normalised with; None where unknown."""
    std: tuple[float, ...] | None = None
    """Standard deviation, likewise."""
    hole: Float[Tensor, "dim pixel"] | None = None
    """What the patch embedding makes of the channel that says where a hole is; None where there is no such channel."""
    architecture: str | None = None
    """Which of our architectures, or tasks on pixels, the decoder belongs to; None without a decoder."""
    decoder: TransformerConfig | None = None
    """Shape of the decoder, where that is a Transformer."""
    decoder_weights: Weights | None = None
    """Decoder and whatever else is not the encoder, under our names."""
    no_decoder: str = "there is none"
    """Why there are no decoder weights, where there are none."""
    target: str | None = None
    """What the decoder was trained to predict: ``normalized_pixels`` or ``pixels``."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that the positions are for, in pixels."""
        assert self.grid is not None  # models of ours always say
        return self.grid[0] * self.patch_size[0], self.grid[1] * self.patch_size[1]

    def positions_are_sincos(self, grid: tuple[int, int]) -> bool:
        """Whether the positions are MAE's fixed ones on this grid, to the rounding of single precision."""
        dim = self.position.shape[1]
        if dim % 4 or self.position.shape[0] != grid[0] * grid[1]:
            return False
        return bool((self.position - sincos_positions(grid, dim)).abs().max() < 1e-5)


def read_checkpoint(where: str | Path) -> Checkpoint:
    """Read weights of ours, of transformers (ViT-MAE, ViT) or of timm (VisionTransformer).

    ``where``: a folder, a safetensors file, or the name of a model on the Hugging Face hub. Nothing pickled is read.
    Raises UserError where there are no such weights, or where the model has parts that our trunk has not.
    """
    from mmssl.interchange.vit.readers import bare_timm_checkpoint, timm_checkpoint, transformers_checkpoint

    path, folder, file = find_model(where, "ViTMAEForPreTraining")
    if not (folder / "config.json").is_file():
        if path.is_file():
            return bare_timm_checkpoint(path, read_weights(file))
        raise no_config(folder)
    config = read_json(folder / "config.json")
    if "predictor" in config:
        return _our_checkpoint(path, config, read_weights(file))
    if "model_type" in config:
        return transformers_checkpoint(path, folder, config, read_weights(file))
    if "architecture" in config:
        return timm_checkpoint(path, folder, config, read_weights(file))
    raise UserError(f"{folder / 'config.json'} is none of mmssl, transformers or timm: give a folder that is")


_ENCODER = ("patch_embedding.", "cls_token", "encoder.")


def _our_checkpoint(path: Path, data: dict[str, Any], weights: Weights) -> Checkpoint:
    if data["predictor"] not in ("masked_autoencoder", *TASKS):
        raise UserError(f"{path} is a {data['predictor']}, not an image encoder: give a run on pictures")
    predictor, config = read_config(data, f"{path}: config.json")
    return our_checkpoint(path, predictor.name, config, weights)


def our_checkpoint(path: Path, name: str, config: Any, weights: Weights) -> Checkpoint:
    """The encoder of a predictor of pictures, from its config and weights.

    Raises UserError where it has a model of timm in the encoder's place.
    """
    if isinstance(config, PixelConfig):
        return _pixel_checkpoint(path, name, config, weights)
    assert isinstance(config, MaskedAutoencoderConfig)
    position = weights.pop("position", None)
    return Checkpoint(
        path=path,
        kind="mmssl",
        weights={name: tensor for name, tensor in weights.items() if name.startswith(_ENCODER)},
        position=sincos_positions(config.grid, config.encoder.dim) if position is None else position,
        grid=config.grid,
        patch_size=config.patch_size,
        channels=config.channels,
        encoder=config.encoder,
        mean=config.mean,
        std=config.std,
        architecture=config.architecture,
        decoder=config.decoder,
        decoder_weights={name: tensor for name, tensor in weights.items() if not name.startswith(_ENCODER)},
        target=config.target,
    )


def _pixel_checkpoint(path: Path, name: str, config: PixelConfig, weights: Weights) -> Checkpoint:
    if config.encoder is None:
        raise UserError(
            f"{path} has timm's {config.timm_model} for its backbone, not our trunk: it starts tasks on pixels "
            f"of timm_model '{config.timm_model}'"
        )
    encoder = {key.removeprefix(BACKBONE): tensor for key, tensor in weights.items() if key.startswith(BACKBONE)}
    position = encoder.pop("position", None)
    with complete(path, f"{name} of ours"):
        pixels = config.patch_size[0] * config.patch_size[1]
        encoder["patch_embedding.weight"], hole = split_hole(encoder["patch_embedding.weight"], config.channels, pixels)
    return Checkpoint(
        path=path,
        kind=f"mmssl {name}",
        weights=encoder,
        position=sincos_positions(config.grid, config.encoder.dim) if position is None else position,
        grid=config.grid,
        patch_size=config.patch_size,
        channels=config.channels,
        encoder=config.encoder,
        mean=config.mean,
        std=config.std,
        hole=hole,
        architecture=name,
        decoder_weights={key: tensor for key, tensor in weights.items() if not key.startswith(BACKBONE)},
        no_decoder=f"it is of {name}",
    )

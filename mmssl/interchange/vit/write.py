"""A trunk of pictures as timm's VisionTransformer, or transformers' ViTMAEForPreTraining or ViTModel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mmssl.errors import UserError
from mmssl.interchange.staging import Report, report_of, save_weights, write_json
from mmssl.interchange.vit.checkpoint import Checkpoint, our_checkpoint
from mmssl.interchange.vit.names import TIMM, TRANSFORMERS, decoder_to, encoder_to
from mmssl.interchange.vit.parity import TIMM_EPSILON, compare_timm, compare_vit, compare_vit_mae
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.predictors.pixels import PixelPredictor

Encoder = MaskedAutoencoder | PixelPredictor
"""A predictor whose encoder is our trunk on patches."""


def write_mae(
    predictor: MaskedAutoencoder, run: Path, to: Literal["timm", "transformers"]
) -> Callable[[Path, Path], Report]:
    """:func:`write_vit` of a masked autoencoder."""
    return write_vit(predictor, our_checkpoint(run, predictor.name, predictor.config, predictor.state_dict()), to)


def write_vit(
    predictor: Encoder, source: Checkpoint, to: Literal["timm", "transformers"], note: str = ""
) -> Callable[[Path, Path], Report]:
    """What fills a folder for the library ``to``: takes that folder, and the place where it will be in the end.

    ``source``: the predictor's encoder for whole pictures. ``note``: what users of it must know beside the rest.
    Raises UserError where neither library can represent the encoder.
    """
    if source.encoder.norm != "pre":
        raise UserError(
            f"{source.path} has norms after its blocks, timm's and transformers' ViTs before: it cannot be exported"
        )
    write = {"timm": _timm, "transformers": _transformers}[to]

    def fill(folder: Path, out: Path) -> Report:
        report = write(predictor, source, folder, out)
        return {**report, "note": "; ".join(filter(None, (report["note"], note)))}

    return fill


def _by_channel(values: tuple[float, ...], channels: int) -> list[float]:
    return list(values) * (channels // len(values))


def statistics(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, channels: int) -> dict[str, list[float]]:
    """Mean and standard deviation by channel, under timm's names."""
    assert mean is not None and std is not None  # noqa: PT018 - models of ours always say
    return {"mean": _by_channel(mean, channels), "std": _by_channel(std, channels)}


def _timm(predictor: Encoder, source: Checkpoint, folder: Path, out: Path) -> Report:
    """timm's VisionTransformer. Its pooled output is our ``mean``: the mean over patches *after* the final norm, where
    timm's own default for average pooling puts the norm after the mean."""
    save_weights(encoder_to(TIMM, source.weights, source.position.detach(), source.patch_size), folder)
    write_json(folder / "config.json", timm_config(source))
    epsilon = source.encoder.norm_epsilon
    differences, without, version = compare_timm(predictor, epsilon, folder)
    load = ["import timm", f"model = timm.create_model('local-dir:{out}', pretrained=True)"]
    note = "model(x) is the mean feature; global_pool='token' makes it cls"
    if epsilon != TIMM_EPSILON:
        norm = f"norm_layer=partial(torch.nn.LayerNorm, eps={epsilon})"
        load = ["import timm, torch", "from functools import partial", load[1][:-1] + f", {norm})"]
        note += (
            f"; timm's config.json cannot say layer norm epsilon {epsilon}: "
            f"left out of the call, features differ by {without:.1e}"
        )
    return report_of("VisionTransformer", f"timm {version}", out, differences, load, note)


def timm_config(source: Checkpoint) -> dict[str, Any]:
    """config.json as timm writes it for the Hugging Face hub. ``model_args`` say everything; ``architecture`` only
    names a constructor, the one that is nearest."""
    encoder = source.encoder
    ratio = encoder.mlp_dim / encoder.dim
    if int(encoder.dim * ratio) != encoder.mlp_dim:
        ratio = (encoder.mlp_dim + 0.5) / encoder.dim  # timm rounds down
    arguments = {
        "img_size": list(source.image_size),
        "patch_size": list(source.patch_size),
        "in_chans": source.channels,
        "embed_dim": encoder.dim,
        "depth": encoder.depth,
        "num_heads": encoder.heads,
        "mlp_ratio": ratio,
        "class_token": True,
        "global_pool": "avg",
        "fc_norm": False,
    }
    size = {192: "tiny", 384: "small", 1024: "large"}.get(encoder.dim, "base")
    return {
        "architecture": f"vit_{size}_patch16_224",
        "num_classes": 0,
        "num_features": encoder.dim,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [source.channels, *source.image_size],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            **statistics(source.mean, source.std, source.channels),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _transformers(predictor: Encoder, source: Checkpoint, folder: Path, out: Path) -> Report:
    """ViTMAEForPreTraining where it can say everything, else ViTModel with the encoder alone."""
    weights = encoder_to(TRANSFORMERS, source.weights, source.position.detach(), source.patch_size)
    write_json(folder / "preprocessor_config.json", preprocessor_config(source))
    obstacle = no_vit_mae(predictor)
    if obstacle or isinstance(predictor, PixelPredictor):
        save_weights(weights, folder)
        write_json(folder / "config.json", vit_config(source))
        differences, version = compare_vit(predictor, folder)
        load = ["from transformers import ViTModel",
                f"model = ViTModel.from_pretrained('{out}', add_pooling_layer=False)"]  # fmt: skip
        note = f"encoder only, because {obstacle}"
        return report_of("ViTModel", f"transformers {version}", out, differences, load, note)
    decoder_position: Any = predictor.decoder_position
    decoder = decoder_to(predictor.state_dict(), decoder_position)
    save_weights({f"vit.{name}": tensor for name, tensor in weights.items()} | decoder, folder)
    write_json(folder / "config.json", vit_mae_config(source, predictor.config))
    differences, version = compare_vit_mae(predictor, folder)
    load = ["from transformers import ViTMAEForPreTraining, ViTMAEModel",
            f"whole = ViTMAEForPreTraining.from_pretrained('{out}')",
            f"encoder = ViTMAEModel.from_pretrained('{out}', mask_ratio=0.0)"]  # fmt: skip
    note = "ViTMAEModel hides patches at inference too, in random order: features of whole pictures need mask_ratio=0.0"
    return report_of("ViTMAEForPreTraining", f"transformers {version}", out, differences, load, note)


def no_vit_mae(predictor: Encoder) -> str:
    """Why transformers' ViTMAE cannot represent a model; empty where it can."""
    if isinstance(predictor, PixelPredictor):
        return f"transformers has no {predictor.name} decoder"
    config = predictor.config
    if config.architecture != "mae":
        return f"transformers has no {config.architecture} decoder"
    if config.image_size[0] != config.image_size[1] or config.patch_size[0] != config.patch_size[1]:
        return "transformers' ViTMAEForPreTraining takes square pictures and patches only"
    if config.encoder.norm_epsilon != config.decoder.norm_epsilon:
        return "transformers' ViTMAE has one layer norm epsilon for encoder and decoder"
    if config.decoder.norm != "pre":
        return "transformers' ViTMAE decoder has its norms before its parts"
    return ""


def _square(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def vit_config(source: Checkpoint) -> dict[str, Any]:
    """config.json of transformers' ViTModel."""
    encoder = source.encoder
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.norm_epsilon,
        "image_size": _square(source.image_size),
        "patch_size": _square(source.patch_size),
        "num_channels": source.channels,
        "qkv_bias": True,
    }


def vit_mae_config(source: Checkpoint, config: MaskedAutoencoderConfig) -> dict[str, Any]:
    """config.json of transformers' ViTMAEForPreTraining."""
    decoder = config.decoder
    return vit_config(source) | {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "decoder_hidden_size": decoder.dim,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.mlp_dim,
        "mask_ratio": config.mask_fraction,
        "norm_pix_loss": config.target == "normalized_pixels",
    }


def preprocessor_config(source: Checkpoint) -> dict[str, Any]:
    """preprocessor_config.json for AutoImageProcessor: the centre crop, bilinear resizing and scale of our evaluation.

    The processor crops the centre of square pictures only; others are resized without regard to their aspect ratio.
    """
    height, width = source.image_size
    by_channel = statistics(source.mean, source.std, source.channels)
    crop = {"size": {"shortest_edge": height}, "do_center_crop": True, "crop_size": {"height": height, "width": width}}
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        **(crop if height == width else {"size": {"height": height, "width": width}}),
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": by_channel["mean"],
        "image_std": by_channel["std"],
    }

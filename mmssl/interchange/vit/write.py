"""A masked autoencoder as timm's VisionTransformer, or transformers' ViTMAEForPreTraining or ViTModel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mmssl.errors import UserError
from mmssl.interchange.staging import Report, report_of, save_weights, write_json
from mmssl.interchange.vit.names import TIMM, TRANSFORMERS, decoder_to, encoder_to
from mmssl.interchange.vit.parity import TIMM_EPSILON, compare_timm, compare_vit, compare_vit_mae
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig


def write_vit(
    predictor: MaskedAutoencoder, run: Path, to: Literal["timm", "transformers"]
) -> Callable[[Path, Path], Report]:
    """What fills a folder for the library ``to``: takes that folder, and the place where it will be in the end.

    Raises UserError where neither library can represent the encoder.
    """
    if predictor.config.encoder.norm != "pre":
        raise UserError(
            f"{run} has norms after its blocks, timm's and transformers' ViTs before: it cannot be exported"
        )
    write = {"timm": _timm, "transformers": _transformers}[to]
    return lambda folder, out: write(predictor, folder, out)


def _by_channel(values: tuple[float, ...], channels: int) -> list[float]:
    return list(values) * (channels // len(values))


def _timm(predictor: MaskedAutoencoder, folder: Path, out: Path) -> Report:
    """timm's VisionTransformer. Its pooled output is our ``mean``: the mean over patches *after* the final norm, where
    timm's own default for average pooling puts the norm after the mean."""
    config = predictor.config
    save_weights(encoder_to(TIMM, predictor.state_dict(), predictor.position.detach(), config.patch_size), folder)
    write_json(folder / "config.json", timm_config(config))
    exact = config.encoder.norm_epsilon == TIMM_EPSILON
    differences, without, version = compare_timm(predictor, folder)
    load = ["import timm", f"model = timm.create_model('local-dir:{out}', pretrained=True)"]
    note = "model(x) is the mean feature; global_pool='token' makes it cls"
    if not exact:
        norm = f"norm_layer=partial(torch.nn.LayerNorm, eps={config.encoder.norm_epsilon})"
        load = ["import timm, torch", "from functools import partial", load[1][:-1] + f", {norm})"]
        note += (
            f"; timm's config.json cannot say layer norm epsilon {config.encoder.norm_epsilon}: "
            f"left out of the call, features differ by {without:.1e}"
        )
    return report_of("VisionTransformer", f"timm {version}", out, differences, load, note)


def timm_config(config: MaskedAutoencoderConfig) -> dict[str, Any]:
    """config.json as timm writes it for the Hugging Face hub. ``model_args`` say everything; ``architecture`` only
    names a constructor, the one that is nearest."""
    encoder = config.encoder
    ratio = encoder.mlp_dim / encoder.dim
    if int(encoder.dim * ratio) != encoder.mlp_dim:
        ratio = (encoder.mlp_dim + 0.5) / encoder.dim  # timm rounds down
    arguments = {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "in_chans": config.channels,
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
            "input_size": [config.channels, *config.image_size],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": _by_channel(config.mean, config.channels),
            "std": _by_channel(config.std, config.channels),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _transformers(predictor: MaskedAutoencoder, folder: Path, out: Path) -> Report:
    """ViTMAEForPreTraining where it can say everything, else ViTModel with the encoder alone."""
    config = predictor.config
    state, position = predictor.state_dict(), predictor.position.detach()
    weights = encoder_to(TRANSFORMERS, state, position, config.patch_size)
    write_json(folder / "preprocessor_config.json", preprocessor_config(config))
    obstacle = no_vit_mae(config)
    if obstacle:
        save_weights(weights, folder)
        write_json(folder / "config.json", vit_config(config))
        differences, version = compare_vit(predictor, folder)
        load = ["from transformers import ViTModel",
                f"model = ViTModel.from_pretrained('{out}', add_pooling_layer=False)"]  # fmt: skip
        note = f"encoder only, because {obstacle}"
        return report_of("ViTModel", f"transformers {version}", out, differences, load, note)
    decoder_position: Any = predictor.decoder_position
    decoder = decoder_to(state, decoder_position)
    save_weights({f"vit.{name}": tensor for name, tensor in weights.items()} | decoder, folder)
    write_json(folder / "config.json", vit_mae_config(config))
    differences, version = compare_vit_mae(predictor, folder)
    load = ["from transformers import ViTMAEForPreTraining, ViTMAEModel",
            f"whole = ViTMAEForPreTraining.from_pretrained('{out}')",
            f"encoder = ViTMAEModel.from_pretrained('{out}', mask_ratio=0.0)"]  # fmt: skip
    note = "ViTMAEModel hides patches at inference too, in random order: features of whole pictures need mask_ratio=0.0"
    return report_of("ViTMAEForPreTraining", f"transformers {version}", out, differences, load, note)


def no_vit_mae(config: MaskedAutoencoderConfig) -> str:
    """Why transformers' ViTMAE cannot represent a model; empty where it can."""
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


def vit_config(config: MaskedAutoencoderConfig) -> dict[str, Any]:
    """config.json of transformers' ViTModel."""
    encoder = config.encoder
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.norm_epsilon,
        "image_size": _square(config.image_size),
        "patch_size": _square(config.patch_size),
        "num_channels": config.channels,
        "qkv_bias": True,
    }


def vit_mae_config(config: MaskedAutoencoderConfig) -> dict[str, Any]:
    """config.json of transformers' ViTMAEForPreTraining."""
    decoder = config.decoder
    return vit_config(config) | {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "decoder_hidden_size": decoder.dim,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.mlp_dim,
        "mask_ratio": config.mask_fraction,
        "norm_pix_loss": config.target == "normalized_pixels",
    }


def preprocessor_config(config: MaskedAutoencoderConfig) -> dict[str, Any]:
    """preprocessor_config.json for AutoImageProcessor: the centre crop, bilinear resizing and scale of our evaluation.

    The processor crops the centre of square pictures only; others are resized without regard to their aspect ratio.
    """
    height, width = config.image_size
    crop = {"size": {"shortest_edge": height}, "do_center_crop": True, "crop_size": {"height": height, "width": width}}
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        **(crop if height == width else {"size": {"height": height, "width": width}}),
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _by_channel(config.mean, config.channels),
        "image_std": _by_channel(config.std, config.channels),
    }

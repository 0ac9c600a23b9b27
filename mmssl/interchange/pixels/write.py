"""A task on pixels for other libraries: its trunk as a ViT, or its model of timm as timm's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.interchange.parity import compare
from mmssl.interchange.pixels.start import has_hole
from mmssl.interchange.pixels.timm_weights import first_layers, plain_name, without_hole
from mmssl.interchange.staging import Report, report_of, save_weights, write_json
from mmssl.interchange.vit.checkpoint import our_checkpoint
from mmssl.interchange.vit.parity import given_there, probe_batch, timm_input
from mmssl.interchange.vit.write import statistics, write_vit
from mmssl.nn.backbones import TimmBackbone, VitBackbone
from mmssl.nn.patches import patch_grid
from mmssl.predictors.colorization import Colorization
from mmssl.predictors.pixels import PixelConfig, PixelPredictor

LIGHTNESS = "give it no colours: its input is the lightness, CIE L / 100, as three equal channels"


def write_pixels(
    predictor: PixelPredictor, run: Path, to: Literal["timm", "transformers"]
) -> Callable[[Path, Path], Report]:
    """What fills a folder for the library ``to``: takes that folder, and the place where it will be in the end.

    The backbone alone, for whole pictures: no library has our decoder, and the channel of the hole is left out.
    Raises UserError where the library has no such model.
    """
    config, backbone = predictor.config, predictor.network.backbone
    if isinstance(backbone, VitBackbone):
        grid = patch_grid(config.image_size, config.patch_size)
        source = our_checkpoint(run, predictor.name, config, predictor.state_dict())
        # of the whole picture, at whose size features are taken: super-resolution trains on smaller ones
        source = replace(source, grid=grid, position=backbone.positions(grid))
        return write_vit(predictor, source, to, note_of(predictor))
    assert isinstance(backbone, TimmBackbone)
    if to == "transformers":
        raise UserError(
            f"the backbone of {run} is timm's {plain_name(config.timm_model)}, for which transformers has no class "
            "of its own: use --to timm"
        )
    return lambda folder, out: _timm(predictor, backbone, folder, out)


def note_of(predictor: PixelPredictor) -> str:
    """What users of the exported backbone must know of its input."""
    return LIGHTNESS if isinstance(predictor, Colorization) else ""


def _timm(predictor: PixelPredictor, backbone: TimmBackbone, folder: Path, out: Path) -> Report:
    config = predictor.config
    weights = backbone.model.state_dict()
    if has_hole(predictor):
        weights, _ = without_hole(weights, first_layers(config), config.channels)
    save_weights(weights, folder)
    write_json(folder / "config.json", timm_config(predictor, backbone))
    differences, version = compare_maps(predictor, backbone, folder)
    load = [
        "import timm",
        f"model = timm.create_model('local-dir:{out}', pretrained=True)",
        f"maps = model.forward_intermediates(x, indices={backbone.chosen}, norm=True, intermediates_only=True)",
    ]
    notes = ["the deepest of these maps, its mean over pixels, is the mean feature"]
    if behind := _untrained(predictor, backbone):
        notes.append(f"not trained, because these maps come before it: {', '.join(behind)}")
    note = "; ".join(filter(None, [*notes, note_of(predictor)]))
    return report_of(plain_name(config.timm_model), f"timm {version}", out, differences, load, note)


def timm_config(predictor: PixelPredictor, backbone: TimmBackbone) -> dict[str, Any]:
    """config.json as timm writes it for the Hugging Face hub: timm's own of this model, but for what is ours."""
    config, model = predictor.config, backbone.model
    known: Any = model.pretrained_cfg
    size = config.input_size if backbone.sized else config.image_size
    ours = {
        "custom_load": False,
        "input_size": [config.channels, *size],
        "fixed_input_size": backbone.sized,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        **statistics(config.mean, config.std, config.channels),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": known.get("first_conv"),
        "classifier": known.get("classifier"),
    }
    if note_of(predictor):
        ours["notes"] = [note_of(predictor)]
    return {
        "architecture": plain_name(config.timm_model),
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": {"in_chans": config.channels} | ({"img_size": list(size)} if backbone.sized else {}),
        "pretrained_cfg": ours,
    }


@torch.no_grad()
def compare_maps(predictor: PixelPredictor, backbone: TimmBackbone, folder: Path) -> tuple[dict[str, float], str]:
    """Differences of features after each stage, from the model as timm loads it; and timm's version."""
    import timm

    config: PixelConfig = predictor.config
    batch = probe_batch(config)
    model: Any = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()
    inputs = timm_input(model, given_there(predictor, batch))
    maps: list[Tensor] = model.forward_intermediates(
        inputs, indices=backbone.chosen, norm=True, intermediates_only=True
    )
    *earlier, last = (level.mean((2, 3)) for level in maps)
    theirs = {"mean": last} | {f"layer {number}": level for number, level in enumerate(earlier, 1)}
    return compare(predictor.encode_layers(batch), theirs), timm.__version__


def _untrained(predictor: PixelPredictor, backbone: TimmBackbone) -> list[str]:
    """Parts of the model that no feature map passes through, found as those without a gradient."""
    parameters = dict(backbone.named_parameters(prefix="", remove_duplicate=True))
    with torch.enable_grad():
        maps = backbone(predictor.clean_input(probe_batch(predictor.config)))
        total = torch.stack([level.sum() for level in maps]).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    used = {name.split(".")[1] for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    return sorted({name.split(".")[1] for name in parameters} - used)

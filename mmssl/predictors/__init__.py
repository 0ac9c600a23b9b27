"""One file a pretext task. ``PREDICTORS`` maps the name in config.json to where the class is."""

from importlib import import_module
from pathlib import Path
from typing import Any

from mmssl.config import from_dict, read_json
from mmssl.errors import UserError
from mmssl.predictors.base import Outcome, Predictor, outcome_of, sums_of

__all__ = ["PREDICTORS", "Outcome", "Predictor", "load_predictor", "outcome_of", "sums_of"]

PREDICTORS = {
    "masked_autoencoder": ("mmssl.predictors.masked_autoencoder", "MaskedAutoencoder", "MaskedAutoencoderConfig"),
    "colorization": ("mmssl.predictors.colorization", "Colorization", "ColorizationConfig"),
    "inpainting": ("mmssl.predictors.inpainting", "Inpainting", "InpaintingConfig"),
    "super_resolution": ("mmssl.predictors.super_resolution", "SuperResolution", "SuperResolutionConfig"),
    "restoration": ("mmssl.predictors.restoration", "Restoration", "RestorationConfig"),
    "masked_language_model": (
        "mmssl.predictors.masked_language_model",
        "MaskedLanguageModel",
        "MaskedLanguageModelConfig",
    ),
    "wav2vec2": ("mmssl.predictors.wav2vec2", "Wav2Vec2", "Wav2Vec2Config"),
    "best_rq": ("mmssl.predictors.best_rq", "BestRQ", "BestRQConfig"),
    "audio_visual_sync": ("mmssl.predictors.audio_visual_sync", "AudioVisualSync", "AudioVisualSyncConfig"),
    "audio_visual_masked": ("mmssl.predictors.audio_visual_masked", "AudioVisualMasked", "AudioVisualMaskedConfig"),
}


def read_config(data: dict, where: str) -> tuple[type[Predictor], Any]:
    """The class that a config.json names, and its config. Raises UserError for an unknown name or key."""
    data = dict(data)
    name = data.pop("predictor", None)
    if not isinstance(name, str) or name not in PREDICTORS:
        raise UserError(f"{where}: predictor '{name}' is unknown; known are {', '.join(PREDICTORS)}")
    module, predictor, config = PREDICTORS[name]
    module = import_module(module)
    return getattr(module, predictor), from_dict(getattr(module, config), data, where)


def predictor_from_config(data: dict, where: str) -> Predictor:
    """A freshly initialised predictor from the dict of its config.json."""
    predictor, config = read_config(data, where)
    return predictor(config)


def load_predictor(folder: str | Path) -> Predictor:
    """Load what :meth:`Predictor.save` wrote; ``folder`` is ``runs/NAME`` or ``runs/NAME/model``. In eval mode.

    Raises UserError where the folder is not a run, or its files are damaged.
    """
    folder = Path(folder)
    if (folder / "model").is_dir():
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no trained model (no model/config.json): give the folder that a recipe printed"
        )
    predictor = predictor_from_config(read_json(folder / "config.json"), str(folder / "config.json"))
    predictor.load_weights(folder / "model.safetensors")
    return predictor.eval()

"""One file a pretext task. ``PREDICTORS`` maps the name in config.json to where the class is."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mmssl.config import from_dict, read_json
from mmssl.errors import UserError
from mmssl.predictors.base import Outcome, Predictor, outcome_of, read_safetensors, sums_of

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
    file = folder / "model.safetensors"
    data, weights = read_json(folder / "config.json"), read_safetensors(file)
    # whoever wrote the config decides how large the network is: no larger than its weights
    with at_most(sum(tensor.numel() for tensor in weights.values()), file):
        predictor = predictor_from_config(data, str(folder / "config.json"))
    predictor.load_weights(weights, file)
    return predictor.eval()


@contextmanager
def at_most(numbers: int, file: Path) -> Iterator[None]:
    """Networks built within have not many more parameters: some are shared, or made and thrown away while building.

    A config.json from elsewhere may describe a network that takes all memory, or days to build: it is stopped at its
    first parameter too many, of which no page was touched yet. Raises UserError there, and where there is no such
    network.
    """
    seen, most = 0, 2 * numbers + 1_000_000

    def count(_module: nn.Module, _name: str, parameter: Tensor | None) -> None:
        nonlocal seen
        seen += 0 if parameter is None else parameter.numel()
        if seen > most:
            raise UserError(
                f"{file} holds another model than its config.json describes, which is larger: use the config.json that "
                "was saved with it"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the config.json beside {file} describes no network that can be built ({reason}): use the one that was "
            "saved with it"
        ) from None
    finally:
        hook.remove()

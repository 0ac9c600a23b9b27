"""Weights of a run as a folder that timm or transformers loads, compared with the run before it is handed over."""

from pathlib import Path
from typing import Literal

from mmssl.errors import UserError
from mmssl.interchange.parity import TOLERANCE
from mmssl.interchange.pixels import TASKS
from mmssl.interchange.staging import Report, check_empty, hand_over
from mmssl.predictors import load_predictor


def export(run: str | Path, to: Literal["timm", "transformers"], out: str | Path) -> Report:
    """Write a trained encoder, with what it predicted with where that can be said there, and check it.

    The folder appears at ``out`` only after the public library has loaded it from disk and reproduced on a fixed batch
    what the run computes: features and loss of a masked autoencoder or of wav2vec 2.0, features of a task on pixels,
    logits and loss of a masked language model; ``parity.json`` in it, also printed and returned, says how closely.

    Raises UserError where ``run`` is of another kind, ``out`` is not empty, the library is not installed, the model
    cannot be represented, or a difference exceeds ``TOLERANCE``.
    """
    from mmssl.interchange.bert.write import write_bert
    from mmssl.interchange.pixels.write import write_pixels
    from mmssl.interchange.vit.write import write_mae
    from mmssl.interchange.wav2vec2.write import write_wav2vec2

    out = Path(out)
    check_empty(out)
    predictor = load_predictor(run)
    writers = {
        "masked_autoencoder": write_mae,
        **dict.fromkeys(TASKS, write_pixels),
        "masked_language_model": write_bert,
        "wav2vec2": write_wav2vec2,
    }
    if predictor.name not in writers:
        raise UserError(f"{run} is a {predictor.name}: export takes runs of {', '.join(writers)}")
    write = writers[predictor.name](predictor, Path(run), to)
    return hand_over(run, out, lambda folder: write(folder, out), TOLERANCE)

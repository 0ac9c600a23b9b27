"""Whether a contrastive predictor computes in transformers what it computes here."""

from pathlib import Path

import torch
from torch import Tensor

from mmssl.interchange.parity import compare, import_transformers, load_transformers
from mmssl.predictors.base import View
from mmssl.predictors.wav2vec2 import Wav2Vec2


def probe_batch(predictor: Wav2Vec2, steps: tuple[int, ...]) -> dict[str, Tensor]:
    """Noise with a drift, in recordings of about so many frames."""
    generator = torch.Generator().manual_seed(0)
    field, step = predictor.encoder.front_end.field_and_step
    length = torch.tensor([field + step * (count - 1) + step // 3 for count in steps])
    audio = torch.randn(len(steps), int(length.max()), generator=generator).cumsum(1) * 0.01
    audio = (audio + 0.1 * torch.randn(audio.shape, generator=generator)).clamp(-1, 1)
    audio = torch.where(torch.arange(audio.shape[1]) < length[:, None], audio, 0)
    zeros = torch.zeros(len(steps), dtype=torch.int64)
    return {"id": torch.arange(len(steps)), "epoch": zeros, "audio": audio, "length": length}


def negatives_of(view: View) -> Tensor:
    """The negatives of a view as transformers wants them: indices into all frames of the batch, of every frame."""
    hidden, frames = view["hidden"], view["frames"]
    place = torch.arange(frames.real.numel()) if frames.place is None else frames.place
    rows = hidden.rows(place[hidden.ids[0]].float()).long()
    drawn = rows.gather(1, view["negatives"].flatten(1)).view(view["negatives"].shape)
    everywhere = torch.zeros(frames.real.numel(), drawn.shape[2], dtype=torch.int64)
    everywhere[place[hidden.ids[0]]] = drawn.flatten(0, 1)[hidden.slot]
    return everywhere.view(*frames.real.shape, -1)


@torch.no_grad()
def compare_wav2vec2(predictor: Wav2Vec2, folder: Path) -> tuple[dict[str, float], str]:
    """Differences of the contrastive loss, the perplexity of its codes and the features of Wav2Vec2ForPreTraining and
    of its preprocessor's output; and the library's version.

    Recordings of different lengths where layer norm makes padding harmless. With group norm theirs depend on it, so
    there the recordings are equally long, as its preprocessor asks for.
    """
    transformers = import_transformers()
    layer = predictor.encoder.config.front_end.norm == "layer"  # pyright: ignore[reportAttributeAccessIssue]
    batch = probe_batch(predictor, (47, 31) if layer else (47, 47))
    prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)
    recordings = [audio[:length].numpy() for audio, length in zip(batch["audio"], batch["length"], strict=True)]
    inputs = prepare(recordings, sampling_rate=predictor.sample_rate, padding=True, return_tensors="pt")
    model = load_transformers("Wav2Vec2ForPreTraining", folder)
    view = predictor.perturb(batch)
    hidden, count = view["hidden"], view["hidden"].counts.sum()
    outcome = predictor.score(predictor.predict(predictor.encode(view), view), predictor.target(batch, view), view)
    output = model(**inputs, mask_time_indices=hidden.mask, sampled_negative_indices=negatives_of(view))
    tokens = model.wav2vec2(**inputs).last_hidden_state
    frames, lengths = predictor.encode_frames(batch)
    real = torch.arange(frames.shape[1])[None, :, None] < lengths[:, None, None]
    ours = {
        "loss": outcome["contrastive_loss"] / count,
        "perplexity": outcome["code_perplexity"] / count,
        "frames": frames,
        "mean": predictor.encode_clean(batch)["mean"],
    }
    theirs = {
        "loss": output.contrastive_loss / count,
        "perplexity": output.codevector_perplexity,
        "frames": tokens * real,
        "mean": (tokens * real).sum(1) / lengths[:, None],
    }
    return compare(ours, theirs), transformers.__version__

"""A probe that writes: a linear head on frozen frames, trained with CTC to spell or to name the words of a recording.

Graves et al. 2006, "Connectionist Temporal Classification". As in SUPERB (Yang et al. 2021) the head sees a weighted
sum of all layers, whose weights are trained with it, and the encoder stays as it is. Error rates are edits over the
length of the truth, on recordings that were not trained on, beside an untrained encoder and log-mel frames.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.evaluation.ctc_report import CtcReport, Unit
from mmssl.evaluation.features import freshly_initialised, seeded, to_device
from mmssl.evaluation.probe_results import PRETRAINED, RAW, UNTRAINED
from mmssl.nn.frames import frame_counts
from mmssl.nn.mel import MelConfig, MelFrontEnd
from mmssl.predictors.audio import AudioPredictor
from mmssl.predictors.base import Batch
from mmssl.training.optimizer import learning_rate_at

FEW_WORDS = 100
"""Recordings with at most so many different words are transcribed by word, others by character."""
BLANK = 0
WINDOW = 0.25
"""Seconds, about, that the head sees at a time. From a single frame of log-mel nobody can tell where a word begins."""


@dataclass(frozen=True)
class CtcConfig:
    """Fixed before any result; nothing is chosen on the test part."""

    steps: int = 600
    """Optimizer steps."""
    batch_size: int = 32
    """Recordings a step (all of them where there are fewer)."""
    learning_rate: float = 1e-2
    """Peak, of Adam; a linear head bears a high one."""
    weight_decay: float = 1e-2
    """AdamW's."""
    warmup_share: float = 0.1
    """Part of the steps with a rising learning rate."""


@dataclass(frozen=True)
class Transcripts:
    """Recordings that can be gone through any number of times, and what is said in each."""

    batches: Callable[[], Iterator[Batch]]
    """Starts one pass: every recording once."""
    texts: Sequence[str]
    """By recording id."""


@dataclass(frozen=True)
class Frozen:
    """Frames of recordings, computed once: all layers, in half precision to halve their memory."""

    frames: list[Float[Tensor, "_ layer dim"]]
    ids: list[int]
    window: int
    """Frames that the head sees at a time, an odd number."""


def probe_ctc(
    predictor: AudioPredictor,
    train: Transcripts,
    test: Transcripts,
    *,
    unit: Literal["auto", "words", "characters"] = "auto",
    seeds: int = 3,
    config: CtcConfig | None = None,
    notes: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> CtcReport:
    """Train a CTC head on each representation and count its errors on the test part.

    ``unit`` auto is words where there are at most 100 different ones in the training part. Each seed trains another
    head, and for ``random init`` on another untrained encoder.

    Raises UserError where the texts of the training part are all empty, or there is no seed.
    """
    if seeds < 1:
        raise UserError(f"a probe needs at least 1 seed, got {seeds}")
    say, config = say or (lambda _line: None), config or CtcConfig()
    chosen = _unit(train.texts, unit)
    tokens = sorted({token for text in train.texts for token in tokenise(text, chosen)})
    if not tokens:
        raise UserError("there is nothing to transcribe: the texts of the training part are empty")
    untrained = [freshly_initialised(predictor, seed) for seed in range(seeds)]
    subjects = {PRETRAINED: [layers_of(predictor)] * seeds, UNTRAINED: [layers_of(model) for model in untrained]}
    subjects[RAW] = [log_mel_like(predictor)] * seeds
    step = predictor.encoder.front_end.field_and_step[1] / predictor.sample_rate
    window = 1 + 2 * round(WINDOW / 2 / step)
    errors: dict[str, tuple[float, ...]] = {}
    notes = [*notes, f"The head is linear in windows of {window} frames, {1000 * window * step:.0f} ms."]
    sizes = (0, 0)
    for name, encoders in subjects.items():
        rates, cached = [], None
        for seed, encode in enumerate(encoders):
            say(f"CTC head on {name}, seed {seed}")
            if cached is None or name == UNTRAINED:
                cached = freeze(encode, train, window), freeze(encode, test, window)
            head = fit_head(cached[0], train.texts, tokens, chosen, predictor.device, seed, config)
            rates.append(error_rate(head, cached[1], test.texts, tokens, chosen))
            sizes = len(cached[0].ids), len(cached[1].ids)
            if name == PRETRAINED and seed == 0 and (short := too_short(cached[0], train.texts, chosen)):
                notes.append(f"{short} recordings have fewer frames than {chosen} and taught nothing.")
        errors[name] = tuple(rates)
    return CtcReport(chosen, len(tokens), *sizes, errors, 1.0, dataclasses.asdict(config), tuple(notes))


def _unit(texts: Sequence[str], unit: Literal["auto", "words", "characters"]) -> Unit:
    if unit != "auto":
        return unit
    return "words" if len({word for text in texts for word in tokenise(text, "words")}) <= FEW_WORDS else "characters"


def tokenise(text: str, unit: Unit) -> list[str]:
    """Words, or characters with single spaces between words; capitals are no others."""
    words = text.lower().split()
    return words if unit == "words" else list(" ".join(words))


Layers = Callable[[Batch], list[Float[Tensor, "frame layer dim"]]]
"""Frames of each recording of a batch."""


def layers_of(predictor: AudioPredictor) -> Layers:
    """All blocks of an encoder in eval mode, each frame normalised as layer norm does."""

    @torch.no_grad()
    def encode(batch: Batch) -> list[Tensor]:
        training = predictor.training
        predictor.eval()
        try:
            batch = to_device(batch, predictor.device)
            states, frames = predictor.encoder.layers(batch["audio"], batch["length"])
        finally:
            predictor.train(training)
        stacked = torch.stack([F.layer_norm(state.float(), state.shape[-1:]) for state in states], 1)
        rows = frames.put_back(stacked)
        return [row[:count] for row, count in zip(rows, frames.lengths.tolist(), strict=True)]

    return encode


def log_mel_like(predictor: AudioPredictor) -> Layers:
    """Log-mel frames, stacked to about the rate of the encoder's frames; mean 0 and variance 1 in each recording."""
    rate = predictor.sample_rate
    step = predictor.encoder.front_end.field_and_step[1]
    front_end = MelFrontEnd(MelConfig(stack=max(1, round(step / rate / MelConfig.hop))), rate).to(predictor.device)

    @torch.no_grad()
    def encode(batch: Batch) -> list[Tensor]:
        batch = to_device(batch, predictor.device)
        mel = front_end.spectrogram_of(batch["audio"])
        counts = frame_counts(batch["length"], (front_end.window,), (front_end.hop,)).clamp_min(1).tolist()
        stack, rows = front_end.config.stack, []
        for row, count in zip(mel, counts, strict=True):
            std, mean = torch.std_mean(row[:count], 0, correction=0)
            normal = (row[:count] - mean) / (std + 1e-3)
            rows.append(F.pad(normal, (0, 0, 0, -count % stack)).reshape(-1, 1, front_end.dim))
        return rows

    return encode


def freeze(encode: Layers, samples: Transcripts, window: int) -> Frozen:
    """Frames of all recordings, on the CPU."""
    frames, ids = [], []
    for batch in samples.batches():
        frames.extend(row.to("cpu", torch.float16) for row in encode(batch))
        ids.extend(batch["id"].tolist())
    return Frozen(frames, ids, window)


def too_short(frozen: Frozen, texts: Sequence[str], unit: Unit) -> int:
    """Recordings that have no path through CTC: a frame a token, and one between two equal ones."""
    short = 0
    for frames, number in zip(frozen.frames, frozen.ids, strict=True):
        tokens = tokenise(texts[number], unit)
        repeats = sum(one == other for one, other in itertools.pairwise(tokens))
        short += len(frames) < len(tokens) + repeats
    return short


class CtcHead(nn.Module):
    """A weighted sum of layers, and a linear map from a window of frames to the tokens and the blank."""

    def __init__(self, layers: int, dim: int, tokens: int, window: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(layers))
        self.linear = nn.Conv1d(dim, 1 + tokens, window, padding=window // 2)

    def forward(self, frames: Float[Tensor, "frame batch layer dim"]) -> Float[Tensor, "frame batch token"]:
        """Log probabilities."""
        mixed = torch.einsum("fbld,l->bdf", frames.float(), self.mix.softmax(0))
        return self.linear(mixed).permute(2, 0, 1).log_softmax(-1)


def fit_head(
    frozen: Frozen,
    texts: Sequence[str],
    tokens: Sequence[str],
    unit: Unit,
    device: torch.device,
    seed: int,
    config: CtcConfig,
) -> CtcHead:
    """Train a head; ``seed`` decides its weights and the order of recordings. In eval mode afterwards."""
    place = {token: number for number, token in enumerate(tokens, 1)}
    targets = [torch.tensor([place[token] for token in tokenise(texts[number], unit)]) for number in frozen.ids]
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed, device), torch.enable_grad():
        _, layers, dim = frozen.frames[0].shape
        head = CtcHead(layers, dim, len(tokens), frozen.window).to(device)
        optimizer = torch.optim.AdamW(head.parameters(), betas=(0.9, 0.98), weight_decay=config.weight_decay)
        for step in range(config.steps):
            chosen = torch.randperm(len(targets), generator=generator)[: config.batch_size].tolist()
            frames = [frozen.frames[number] for number in chosen]
            truth = [targets[number] for number in chosen]
            padded = nn.utils.rnn.pad_sequence(frames).to(device)
            loss = F.ctc_loss(
                head(padded), torch.cat(truth).to(device), torch.tensor([len(row) for row in frames]),
                torch.tensor([len(row) for row in truth]), blank=BLANK, zero_infinity=True,
            )  # fmt: skip
            warmup = round(config.warmup_share * config.steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, config.learning_rate, warmup, config.steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return head.eval()


@torch.no_grad()
def error_rate(head: CtcHead, frozen: Frozen, texts: Sequence[str], tokens: Sequence[str], unit: Unit) -> float:
    """Edits over all recordings, divided by the length of what is really said. Words not trained on are errors."""
    edits = length = 0
    device = head.mix.device
    for frames, number in zip(frozen.frames, frozen.ids, strict=True):
        said = [tokens[token - 1] for token in greedy(head(frames[:, None].to(device))[:, 0].argmax(-1).cpu())]
        truth = tokenise(texts[number], unit)
        edits += edit_distance(said, truth)
        length += len(truth)
    return edits / max(1, length)


def greedy(best: Int[Tensor, " frame"]) -> list[int]:
    """The likeliest token of each frame, repetitions merged and blanks taken out (Graves et al. 2006, section 3.2)."""
    return [token for token in best.unique_consecutive().tolist() if token != BLANK]


def edit_distance(said: Sequence[str], truth: Sequence[str]) -> int:
    """Insertions, deletions and substitutions from one to the other (Levenshtein).

    A row at a time: ``best[j]`` is the distance of what was said so far to the first j of the truth. Insertions within
    a row are the running minimum of ``best[j] - j``.
    """
    places = np.arange(len(truth) + 1)
    wanted = np.array(list(truth), dtype=object)
    best = places
    for token in said:
        row = best + 1
        row[1:] = np.minimum(row[1:], best[:-1] + (wanted != token))
        best = np.minimum.accumulate(row - places) + places
    return int(best[-1])

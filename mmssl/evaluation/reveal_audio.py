"""Recordings with hidden spans and what was predicted for them: as a picture, and as a page with their sound."""

import base64
import html
import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmssl.predictors.audio import AudioPredictor

HIT, NEAR, MISS = "#2e8b57", "#e6b422", "#c8553d"
"""Right, nearly right, wrong: told apart in grey too, dark to light to dark with the middle one brightest."""
HIDDEN = "#35c0d6"
NEAR_RANKS = 5
"""A true code that at most so many negatives came before is nearly right."""


@dataclass(frozen=True)
class Clip:
    """A recording at the model's sample rate."""

    name: str
    audio: Float[Tensor, " sample"]


@dataclass(frozen=True)
class Codes:
    """BEST-RQ at each step: the codes of all codebooks, -1 where nothing was hidden."""

    target: Int[np.ndarray, "step codebook"]
    predicted: Int[np.ndarray, "step codebook"]
    probability: Float[np.ndarray, "step codebook"]
    """What the network gave the true code."""


@dataclass(frozen=True)
class Ranks:
    """wav2vec 2.0 at each step: how the true code stands among the negatives."""

    similarity: Float[np.ndarray, " step"]
    """Cosine of the prediction and the true code."""
    rank: Int[np.ndarray, " step"]
    """Negatives that came before it; -1 where nothing was hidden."""
    negatives: int
    """Drawn for each."""


@dataclass(frozen=True)
class RevealedClip:
    """One recording, what was hidden of it, and what was predicted there."""

    clip: Clip
    sample_rate: int
    mel: Float[np.ndarray, "frame mel"]
    """Log energies."""
    hidden: Bool[np.ndarray, " step"]
    begin: float
    """Seconds at which the first step begins."""
    step: float
    """Seconds of a step."""
    found: Codes | Ranks

    @property
    def seconds(self) -> float:
        return len(self.clip.audio) / self.sample_rate

    def spans(self) -> list[tuple[float, float]]:
        """Beginning and end of each hidden span in seconds."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.hidden, [False]]).astype(np.int8)))
        return [(self.begin + self.step * start, self.begin + self.step * stop) for start, stop in edges.reshape(-1, 2)]

    def heard(self) -> Float[Tensor, " sample"]:
        """The sound with silence where spans are hidden."""
        audio = self.clip.audio.clone()
        for start, stop in self.spans():
            audio[max(0, round(start * self.sample_rate)) : round(stop * self.sample_rate)] = 0
        return audio


def reveal_clips(predictor: "AudioPredictor", clips: Sequence[Clip]) -> list[RevealedClip]:
    """Hide as validation does, and predict; in the order given. A clip's mask depends on its place among the clips."""
    order = sorted(range(len(clips)), key=lambda number: -len(clips[number].audio))
    batch = {
        "id": torch.tensor(order),
        "epoch": torch.zeros(len(order), dtype=torch.int64),
        "audio": torch.nn.utils.rnn.pad_sequence([clips[number].audio for number in order], batch_first=True),
        "length": torch.tensor([len(clips[number].audio) for number in order]),
    }
    panels = {
        name: values.cpu().numpy()
        for name, values in predictor.reveal({name: values.to(predictor.device) for name, values in batch.items()}).items()
    }
    field, step = predictor.encoder.front_end.field_and_step
    rate = predictor.sample_rate
    shown = {}
    for row, number in enumerate(order):
        steps, seconds = int(panels["lengths"][row]), len(clips[number].audio) / rate
        frames = round(panels["original"].shape[1] * seconds / (len(batch["audio"][0]) / rate))
        cut = {name: values[row, :steps] for name, values in panels.items() if name not in ("original", "lengths")}
        shown[number] = RevealedClip(
            clips[number], rate, panels["original"][row, :frames], cut["hidden"],
            begin=(field - step) / 2 / rate, step=step / rate, found=_found(predictor, cut),
        )  # fmt: skip
    return [shown[number] for number in range(len(clips))]


def _found(predictor: "AudioPredictor", cut: dict[str, Any]) -> Codes | Ranks:
    if "predicted" in cut:
        return Codes(cut["target"], cut["predicted"], cut["probability"])
    return Ranks(cut["similarity"], cut["rank"], predictor.config.negatives)


def summary(shown: Sequence[RevealedClip]) -> str:
    """How much was hidden, and how much of it was told."""
    hidden = np.concatenate([clip.hidden for clip in shown])
    if not hidden.any():
        return "nothing was hidden: these recordings are too short"
    said = f"{hidden.mean():.0%} of {len(hidden)} steps hidden"
    first = shown[0].found
    if isinstance(first, Codes):
        codes = [clip.found for clip in shown if isinstance(clip.found, Codes)]
        right = np.concatenate([(code.target == code.predicted)[code.target[:, 0] >= 0] for code in codes])
        given = np.concatenate([code.probability[code.target[:, 0] >= 0] for code in codes])
        return f"{said}; code right {right.mean():.0%}, probability of the true one {given.mean():.1%} on average"
    ranks = np.concatenate([clip.found.rank for clip in shown if isinstance(clip.found, Ranks)])
    ranks = ranks[ranks >= 0]
    return (
        f"{said}; true code first {np.mean(ranks == 0):.0%}, among the first {NEAR_RANKS + 1} "
        f"{np.mean(ranks <= NEAR_RANKS):.0%}, of {first.negatives + 1}"
    )


def draw_clips(shown: Sequence[RevealedClip], caption: str = "", *, names: bool = True) -> "Figure":
    """A spectrogram a recording, its hidden spans marked, and below it what was predicted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.75 * len(shown) + (0.5 if caption else 0.1)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    rows: Any = figure.subplots(2 * len(shown), 1, squeeze=False, height_ratios=[3, 1.25] * len(shown))
    for number, clip in enumerate(shown):
        above, below = rows[2 * number, 0], rows[2 * number + 1, 0]
        _draw_spectrogram(above, clip)
        if names:
            above.set_title(_printable(clip.clip.name), loc="left", fontsize=9, parse_math=False)
        draw = _draw_codes if isinstance(clip.found, Codes) else _draw_ranks
        draw(below, clip, clip.found)  # pyright: ignore[reportArgumentType]
        below.set_xlim(0, clip.seconds)
        below.set_xlabel("seconds" if number == len(shown) - 1 else "", fontsize=8)
        below.tick_params(labelsize=8)
    if caption:
        figure.suptitle(caption, x=0.01, ha="left", fontsize=10, parse_math=False)
    return figure


def _draw_spectrogram(axes: "Axes", clip: RevealedClip) -> None:
    """Quiet is dark. Hidden spans are veiled, and marked along the top."""
    low, high = np.quantile(clip.mel, [0.02, 0.998]) if clip.mel.size else (0.0, 1.0)
    axes.imshow(
        clip.mel.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=max(high, low + 1e-3),
        extent=(0, clip.seconds, 0, clip.mel.shape[1]), interpolation="nearest",
    )  # fmt: skip
    top = clip.mel.shape[1]
    for start, stop in clip.spans():
        axes.axvspan(start, stop, color=HIDDEN, alpha=0.28, linewidth=0)
        axes.plot([start, stop], [top, top], color=HIDDEN, linewidth=5, solid_capstyle="butt", clip_on=False)
    axes.set_xlim(0, clip.seconds)
    axes.set_ylim(0, top)
    axes.set_ylabel("mel bin", fontsize=8)
    axes.tick_params(labelsize=8, labelbottom=False)


def _draw_codes(axes: "Axes", clip: RevealedClip, codes: Codes) -> None:
    """Codes of the first codebook as colours, true above predicted; below, how many codebooks were right."""
    from matplotlib.colors import to_rgb

    right = (codes.target == codes.predicted).mean(1)
    picture = np.ones((3, len(clip.hidden), 3))
    for step in np.flatnonzero(clip.hidden):
        picture[0, step] = _colour(codes.target[step, 0])
        picture[1, step] = _colour(codes.predicted[step, 0])
        share = right[step]
        picture[2, step] = (1 - share) * np.array(to_rgb("#e8e4de")) + share * np.array(to_rgb(HIT))
    end = clip.begin + clip.step * len(clip.hidden)
    axes.imshow(picture, aspect="auto", interpolation="nearest", extent=(clip.begin, end, 3, 0))
    axes.set_yticks([0.5, 1.5, 2.5], ["true code", "predicted", "codebooks right"])
    axes.tick_params(axis="y", length=0)
    for line in (1, 2):
        axes.axhline(line, color="white", linewidth=2)


def _colour(code: int) -> tuple[float, float, float]:
    """A colour a code, far from those of neighbouring numbers (steps of the golden angle)."""
    from matplotlib.colors import hsv_to_rgb

    red, green, blue = hsv_to_rgb([code * 0.618034 % 1, 0.45 + 0.4 * (code * 0.7549 % 1), 0.6 + 0.35 * (code * 0.5698 % 1)])
    return float(red), float(green), float(blue)


def _draw_ranks(axes: "Axes", clip: RevealedClip, ranks: Ranks) -> None:
    """A bar a hidden step: how similar prediction and true code are; its colour, how many negatives came before."""
    steps = np.flatnonzero(ranks.rank >= 0)
    colours = [HIT if rank == 0 else NEAR if rank <= NEAR_RANKS else MISS for rank in ranks.rank[steps]]
    axes.bar(
        clip.begin + clip.step * (steps + 0.5), ranks.similarity[steps], width=clip.step, color=colours, linewidth=0
    )
    axes.axhline(0, color="#777777", linewidth=0.8)
    axes.set_ylim(min(-0.25, float(ranks.similarity.min(initial=0))), 1)
    axes.set_ylabel("cosine", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend_of(shown: Sequence[RevealedClip]) -> str:
    """What the colours mean."""
    if isinstance(shown[0].found, Codes):
        return (
            "Blue: hidden from the network. Below: the code of the first codebook at each hidden step and the one that "
            "was predicted, a colour a code; and how many of all codebooks were right, from none (light) to all (green)."
        )
    return (
        "Blue: hidden from the network. Below, at each hidden step, the cosine of the prediction and the true code. "
        f"Green: no negative was more similar. Yellow: at most {NEAR_RANKS} were. Red: more."
    )


def _printable(name: str) -> str:
    """A file's name as a font can show it."""
    return "".join(letter if letter.isprintable() else "?" for letter in name.encode("utf-8", "replace").decode())


def wav_bytes(audio: Float[Tensor, " sample"], sample_rate: int) -> bytes:
    """A WAV file of 16 bits."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((audio.clamp(-1, 1) * 32767).round().short().cpu().numpy().astype("<i2").tobytes())
    return stream.getvalue()


def write_picture(shown: Sequence[RevealedClip], caption: str, file: Path) -> Path:
    """Write ``file`` (.png)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_clips(shown, f"{caption}. {summary(shown)}").savefig(file)
    return file


def write_sounds(shown: Sequence[RevealedClip], folder: Path) -> list[Path]:
    """Write ``clip-1.wav`` and ``clip-1-hidden.wav``, silent where spans are hidden, and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, clip in enumerate(shown, 1):
        for name, audio in ((f"clip-{number}", clip.clip.audio), (f"clip-{number}-hidden", clip.heard())):
            file = folder / f"{name}.wav"
            file.write_bytes(wav_bytes(audio, clip.sample_rate))
            files.append(file)
    return files


_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.6 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.2rem; } h2 { font-size: 1rem; overflow-wrap: anywhere; margin: 0 0 .4rem; }
p.note { opacity: .8; max-width: 52rem; } article { border-top: 1px solid #8886; padding: 1rem 0; }
img { width: 100%; height: auto; border-radius: .3rem; display: block; }
.sounds { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; margin-top: .5rem; }
label { display: flex; align-items: center; gap: .6rem; font-size: .9rem; } audio { height: 2.2rem; }
"""


def write_page(shown: Sequence[RevealedClip], caption: str, file: Path) -> Path:
    """Write ``file`` (.html): one page without anything from elsewhere, the sound in it. Strangers' names stay text."""
    escape = html.escape
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(caption)}</title><style>{_STYLE}</style></head><body><h1>{escape(caption)}</h1>",
        f'<p class="note">{escape(summary(shown))}. {escape(legend_of(shown))}</p>',
    ]
    for clip in shown:
        name, picture = escape(clip.clip.name), io.BytesIO()
        draw_clips([clip], names=False).savefig(picture)
        parts.append(
            f"<article><h2>{name}</h2>"
            f'<img alt="Spectrogram of {name} and predictions" src="{_inline(picture.getvalue(), "image/png")}">'
            '<div class="sounds">'
            f"<label>whole {_player(clip.clip.audio, clip.sample_rate)}</label>"
            f"<label>what is left of it {_player(clip.heard(), clip.sample_rate)}</label></div></article>"
        )
    parts.append("</body></html>\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(parts), encoding="utf-8", errors="xmlcharrefreplace")
    return file


def _player(audio: Float[Tensor, " sample"], sample_rate: int) -> str:
    return f'<audio controls preload="none" src="{_inline(wav_bytes(audio, sample_rate), "audio/wav")}"></audio>'


def _inline(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

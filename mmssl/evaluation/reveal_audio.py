"""Recordings with hidden spans and what was predicted for them: as a picture, and as a page with their sound."""

import base64
import html
import io
import wave
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mmssl.evaluation.revealed_audio import RevealedClip, legend_of, summary
from mmssl.evaluation.spectrogram import draw_clips


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

"""Where in the picture does the sound come from? Maps over the picture, with controls beside them.

Networks that localise sound often look at what moves or at the middle and hardly listen (Juanola et al. 2024, "A
critical assessment of visual sound source localization models including negative audio"). So each map stands beside
that for silence, that for another clip's sound and the centre prior, and a sentence says whether the sound made a
difference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evaluation.offset.embedding import SLICE_FRAMES, clip_batch

PANELS = ("its own sound", "silence", "another clip's sound", "centre prior")
SAME = 0.9
"""Maps that correlate more than this are called the same: a guess, stated beside the figure."""
STRONGER = 1.2
"""A map of its own sound that is this much stronger than the controls is called so; a guess too."""
CENTRE_WIDTH = 0.25
"""Standard deviation of the centre prior as a share of the picture's side."""
CELL = 192
"""Shorter side of a panel in pixels."""
HEADER = 22
MOMENTS = 5


@dataclass(frozen=True)
class Located:
    """Maps of a clip, ``[window, h, w]``, in the order of :data:`PANELS`; window t is shown at its middle frame."""

    maps: dict[str, Float[Tensor, "window h w"]]
    video: UInt8[np.ndarray, "frame channel height width"]
    audio: np.ndarray
    first: int
    """Frame at the middle of the first window."""
    fps: float

    def agreement(self, panel: str) -> float:
        """Mean correlation over windows of the map with another panel's."""
        return correlation(self.maps[PANELS[0]], self.maps[panel])

    def strength(self, panel: str) -> float:
        """The highest value of a map, averaged over windows."""
        return float(self.maps[panel].flatten(1).amax(1).mean())

    @property
    def verdict(self) -> str:
        """Whether the map changed with the sound."""
        other, silence, centre = (self.agreement(panel) for panel in (PANELS[2], PANELS[1], PANELS[3]))
        figures = (
            f"correlation with that of another clip's sound {other:.2f}, of silence {silence:.2f}, with the centre "
            f"prior {centre:.2f}, where above {SAME:g} is called the same; its strongest place has "
            f"{self.strength(PANELS[0]):.2g} on average, with another clip's sound {self.strength(PANELS[2]):.2g}, "
            f"with silence {self.strength(PANELS[1]):.2g}"
        )
        if other > SAME:
            said = (
                "the map hardly changes with the sound: it shows what the network looks at, not where sound comes from"
            )
        elif self.strength(PANELS[0]) < STRONGER * max(self.strength(panel) for panel in PANELS[1:3]):
            said = "the map changes with the sound but is not clearly stronger with its own: no evidence of a source"
        else:
            said = "the map changes with the sound and is strongest with its own"
        return f"{said} ({figures})"


def correlation(first: Float[Tensor, "window h w"], second: Float[Tensor, "window h w"]) -> float:
    """Pearson's, of two maps of the same moment, averaged over moments; 0 where one of them is flat."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (first, second))
    norm = a.norm(dim=1) * b.norm(dim=1)
    return float(torch.where(norm > 1e-9, (a * b).sum(1) / norm.clamp_min(1e-9), 0).mean())


def centre_prior(windows: int, height: int, width: int) -> Float[Tensor, "window h w"]:
    """A hill in the middle, whatever is seen or heard."""
    y, x = (((torch.arange(side) + 0.5) / side - 0.5) / CENTRE_WIDTH for side in (height, width))
    return torch.exp(-0.5 * (y[:, None] ** 2 + x**2)).expand(windows, height, width)


def locate_clip(predictor: Any, clip: Any, other: Any, fps: float) -> Located:
    """Maps of a clip with its own sound, with silence, and with that of ``other`` cut at the same times.

    Only the first ten seconds are shown, and less where the other clip is shorter.
    Raises UserError where less than a window is left.
    """
    per_frame = len(clip.audio) // len(clip.video)
    frames = min(len(clip.video), len(other.video), SLICE_FRAMES)
    if frames < predictor.config.window + 1:
        raise UserError(f"only {frames} frames have picture and sound in both clips: give longer ones")
    video, samples = clip.video[:frames], frames * per_frame
    own, wrong = clip.audio[:samples], other.audio[:samples]
    maps = {}
    for panel, audio in zip(PANELS[:3], (own, np.zeros_like(own), wrong), strict=True):
        maps[panel] = predictor.locate(clip_batch(predictor, video, audio))[0].detach().float().cpu()
    maps[PANELS[3]] = centre_prior(*maps[PANELS[0]].shape)
    return Located(maps, video, own, predictor.config.window // 2, fps)


def overlays(located: Located) -> dict[str, UInt8[np.ndarray, "window height width 3"]]:
    """The picture of every window with its map over it, warm where the sound seems to come from."""
    from matplotlib import colormaps

    count = len(located.maps[PANELS[0]])
    frames = torch.from_numpy(np.ascontiguousarray(located.video[located.first : located.first + count])).float() / 255
    frames = frames.expand(-1, 3, -1, -1)
    zoom = max(1, -(-CELL // min(frames.shape[-2:])))
    size = tuple(2 * (side * zoom // 2) for side in frames.shape[-2:])
    frames = torch.nn.functional.interpolate(frames, size=size, mode="nearest").permute(0, 2, 3, 1)
    shown, warm = {}, colormaps["inferno"]
    for panel, maps in located.maps.items():
        # one scale for all moments and all sounds, that of the clip's own: what is weaker is darker
        scale = maps if panel == PANELS[3] else located.maps[PANELS[0]]
        low, high = (float(scale.flatten().quantile(share)) for share in (0.5, 0.995))
        heat = ((maps - low) / max(high - low, 1e-6)).clamp(0, 1)
        heat = torch.nn.functional.interpolate(heat[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        colour = torch.from_numpy(warm(heat.numpy())[..., :3]).float()
        mix = 0.75 * heat[..., None]
        shown[panel] = ((0.8 * frames * (1 - mix) + colour * mix) * 255).round().clamp(0, 255).byte().numpy()
    return shown


def _titled(images: dict[str, np.ndarray], index: int) -> np.ndarray:
    """All panels of a moment side by side, with their names above: [height, width, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = next(iter(images.values())).shape[1:3]
    sheet = Image.new("RGB", (len(images) * width, HEADER + height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, (name, frames) in enumerate(images.items()):
        pen.text((place * width + width // 2, HEADER // 2), name, "black", font, anchor="mm")
        sheet.paste(Image.fromarray(frames[index]), (place * width, HEADER))
    return np.asarray(sheet)


def write_picture(located: Located, caption: str, file: Path) -> Path:
    """A few moments below each other, spread over the loudest of each part of the clip."""
    from PIL import Image, ImageDraw, ImageFont

    images = overlays(located)
    count = len(images[PANELS[0]])
    per_frame = len(located.audio) // len(located.video)
    loud = np.abs(located.audio.reshape(-1, per_frame).astype(np.float32)).mean(1)[
        located.first : located.first + count
    ]
    parts = np.array_split(np.arange(count), min(MOMENTS, count))
    rows = [_titled(images, int(part[loud[part].argmax()])) for part in parts]
    rows = [rows[0], *(row[HEADER:] for row in rows[1:])]
    body = Image.fromarray(np.concatenate(rows))
    font = ImageFont.load_default(12)
    lines = _wrapped(caption, font, body.width - 12)
    sheet = Image.new("RGB", (body.width, body.height + 16 * len(lines) + 12), "white")
    sheet.paste(body, (0, 0))
    ImageDraw.Draw(sheet).multiline_text((6, body.height + 6), "\n".join(lines), "#444444", font, spacing=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
    return file


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def write_overlay(located: Located, sample_rate: int, file: Path) -> Path:
    """An MP4 of all panels with the clip's own sound."""
    from fractions import Fraction

    import av

    images = overlays(located)
    count, per_frame = len(images[PANELS[0]]), len(located.audio) // len(located.video)
    begin = located.first * per_frame
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as output:
        picture = output.add_stream("libx264", rate=round(located.fps), options={"crf": "20", "preset": "veryfast"})
        sound = output.add_stream("aac", rate=sample_rate, layout="mono")
        for number in range(count):
            sheet = _titled(images, number)
            sheet = sheet[: sheet.shape[0] // 2 * 2, : sheet.shape[1] // 2 * 2]
            if number == 0:
                picture.height, picture.width = sheet.shape[:2]
                picture.pix_fmt = "yuv420p"
            output.mux(picture.encode(av.VideoFrame.from_ndarray(sheet, format="rgb24")))
        output.mux(picture.encode(None))
        samples = np.ascontiguousarray(located.audio[begin : begin + count * per_frame])[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return file

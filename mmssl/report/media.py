"""Pictures, guesses, sounds and videos of runs, made small enough to stand in the page itself."""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from markupsafe import Markup

from mmssl.data.limits import Limits, MediaError, guarded
from mmssl.report.gather import Run, Sweep
from mmssl.report.sweep_charts import shown_value
from mmssl.report.words import Words, words_of

WIDEST = 1400
"""Pixels; wider pictures are shrunk."""
NARROW = 620
"""Pixels of a picture that has words beside it, not above."""
ARTICLES = 3
"""Texts shown."""
SOUNDS = 2
"""Recordings that can be heard, each whole and with what was hidden silenced."""
LARGEST_VIDEO = 1_500_000
"""Bytes; larger videos are left out."""


@dataclass(frozen=True)
class Frame:
    """What a slider shows at one of its places."""

    label: str
    content: Markup
    width: int = WIDEST
    """In pixels; texts take what is there."""


@dataclass(frozen=True)
class Show:
    """What a run, or the runs of a sweep, hid and predicted."""

    key: str
    title: str
    colour: int | str
    words: Words
    axis: str
    """What the slider goes through."""
    frames: Sequence[Frame]
    sounds: Sequence[tuple[str, str]]
    """Names and data URIs."""
    videos: Sequence[tuple[str, str]]
    command: str

    @property
    def narrow(self) -> bool:
        """Leaves room for words beside it."""
        return bool(self.frames) and all(frame.width <= NARROW for frame in self.frames)


def show_run(run: Run, most: int) -> Show | None:
    """At most ``most`` moments of training, always the last, with sounds and videos; None where there is nothing."""
    folder = run.folder / "reveal"
    files = steps_of(folder) or [file for file in (folder / "reveal.png", folder / "reveal.html") if file.is_file()][:1]
    frames = []
    for file in _thinned(files, most):
        label = f"step {int(file.stem.removeprefix('step-')):,}" if file.stem.startswith("step-") else "now"
        frame = _frame(file, label, f"{run.name}, {label}", words_of(run.kind))
        frames += [frame] if frame else []
    videos = [(f"clip {file.name}", _uri(file.read_bytes(), "video/mp4")) for file in sorted(folder.glob("*.mp4"))
              if file.stat().st_size <= LARGEST_VIDEO][:2]  # fmt: skip
    if not frames and not videos:
        return None
    return Show(
        f"run-{run.colour}", run.name, run.colour, words_of(run.kind), "training", frames,
        _sounds(folder) if most > 1 else [], videos, f"mmssl reveal {run.folder}",
    )  # fmt: skip


def show_sweep(sweep: Sweep, most: int) -> Show | None:
    """The last picture of the first seed at each value of a sweep over what is hidden."""
    if "fraction" not in sweep.flag:
        return None
    frames = []
    for value in sorted(sweep.results, key=float):
        files = steps_of(sweep.run(value) / "reveal")
        label = shown_value(sweep.flag, value)
        frame = _frame(files[-1], label, f"{sweep.name}, {label} hidden", words_of(sweep.kind)) if files else None
        frames += [frame] if frame else []
    if len(frames) < 2 or most < 2:
        return None
    title = f"{sweep.name}: how much is hidden"
    key = "sweep-" + re.sub(r"\W", "-", sweep.name)
    return Show(key, title, "accent", words_of(sweep.kind), "share hidden in training", frames, [], [], sweep.command)


def steps_of(folder: Path) -> list[Path]:
    """What was written at validations, in order: pages with texts, pictures otherwise."""
    pictures = sorted(folder.glob("step-*.png"))
    return pictures or sorted(folder.glob("step-*.html"))


def _thinned(files: Sequence[Path], most: int) -> list[Path]:
    """The first, the last and some between, evenly."""
    if len(files) <= most:
        return list(files)
    if most == 1:
        return [files[-1]]
    return [files[round(place * (len(files) - 1) / (most - 1))] for place in range(most)]


def _frame(file: Path, label: str, what: str, words: Words) -> Frame | None:
    """None for a file that cannot be shown."""
    alt = f"{what}: {words.look}"
    if file.suffix == ".html":
        content = texts_of(file.read_text(encoding="utf-8", errors="replace"))
        return Frame(label, content) if content else None
    picture = small_picture(file)
    if picture is None:
        return None
    uri, width, height = picture
    image = Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(uri, width, height, alt)
    return Frame(label, image, width)


def small_picture(file: Path) -> tuple[str, int, int] | None:
    """A data URI (WebP), width and height; None where the file is no picture."""
    from PIL import Image

    try:
        with guarded(Limits().seconds), Image.open(file) as opened:
            picture = opened.convert("RGB")
    except MediaError:
        return None
    picture.thumbnail((WIDEST, 10 * WIDEST))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=82, method=4)
    return _uri(stream.getvalue(), "image/webp"), *picture.size


def _sounds(folder: Path) -> list[tuple[str, str]]:
    """The recordings that recipes wrote beside their pictures."""
    found = []
    for number in range(1, SOUNDS + 1):
        for name, what in ((f"clip-{number}", "whole"), (f"clip-{number}-hidden", "what the network heard")):
            file = folder / f"{name}.wav"
            if file.is_file():
                found.append((f"clip {number}, {what}", _uri(file.read_bytes(), "audio/wav")))
    return found


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def texts_of(page: str) -> Markup:
    """The first articles of a page of guesses. Only known tags pass, so that a stranger's file cannot do anything."""
    reader = _Articles()
    reader.feed(page)
    reader.close()
    return Markup("".join(reader.parts))


class _Articles(HTMLParser):
    """Keeps what is inside of ``<article>``: these tags and classes, and text. Tables of guesses fold."""

    tags = frozenset({"article", "p", "mark", "sup", "table", "tr", "td", "b", "i", "small"})
    classes = frozenset({"hit", "near", "miss", "n", "right"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[str] = []
        self.count = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += tag == "article"
        if tag in self.tags and self.count <= ARTICLES and (tag == "article" or self.open):
            kind = dict(attrs).get("class")
            self.parts.append("<details><summary>guesses</summary>" if tag == "table" else "")
            self.parts.append(f'<{tag} class="{kind}">' if kind in self.classes else f"<{tag}>")
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open:
                last = self._close()
                if last == tag:
                    break

    def handle_data(self, data: str) -> None:
        if self.open:
            self.parts.append(html.escape(data))

    def close(self) -> None:
        """Close what a cut file left open."""
        super().close()
        while self.open:
            self._close()

    def _close(self) -> str:
        last = self.open.pop()
        self.parts.append(f"</{last}></details>" if last == "table" else f"</{last}>")
        return last

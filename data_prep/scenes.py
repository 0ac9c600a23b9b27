"""What is in each scene of the generated world, apart from how any modality shows it.

A scene is one coloured shape somewhere on a background. Pictures are painted from it by ``paint.py``; captions, speech
and video of the same scenes belong beside that file and read the same description, so that they share its labels.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

T = TypeVar("T")
Split = Literal["train", "val"]
Colour = tuple[float, float, float]

SHAPES = ("circle", "ring", "moon", "square", "triangle", "star", "cross", "heart")
SIZES = {"small": (0.125, 0.14), "medium": (0.17, 0.19), "large": (0.225, 0.25)}
"""Range of the circumscribed radius, as a share of the picture's side; the gaps keep the labels unambiguous."""
COLOURS = {
    "red": 0,
    "orange": 28,
    "yellow": 54,
    "green": 120,
    "turquoise": 176,
    "blue": 225,
    "purple": 274,
    "pink": 325,
}
"""Hue in degrees on the HSV circle."""
HUE_JITTER = 8.0
"""Nuance of a colour in degrees, either way: neighbours on the circle never meet."""
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
PLACE_CENTRES = (0.28, 0.5, 0.72)
PLACE_JITTER = 0.03
"""Share of the picture's side, either way and in each direction."""
TILT = 25.0
"""Degrees to either side by which a shape leans: enough to vary it, and a square does not become a diamond."""
BACKGROUNDS = ("plain", "gradient", "stripes", "checks", "dots", "ripples", "clouds", "grain")
VALIDATION_EVERY = 5
"""Every fifth scene belongs to the validation split."""
MINIMAL_CONTRAST = 0.4
"""Euclidean distance in RGB (0..sqrt 3) between a shape and both colours behind it; judged by eye."""

LOOK_STREAM = 1
"""Stream of random numbers that decides all of this file. Other modalities draw from streams of their own, so that
adding one changes nothing that exists."""


@dataclass(frozen=True)
class Background:
    """A pattern of two colours."""

    kind: str
    colours: tuple[Colour, Colour]
    direction: tuple[float, float]
    """Unit vector across the pattern."""
    frequency: float
    """Repetitions of the pattern over the picture's side."""
    phase: tuple[float, float]
    """Shift of the pattern, in repetitions."""
    texture: int
    """Seed of the pattern's noise, 32 bits."""


@dataclass(frozen=True)
class Scene:
    """One shape in one place. Lengths are shares of the picture's side, y points down, colours are RGB in 0..1."""

    id: int
    split: Split
    shape: str
    colour: str
    size: str
    place: str
    centre: tuple[float, float]
    """x and y."""
    radius: float
    """Of the circle around the shape."""
    rotation: tuple[float, float]
    """Cosine and sine of the turn."""
    fill: Colour
    """The nuance of ``colour`` that is painted."""
    light: tuple[float, float]
    """Where the shape is brighter: a vector of length at most 1."""
    background: Background


def draw_scenes(count: int, seed: int) -> list[Scene]:
    """The first ``count`` scenes of the world ``seed``."""
    return [draw_scene(index, seed) for index in range(count)]


def draw_scene(index: int, seed: int) -> Scene:
    """Scene ``index`` of the world ``seed``: a function of these two and of nothing else."""
    random = np.random.default_rng((seed, index, LOOK_STREAM))
    shape, colour, size = (_pick(random, names) for names in (SHAPES, tuple(COLOURS), tuple(SIZES)))
    row, column = _pick(random, range(3)), _pick(random, range(3))
    jitter_x, jitter_y = (_between(random, -PLACE_JITTER, PLACE_JITTER) for _ in range(2))
    fill = _nuance(random, colour)
    return Scene(
        id=index,
        split="val" if index % VALIDATION_EVERY == VALIDATION_EVERY - 1 else "train",
        shape=shape,
        colour=colour,
        size=size,
        place=PLACES[row][column],
        centre=(PLACE_CENTRES[column] + jitter_x, PLACE_CENTRES[row] + jitter_y),
        radius=_between(random, *SIZES[size]),
        rotation=_direction(random, TILT),
        fill=fill,
        light=_direction(random),
        background=_draw_background(random, fill),
    )


def _draw_background(random: np.random.Generator, fill: Colour) -> Background:
    return Background(
        kind=_pick(random, BACKGROUNDS),
        colours=(_backdrop(random, fill), _backdrop(random, fill)),
        direction=_direction(random),
        frequency=_between(random, 2.0, 5.5),
        phase=(random.random(), random.random()),
        texture=int(random.integers(2**32)),
    )


def _nuance(random: np.random.Generator, colour: str) -> Colour:
    hue = COLOURS[colour] + _between(random, -HUE_JITTER, HUE_JITTER)
    saturation, value = _between(random, 0.75, 1.0), _between(random, 0.75, 1.0)
    if colour == "pink":  # a saturated pink is magenta
        saturation, value = saturation - 0.3, 1.0
    return colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)


def _backdrop(random: np.random.Generator, fill: Colour) -> Colour:
    """A muted colour that the shape stands out from: the first of eight that does, or else the farthest."""
    candidates = [
        colorsys.hsv_to_rgb(random.random(), _between(random, 0.05, 0.5), _between(random, 0.15, 0.95))
        for _ in range(8)
    ]
    clear = (colour for colour in candidates if math.dist(colour, fill) >= MINIMAL_CONTRAST)
    return next(clear, max(candidates, key=lambda colour: math.dist(colour, fill)))


def _pick(random: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(random.random() * len(choices))]


def _between(random: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * random.random()


def _direction(random: np.random.Generator, limit: float = 180.0) -> tuple[float, float]:
    """Cosine and sine of an angle up to ``limit`` degrees to either side."""
    angle = math.radians(_between(random, -limit, limit))
    return math.cos(angle), math.sin(angle)

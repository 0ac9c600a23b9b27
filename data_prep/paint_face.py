"""Talking faces into video frames, in the planes that H.264 keeps: luma, and chroma at half the size.

Every part of a face is a signed distance (negative inside) on the grid of a plane, as the shapes of ``paint.py`` are.
The head's own coordinates have their origin between eyes and mouth, x to the right and y down, in half pictures;
features slide over the head as it turns and nods.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from faces import Motion
from voices import Look

Map = np.ndarray
"""float32 ``[frame, row, column]``."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

TOGETHER = 12
"""Frames painted at once: their planes stay in the processor's cache."""
EYE_X, EYE_Y, BROW_Y, NOSE_Y, MOUTH_Y = 0.19, -0.10, -0.22, 0.10, 0.31
MOUTH_WIDTH, MOUTH_HEIGHT, LIP = 0.15, 0.13, 0.035
"""Half width at rest, half height wide open, thickness of a lip."""
JAW = 0.09
"""How far the chin falls with a wide open mouth."""
MARGIN = 0.13
"""Around a part's box in the head's coordinates: all that sway and slide can add."""
_TO_YUV = np.array([[0.257, 0.504, 0.098], [-0.148, -0.291, 0.439], [0.439, -0.368, -0.071]])
"""ITU-R BT.601 in studio range, for colours in 0..1; then [16, 128, 128] / 255 is added."""


@dataclass(frozen=True)
class Surroundings:
    """What differs between two recordings of one speaker."""

    wall: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Colours at its left and right."""
    clothes: tuple[float, float, float]
    centre: tuple[float, float]
    """Of the head, in half pictures from the middle."""
    scale: float
    light: float
    """Brightness added on the right of the face and taken from its left."""


def draw_surroundings(random: np.random.Generator) -> Surroundings:
    """Draw a wall, clothes, light and the place of the camera."""

    def colour(low: float, high: float) -> tuple[float, float, float]:
        red, green, blue = random.uniform(low, high, 3)
        return float(red), float(green), float(blue)

    return Surroundings(
        (colour(0.25, 0.75), colour(0.25, 0.75)),
        colour(0.1, 0.8),
        (float(random.uniform(-0.06, 0.06)), float(random.uniform(-0.06, 0.02))),
        float(random.uniform(0.94, 1.06)),
        float(random.uniform(-0.12, 0.12)),
    )


class _Canvas:
    """Planes of some frames, and where their pixels lie in the head's coordinates."""

    def __init__(self, size: int, motion: Motion, frames: slice, around: Surroundings) -> None:
        self.planes = [_Plane(size, slice(0, 1)), _Plane(size // 2, slice(1, 3))]
        self.around = around
        sideways, down, roll, turn, nod = (_column(column) for column in motion.sway[frames].T)
        left, right = (_yuv(colour) for colour in around.wall)
        for plane in self.planes:
            share = (plane.axis + 1) / 2
            wall = left[plane.channels, None] * (1 - share) + right[plane.channels, None] * share
            plane.pixels = np.tile(wall[:, None, None].astype(np.float32), (1, len(roll), plane.size, 1))
            x = (plane.axis - np.float32(around.centre[0]) - sideways) / np.float32(around.scale)
            y = (plane.axis[:, None] - np.float32(around.centre[1]) - down) / np.float32(around.scale)
            plane.head = x * np.cos(roll) + y * np.sin(roll), y * np.cos(roll) - x * np.sin(roll)
            plane.features = plane.head[0] - turn, plane.head[1] - nod

    def put(
        self, colour: tuple[float, float, float], box: Box, distance: Callable[[Map, Map], Map], *,
        slides: bool = True, light: float = 0.0,
    ) -> None:  # fmt: skip
        """Paint what is inside: ``distance`` of (x, y), within ``box``; features slide as the head turns."""
        yuv = _yuv(colour)
        for plane in self.planes:
            rows, columns = plane.window(box, self.around)
            x, y = (axis[:, rows, columns] for axis in (plane.features if slides else plane.head))
            covered = np.clip(0.5 - distance(x, y) * np.float32(self.around.scale * plane.size / 2), 0, 1)
            for channel, value in enumerate(yuv[plane.channels]):
                target = plane.pixels[channel][:, rows, columns]
                shade = value + np.float32(light) * x if light and plane.channels.start == 0 else value
                target += (shade - target) * covered


class _Plane:
    def __init__(self, size: int, channels: slice) -> None:
        self.size, self.channels = size, channels
        self.axis = (((np.arange(size) + 0.5) / size) * 2 - 1).astype(np.float32)
        self.pixels = np.empty(0, np.float32)
        """``[channel, frame, row, column]``."""
        self.head: tuple[Map, Map] = (self.pixels, self.pixels)
        """x and y of every pixel in the head's coordinates."""
        self.features: tuple[Map, Map] = (self.pixels, self.pixels)
        """The same for features, which slide over the head."""

    def window(self, box: Box, around: Surroundings) -> tuple[slice, slice]:
        """Rows and columns that a part may touch."""
        edges = np.array(box) + np.array([-MARGIN, -MARGIN, MARGIN, MARGIN])
        shifted = edges * around.scale + np.array([*around.centre, *around.centre])
        left, top, right, bottom = np.clip(np.rint((shifted + 1) / 2 * self.size), 0, self.size).astype(int)
        return slice(top, bottom), slice(left, right)


def paint_face(motion: Motion, look: Look, around: Surroundings, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Luma ``[frame, size, size]`` and chroma ``[frame, 2, size / 2, size / 2]``, uint8, some frames at a time."""
    for start in range(0, len(motion.opening), TOGETHER):
        frames = slice(start, start + TOGETHER)
        canvas = _Canvas(size, motion, frames, around)
        _paint_head(canvas, motion, frames, look)
        _paint_eyes(canvas, motion, frames, look)
        _paint_mouth(canvas, motion, frames, look)
        luma, chroma = (np.rint(np.clip(plane.pixels, 0, 1) * 255).astype(np.uint8) for plane in canvas.planes)
        yield luma[0], np.moveaxis(chroma, 0, 1)


def _paint_head(canvas: _Canvas, motion: Motion, frames: slice, look: Look) -> None:
    across, along = look.head
    light = canvas.around.light
    jaw = _column(JAW * motion.opening[frames])
    shadow = _darker(look.skin, 0.8)
    canvas.put(canvas.around.clothes, (-1.3, 0.6, 1.3, 1.4), lambda x, y: _ellipse(x, y - 1.45, 0.95, 0.72))
    canvas.put(shadow, (-0.25, 0.3, 0.25, 1.0), lambda x, y: _ellipse(x, y - 0.6, 0.2, 0.4))
    hair_top, hair_low = (-along - 0.1, along * 1.35) if look.long_hair else (-along - 0.1, 0.1)
    middle, half = (hair_top + hair_low) / 2, (hair_low - hair_top) / 2
    canvas.put(look.hair, (-0.65, hair_top, 0.65, hair_low),
               lambda x, y: _ellipse(x, y - middle, across + 0.1, half), slides=False)  # fmt: skip

    def face(x: Map, y: Map) -> Map:
        # the lower half is longer by the jaw
        return _ellipse(x, y, across, np.where(y > 0, along + jaw, along).astype(np.float32))

    canvas.put(look.skin, (-across, -along, across, along + JAW), face, slides=False, light=light)
    # the hairline falls to the sides
    canvas.put(look.hair, (-across, -along - 0.1, across, -0.15),
               lambda x, y: np.maximum(_ellipse(x, y + 0.05, across + 0.05, along + 0.02), y + 0.33 - 0.55 * x * x),
               slides=False)  # fmt: skip
    nose = _darker(look.skin, 0.84)
    canvas.put(nose, (-0.07, -0.06, 0.09, 0.16), lambda x, y: _ellipse(x - 0.012, y - 0.03, 0.03, 0.12))
    canvas.put(nose, (-0.08, 0.06, 0.08, 0.18), lambda x, y: _ellipse(x, y - NOSE_Y - 0.03, 0.065, 0.03))
    if look.moustache:
        canvas.put(look.hair, (-0.17, 0.16, 0.17, 0.27), lambda x, y: _ellipse(x, y - 0.205, 0.15, 0.035))


def _paint_eyes(canvas: _Canvas, motion: Motion, frames: slice, look: Look) -> None:
    lids = _column(1 - motion.lids[frames])
    for side in (-EYE_X, EYE_X):
        box = (side - 0.1, EYE_Y - 0.07, side + 0.1, EYE_Y + 0.07)

        def white(x: Map, y: Map, side: float = side) -> Map:
            return _slit(x - side, y - EYE_Y, 0.085, 0.008 + 0.047 * lids)

        def iris(x: Map, y: Map, side: float = side) -> Map:
            return np.maximum(_ellipse(x - side, y - EYE_Y, 0.042, 0.042), white(x, y, side))

        def brow(x: Map, y: Map, side: float = side) -> Map:
            return _ellipse(x - side, y - BROW_Y - 0.5 * (x - side) ** 2, 0.11, 0.02)

        canvas.put(_darker(look.skin, 0.55), box, lambda x, y, white=white: white(x, y) - 0.012)
        canvas.put((0.95, 0.95, 0.93), box, lambda x, y, white=white: white(x, y) + 0.05 * (1 - lids))
        canvas.put(look.eyes, box, iris)
        canvas.put(_darker(look.hair, 0.9), (side - 0.12, BROW_Y - 0.04, side + 0.12, BROW_Y + 0.04), brow)


def _paint_mouth(canvas: _Canvas, motion: Motion, frames: slice, look: Look) -> None:
    half = _column(MOUTH_WIDTH * motion.width[frames])
    open_ = _column(MOUTH_HEIGHT * motion.opening[frames])
    teeth, tongue = _column(motion.teeth[frames]), _column(motion.tongue[frames])
    # the upper lip rises a little, the lower one falls with the jaw
    middle = np.float32(MOUTH_Y) + 0.55 * open_
    box = (-0.22, MOUTH_Y - 0.1, 0.22, MOUTH_Y + 0.3)

    def inside(x: Map, y: Map) -> Map:
        return _slit(x, y - middle, 0.92 * half, open_ + 0.004)

    canvas.put(look.lips, box, lambda x, y: _ellipse(x, y - middle, half + 0.02, open_ + LIP))
    canvas.put((0.16, 0.05, 0.06), box, lambda x, y: inside(x, y))

    def upper_teeth(x: Map, y: Map) -> Map:
        return np.maximum(inside(x, y) + 0.008, y - middle + open_ * (1 - 1.1 * teeth) - 0.012)

    def low_tongue(x: Map, y: Map) -> Map:
        body = _ellipse(x, y - middle - 0.9 * open_, 0.6 * half, (0.35 + tongue) * open_ + 0.001)
        return np.maximum(inside(x, y) + 0.008, body)

    canvas.put((0.93, 0.92, 0.88), box, upper_teeth)
    canvas.put((0.80, 0.38, 0.38), box, low_tongue)


def _ellipse(x: Map, y: Map, across: Map | float, along: Map | float) -> Map:
    """Distance to an ellipse, exact to first order near its edge."""
    p, q = x * (1 / across), y * (1 / along)
    p, q = p * p, q * q
    slope = np.sqrt(p * (1 / across**2) + q * (1 / along**2))
    return (p + q - 1) / (2 * slope + np.float32(1e-6))


def _slit(x: Map, y: Map, across: Map | float, along: Map) -> Map:
    """An ellipse that may be almost flat: near its line the distance above is far too small beyond the ends."""
    return np.maximum(_ellipse(x, y, across, along), np.abs(x) - across)


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None, None]


def _darker(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def _yuv(colour: tuple[float, float, float]) -> np.ndarray:
    """float32 ``[3]`` in 0..1 of a byte."""
    return (_TO_YUV @ np.array(colour) + np.array([16, 128, 128]) / 255).astype(np.float32)


def boxes(motion: Motion, look: Look, around: Surroundings, size: int) -> dict[str, list[int]]:
    """Where face and mouth stay during a clip: top, left, height and width in pixels of a ``size`` picture."""
    face = _extent(
        motion, around, np.array([0.0, JAW / 2]), np.array([look.head[0], look.head[1] + JAW / 2]), 0.0, size
    )
    reach = np.array([MOUTH_WIDTH * 1.2 + 0.06, MOUTH_HEIGHT + LIP + 0.06])
    mouth = _extent(motion, around, np.array([0.0, MOUTH_Y + 0.5 * MOUTH_HEIGHT]), reach, 1.0, size)
    return {"face": face, "mouth": mouth}


def _extent(
    motion: Motion, around: Surroundings, place: np.ndarray, reach: np.ndarray, slides: float, size: int
) -> list[int]:
    """The box around a part in all frames."""
    sideways, down, roll, turn, nod = motion.sway.T
    x, y = place[0] + slides * turn, place[1] + slides * nod
    centre = np.stack([x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)], 1)
    centre = centre * around.scale + np.stack([sideways, down], 1) + np.array(around.centre)
    low, high = centre.min(0) - reach * around.scale, centre.max(0) + reach * around.scale
    left, top = np.clip(np.floor((low + 1) / 2 * size), 0, size).astype(int)
    right, bottom = np.clip(np.ceil((high + 1) / 2 * size), 0, size).astype(int)
    return [int(top), int(left), int(bottom - top), int(right - left)]

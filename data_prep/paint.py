"""Scenes into pictures.

Shapes are signed distance functions (negative inside, in units of the shape's radius), which gives antialiasing for
free: a pixel is covered as far as its distance to the edge says. Pixels are computed for many scenes at once, with
exactly rounded operations only (+ - * / sqrt, comparisons, integers): a picture is the same bit for bit in any batch,
in any process and on any machine.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scenes import Scene

Map = np.ndarray
"""float32 ``[scene, row, column]``."""

SHADING = 0.18
"""Change in brightness from a shape's centre to its rim, in the direction of the light."""


def paint(scenes: Sequence[Scene], size: int) -> np.ndarray:
    """Pictures of scenes: uint8 ``[scene, size, size, 3]``."""
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = axis[None, None, :], axis[None, :, None]
    picture = _backgrounds(scenes, x, y, size)

    cx, cy = _column([scene.centre for scene in scenes])
    cosine, sine = _column([scene.rotation for scene in scenes])
    (radius,) = _column([(scene.radius,) for scene in scenes])
    u, v = (x - cx) / radius, (y - cy) / radius
    along, across = u * cosine + v * sine, v * cosine - u * sine
    distance = np.empty((len(scenes), size, size), np.float32)
    for shape, members in _groups([scene.shape for scene in scenes]):
        distance[members] = SHAPE_DISTANCES[shape](along[members], across[members])
    coverage = _covered(distance, radius * size)

    light_x, light_y = _column([scene.light for scene in scenes])
    shade = 1 + SHADING * (u * light_x + v * light_y)
    for channel in range(3):
        (fill,) = _column([(scene.fill[channel],) for scene in scenes])
        picture[channel] += (np.clip(fill * shade, 0, 1) - picture[channel]) * coverage
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def _column(rows: Sequence[Sequence[float]]) -> list[np.ndarray]:
    """One float32 array ``[scene, 1, 1]`` for each entry of the rows."""
    return [column[:, None, None] for column in np.asarray(rows, np.float32).T]


def _groups(names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    return [(name, np.array([i for i, other in enumerate(names) if other == name])) for name in sorted(set(names))]


def _covered(distance: Map, pixels_per_unit: np.ndarray | float) -> Map:
    """Share of a pixel inside an edge, from the distance of its centre."""
    return np.clip(0.5 - distance * pixels_per_unit, 0, 1)


# Shapes: distance to the edge at (x, y), exact near straight and round edges, which is where it is used.


def _circle(x: Map, y: Map) -> Map:
    return np.sqrt(x * x + y * y) - np.float32(0.92)


def _ring(x: Map, y: Map) -> Map:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.74)) - np.float32(0.24)


def _moon(x: Map, y: Map) -> Map:
    shifted = x - np.float32(0.5)
    bite = np.float32(0.8) - np.sqrt(shifted * shifted + y * y)
    return np.maximum(np.sqrt(x * x + y * y) - np.float32(0.98), bite)


def _square(x: Map, y: Map) -> Map:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.78)


def _half_planes(x: Map, y: Map, count: int, apothem: float) -> list[Map]:
    """Distances to ``count`` lines around the centre, the first below it, so that a corner points up."""
    angles = [math.pi / 2 + 2 * math.pi * k / count for k in range(count)]
    return [x * np.float32(math.cos(a)) + y * np.float32(math.sin(a)) - np.float32(apothem) for a in angles]


def _triangle(x: Map, y: Map) -> Map:
    first, second, third = _half_planes(x, y, 3, 0.52)
    return np.maximum(np.maximum(first, second), third)


def _star(x: Map, y: Map) -> Map:
    """A pentagram: what lies on the inner side of at least four of its five lines."""
    largest = second = None
    for plane in _half_planes(x, y, 5, 0.35):
        if largest is None or second is None:
            largest, second = plane, np.full_like(plane, -np.inf)
        else:
            second = np.maximum(second, np.minimum(largest, plane))
            largest = np.maximum(largest, plane)
    assert second is not None
    return second


def _cross(x: Map, y: Map) -> Map:
    x, y = np.abs(x), np.abs(y)
    arm, half_width = np.float32(0.94), np.float32(0.27)
    return np.minimum(np.maximum(x - arm, y - half_width), np.maximum(y - arm, x - half_width))


def _heart(x: Map, y: Map) -> Map:
    """A square on its corner, and circles over its two upper edges."""
    half = np.float32(0.5)
    root = np.float32(math.sqrt(0.5))
    y = y - np.float32(0.18)
    p, q = (x + y) * root, (y - x) * root
    box = np.maximum(np.abs(p), np.abs(q)) - half
    left = np.sqrt((p + half) * (p + half) + q * q) - half
    right = np.sqrt(p * p + (q + half) * (q + half)) - half
    return np.minimum(box, np.minimum(left, right))


SHAPE_DISTANCES: dict[str, Callable[[Map, Map], Map]] = {
    "circle": _circle,
    "ring": _ring,
    "moon": _moon,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}


# Backgrounds: how much of the second colour shows, 0..1. p and q run over the pattern in repetitions.


def _wave(phase: Map) -> Map:
    """A triangle wave of period 1 between 0 and 1."""
    return np.abs(2 * (phase - np.floor(phase)) - 1)


def _bands(phase: Map, pixels: np.ndarray) -> Map:
    """Bands with antialiased edges; ``pixels`` to one repetition."""
    return _covered(_wave(phase) - np.float32(0.5), pixels * np.float32(0.5))


def _stripes(p: Map, q: Map, pixels: np.ndarray, _texture: np.ndarray) -> Map:
    return _bands(p + q * 0, pixels)


def _checks(p: Map, q: Map, pixels: np.ndarray, _texture: np.ndarray) -> Map:
    rows, columns = _bands(p, pixels), _bands(q, pixels)
    return rows + columns - 2 * rows * columns


def _dots(p: Map, q: Map, pixels: np.ndarray, _texture: np.ndarray) -> Map:
    dx, dy = p - np.floor(p) - np.float32(0.5), q - np.floor(q) - np.float32(0.5)
    return _covered(np.sqrt(dx * dx + dy * dy) - np.float32(0.3), pixels)


def _ripples(p: Map, q: Map, pixels: np.ndarray, _texture: np.ndarray) -> Map:
    return _bands(np.sqrt(p * p + q * q), pixels)


def _clouds(p: Map, q: Map, _pixels: np.ndarray, texture: np.ndarray) -> Map:
    """Value noise: four octaves, each half as strong as the one before."""
    total = np.zeros(np.broadcast_shapes(p.shape, q.shape), np.float32)
    strength = np.float32(8 / 15)
    for octave in range(4):
        scale = np.float32(0.5 * 2**octave)
        total += strength * _value_noise(p * scale, q * scale, texture + np.uint32(octave))
        strength = strength / 2
    return np.clip((total - np.float32(0.5)) * 2 + np.float32(0.5), 0, 1)


def _grain(p: Map, q: Map, pixels: np.ndarray, texture: np.ndarray) -> Map:
    """Specks of about one pixel on a cloudy ground."""
    specks = _value_noise(p * pixels, q * pixels, texture + np.uint32(7))
    return (specks + _value_noise(p, q, texture)) / 2


def _value_noise(p: Map, q: Map, texture: np.ndarray) -> Map:
    """Random values at integer points, smoothly interpolated between."""
    left, top = np.floor(p), np.floor(q)
    dx, dy = p - left, q - top
    dx, dy = dx * dx * (3 - 2 * dx), dy * dy * (3 - 2 * dy)
    column, row = left.astype(np.int32).astype(np.uint32), top.astype(np.int32).astype(np.uint32)
    one = np.uint32(1)
    upper = _random_at(column, row, texture) * (1 - dx) + _random_at(column + one, row, texture) * dx
    lower = _random_at(column, row + one, texture) * (1 - dx) + _random_at(column + one, row + one, texture) * dx
    return upper * (1 - dy) + lower * dy


def _random_at(column: np.ndarray, row: np.ndarray, texture: np.ndarray) -> Map:
    """A number in 0..1 for each lattice point; the mixing is the finaliser of MurmurHash3 (Appleby 2011)."""
    bits = column * np.uint32(0x9E3779B1) ^ row * np.uint32(0x85EBCA77) ^ texture
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return ((bits ^ (bits >> np.uint32(16))) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


PATTERNS: dict[str, Callable[[Map, Map, np.ndarray, np.ndarray], Map]] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "ripples": _ripples,
    "clouds": _clouds,
    "grain": _grain,
}


def _backgrounds(scenes: Sequence[Scene], x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """float32 ``[channel, scene, size, size]``."""
    backgrounds = [scene.background for scene in scenes]
    share = np.zeros((len(scenes), size, size), np.float32)
    half = np.float32(0.5)
    for kind, members in _groups([background.kind for background in backgrounds]):
        chosen = [backgrounds[i] for i in members]
        dx, dy = _column([background.direction for background in chosen])
        shift_p, shift_q = _column([background.phase for background in chosen])
        (frequency,) = _column([(background.frequency,) for background in chosen])
        p, q = (x - half) * dx + (y - half) * dy, (y - half) * dx - (x - half) * dy
        if kind == "gradient":
            share[members] = np.clip(p + half, 0, 1)
        elif kind != "plain":
            texture = np.array([background.texture for background in chosen], np.uint32)[:, None, None]
            pattern = PATTERNS[kind]
            share[members] = pattern(p * frequency + shift_p, q * frequency + shift_q, size / frequency, texture)
    picture = np.empty((3, *share.shape), np.float32)
    for channel in range(3):
        first, second = _column([[colour[channel] for colour in background.colours] for background in backgrounds])
        picture[channel] = first + (second - first) * share
    return picture

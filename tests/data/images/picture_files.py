"""Small picture files for the tests of mmssl.data."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def smooth(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """A smooth colour pattern, uint8 [height, width, channels], different for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for _ in range(channels):
        fy, fx, phase = rng.uniform(0.02, 0.2), rng.uniform(0.02, 0.2), rng.uniform(0, 6)
        planes.append(128 + 100 * np.sin(fy * y + fx * x + phase))
    return np.stack(planes, -1).round().astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.squeeze(pixels))
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels, "PNG"))
    return path


def write_folder(root: Path, count: int, size: tuple[int, int] = (20, 24)) -> list[Path]:
    """``count`` different PNG files 00.png ... of one size."""
    return [write_png(root / f"{number:02d}.png", smooth(*size, seed=number)) for number in range(count)]


def shared(name: str) -> Path:
    """A folder of the data that lie beside the repository; may be missing."""
    return Path(__file__).resolve().parents[3].parent / "shared/data" / name

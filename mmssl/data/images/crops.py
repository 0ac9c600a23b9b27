"""Which box of an image a sample shows, and the box as pixels.

The training crop follows Szegedy et al., "Going deeper with convolutions" (CVPR 2015, section 6): an area share drawn
uniformly, an aspect ratio drawn log-uniformly, a place drawn uniformly, then resized to the target. The usual code
tries ten times and falls back to the centre; here one draw suffices: the aspect ratio is drawn from that part of its
range in which a box of the drawn area fits the image. When none fits, the box takes the nearest end of the range and
as much of the image as it can. Area shares therefore stay uniform whenever they can, whereas rejection prefers small
boxes. Aspect ratios are relative to the target's own, so that a wide target is not fed squeezed squares.

Tasks in which the pixels themselves are the answer want pictures as they were taken: shrinking hides their noise and
coding blocks, and an enlarged one has nothing fine to restore. With ``zoom`` the box is therefore measured in the
target's pixels: (1, 1) cuts and never resamples, (1, 2) shrinks up to twice.

Draws come from :class:`mmssl.masking.NoiseKey`: a crop is a function of (seed, epoch, sample id) alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from mmssl.errors import UserError
from mmssl.masking import NoiseKey

# Streams of the sample's noise. Masks and replacement dice use others; any distinct constants do.
CROP_STREAM = 0x43524F50
FLIP_STREAM = 0x464C4950


@dataclass(frozen=True)
class Boxes:
    """Boxes in pixels of the full-size upright image, and whether each is mirrored left to right."""

    top: Int64[np.ndarray, " batch"]
    left: Int64[np.ndarray, " batch"]
    height: Int64[np.ndarray, " batch"]
    width: Int64[np.ndarray, " batch"]
    flip: Bool[np.ndarray, " batch"]

    def select(self, row: int) -> "Boxes":
        """One of the boxes, as a batch of one."""
        only = slice(row, row + 1)
        return Boxes(self.top[only], self.left[only], self.height[only], self.width[only], self.flip[only])


@dataclass(frozen=True)
class CropLaw:
    """How crops are drawn."""

    size: tuple[int, int]
    """Height and width of the result in pixels."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Range of the area share. MAE trains with 0.2 to 1 (He et al., CVPR 2022, appendix A.1)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the box's width/height, relative to that of ``size``."""
    flip: bool = True
    """Mirror every second crop."""
    zoom: tuple[float, float] | None = None
    """Range of the box's sides relative to ``size``, log-uniform, in place of ``scale`` and ``ratio``: at 1 pixels come
    as they are. A picture too small for the drawn box shows its largest box of the target's aspect."""

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise UserError(f"image size {self.size} is impossible: give height and width of at least 1 pixel")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"crop scale {self.scale} is impossible: give two increasing shares between 0 and 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"crop ratio {self.ratio} is impossible: give two increasing positive ratios")
        if self.zoom is not None and not 0 < self.zoom[0] <= self.zoom[1] < math.inf:
            raise UserError(f"crop zoom {self.zoom} is impossible: give two increasing positive factors, 1 is native")

    def draw(self, key: NoiseKey, heights: Int64[np.ndarray, " batch"], widths: Int64[np.ndarray, " batch"]) -> Boxes:
        """A random box in each image; ``key`` on the CPU."""
        share, aspect, across, down = key.uniform(4, CROP_STREAM).double().numpy().T
        if self.zoom is None:
            height, width = self._share_of_area(share, aspect, heights, widths)
        else:
            height, width = self._zoomed(self.zoom[0] * (self.zoom[1] / self.zoom[0]) ** share, heights, widths)
        flip = (key.uniform(1, FLIP_STREAM)[:, 0] < 0.5).numpy() & self.flip
        top, left = down * (heights - height + 1), across * (widths - width + 1)
        return Boxes(top.astype(np.int64), left.astype(np.int64), height, width, flip)

    def centre(self, heights: Int64[np.ndarray, " batch"], widths: Int64[np.ndarray, " batch"]) -> Boxes:
        """The frozen view for validation and probes: the largest centred box of the target's aspect ratio, or with
        ``zoom`` the one of its smallest factor."""
        height, width = self._zoomed(math.inf if self.zoom is None else self.zoom[0], heights, widths)
        return Boxes((heights - height) // 2, (widths - width) // 2, height, width, np.zeros(len(height), np.bool_))

    def _share_of_area(
        self, share: np.ndarray, aspect: np.ndarray, heights: np.ndarray, widths: np.ndarray
    ) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Height and width of a box of a share of the area, as told on top."""
        area = (self.scale[0] + share * (self.scale[1] - self.scale[0])) * heights * widths
        target = self.size[1] / self.size[0]
        lowest, highest = math.log(self.ratio[0] * target), math.log(self.ratio[1] * target)
        # width = sqrt(area * aspect) <= widths and height = sqrt(area / aspect) <= heights
        low = np.clip(np.log(area / heights**2.0), lowest, highest)
        high = np.clip(np.log(widths**2.0 / area), lowest, highest)
        fitting = np.exp(low + aspect * (high - low))
        height, width = np.sqrt(area / fitting), np.sqrt(area * fitting)
        shrink = np.minimum(1.0, np.minimum(heights / height, widths / width))
        height = np.clip(np.rint(height * shrink), 1, heights).astype(np.int64)
        width = np.clip(np.rint(width * shrink), 1, widths).astype(np.int64)
        return height, width

    def _zoomed(
        self, factor: float | np.ndarray, heights: np.ndarray, widths: np.ndarray
    ) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Height and width of ``size`` times a factor, or of the largest box of its aspect where that does not fit."""
        target = self.size[1] / self.size[0]
        width = np.minimum(factor * self.size[1], np.minimum(widths, heights * target))
        height = np.minimum(factor * self.size[0], np.minimum(heights, widths / target))
        return (
            np.clip(np.rint(height), 1, heights).astype(np.int64),
            np.clip(np.rint(width), 1, widths).astype(np.int64),
        )


def shrunk_boxes(
    boxes: Boxes, factors: tuple[np.ndarray, np.ndarray], heights: np.ndarray, widths: np.ndarray
) -> Int64[np.ndarray, "batch 4"]:
    """Boxes (top, left, height, width) in images of these heights and widths, shrunk by factors down and across.

    Edges go to the nearest whole pixels of the shrunk image, so a box moves by less than half of one.
    """
    edges = []
    for start, extent, factor, limit in (
        (boxes.top, boxes.height, factors[0], heights),
        (boxes.left, boxes.width, factors[1], widths),
    ):
        first = np.minimum(np.rint(start * factor).astype(np.int64), limit - 1)
        last = np.clip(np.rint((start + extent) * factor).astype(np.int64), first + 1, limit)
        edges.append((first, last - first))
    (top, height), (left, width) = edges
    return np.stack((top, left, height, width), axis=1)


def box_reduction(height: int, width: int, size: tuple[int, int]) -> int:
    """How much smaller (1, 2, 4 or 8 times) an image may be decoded for a box of it still to cover ``size``."""
    room = min(height / size[0], width / size[1])
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or factor <= room)


def cut_and_resize(
    image: UInt8[Tensor, "channel height width"], box: Sequence[int], flip: bool, size: tuple[int, int]
) -> UInt8[Tensor, "channel out_height out_width"]:
    """Cut (top, left, height, width) from an image and resize it: bilinear, antialiased."""
    top, left, height, width = box
    cut = image[:, top : top + height, left : left + width]
    if (height, width) != size:
        cut = torch.nn.functional.interpolate(cut[None], size, mode="bilinear", antialias=True)[0]
    return cut.flip(2) if flip else cut

"""Colour: sRGB and Lab, the brightness of a picture, and colours as classes (Zhang et al. 2016, arXiv 1603.08511).

Matrices are applied by elementwise sums: products would be rounded to bf16 under autocast, and to TF32 on some GPUs.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmssl.errors import UserError

_XYZ_OF_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Linear sRGB to XYZ: primaries of ITU-R BT.709, white D65."""
_RGB_OF_XYZ = tuple(map(tuple, torch.tensor(_XYZ_OF_RGB, dtype=torch.float64).inverse().tolist()))
_WHITE = tuple(sum(row) for row in _XYZ_OF_RGB)
"""XYZ of (1, 1, 1). The published white point differs in its fifth digit; with this one greys have a = b = 0."""
_DELTA = 6 / 29
"""Below its cube the cube root of CIE 1976 is a straight line."""
_GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the luma of ITU-R BT.601."""
_LEVELS = 256
_SLACK = 1e-4
"""By which linear sRGB may lie outside 0..1 and still count as inside: a colour of the edge, rounded."""
_AB_LIMIT = 112.0
"""No sRGB colour has an a or b as large: they lie in -86.2 ... 98.2 and -107.9 ... 94.5."""


def srgb_to_lab(rgb: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """sRGB on the scale 0..1 (IEC 61966-2-1) to CIE 1976 Lab, white D65: L 0 ... 100, a and b about -110 ... 110.

    Greys have a = b = 0. Gradients are finite everywhere, black included.
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    x, y, z = _mixed(linear, [[share / white for share in row] for row, white in zip(_XYZ_OF_RGB, _WHITE, strict=True)])
    x, y, z = _root(x), _root(y), _root(z)
    return torch.cat([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_srgb(lab: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Inverse of :func:`srgb_to_lab`. Colours that sRGB lacks are clamped to 0..1, each channel on its own, which can
    change their lightness: see :func:`within_srgb`."""
    linear = _linear_of_lab(lab).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def within_srgb(lab: Float[Tensor, "batch 3 height width"], halvings: int = 8) -> Float[Tensor, "batch 3 height width"]:
    """Colours that sRGB lacks, paler until it has them; lightness and hue stay.

    ``halvings`` of the interval in which the greatest share of the colour lies: 8 find it to 1 in 256.
    """
    inside = torch.zeros_like(lab[:, :1])
    for halving in range(1, halvings + 1):
        more = inside + 0.5**halving
        linear = _linear_of_lab(torch.cat([lab[:, :1], lab[:, 1:] * more], 1))
        fits = ((linear >= -_SLACK) & (linear <= 1 + _SLACK)).all(1, keepdim=True)
        inside = torch.where(fits, more, inside)
    whole = _linear_of_lab(lab)
    fits = ((whole >= -_SLACK) & (whole <= 1 + _SLACK)).all(1, keepdim=True)
    return torch.cat([lab[:, :1], torch.where(fits, lab[:, 1:], lab[:, 1:] * inside)], 1)


def _linear_of_lab(lab: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Linear sRGB, outside 0..1 where sRGB lacks a colour."""
    y = (lab[:, :1] + 16) / 116
    xyz = torch.cat([y + lab[:, 1:2] / 500, y, y - lab[:, 2:] / 200], 1)
    xyz = torch.where(xyz > _DELTA, xyz**3, 3 * _DELTA**2 * (xyz - 4 / 29))
    rows = [[share * white for share, white in zip(row, _WHITE, strict=True)] for row in _RGB_OF_XYZ]
    return torch.cat(_mixed(xyz, rows), 1)


def grey(rgb: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Luma of ITU-R BT.601 on the full range 0..1, as in grey JPEG files; one channel is its own.

    Raises UserError for other numbers of channels than 1 and 3.
    """
    if rgb.shape[1] not in (1, 3):
        raise UserError(f"pictures of 1 or 3 channels have a luma, got {rgb.shape[1]} channels: convert them to RGB")
    return rgb if rgb.shape[1] == 1 else _mixed(rgb, [_GREY])[0]


def luma(rgb: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Luma as papers on super-resolution measure it: Y of ITU-R BT.601 in the studio range 16 ... 235, over 255.

    A picture of one channel is returned as it is, on its full range: papers measure grey pictures so too.
    Raises UserError for other numbers of channels than 1 and 3.
    """
    return rgb if rgb.shape[1] == 1 else (16 + 219 * grey(rgb)) / 255


@lru_cache(maxsize=8)
def ab_bins(step: float = 10.0) -> Float[Tensor, "bin 2"]:
    """Centres of the cells of a grid over a and b, at multiples of ``step``, that some sRGB colour falls into.

    Computed from the faces of the RGB cube at 256 levels: seen along L, a solid casts the same shadow as its surface.
    261 for a step of 10; Zhang et al. 2016, §2.1, count 313. Sorted by a, then b. Do not write to it: it is kept.

    Raises:
        UserError: for a step outside 4 ... 50: finer cells would fall between the levels, coarser ones say no colour.
    """
    if not 4 <= step <= 50:
        raise UserError(f"step of colour classes must be between 4 and 50 units of ab, got {step}: Zhang et al. use 10")
    level = torch.linspace(0, 1, _LEVELS, dtype=torch.float64)
    one, other = torch.meshgrid(level, level, indexing="ij")
    faces = []
    for channel in range(3):
        for end in (0.0, 1.0):
            planes = [one, other]
            planes.insert(channel, torch.full_like(one, end))
            faces.append(torch.stack(planes))
    cells = (srgb_to_lab(torch.stack(faces))[:, 1:] / step).round().transpose(0, 1).flatten(1)
    return (cells.unique(dim=1).T * step).float()


class AbQuantizer(nn.Module):
    """Colours (a and b of Lab) as distributions over classes and back; nothing in it is learned.

    Args:
        step: of the grid of :func:`ab_bins`.
        neighbours: classes that share a colour (Zhang et al. 2016, §2.1: 5).
        sigma: standard deviation in units of ab of the Gaussian that weighs them (5 as well).
    """

    bins: Float[Tensor, "bin 2"]
    table: Int[Tensor, "cell candidate"]

    def __init__(self, step: float = 10.0, neighbours: int = 5, sigma: float = 5.0) -> None:
        super().__init__()
        bins = ab_bins(step)
        if not 1 <= neighbours <= len(bins):
            raise UserError(f"neighbours must be between 1 and the {len(bins)} colour classes, got {neighbours}")
        if not sigma > 0:
            raise UserError(f"sigma of colour classes must be above 0, got {sigma}")
        self.neighbours, self.sigma, self.pitch = neighbours, sigma, step / 5
        self.side = 2 * math.ceil(_AB_LIMIT / self.pitch) + 1
        self.register_buffer("bins", bins.clone(), persistent=False)
        self.register_buffer("table", self._candidates(), persistent=False)

    def _candidates(self) -> Int[Tensor, "cell candidate"]:
        """Classes that can be among the nearest ones of a point, for each cell of a finer grid.

        From the middle of a cell no point of it is farther than ``reach``. So the k-th nearest class is no farther than
        that more from the point than from the middle, and a class among its k nearest no farther than twice that.
        """
        axis = (torch.arange(self.side) - self.side // 2) * self.pitch
        distance = torch.cdist(torch.cartesian_prod(axis, axis), self.bins, compute_mode="donot_use_mm_for_euclid_dist")
        reach = self.pitch / math.sqrt(2)
        last = distance.kthvalue(self.neighbours, 1, keepdim=True).values
        most = int((distance <= last + 2 * reach + 1e-3).sum(1).max())
        return distance.topk(most, 1, largest=False).indices.to(torch.int16)

    @torch.no_grad()
    def soft(
        self, ab: Float[Tensor, "batch 2 height width"]
    ) -> tuple[Int[Tensor, "batch neighbour height width"], Float[Tensor, "batch neighbour height width"]]:
        """The nearest classes of each pixel, nearest first, and their weights, which sum to 1.

        Exact for all colours of sRGB. A table of few candidates a place stands for the comparison with every class.
        """
        cell = (ab / self.pitch).round().to(torch.int64) + self.side // 2
        row, column = cell.clamp(0, self.side - 1).unbind(1)
        ids = self.table[row * self.side + column].to(torch.int64)
        squared = (self.bins[ids] - ab.permute(0, 2, 3, 1).unsqueeze(3)).square().sum(4)
        nearest, place = squared.topk(self.neighbours, 3, largest=False)
        weights = (nearest / (-2 * self.sigma**2)).softmax(3)
        return ids.gather(3, place).permute(0, 3, 1, 2), weights.permute(0, 3, 1, 2)

    def decode(
        self, logits: Float[Tensor, "batch bin height width"], temperature: float = 0.38
    ) -> Float[Tensor, "batch 2 height width"]:
        """Annealed mean: the mean colour of the distribution sharpened by ``temperature`` (Zhang et al. 2016, eq. 5).

        1 is the mean, pale; towards 0 the most likely class, vivid and spotty. Raises UserError unless above 0.
        """
        if not temperature > 0:
            raise UserError(f"temperature must be above 0 (1: the mean, near 0: the mode), got {temperature}")
        with torch.autocast(logits.device.type, enabled=False):
            share = (logits.float() / temperature).softmax(1)
            return torch.einsum("nqhw,qc->nchw", share, self.bins)


def smooth_prior(counts: Float[Tensor, " bin"], sigma: float = 5.0, step: float = 10.0) -> Float[Tensor, " bin"]:
    """How often each colour class is seen, from ``counts``, smoothed by a Gaussian of ``sigma`` units of ab; sum 1.

    What a class gives away goes to its neighbours whole, also at the edge of the gamut. Without any count all classes
    are equally likely. Raises UserError where ``counts`` are not of :func:`ab_bins` with this ``step``.
    """
    bins = ab_bins(step).to(counts.device)
    if len(counts) != len(bins):
        raise UserError(f"{len(counts)} counts given for the {len(bins)} colour classes of step {step}")
    distance = torch.cdist(bins, bins, compute_mode="donot_use_mm_for_euclid_dist")
    spread = (distance.square() / (-2 * sigma**2)).softmax(0)
    smooth = (spread * counts).sum(1)
    total = smooth.sum()
    return torch.where(total > 0, smooth / total.clamp_min(1e-12), 1 / len(bins))


def rebalancing(prior: Float[Tensor, " bin"], mix: float = 0.5) -> Float[Tensor, " bin"]:
    """Weights that make rare colours count: 1 / ((1 - mix) prior + mix / bins), with mean 1 under ``prior``.

    Zhang et al. 2016, eq. 4. ``mix`` 1 weighs all alike. Raises UserError outside 0 ... 1.
    """
    if not 0 <= mix <= 1:
        raise UserError(f"mix of the colour prior with a uniform one must be between 0 and 1, got {mix}")
    weight = 1 / ((1 - mix) * prior + mix / len(prior)).clamp_min(1e-12)
    return weight / (prior * weight).sum()


def _mixed(
    planes: Float[Tensor, "batch 3 height width"], rows: list[list[float]] | list[tuple[float, ...]]
) -> list[Float[Tensor, "batch 1 height width"]]:
    """One plane for each row: the sum of the three given ones times its numbers."""
    first, second, third = planes.split(1, 1)
    return [first * row[0] + second * row[1] + third * row[2] for row in rows]


def _root(share: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Cube root, near 0 a straight line (CIE 1976)."""
    curve = share.clamp_min(_DELTA**3) ** (1 / 3)
    return torch.where(share > _DELTA**3, curve, share / (3 * _DELTA**2) + 4 / 29)

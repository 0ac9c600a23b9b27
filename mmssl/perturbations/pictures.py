"""What a picture goes through before it is to be predicted back: one perturbation, or several, one after the other.

    perturbations = parse_perturbations(("mask=0.5", "downsample=4"), patch_size=(8, 8))
    perturbed = compose(perturbations, image, NoiseKey.of(batch, seed))
    guess = undo_all(perturbations, perturbed.image, perturbed.hidden)

Pictures are float on the scale 0..1. Hidden pixels are grey (0.5) after each step, so that none of them tells anything.
**A mask hides what there is when its turn comes:** put it first and nothing of the hole remains; behind a perturbation
that mixes neighbours, those around the hole have already taken something from it. Put first, its grey bleeds into the
pixels around, which then know a little less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.config import nearest
from mmssl.errors import UserError
from mmssl.masking import SAMPLERS, NoiseKey
from mmssl.masking.theory import check_fraction
from mmssl.nn.patches import patch_grid
from mmssl.perturbations.colour import grey
from mmssl.perturbations.fill import interpolate_hidden

STREAM_RADIUS, STREAM_ANGLE = 0x7069786E00, 0x7069786E01

BLANK = 0.5
"""What hidden pixels are set to."""
IMAGE_SAMPLERS = ("random", "block", "inverse_block")
"""Samplers of the masking core that work on a grid of patches."""


EXAMPLES = {"mask": "0.5", "grey": "", "downsample": "4", "blur": "2", "noise": "0.1", "zoom": "2"}
"""Perturbations by name, each with a value that suits most pictures."""


class Perturbed(NamedTuple):
    """A picture after a perturbation."""

    image: Float[Tensor, "batch channel height width"]
    hidden: Bool[Tensor, "batch 1 height width"]
    """Pixels of ``image`` that carry no information."""


@runtime_checkable
class Perturbation(Protocol):
    """Takes something from pictures without changing their size; and the guess that costs no learning."""

    local: ClassVar[bool]
    """True: only pixels that end up hidden change. False: all do."""

    def apply(self, image: Tensor, hidden: Tensor, key: NoiseKey) -> Perturbed:
        """The picture with less in it; ``hidden`` are the pixels that earlier perturbations have hidden."""
        ...

    def undo(self, image: Tensor, hidden: Tensor) -> Perturbed:
        """The trivial guess of what the picture was before, in the coordinates of before."""
        ...


@dataclass(frozen=True)
class Mask:
    """Patches hidden."""

    fraction: float
    """Share of the patches."""
    patch_size: tuple[int, int]
    """Height and width of a patch in pixels."""
    sampler: str = "random"
    """Which patches are hidden together: one of :data:`IMAGE_SAMPLERS`."""
    local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.sampler not in IMAGE_SAMPLERS:
            raise UserError(
                f"no sampler of patches is called '{self.sampler}'; {nearest(self.sampler, IMAGE_SAMPLERS)}"
            )

    def apply(self, image: Tensor, hidden: Tensor, key: NoiseKey) -> Perturbed:
        """Hide patches beside what is hidden already."""
        rows, columns = patch_grid((image.shape[2], image.shape[3]), self.patch_size)
        patches = SAMPLERS[self.sampler](key, (rows, columns), self.fraction).view(-1, 1, rows, columns)
        patches = patches.repeat_interleave(self.patch_size[0], 2).repeat_interleave(self.patch_size[1], 3)
        return _blank(image, hidden | patches)

    def undo(self, image: Tensor, hidden: Tensor) -> Perturbed:
        """Smooth interpolation of visible pixels; none is hidden any more."""
        return Perturbed(interpolate_hidden(image, hidden), torch.zeros_like(hidden))


class _Everywhere:
    """A perturbation that changes all pixels, and what it leaves is the best guess without learning."""

    local: ClassVar[bool] = False

    def undo(self, image: Tensor, hidden: Tensor) -> Perturbed:
        """The perturbed picture itself."""
        return Perturbed(image, hidden)


@dataclass(frozen=True)
class Grey(_Everywhere):
    """Colour taken away: luma in all channels."""

    def apply(self, image: Tensor, hidden: Tensor, key: NoiseKey) -> Perturbed:  # noqa: ARG002
        """Full-range luma (:func:`mmssl.perturbations.colour.grey`) in each channel."""
        return _blank(grey(image).expand_as(image), hidden)


@dataclass(frozen=True)
class Downsample(_Everywhere):
    """Fine detail taken away: made smaller, and enlarged again."""

    factor: int
    """How many times smaller each side becomes; must divide it."""

    def __post_init__(self) -> None:
        if not isinstance(self.factor, int) or self.factor < 2:
            raise UserError(f"downsample needs a whole factor of at least 2, got {self.factor}")

    def apply(self, image: Tensor, hidden: Tensor, key: NoiseKey) -> Perturbed:  # noqa: ARG002
        """Bicubic both ways, antialiased on the way down."""
        return _blank(enlarge(downsample(image, self.factor), (image.shape[2], image.shape[3])), hidden)


@dataclass(frozen=True)
class Blur(_Everywhere):
    """Gaussian blur; beyond the edge the edge goes on."""

    sigma: float
    """Standard deviation in pixels."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 64:
            raise UserError(f"blur needs a sigma above 0 and at most 64 pixels, got {self.sigma}")

    def apply(self, image: Tensor, hidden: Tensor, key: NoiseKey) -> Perturbed:  # noqa: ARG002
        """Windows reach to four standard deviations."""
        radius = math.ceil(4 * self.sigma)
        window = gaussian(self.sigma, radius)
        return _blank(smoothed(F.pad(image, [radius] * 4, mode="replicate"), window, window), hidden)


@dataclass(frozen=True)
class Noise(_Everywhere):
    """White Gaussian noise in each channel; the sum is clamped to 0..1, as a camera would."""

    sigma: float
    """Standard deviation on the scale 0..1."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise UserError(f"noise needs a sigma above 0 and at most 1 (pictures lie in 0..1), got {self.sigma}")

    def apply(self, image: Tensor, hidden: Tensor, key: NoiseKey) -> Perturbed:
        """Noise that depends on the key of each picture alone."""
        values = image[0].numel()
        half = (values + 1) // 2
        # Box-Muller: two uniform numbers give two normal ones
        radius = (-2 * (1 - key.uniform(half, STREAM_RADIUS)).log()).sqrt()
        angle = 2 * math.pi * key.uniform(half, STREAM_ANGLE)
        noise = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :values].view_as(image)
        return _blank((image + self.sigma * noise).clamp(0, 1), hidden)


@dataclass(frozen=True)
class Zoom:
    """Surroundings taken away: the centre enlarged to the whole size."""

    factor: float
    """How many times larger the centre becomes."""
    local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 < self.factor <= 16:
            raise UserError(f"zoom needs a factor above 1 and at most 16, got {self.factor}")

    def apply(self, image: Tensor, hidden: Tensor, key: NoiseKey) -> Perturbed:  # noqa: ARG002
        """Bicubic. What was hidden in the centre is enlarged with it."""
        size = (image.shape[2], image.shape[3])
        centre = (..., *self._centre(size))
        covered = F.interpolate(hidden[centre].float(), size, mode="nearest-exact") > 0
        return _blank(enlarge(image[centre], size), covered)

    def undo(self, image: Tensor, hidden: Tensor) -> Perturbed:
        """Made small again, with all that it does not show interpolated smoothly from it."""
        rows, columns = self._centre((image.shape[2], image.shape[3]))
        size = (rows.stop - rows.start, columns.stop - columns.start)
        unknown = torch.ones_like(hidden)
        unknown[..., rows, columns] = F.interpolate(hidden.float(), size, mode="nearest-exact") > 0
        whole = torch.full_like(image, BLANK)
        whole[..., rows, columns] = enlarge(image, size)
        return Perturbed(interpolate_hidden(whole, unknown), torch.zeros_like(hidden))

    def _centre(self, size: tuple[int, int]) -> tuple[slice, slice]:
        sides = [max(1, round(side / self.factor)) for side in size]
        starts = [(side - inner) // 2 for side, inner in zip(size, sides, strict=True)]
        rows, columns = (slice(start, start + inner) for start, inner in zip(starts, sides, strict=True))
        return rows, columns


def compose(
    perturbations: Sequence[Perturbation], image: Float[Tensor, "batch channel height width"], key: NoiseKey
) -> Perturbed:
    """Pictures after all perturbations, in the order given."""
    perturbed = Perturbed(image, torch.zeros_like(image[:, :1], dtype=torch.bool))
    for perturbation in perturbations:
        perturbed = perturbation.apply(*perturbed, key)
    return perturbed


def undo_all(
    perturbations: Sequence[Perturbation],
    image: Float[Tensor, "batch channel height width"],
    hidden: Bool[Tensor, "batch 1 height width"],
) -> Float[Tensor, "batch channel height width"]:
    """The guess that costs no learning: every perturbation undone as far as that goes, the last one first."""
    perturbed = Perturbed(image, hidden)
    for perturbation in reversed(perturbations):
        perturbed = perturbation.undo(*perturbed)
    return perturbed.image


def parse_perturbations(
    words: Sequence[str], patch_size: tuple[int, int], sampler: str = "random"
) -> tuple[Perturbation, ...]:
    """Perturbations from words such as ``mask=0.5``, ``grey`` or ``downsample=4``, in their order.

    Args:
        words: ``mask=FRACTION``, ``grey``, ``downsample=FACTOR``, ``blur=SIGMA``, ``noise=SIGMA``, ``zoom=FACTOR``.
        patch_size: height and width in pixels of what a mask hides.
        sampler: which patches it hides together.

    Raises:
        UserError: for no word at all, an unknown or repeated name, and a value that is missing or out of range.
    """
    found: dict[str, Perturbation] = {}
    for word in words:
        name, equals, text = word.strip().partition("=")
        if name not in EXAMPLES:
            raise UserError(f"no perturbation is called '{name}'; {nearest(name, EXAMPLES)}")
        if name in found:
            raise UserError(f"perturbation '{name}' is given twice: give it once, with the value that you want")
        if name == "grey" and equals:
            raise UserError(f"perturbation '{word}': grey takes no value, write 'grey'")
        found[name] = Grey() if name == "grey" else _with_value(word, name, text, patch_size, sampler)
    if not found:
        raise UserError(f"give at least one perturbation: {', '.join(EXAMPLES)}")
    return tuple(found.values())


def _with_value(word: str, name: str, text: str, patch_size: tuple[int, int], sampler: str) -> Perturbation:
    whole = name == "downsample"
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        number = "a whole number" if whole else "a number"
        raise UserError(f"perturbation '{word}' needs {number}, such as '{name}={EXAMPLES[name]}'") from None
    if name == "mask":
        return Mask(value, patch_size, sampler)
    return {"downsample": Downsample, "blur": Blur, "noise": Noise, "zoom": Zoom}[name](value)


def downsample(
    image: Float[Tensor, "batch channel height width"], factor: int
) -> Float[Tensor, "batch channel small_height small_width"]:
    """Each side ``factor`` times smaller, as :func:`enlarge` does it.

    Raises UserError where ``factor`` does not divide both sides.
    """
    height, width = image.shape[2:]
    if height % factor or width % factor:
        raise UserError(f"{factor} does not divide the sides of a picture of {height}x{width}: choose another factor")
    return enlarge(image, (height // factor, width // factor))


def enlarge(
    image: Float[Tensor, "batch channel height width"], size: tuple[int, int]
) -> Float[Tensor, "batch channel new_height new_width"]:
    """Bicubic resampling to ``size`` (height, width), clamped to 0..1; antialiased where a side becomes smaller.

    The kernel of Keys 1981 with a = -0.5, as in Pillow, and in MATLAB's imresize that papers on super-resolution use.
    """
    # without `antialias` torch takes a = -0.75
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def gaussian(sigma: float, radius: int) -> list[float]:
    """Gaussian window of 2 radius + 1 pixels, sum 1."""
    window = [math.exp(-((place / sigma) ** 2) / 2) for place in range(-radius, radius + 1)]
    total = sum(window)
    return [weight / total for weight in window]


def smoothed(
    image: Float[Tensor, "batch channel height width"], rows: Sequence[float], columns: Sequence[float]
) -> Float[Tensor, "batch channel inner_height inner_width"]:
    """Mean of the pixels around each one, weighted by one window along each axis; where the windows fit inside.

    Sums of shifted pictures, not a convolution: that would be rounded to bf16 under autocast and to TF32 on some GPUs.
    """
    for axis, window in ((2, rows), (3, columns)):
        length = image.shape[axis] - len(window) + 1
        shifted = (weight * image.narrow(axis, start, length) for start, weight in enumerate(window))
        image = sum(shifted, start=torch.zeros(()).to(image))
    return image


def _blank(image: Tensor, hidden: Tensor) -> Perturbed:
    return Perturbed(torch.where(hidden, BLANK, image), hidden)

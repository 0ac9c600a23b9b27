"""What a predictor of pictures makes of a whole photo: colours, a filled hole, more pixels, less damage.

Super-resolution and restoration see what is near, so they work in tiles. Colours depend on what the picture shows, so
they are predicted from the whole of it at about the trained size, enlarged, and joined with the full lightness. Holes
are filled from coarse to fine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.data.images.photo import Photo, from_pillow, srgb_profile, to_pillow, to_srgb
from mmssl.errors import UserError
from mmssl.evaluation.before_after import Panels, around, centre_window, cut
from mmssl.evaluation.holes import fill_holes
from mmssl.evaluation.tiles import apply_tiled, bicubic_matrix, check_tiling, strips, to_bytes, to_unit
from mmssl.perturbations.colour import lab_to_srgb, srgb_to_lab

LARGEST_RESULT = 400_000_000
"""Pixels; of bytes in three channels that is 1.2 GB."""
LONGEST = 8
"""A panorama is shrunk until its longer side is at most so many times the trained size when its colours are guessed."""
UNDONE = frozenset({"blur", "noise", "downsample"})
"""Perturbations that photos suffer in real life, and that look the same in every tile."""
OVERLAP = 8
"""Pixels that neighbouring tiles share at least, where these are large enough. Half a tile costs twice as much time as
a quarter; 8 leave out 2 pixels at each edge (see tiles.py), as far as bicubic interpolation looks."""
_ROWS = 256


class Restored(NamedTuple):
    """The new photo, and what to look at."""

    photo: Photo
    panels: Panels


@dataclass
class Restorer:
    """A predictor of pictures, in eval mode, and how it is applied to photos.

    Attributes:
        predictor: a :class:`mmssl.predictors.pixels.PixelPredictor`.
        tile: height and width of what it sees at once; of colorization, what the whole photo is shrunk to.
        overlap: of neighbouring tiles in pixels.
    """

    predictor: Any
    tile: tuple[int, int]
    overlap: int

    @classmethod
    def of(cls, predictor: Any, tile: int | None = None, overlap: int | None = None) -> "Restorer":
        """With tiles of the trained size that overlap by a quarter and at least OVERLAP, if told nothing else.

        Raises UserError where they cannot.
        """
        size = (tile, tile) if tile is not None else tuple(predictor.tile)
        if overlap is None:
            overlap = max(min(size) // 4, min(OVERLAP, min(size) // 2))
        check_tiling(size, overlap)
        return cls(predictor, size, overlap)

    def restore(self, photo: Photo, hidden: Bool[Tensor, "height width"] | None = None) -> Restored:
        """The photo without what is wrong with it; ``hidden``: the hole of inpainting. Raises UserError."""
        self._check(photo)
        with torch.inference_mode():
            if self.predictor.name == "colorization":
                return self._colorize(photo)
            if self.predictor.name == "inpainting":
                assert hidden is not None
                return self._fill(photo, hidden)
            return self._sharpen(photo)

    def _check(self, photo: Photo) -> None:
        scale = self.predictor.scale
        height, width = (side * scale for side in photo.size)
        if height * width > LARGEST_RESULT:
            raise UserError(f"the result would have {width}x{height} pixels, too many to hold: cut or shrink it first")

    def _sharpen(self, photo: Photo) -> Restored:
        scale, device = self.predictor.scale, self.predictor.device
        function = _on_channels(self.predictor, photo.pixels.shape[0])
        pixels = apply_tiled(function, photo.pixels, self.tile, self.overlap, scale=scale, device=device)
        alpha = photo.alpha
        if scale > 1 and alpha is not None:
            alpha = from_pillow(to_pillow(alpha).resize((alpha.shape[2] * scale, alpha.shape[1] * scale), _bicubic()))
        window = centre_window(photo.size, scale)
        before, after = cut(photo.pixels, window), cut(pixels, window, scale)
        if scale > 1:
            enlarged = to_pillow(before).resize((after.shape[2], after.shape[1]), _bicubic())
            panels = {f"bicubic x{scale}": from_pillow(enlarged), f"super-resolution x{scale}": after}
        else:
            panels = {"before": before, "after": after}
        return Restored(replace(photo, pixels=pixels, alpha=alpha), panels)

    def _fill(self, photo: Photo, hidden: Bool[Tensor, "height width"]) -> Restored:
        function = _on_channels(self.predictor, photo.pixels.shape[0])
        pixels = fill_holes(function, photo.pixels, hidden, self.tile, self.overlap, device=self.predictor.device)
        window = around(hidden)
        before = torch.where(cut(hidden[None], window), 128, cut(photo.pixels, window))
        return Restored(replace(photo, pixels=pixels), {"before": before, "after": cut(pixels, window)})

    def _colorize(self, photo: Photo) -> Restored:
        photo = to_srgb(photo)
        coloured = photo.pixels.shape[0] == 3
        lightness = _lightness(photo.pixels) if coloured else photo.pixels
        if coloured and not torch.equal(photo.pixels, lightness.expand_as(photo.pixels)):
            photo = photo.note("in colour: turned grey first")
        result = join_colours(photo.pixels, self._colours(lightness))
        panels = {"before": lightness, "after": result}
        if coloured:
            panels = {"original": photo.pixels, **panels}
        return Restored(replace(photo, pixels=result, profile=srgb_profile()), panels)

    def _colours(self, grey: UInt8[Tensor, "1 height width"]) -> Float[Tensor, "2 small_height small_width"]:
        """Planes a and b, predicted from the whole photo with its shorter side at the trained size."""
        height, width = grey.shape[1:]
        shorter = min(self.tile)
        factor = min(shorter / min(height, width), LONGEST * shorter / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        # Pillow shrinks bytes without a floating-point copy of the photo, and antialiased
        small = to_unit(from_pillow(to_pillow(grey).resize(size, _bicubic())), self.predictor.device)
        return srgb_to_lab(self.predictor.restore(small[None]))[0, 1:].float().cpu()


def join_colours(
    pixels: UInt8[Tensor, "channel height width"], colours: Float[Tensor, "2 small_height small_width"]
) -> UInt8[Tensor, "3 height width"]:
    """sRGB with the lightness of ``pixels`` and the colours enlarged to them, in strips.

    The lightness stays what it was except where sRGB has no such colour and it is clipped.
    """
    height, width = pixels.shape[1:]
    down, across = bicubic_matrix(colours.shape[1], height), bicubic_matrix(colours.shape[2], width)
    result = torch.empty(3, height, width, dtype=torch.uint8)
    for rows in strips(height, _ROWS):
        ab = down[rows] @ colours @ across.T
        lightness = srgb_to_lab(to_unit(pixels[:, rows]).expand(3, -1, -1)[None])[:, :1]
        result[:, rows] = to_bytes(lab_to_srgb(torch.cat((lightness, ab[None]), 1))[0])
    return result


def _lightness(pixels: UInt8[Tensor, "3 height width"]) -> UInt8[Tensor, "1 height width"]:
    """The grey of the same lightness, in sRGB."""
    grey = torch.empty_like(pixels[:1], memory_format=torch.contiguous_format)
    for rows in strips(pixels.shape[1], _ROWS):
        lightness = srgb_to_lab(to_unit(pixels[:, rows])[None])[:, :1]
        grey[:, rows] = to_bytes(lab_to_srgb(F.pad(lightness, (0, 0, 0, 0, 0, 2)))[0, :1])
    return grey


def _on_channels(predictor: Any, channels: int) -> Callable[..., Tensor]:
    """``predictor.restore`` for pictures of so many channels, whatever the predictor was trained on.

    One of colour is given grey as three equal channels, of whose result the mean is taken; one of grey is given each
    channel of a colour picture as a picture.
    """
    own = predictor.config.channels
    if own == channels:
        return predictor.restore
    if own == 3:
        return lambda image, *hidden: predictor.restore(image.expand(-1, 3, -1, -1), *hidden).mean(1, keepdim=True)
    if own != 1:
        raise UserError(f"the run was trained on pictures of {own} channels: photos have 1 or 3")

    def each(image: Tensor, *hidden: Tensor) -> Tensor:
        masks = [mask.repeat_interleave(channels, 0) for mask in hidden]
        return predictor.restore(image.flatten(0, 1)[:, None], *masks).unflatten(0, (-1, channels))[:, :, 0]

    return each


def check_perturbations(run: Any, predictor: Any) -> None:
    """Raises UserError for a restoration run that undoes nothing photos suffer from."""
    names = [text.split("=")[0] for text in predictor.config.perturbations]
    if not set(names) <= UNDONE:
        raise UserError(
            f"{run} was trained to undo {', then '.join(predictor.config.perturbations)}, no damage of photos: "
            f"use a run trained with any of {', '.join(sorted(UNDONE))}"
        )


def _bicubic() -> Any:
    from PIL import Image

    return Image.Resampling.BICUBIC

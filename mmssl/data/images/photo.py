"""One photo in and out again, with all that its owner wants back: EXIF, colour profile, transparency.

Pixels are read by the rules of :mod:`mmssl.data.images.decode` (upright, 8 bits, CMYK to RGB), except that transparency
is kept apart and CMYK goes through its profile where there is one. What that changes of the photo is said in ``notes``.
"""

import contextlib
import io
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmssl.data.images.decode import decode_image, open_pillow, orientation_of, upright
from mmssl.data.limits import Limits, guarded, read_bytes
from mmssl.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Format = Literal["png", "jpeg"]
SUFFIXES: dict[str, str] = {"png": ".png", "jpeg": ".jpg"}
JPEG_SIDE = 65_535
"""A JPEG has no more pixels a side (ITU-T T.81: 16 bits)."""
_EXIF_BYTES = 65_533 - 6
"""Of a JPEG: a segment with its length and the identifier "Exif\\0\\0" has 16 bits for its size."""
_EXIF_FOLDER, _SIZES = 0x8769, (0xA002, 0xA003)
# TIFF tags that describe how the file stores its pixels, and the orientation (274): untrue of the file written
_OF_THE_FILE = frozenset({
    254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339,
    347, 513, 514, 529, 530, 531, 532, 700, 33723, 34377, 34675,
})  # fmt: skip


@dataclass(frozen=True)
class Photo:
    """Pixels, upright, and what goes with them."""

    pixels: UInt8[Tensor, "channel height width"]
    """1 channel (grey) or 3."""
    alpha: UInt8[Tensor, "1 height width"] | None = None
    """255 is opaque; None where all is."""
    exif: bytes | None = None
    """Without orientation and what else was true of the file only."""
    profile: bytes | None = None
    """ICC profile of the pixels; None means sRGB, as everywhere."""
    notes: tuple[str, ...] = ()
    """What reading changed, in clauses."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def note(self, *notes: str) -> "Photo":
        """The same photo with more to say about it."""
        return replace(self, notes=(*self.notes, *notes))


def read_photo(file: Path, limits: Limits | None = None) -> Photo:
    """Read a photo of any format that :mod:`mmssl.data.images.decode` knows, but arrays. Raises MediaError."""
    limits = limits or Limits()
    raw = read_bytes(file, limits)
    with guarded(limits.seconds):
        picture = open_pillow(raw, limits)
        notes = _notes(picture)
        grey = picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I")
        # palettes and keyed colours too; CMYK has none
        transparent = picture.has_transparency_data
        profile = picture.info.get("icc_profile") or None
    decoded = decode_image(raw, (1 if grey else 3) + transparent, limits=limits)
    pixels, alpha = (decoded[:-1], decoded[-1:]) if transparent else (decoded, None)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    photo = Photo(pixels, alpha, None, profile, notes)
    if picture.mode == "CMYK":
        photo = _without_inks(photo, raw, limits)
    return _with_exif(photo, picture)


def to_srgb(photo: Photo) -> Photo:
    """The photo with its values converted to sRGB through its profile; unchanged where it has none."""
    if photo.profile is None:
        return photo
    converted = _through_profile(to_pillow(photo.pixels), photo.profile)
    if converted is None:
        return replace(photo, profile=None).note("its colour profile cannot be used, its values are taken as sRGB")
    return replace(photo, pixels=from_pillow(converted), profile=None)


def write_photo(
    file: Path, photo: Photo, *, format: Format = "png", quality: int = 95, overwrite: bool = False
) -> tuple[str, ...]:
    """Write a photo; readers see no half-written file. Returns clauses about what the format cannot hold.

    Raises UserError where the file exists (unless ``overwrite``), or a JPEG cannot be as large.
    """
    check_free(file, overwrite)
    notes, exif, pixels = [], photo.exif, photo.pixels
    if format == "jpeg":
        if max(photo.size) > JPEG_SIDE:
            raise UserError(f"{file} would have more than {JPEG_SIDE:,} pixels a side, too many for JPEG: write PNG")
        if photo.alpha is not None:
            notes.append("JPEG has no transparency: it was left out, --format png keeps it")
        if exif is not None and len(exif) > _EXIF_BYTES:
            exif = None
            notes.append("its EXIF block is too large for JPEG and was left out")
        options = {"quality": quality, "subsampling": 0, "optimize": True}
    else:
        pixels = pixels if photo.alpha is None else torch.cat((pixels, photo.alpha))
        options = {}
    options |= {"exif": exif} if exif is not None else {}
    options |= {"icc_profile": photo.profile} if photo.profile is not None else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.stem[:32]}.", suffix=file.suffix, dir=file.parent)
    staged = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            to_pillow(pixels).save(stream, format, **options)
        staged.chmod(0o644)
        check_free(file, overwrite)
        staged.replace(file)
    finally:
        staged.unlink(missing_ok=True)
    return tuple(notes)


def check_free(file: Path, overwrite: bool) -> None:
    """Raises UserError where something is at ``file`` that may not be replaced."""
    if file.is_dir():
        raise UserError(f"{file} is a folder: move it away or choose another --out")
    if file.exists() and not overwrite:
        raise UserError(f"{file} exists: choose another --out, or add --overwrite")


def to_pillow(pixels: UInt8[Tensor, "channel height width"]) -> "PillowImage":
    """As L, LA, RGB or RGBA, by the number of channels."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def from_pillow(picture: "PillowImage") -> UInt8[Tensor, "channel height width"]:
    """Inverse of :func:`to_pillow`."""
    array = np.array(picture)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def srgb_profile() -> bytes:
    """For pictures that were converted: programs that take untagged values as something else are told."""
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _notes(picture: "PillowImage") -> tuple[str, ...]:
    """What the rules of reading will change, from an opened picture; how its decoder is called tells its bits."""
    notes = []
    if ";16" in str(getattr(picture, "tile", "")) or picture.mode.startswith("I;16"):
        notes.append("16-bit: works on the upper 8 bits")
    if picture.mode == "CMYK":
        notes.append("CMYK: turned into RGB")
    with contextlib.suppress(Exception):  # counting frames reads on, into what may be damaged
        if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
            notes.append("several pictures in the file: the first one is used")
    return tuple(notes)


def _without_inks(photo: Photo, raw: bytes, limits: Limits) -> Photo:
    """A CMYK photo through its profile, which describes inks and so cannot go along with RGB."""
    if photo.profile is None:
        return photo
    with guarded(limits.seconds), open_pillow(raw, limits) as picture:
        turned = upright(picture.convert("CMYK"), orientation_of(picture))
        converted = _through_profile(turned, photo.profile)
    if converted is None:
        return replace(photo, profile=None).note("its colour profile cannot be used, CMYK was converted without")
    return replace(photo, pixels=from_pillow(converted), profile=srgb_profile())


def _through_profile(picture: "PillowImage", profile: bytes) -> "PillowImage | None":
    """To sRGB, of grey to the grey of its tone curve; None for a damaged profile or one of other channels."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # littleCMS has no grey sRGB: a grey picture becomes three equal channels, of which one is taken
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return converted.getchannel("G") if converted is not None and picture.mode == "L" else converted


def _with_exif(photo: Photo, picture: "PillowImage") -> Photo:
    """The photo with the EXIF block of its file, less what is true of the file only."""
    try:
        with guarded(None):
            exif = picture.getexif()
            for tag in _OF_THE_FILE & set(exif):
                del exif[tag]
            for tag in _SIZES:
                exif.get_ifd(_EXIF_FOLDER).pop(tag, None)
            return replace(photo, exif=exif.tobytes() if len(exif) else None)
    except Exception:  # Pillow raises nearly every type on damaged blocks
        return photo.note("its EXIF block is damaged and was left out")

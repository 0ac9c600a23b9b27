"""One image file in, uint8 pixels out: what is accepted, how it is converted, what is refused and why.

Accepted by content, whatever the file is called: JPEG (and MPO), PNG, WebP, GIF, BMP, TIFF, PPM/PGM/PBM, TGA, AVIF
where Pillow has it, and numpy ``.npy`` arrays of uint8 [height, width] or [height, width, channel]. Pixels are made the
same for everyone:

- EXIF orientation is applied. ICC profiles are not: values are taken as stored.
- Asked for 3 channels, grey is repeated; asked for 1, colour becomes luma (ITU-R 601, as Pillow and libjpeg do).
- Transparency is laid over white, except when 2 (grey, alpha) or 4 (colour, alpha) channels are asked for; there a
  picture without transparency gets alpha 255. Any other channel count is for ``.npy`` files, whose count must match.
- 16-bit pixels keep their upper 8 bits (value >> 8): the full range, so pictures that use fewer bits stay dark.
- CMYK becomes RGB by Pillow's formula, without a profile. Of an animation the first frame is read.
- Pixels without a stated range (32-bit integers, floating point) are refused, and so is a file that ends too early.
  Damage in the middle of a JPEG or a fax TIFF goes unseen where the decoder itself recovers from it.

Every file is read within the limits of :mod:`mmssl.data.limits`.

Pillow decodes, except that whole JPEGs are left to torchvision when the caller says that its import pays: that takes
seconds and saves 10 to 25 % of the time for each file. (torchvision calls its decoders deprecated since 0.29; where a
later release lacks them, or refuses a file, Pillow serves.) What else there is to win lies behind the decoder: pixels
stay uint8, crops are resized by torch's uint8 kernel, large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size when
that is enough.
"""

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmssl.data.images.jpeg import read_jpeg_header
from mmssl.data.limits import Limits, MediaError, guarded, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "AVIF")
EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif", ".npy",
})  # fmt: skip
# A JPEG smaller than both cannot take long; setting an alarm costs a third of its decoding.
_QUICK_BYTES, _QUICK_PIXELS = 32_768, 1_000_000
_ORIENTATION_TAG = 0x0112
# EXIF orientation -> PIL.Image.Transpose: flip, half turn, flip down, transpose, right, transverse, left
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are decoded; sides in pixels, orientation applied."""

    format: str
    mode: str
    height: int
    width: int


def decode_image(
    source: bytes | Path,
    channels: int = 3,
    *,
    reduce: int = 1,
    limits: Limits | None = None,
    use_torchvision: bool = False,
) -> UInt8[Tensor, "channel height width"]:
    """Decode one picture to uint8 (a view; the memory is channels last).

    Args:
        source: the bytes of the file, or its path.
        channels: of the result; conversions as stated above.
        reduce: 1, 2, 4 or 8: the caller will shrink the picture at least this much, so it may come at 1/reduce of its
            size (rounded up). JPEG then decodes fewer coefficients; other formats are averaged over boxes.
        limits: what the file may cost.
        use_torchvision: for JPEG; worth its import when thousands of files are decoded.

    Raises:
        MediaError: with the reason, in one clause without the file's name.
    """
    limits = limits or Limits()
    raw = read_bytes(source, limits)
    jpeg = read_jpeg_header(raw)
    if jpeg is not None:
        _check_size(jpeg.height, jpeg.width, limits)
        if not jpeg.ends:
            raise MediaError("broken", "the file ends too early (no end marker)")
        if use_torchvision and reduce == 1 and channels in (1, 3) and jpeg.components in (1, 3):
            pixels = torchvision_decoder()(raw, channels)
            if pixels is not None:
                return pixels
    quick = jpeg is not None and len(raw) < _QUICK_BYTES and jpeg.height * jpeg.width < _QUICK_PIXELS
    with guarded(None if quick else limits.seconds):
        if raw[:6] == b"\x93NUMPY":
            return _decode_npy(raw, channels, reduce, limits)
        return _decode_pillow(raw, channels, reduce, limits, may_turn=jpeg is None or jpeg.exif)


def read_header(source: bytes | Path, limits: Limits | None = None) -> Header:
    """Format, mode and upright size, without decoding pixels. Raises MediaError as :func:`decode_image`."""
    limits = limits or Limits()
    raw = read_bytes(source, limits)
    with guarded(limits.seconds):
        if raw[:6] == b"\x93NUMPY":
            shape = _npy_header(io.BytesIO(raw), limits)
            return Header("NPY", f"{shape[2]} channels", shape[0], shape[1])
        jpeg = read_jpeg_header(raw)
        if jpeg is not None and not jpeg.exif:
            _check_size(jpeg.height, jpeg.width, limits)
            return Header("JPEG", {1: "L", 3: "RGB", 4: "CMYK"}.get(jpeg.components, "?"), jpeg.height, jpeg.width)
        with open_pillow(raw, limits) as picture:
            width, height = picture.size
            # Pillow turns TIFFs itself, and tells their size accordingly
            if picture.format != "TIFF" and orientation_of(picture) >= 5:
                width, height = height, width
            return Header(picture.format or "?", picture.mode, height, width)


def _check_size(height: int, width: int, limits: Limits) -> None:
    if height < 1 or width < 1:
        raise MediaError("broken", f"it has no pixels ({width}x{height})")
    if height * width > limits.pixels:
        raise MediaError("limit", f"{width}x{height} pixels are more than the limit of {limits.pixels:,}")


@lru_cache(maxsize=1)
def torchvision_decoder() -> Callable[[bytes, int], Tensor | None]:
    """Bytes of a JPEG and number of channels (1, 3) to pixels, upright; None where Pillow has to judge."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except (ImportError, OSError, RuntimeError):
        return lambda raw, channels: None  # noqa: ARG005
    modes = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}
    # we know, see above
    warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision are deprecated")

    def decode(raw: bytes, channels: int) -> Tensor | None:
        try:
            data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
            decoded = decode_jpeg(data, mode=modes[channels], apply_exif_orientation=True)
        except RuntimeError:
            return None
        assert isinstance(decoded, Tensor)
        return decoded

    return decode


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    from PIL import Image

    # Pillow logs what it finds odd in a header before it raises; without any handler Python prints that
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_pillow(raw: bytes, limits: Limits) -> "PillowImage":
    """What Pillow reads of a header; decodes nothing. Raises MediaError for what is no picture, or too large a one."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(raw), formats=_formats())
    except UnidentifiedImageError:
        raise MediaError("broken", "no picture in a known format, or its header is damaged") from None
    except Image.DecompressionBombError:
        raise MediaError("limit", f"it claims more pixels than the limit of {limits.pixels:,}") from None
    _check_size(picture.height, picture.width, limits)
    return picture


def orientation_of(picture: "PillowImage") -> int:
    """The EXIF orientation, 1 to 8; 1 when there is none or the block is damaged."""
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
        return value if value in range(1, 9) else 1
    except Exception:
        return 1


def upright(picture: "PillowImage", orientation: int) -> "PillowImage":
    """Turned and flipped as an EXIF orientation asks."""
    from PIL import Image

    return picture.transpose(Image.Transpose(_TURNS[orientation])) if orientation > 1 else picture


def _decode_pillow(
    raw: bytes, channels: int, reduce: int, limits: Limits, may_turn: bool
) -> UInt8[Tensor, "channel height width"]:
    if channels not in (1, 2, 3, 4):
        raise MediaError("unsupported", f"picture formats give 1 to 4 channels, not {channels}: store it as .npy")
    with open_pillow(raw, limits) as picture:
        width, height = picture.size
        if reduce > 1:
            picture.draft(None, (width // reduce, height // reduce))
        picture.load()
        orientation = orientation_of(picture) if may_turn else 1
        pixels = _to_channels(picture, channels)
        if reduce > 1 and pixels.size == (width, height):
            pixels = pixels.reduce(reduce)
        pixels = upright(pixels, orientation)
        # nobody else holds these bytes, so a tensor may own them without a copy
        return (
            torch.frombuffer(pixels.tobytes(), dtype=torch.uint8).view(pixels.height, pixels.width, -1).permute(2, 0, 1)
        )


def _to_channels(picture: "PillowImage", channels: int) -> "PillowImage":
    """Convert any mode to L, LA, RGB or RGBA by the rules on top of this file."""
    from PIL import Image

    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        # the file's 16 bits; Pillow widens them to mode I for some formats
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        kind = "32-bit integer" if picture.mode == "I" else "floating point"
        raise MediaError("unsupported", f"{kind} pixels have no stated range: convert it to 8 or 16 bits")
    wanted = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    if picture.has_transparency_data and channels in (1, 3):
        colour = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    return picture if picture.mode == wanted else picture.convert(wanted)


def _npy_header(file: io.BytesIO, limits: Limits) -> tuple[int, int, int]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype != np.uint8 or len(shape) not in (2, 3):
        wanted = "uint8 of shape [height, width] or [height, width, channel]"
        raise MediaError("unsupported", f"the array is {dtype} of shape {list(shape)}, not {wanted}")
    height, width, channels = (*shape, 1)[:3]
    _check_size(height, width, limits)
    if height * width * channels > len(file.getbuffer()) - file.tell():
        raise MediaError("broken", "the file ends too early")
    return height, width, channels


def _decode_npy(raw: bytes, channels: int, reduce: int, limits: Limits) -> UInt8[Tensor, "channel height width"]:
    file = io.BytesIO(raw)
    height, width, found = _npy_header(file, limits)
    if found != channels and not (found == 1 and channels == 3):
        raise MediaError("unsupported", f"the array has {found} channels, not {channels}")
    file.seek(0)
    array = np.load(file, allow_pickle=False).reshape(height, width, found)
    pixels = torch.from_numpy(array).permute(2, 0, 1).expand(channels, height, width)
    if reduce > 1:
        means = torch.nn.functional.avg_pool2d(pixels.float(), reduce, ceil_mode=True, count_include_pad=False)
        pixels = means.round_().to(torch.uint8)
    return pixels

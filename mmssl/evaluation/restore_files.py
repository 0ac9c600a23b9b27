"""``mmssl restore RUN PHOTO...``: photos to files, what is said of each, and which could not be restored."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mmssl.data.images.decode import decode_image
from mmssl.data.images.open import IMAGES
from mmssl.data.images.photo import SUFFIXES, Format, Photo, check_free, read_photo, write_photo
from mmssl.data.limits import MediaError
from mmssl.data.parts import media_below
from mmssl.errors import UserError
from mmssl.evaluation.before_after import before_after
from mmssl.evaluation.restore import Restored, Restorer, check_perturbations
from mmssl.predictors import load_predictor
from mmssl.terminal import tell

TASKS = ("colorization", "inpainting", "super_resolution", "restoration")
SHEET = ".before-after"
WHITE = 128
"""A mask is white from here on."""


@dataclass(frozen=True)
class Writing:
    """Where and how results are written."""

    folder: Path
    format: Format = "png"
    quality: int = 95
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--out {self.folder} is a file: choose a folder, which is made if missing")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality must lie between 1 and 100, got {self.quality}")


def open_restorer(
    run: Path, *, scale: int | None = None, tile: int | None = None, overlap: int | None = None, masked: bool = False
) -> Restorer:
    """The predictor of a run, on the GPU where there is one. Raises UserError where what is asked does not fit it."""
    predictor: Any = load_predictor(run)
    name = predictor.name
    if name not in TASKS:
        raise UserError(
            f"{run} is a {name}: restoring photos needs a run of recipes/image_colorization.py, image_inpainting.py or "
            "image_super_resolution.py"
        )
    if masked and name != "inpainting":
        raise UserError(f"--mask is for inpainting, and {run} is a {name}: leave it out")
    own = predictor.scale
    if scale is not None and scale != own:
        enlarges = f"enlarges {own} times" if own > 1 else f"is a {name}, which keeps the size"
        raise UserError(f"--scale {scale}: {run} {enlarges}: leave --scale out, or use a run trained for {scale}")
    if name == "colorization" and overlap is not None:
        raise UserError(f"--overlap is for tiles, and {run} colours a photo as a whole: leave it out")
    if name == "restoration":
        check_perturbations(run, predictor)
    predictor = predictor.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return Restorer.of(predictor, tile, overlap)


def restore_files(restorer: Restorer, given: Sequence[Path], to: Writing, mask: Path | None = None) -> list[str]:
    """Restore photos, saying a line of each and at the end which could not be and why; returns these sentences.

    ``given``: files, and folders of files. ``mask``: of inpainting; white where the hole is.
    """
    photos = find_photos(given)
    hole = read_mask(mask) if mask is not None else None
    failures: list[str] = []
    for photo, stem in zip(photos, result_stems(photos), strict=True):
        try:
            _restore_file(restorer, photo, photos, stem, to, hole)
        except UserError as error:  # a MediaError too: one bad photo does not stop the others
            failures.append(f"{photo}: {error}")
    if failures:
        count = f"{len(failures)} of {len(photos)} photos were" if len(photos) > 1 else "the photo was"
        tell("\n    ".join([f"error: {count} not restored:", *failures]), file=sys.stderr)
    return failures


def find_photos(given: Sequence[Path]) -> list[Path]:
    """Files as given, and the pictures in folders, at any depth. Raises UserError where there is nothing."""
    if not given:
        raise UserError("no photo was given: name files, or folders of files, after the run")
    found: list[Path] = []
    for path in given:
        found.extend(media_below(path, IMAGES) if path.is_dir() else [path])
    return list(dict.fromkeys(found))


def result_stems(photos: Sequence[Path]) -> list[str]:
    """Names of results without ending; numbered where two photos, or a photo and a sheet, would be called the same."""
    taken: set[str] = set()
    stems = []
    for photo in photos:
        stem, number = photo.stem, 1
        while taken & (names := {stem.casefold(), f"{stem}{SHEET}".casefold()}):
            number += 1
            stem = f"{photo.stem}-{number}"
        taken |= names
        stems.append(stem)
    return stems


def read_mask(file: Path) -> Bool[Tensor, "height width"]:
    """Where a picture is white. Raises UserError where it is so nowhere, or everywhere."""
    try:
        hidden = decode_image(file, 1)[0] >= WHITE
    except MediaError as error:
        raise UserError(f"--mask {file}: {error.reason}") from None
    if not hidden.any():
        raise UserError(f"--mask {file} is white nowhere: paint white what is to be filled")
    if hidden.all():
        raise UserError(f"--mask {file} is white everywhere: leave black what is known, a photo is filled from that")
    return hidden


def _restore_file(
    restorer: Restorer, file: Path, inputs: Sequence[Path], stem: str, to: Writing, mask: Tensor | None
) -> None:
    result, sheet = to.folder / f"{stem}{SUFFIXES[to.format]}", to.folder / f"{stem}{SHEET}.png"
    originals = {path.resolve() for path in inputs}
    for target in (result, sheet):
        if target.resolve() in originals:
            raise UserError(f"{target} is a photo that was given: choose another --out, none is ever overwritten")
        check_free(target, to.overwrite)
    started = time.perf_counter()
    photo, hidden = read_photo(file), None
    if restorer.predictor.name == "inpainting":
        photo, hidden = hole_of(photo, mask)
    done = restorer.restore(photo, hidden)
    notes = _write(done, result, sheet, to)
    sizes = " to ".join(dict.fromkeys(f"{width}x{height}" for height, width in (photo.size, done.photo.size)))
    tell(f"{file}: {sizes} pixels in {time.perf_counter() - started:.1f} s: {result}")
    for note in (*done.photo.notes, *notes):
        tell(f"    note: {note}")


def hole_of(photo: Photo, mask: Bool[Tensor, "height width"] | None) -> tuple[Photo, Bool[Tensor, "height width"]]:
    """The photo and what is missing of it: the mask, or else what is not opaque, which then becomes so.

    Raises UserError where mask and photo differ in size, or nothing or everything is missing.
    """
    if mask is not None:
        if tuple(mask.shape) != photo.size:
            (high, wide), (height, width) = mask.shape, photo.size
            raise UserError(f"the mask is {wide}x{high} pixels and the photo {width}x{height}: make them the same size")
        return photo, mask
    if photo.alpha is None:
        raise UserError("nothing says what is missing: give --mask FILE, white there, or make it transparent")
    hidden = photo.alpha[0] < 255
    if hidden.all():
        raise UserError("all of it is transparent, so there is nothing to fill it from: give --mask FILE instead")
    return Photo(photo.pixels, None, photo.exif, photo.profile, photo.notes), hidden


def _write(done: Restored, result: Path, sheet: Path, to: Writing) -> tuple[str, ...]:
    notes = write_photo(result, done.photo, format=to.format, quality=to.quality, overwrite=to.overwrite)
    # a profile of grey does not fit the sheet, which is in colour
    profile = done.photo.profile if done.photo.pixels.shape[0] == 3 else None
    write_photo(sheet, Photo(before_after(done.panels), profile=profile), overwrite=to.overwrite)
    return notes

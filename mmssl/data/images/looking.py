"""A few pictures at a time, without loading the whole set: for suggesting settings and for looking."""

from collections.abc import Sequence

import numpy as np
import torch

from mmssl.data.delivery import Batch
from mmssl.data.images.crops import CropLaw, cut_and_resize
from mmssl.data.images.source import ImageSource
from mmssl.data.limits import MediaError
from mmssl.errors import UserError

SIZES = (32, 64, 96, 128, 160, 192, 224)
"""Image sizes that are suggested: small ones learn on two cores, 224 is the field's usual one."""

_LOOK_AT = 64


def suggest_size(source: ImageSource, share: float = 0.5, largest: int | None = None) -> tuple[int, int]:
    """The largest usual size that all but a ``share`` of the pictures fill without being enlarged: from the headers of
    64 pictures. At most ``largest``."""
    shortest = []
    for index in np.linspace(0, len(source) - 1, min(len(source), _LOOK_AT)).round().astype(int).tolist():
        try:
            shortest.append(min(source.size_of(index)))
        except MediaError:
            continue
    if not shortest:
        raise UserError(f"{source.name}: none of {_LOOK_AT} pictures looked at can be read; see `mmssl inspect`")
    filled = np.quantile(shortest, share)
    edge = max((size for size in SIZES if size <= min(filled, largest or filled)), default=SIZES[0])
    return edge, edge


def centre_crops(
    source: ImageSource, indices: Sequence[int], size: tuple[int, int], zoom: tuple[float, float] | None = None
) -> Batch:
    """The frozen validation crops of some pictures, as a loader with this ``zoom`` has them; those that cannot be read
    are left out.

    Raises UserError where none can.
    """
    law, ids, images = CropLaw(size, zoom=zoom), [], []
    failure = UserError(f"no picture of {source.name} was asked for")
    for index in indices:
        try:
            image = source[index]["image"]
        except UserError as error:
            failure = error
            continue
        height, width = image.shape[1:]
        box = law.centre(np.array([height]), np.array([width]))
        place = (int(box.top[0]), int(box.left[0]), int(box.height[0]), int(box.width[0]))
        images.append(cut_and_resize(image, place, False, size))
        ids.append(index)
    if not images:
        raise failure
    number = torch.tensor(ids)
    return {"id": number, "epoch": torch.zeros_like(number), "image": torch.stack(images)}

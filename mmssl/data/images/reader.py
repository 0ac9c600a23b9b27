"""Crops decoded from their files, a batch at a time; runs in the workers of a DataLoader."""

import numpy as np
import torch
from jaxtyping import Int64, Integer, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from mmssl.data.delivery import Batch, Failure
from mmssl.data.images.crops import Boxes, CropLaw, box_reduction, cut_and_resize, shrunk_boxes
from mmssl.data.images.decode import decode_image
from mmssl.data.images.source import ImageSource
from mmssl.data.limits import MediaError
from mmssl.data.usable import Usable
from mmssl.masking import NoiseKey

# A JPEG below this many bytes is decoded whole: a shrunken decode would not be faster.
_REDUCIBLE = 32_768


class CropReader(Dataset["Batch | Failure"]):
    """What a batch shows, and the batch itself, as functions of (epoch, place) pairs.

    Args:
        source: the images.
        law: how crops are drawn.
        seed: of the crops.
        usable: ids of the images that can be decoded; a place is an index into them.
        sizes: full height and width of every image of the source.
        frozen: centre crops instead of drawn ones.
    """

    def __init__(
        self,
        source: ImageSource,
        law: CropLaw,
        seed: int,
        usable: Usable,
        sizes: Integer[np.ndarray, "image 2"],
        frozen: bool,
    ) -> None:
        self.source, self.law, self.seed = source, law, seed
        self.usable, self.sizes, self.frozen = usable, sizes, frozen

    def boxes(self, ids: Int64[np.ndarray, " batch"], epochs: Int64[np.ndarray, " batch"]) -> Boxes:
        """The boxes of samples, without reading anything."""
        heights, widths = self.sizes[ids].astype(np.int64).T
        if self.frozen:
            return self.law.centre(heights, widths)
        return self.law.draw(NoiseKey(self.seed, torch.from_numpy(epochs), torch.from_numpy(ids)), heights, widths)

    def __getitems__(self, wanted: list[tuple[int, int]]) -> "Batch | Failure":
        """The batch of the wanted (epoch, place) pairs."""
        epochs, places = np.array(wanted, np.int64).reshape(-1, 2).T.copy()
        ids = self.usable[places]
        boxes = self.boxes(ids, epochs)
        image = torch.empty(len(ids), self.source.channels, *self.law.size, dtype=torch.uint8)
        for row, index in enumerate(ids.tolist()):
            try:
                image[row] = self._crop(index, boxes.select(row))
            except MediaError as error:
                return Failure(index, error.reason)
        return {"id": torch.from_numpy(ids), "epoch": torch.from_numpy(epochs), "image": image}

    def _crop(self, index: int, box: Boxes) -> UInt8[Tensor, "channel height width"]:
        raw = self.source.read(index)
        window = [int(side[0]) for side in (box.top, box.left, box.height, box.width)]
        # a zoomed crop is made of the file's own pixels, by one filter whatever its factor
        shrinks = self.law.zoom is None and len(raw) >= _REDUCIBLE and raw[:2] == b"\xff\xd8"
        reduce = box_reduction(window[2], window[3], self.law.size) if shrinks else 1
        image = decode_image(
            raw, self.source.channels, reduce=reduce, limits=self.source.limits, use_torchvision=len(raw) >= _REDUCIBLE
        )
        now, full = tuple(image.shape[1:]), tuple(self.sizes[index].tolist())
        if now != full:
            # a JPEG is shrunk to the next whole pixel; grey and CMYK ones alike
            if now != tuple(-(-side // reduce) for side in full):
                raise MediaError("broken", f"it is {now[1]}x{now[0]} pixels now, not {full[1]}x{full[0]}")
            factor = np.array([1 / reduce])
            window = shrunk_boxes(box, (factor, factor), *(np.array([side]) for side in now))[0].tolist()
        return cut_and_resize(image, window, bool(box.flip[0]), self.law.size)

"""A set of images: a :class:`~mmssl.data.source.FileSource` that decodes pictures."""

from typing import Any

import numpy as np
from jaxtyping import Integer

from mmssl.data.images.decode import decode_image, read_header
from mmssl.data.limits import Limits, MediaError
from mmssl.data.parts import Listing
from mmssl.data.source import FileSource
from mmssl.errors import UserError


class ImageSource(FileSource):
    """Images of one split; the id of a sample is the number of its file."""

    what = "images"

    def __init__(self, listing: Listing, *, channels: int, limits: Limits) -> None:
        super().__init__(listing)
        self.channels, self.limits = channels, limits

    @property
    def sizes(self) -> Integer[np.ndarray, "image 2"] | None:
        """Upright height and width of every image, where an index knows them."""
        if self.index is None or (found := self.index.column("pixels")) is None:
            return None
        return found

    def all_at_least(self, size: tuple[int, int]) -> bool:
        """Whether an index says that no image is lower or narrower."""
        least = None if self.index is None else self.index.least
        return least is not None and least[0] >= size[0] and least[1] >= size[1]

    def size_of(self, index: int) -> tuple[int, int]:
        """Upright height and width of one image. Raises MediaError when its header cannot be read."""
        if (sizes := self.sizes) is not None and sizes[index].all():
            return int(sizes[index][0]), int(sizes[index][1])
        header = read_header(self.read(index), self.limits)
        return header.height, header.width

    def read(self, index: int) -> bytes:
        """The bytes of a file. Raises MediaError when it cannot be read."""
        entry = self._entries[index]
        return self._parts[entry.part].store.read(entry.index, self.limits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample. Raises UserError naming the file when it cannot be decoded."""
        try:
            image = decode_image(self.read(index), self.channels, limits=self.limits)
        except MediaError as error:
            raise UserError(f"{self.location(index)}: {error.reason}: repair or remove the file") from None
        return {"id": index, "image": image, "file": self.files[index]}

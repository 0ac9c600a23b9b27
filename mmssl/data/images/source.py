"""A set of images: a :class:`~mmssl.data.source.FileSource` that decodes pictures."""

from typing import Any

from mmssl.data.images.decode import decode_image
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

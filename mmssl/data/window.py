"""A file inside another one as a file object."""

import io
import os
from typing import Any

from mmssl.data.stores import Extent


class Window(io.RawIOBase):
    """Reads an extent at its own descriptor, for libraries that ask for a file object."""

    def __init__(self, extent: Extent) -> None:
        self._extent, self._place = extent, 0
        self._descriptor = -1 if extent.memory is not None else os.open(extent.path, os.O_RDONLY)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._extent.size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._extent.size - self._place))
        if self._descriptor < 0:
            data = self._extent.read(self._place, count)
        else:
            data = os.pread(self._descriptor, count, self._extent.offset + self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()

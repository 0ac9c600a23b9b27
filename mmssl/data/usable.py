"""Which samples of a set can be used: all but a few, without holding the numbers of all."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Int64


class Usable:
    """The numbers below ``count`` that are not among the ``failed``, ascending; indexed like an array."""

    def __init__(self, count: int, failed: Collection[int]) -> None:
        self.failed: Int64[np.ndarray, " failed"] = np.array(sorted(failed), np.int64)
        self._length = count - len(self.failed)
        # how many numbers that can be used lie before each that cannot
        self._before = self.failed - np.arange(len(self.failed))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: Int64[np.ndarray, " place"]) -> Int64[np.ndarray, " place"]:
        """The numbers at some places, none beyond the last."""
        return places + np.searchsorted(self._before, places, side="right")

    def places(self, numbers: Int64[np.ndarray, " place"]) -> Int64[np.ndarray, " place"]:
        """The other way round."""
        return numbers - np.searchsorted(self.failed, numbers)

    def tolist(self) -> list[int]:
        """All of them."""
        return self[np.arange(self._length)].tolist()

"""Batches of image crops on the training device, in an order and with crops that are arithmetic.

    loader = ImageLoader(open_images("photos", split="train"), size=(64, 64), batch_size=128, seed=0, device="cuda")
    for batch in loader.batches(start_step):    # {"id": [B], "epoch": [B], "image": uint8 [B, C, H, W]}, without end

A small set is decoded once into a :class:`~mmssl.data.images.cache.PixelCache`. A larger one is decoded crop by crop
in the worker processes of a torch DataLoader. Both show the same boxes of the same images at the same step, whatever
the number of workers; the cached images are shrunk, so their pixels differ a little. With ``zoom=(1, 1)`` both are the
pixels of the files, and the cache needs room for all of them.

**Broken files.** Every file is decoded once before training: by filling the cache, or by a check whose result is
remembered (:mod:`mmssl.data.images.check`). Files that cannot be used get no place in the order; they are listed in
``source.skipped``, and too many of them stop the run. A file that fails later, during training, has changed under our
hands or was beyond the check's bound; the run stops and names it, because a sample replaced in silence would break what
the order promises. Resuming continues with the very same batch once the file is repaired.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64, Real

from mmssl.data.delivery import Batch, delivered, read_batches, send
from mmssl.data.images.cache import PixelCache, build_cache
from mmssl.data.images.check import check_images, predicted_cache_bytes
from mmssl.data.images.crops import CropLaw
from mmssl.data.images.reader import CropReader
from mmssl.data.images.source import ImageSource
from mmssl.data.limits import MediaError, default_memory_limit
from mmssl.data.order import EVERYTHING, OrderSampler
from mmssl.data.shards.order import WindowOrder, order_for
from mmssl.data.skipped import MAX_SKIPPED_SHARE
from mmssl.data.usable import Usable
from mmssl.errors import UserError

STATISTICS_IMAGES = 1024


class ImageLoader:
    """Random crops for training, centre crops for validation.

    Args:
        source: what to load.
        size: height and width of the crops in pixels.
        batch_size: samples a step (on this rank).
        seed: of order and crops.
        workers: processes that decode; 0 decodes in this one.
        device: where batches are wanted.
        cache: "memory" decodes once and keeps everything, "none" decodes every crop, "auto" keeps what is predicted to
            fit into ``memory_limit`` bytes.
        scale, ratio, flip, zoom: the law of the training crops, see :class:`~mmssl.data.images.crops.CropLaw`.
        min_size: images with fewer pixels high or wide are skipped as too small; give the patch size.
        max_skipped: the share of unusable images past which a UserError is raised.
        rank, world_size: see :class:`~mmssl.data.order.Order`.
        progress: called with (files done, files) while everything is decoded.

    Raises:
        UserError: for impossible settings, too many unusable images, or none left.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        size: tuple[int, int],
        batch_size: int,
        seed: int,
        workers: int = 0,
        device: str | torch.device = "cpu",
        cache: Literal["auto", "memory", "none"] = "auto",
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
        zoom: tuple[float, float] | None = None,
        memory_limit: int | None = None,
        min_size: tuple[int, int] = (1, 1),
        max_skipped: float = MAX_SKIPPED_SHARE,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if cache not in ("auto", "memory", "none"):
            raise UserError(f"cache '{cache}' is unknown: choose auto, memory or none")
        if workers < 0:
            raise UserError(f"workers {workers} is impossible: give 0 or more processes")
        self.source, self.workers, self.device = source, workers, torch.device(device)
        self.law = CropLaw(size, scale, ratio, flip, zoom)
        self.seed = seed
        limit = default_memory_limit() if memory_limit is None else memory_limit
        self.pixels: PixelCache | None = None
        failures = self._read_all(cache, limit, min_size, progress)
        source.note_skipped(failures, max_skipped)
        self.usable = Usable(len(source), failures)
        self.order = order_for(source, self.usable, batch_size, seed, rank, world_size)

    def _read_all(
        self, cache: str, limit: int, min_size: tuple[int, int], progress: Callable[[int, int], None] | None
    ) -> dict[int, MediaError]:
        """Fill the cache or check every file; either way the sizes of all images are known afterwards."""
        size, zoom, source = self.law.size, self.law.zoom, self.source
        if cache == "memory" or (cache == "auto" and predicted_cache_bytes(source, size, zoom) <= limit):
            pixels, failures = build_cache(
                source,
                size,
                zoom=zoom,
                min_size=min_size,
                workers=self.workers,
                memory_limit=limit,
                progress=progress,
            )
            if pixels is not None:
                self.pixels = self._place(pixels)
                self.sizes = np.stack((pixels.full_heights, pixels.full_widths), axis=1)
                return failures
            if cache == "memory":
                raise UserError(
                    f"{source.name} needs more than the memory limit of {limit / 2**30:.1f} GiB as pixels: "
                    "allow more, or decode while training with cache='none' and some workers"
                )
        self.sizes, failures = check_images(source, min_size=min_size, workers=self.workers, progress=progress)
        return failures

    def _place(self, pixels: PixelCache) -> PixelCache:
        """Keep the pixels on the GPU when they take at most a quarter of what is free there."""
        if self.device.type == "cuda" and pixels.pixels.numel() <= torch.cuda.mem_get_info(self.device)[0] // 4:
            return pixels.to(self.device)
        return pixels

    def __len__(self) -> int:
        """Number of usable images: one epoch."""
        return len(self.usable)

    def ids(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Sample ids of the batch at a step; ``source.files[id]`` names each."""
        return self.usable[self.order.batch(step)[0]]

    def names(self, step: int) -> list[str]:
        """Files of the batch at a step, for error messages."""
        return [self.source.files[int(index)] for index in self.ids(step)]

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Training batches from a step on, without end."""
        if self.pixels is not None:
            step = start_step
            while True:
                indices, epochs = self.order.batch(step)
                yield self._from_cache(self.usable[indices], epochs, frozen=False)
                step += 1
        yield from self._read(self._reader(), OrderSampler(self.order, start_step))

    def frozen(self, batch_size: int | None = None, share: tuple[int, int] = EVERYTHING) -> Iterator[Batch]:
        """Every usable image once, in the order of ids: centre crop, epoch 0. The last batch may be smaller.

        In stored order where the data are shuffled a window of shards at a time. ``share``: (rank, ranks), of which all
        batches are read once between them.
        """
        places = np.arange(len(self.usable))
        if isinstance(self.order, WindowOrder):  # each shard is fetched once
            places = self.order.stored.astype(np.int64)
        yield from self._frozen(places, batch_size or self.order.batch_size, share)

    def spread(self, count: int, batch_size: int | None = None) -> Iterator[Batch]:
        """Centre crops, as :meth:`frozen` has them, of ``count`` images evenly spaced in the order of ids (or all).

        Of the first window of shards, where the data are shuffled by windows.
        """
        count = min(count, len(self.usable))
        places = np.arange(count) * len(self.usable) // count
        if isinstance(self.order, WindowOrder):
            places = self.order.nearby(count)
        yield from self._frozen(places, batch_size or self.order.batch_size)

    def batch_at(self, ids: Sequence[int], epochs: Sequence[int]) -> Batch:
        """The training crops of given samples at given epochs, read in this process."""
        wanted, when = np.asarray(ids, np.int64), np.asarray(epochs, np.int64)
        if self.pixels is not None:
            return self._from_cache(wanted, when, frozen=False)
        places = self.usable.places(wanted)
        read = self._reader().__getitems__(list(zip(when.tolist(), places.tolist(), strict=True)))
        return send(delivered(read, self.source), self.device, pin=False)

    def mean_std(self) -> tuple[Float64[np.ndarray, " channel"], Float64[np.ndarray, " channel"]]:
        """Mean and standard deviation of each channel in [0, 1], over the centre crops of 1024 images.

        The images are evenly spaced in the order of ids (all of them when there are no more), so the numbers are a
        function of the data and the crop size; they come from exact counts of the grey levels.
        """
        levels = np.zeros((self.source.channels, 256), np.int64)
        for batch in self.spread(STATISTICS_IMAGES, 64):
            for channel, values in zip(levels, batch["image"].unbind(1), strict=True):
                channel += torch.bincount(values.flatten(), minlength=256).cpu().numpy()
        return mean_std_of_levels(levels)

    def _frozen(
        self, places: Int64[np.ndarray, " sample"], batch_size: int, share: tuple[int, int] = EVERYTHING
    ) -> Iterator[Batch]:
        groups = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
        groups = groups[share[0] :: share[1]]
        if self.pixels is not None:
            for group in groups:
                yield self._from_cache(self.usable[group], np.zeros(len(group), np.int64), frozen=True)
            return
        yield from self._read(self._reader(frozen=True), [[(0, place) for place in group.tolist()] for group in groups])

    def _from_cache(self, ids: Int64[np.ndarray, " batch"], epochs: Int64[np.ndarray, " batch"], frozen: bool) -> Batch:
        assert self.pixels is not None
        image = self.pixels.crop(ids, self._reader(frozen).boxes(ids, epochs), self.law.size)
        batch = {"id": torch.from_numpy(ids), "epoch": torch.from_numpy(epochs), "image": image}
        return send(batch, self.device, pin=True)

    def _reader(self, frozen: bool = False) -> CropReader:
        return CropReader(self.source, self.law, self.seed, self.usable, self.sizes, frozen)

    def _read(self, reader: CropReader, order: Iterable[list[tuple[int, int]]]) -> Iterator[Batch]:
        for result in read_batches(reader, order, self.workers, self.device.type == "cuda"):
            yield send(delivered(result, self.source), self.device, pin=False)


def mean_std_of_levels(
    levels: Real[np.ndarray, "channel 256"],
) -> tuple[Float64[np.ndarray, " channel"], Float64[np.ndarray, " channel"]]:
    """Mean and (population) standard deviation in [0, 1] from the number (or share) of pixels at each level."""
    share = levels / levels.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))

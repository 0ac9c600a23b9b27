"""Batches of segments of recordings on the training device, in an order that is arithmetic.

    source = open_audio("speech", split="train")
    loader = AudioLoader(source, max_seconds=15.0, batch_seconds=120.0, seed=0, device="cuda")
    for batch in loader.batches(start_step): ...      # without end

A batch is a dict: ``id``, ``epoch``, ``length`` int64 [batch]; ``audio`` float32 [batch, samples] in [-1, 1], one
channel at ``sample_rate``, zero behind ``length``. Pieces are sorted by length, longest first, and their lengths are
similar (:mod:`mmssl.data.audio.batching`). Where long recordings are cut is said in :mod:`mmssl.data.audio.segments`.

A small set is decoded once into a :class:`~mmssl.data.audio.cache.SampleCache`; of a larger one segments are read by
seeking, in the worker processes of a torch DataLoader. Both show the same segments at the same step, whatever the
number of workers; the cache rounds to 16 bits.

**Broken files.** Every recording is decoded once before training: by filling the cache, or by a check whose result is
remembered (:mod:`mmssl.data.audio.check`). Those that cannot be used get no place in the order; they are listed in
``source.skipped``, and too many of them stop the run. A file that fails later has changed under our hands or was beyond
the check's bound; the run stops and names it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64

from mmssl.data.audio.batching import even_edges
from mmssl.data.audio.cache import SampleCache, build_cache
from mmssl.data.audio.check import HARMLESS, check_recordings
from mmssl.data.audio.header import Header
from mmssl.data.audio.reader import SegmentReader
from mmssl.data.audio.resample import resampled_length
from mmssl.data.audio.segments import ID_STEP, cut
from mmssl.data.audio.source import AudioSource
from mmssl.data.audio.window_batches import batches_for
from mmssl.data.delivery import Batch, delivered, read_batches, send
from mmssl.data.limits import MediaError, default_memory_limit
from mmssl.data.order import EVERYTHING, OrderSampler
from mmssl.data.skipped import MAX_SKIPPED_SHARE
from mmssl.errors import UserError


class AudioLoader:
    """Segments for training, and fixed ones for validation.

    Args:
        source: what to load.
        sample_rate: of the batches, in Hz.
        max_seconds: longer recordings are cut into pieces of this length.
        min_seconds: shorter recordings are skipped.
        shortest_piece: seconds; pieces vary in length from these to ``max_seconds``. None: all as long as possible.
        batch_seconds: of a step, all ranks and micro-batches together, padding included; at least ``max_seconds``.
        seed: of order and segments.
        workers: processes that decode; 0 decodes in this one.
        device: where batches are wanted.
        cache: "memory" decodes once and keeps everything, "none" reads every segment, "auto" keeps what fits into
            ``memory_limit`` bytes.
        max_skipped: the share of broken recordings past which a UserError is raised; silent and short ones do not
            count.
        rank, world_size, accumulation: see :class:`~mmssl.data.audio.batching.LengthBatches`.
        progress: called with (recordings done, recordings) while everything is decoded.

    Raises:
        UserError: for impossible settings, too many unusable recordings, or none left.
    """

    def __init__(
        self,
        source: AudioSource,
        *,
        sample_rate: int = 16_000,
        max_seconds: float,
        min_seconds: float = 0.1,
        shortest_piece: float | None = None,
        batch_seconds: float,
        seed: int,
        workers: int = 0,
        device: str | torch.device = "cpu",
        cache: Literal["auto", "memory", "none"] = "auto",
        memory_limit: int | None = None,
        max_skipped: float = MAX_SKIPPED_SHARE,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        _check_settings(sample_rate, min_seconds, max_seconds, batch_seconds, cache, workers)
        self.source, self.workers, self.device = source, workers, torch.device(device)
        self.sample_rate, self.seed = sample_rate, seed
        self.most, self.least = round(max_seconds * sample_rate), max(1, round(min_seconds * sample_rate))
        self.budget = round(batch_seconds * sample_rate)
        self.samples: SampleCache | None = None
        limit = default_memory_limit() if memory_limit is None else memory_limit
        lengths, failures = self._read_all(cache, limit, progress)
        for index in np.flatnonzero((lengths > 0) & (lengths < self.least)).tolist():
            long = f"{lengths[index] / sample_rate:.3g} s"
            failures[index] = MediaError("short", f"{long} are fewer than the least of {min_seconds:g} s")
        source.note_skipped(failures, max_skipped, HARMLESS)
        usable = np.array([index for index in range(len(source)) if index not in failures], np.int64)
        self.shortest = None if shortest_piece is None else max(1, round(shortest_piece * sample_rate))
        self.pieces = cut(lengths, usable, self.most, self.shortest, seed)
        self.seconds = float(self.pieces.length.sum()) / sample_rate
        """Of an epoch, without padding."""
        recordings, lengths = self.pieces.recording, self.pieces.length
        self.order = batches_for(source, recordings, lengths, self.budget, seed, rank, world_size, accumulation)

    def _read_all(
        self, cache: str, limit: int, progress: Callable[[int, int], None] | None
    ) -> tuple[Int64[np.ndarray, " recording"], dict[int, MediaError]]:
        """Fill the cache or check every recording; samples of each at the model's rate, and what cannot be used."""
        source, rate = self.source, self.sample_rate
        if cache == "memory" or (cache == "auto" and _predicted_bytes(source, rate, self.workers) <= limit):
            samples, failures = build_cache(source, rate, workers=self.workers, memory_limit=limit, progress=progress)
            if samples is not None:
                self.samples = samples
                return samples.lengths, failures
            if cache == "memory":
                raise UserError(
                    f"{source.name} needs more than the memory limit of {limit / 2**30:.1f} GiB as samples: "
                    "allow more, or read segments while training with cache='none' and some workers"
                )
        failures = check_recordings(source, workers=self.workers, progress=progress)
        lengths = [
            resampled_length(item.frames, item.rate, rate) if isinstance(item, Header) else 0
            for item in source.headers()
        ]
        return np.array(lengths, np.int64), failures

    def __len__(self) -> int:
        """Number of pieces: one epoch."""
        return len(self.pieces)

    @property
    def epoch_steps(self) -> int:
        """Steps that an epoch takes."""
        return len(self.order)

    def ids(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Ids of the pieces of a micro-batch."""
        return self.pieces.id[self.order.batch(step)[0]]

    def names(self, step: int) -> list[str]:
        """Files of the pieces of a micro-batch, for error messages."""
        return self.files_of(self.ids(step).tolist())

    def files_of(self, ids: Iterable[int]) -> list[str]:
        """The file that each piece is from."""
        return [self.source.files[id % ID_STEP] for id in ids]

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Training batches from a micro-batch on, without end."""
        yield from self._read(False, OrderSampler(self.order, start_step))

    def frozen(
        self,
        batch_seconds: float | None = None,
        most_seconds: float | None = None,
        share: tuple[int, int] = EVERYTHING,
    ) -> Iterator[Batch]:
        """Every piece once, epoch 0, at its fixed place, longest first; always in the same batches.

        Where there is more than ``most_seconds``, every second piece, every third, and so on, in the order of files.
        ``share``: (rank, ranks), of which all batches are read once between them.

        Raises:
            UserError: when ``batch_seconds`` (by default that of training) is less than the longest piece.
        """
        budget = self.budget if batch_seconds is None else round(batch_seconds * self.sample_rate)
        every = 1 if most_seconds is None else max(1, -(-int(self.seconds * 1000) // max(1, int(most_seconds * 1000))))
        places = np.arange(0, len(self), every)
        places = places[np.argsort(-self.pieces.length[places], kind="stable")]
        lengths = self.pieces.length[places]
        if budget < lengths[0]:
            raise UserError(
                f"batch seconds {budget / self.sample_rate:g} are fewer than the {lengths[0] / self.sample_rate:g} of "
                "the longest piece: choose more"
            )
        groups = np.split(places, even_edges(lengths, budget)[1:-1])[share[0] :: share[1]]
        yield from self._read(True, [[(0, place) for place in group.tolist()] for group in groups])

    def _read(self, frozen: bool, order: Iterable[list[tuple[int, int]]]) -> Iterator[Batch]:
        reader = SegmentReader(
            self.source, [] if self.samples else self.source.headers(), self.pieces, self.sample_rate, self.seed,
            frozen, self.samples,
        )  # fmt: skip
        if self.samples is not None:
            for wanted in order:
                yield send(delivered(reader.__getitems__(wanted), self.source), self.device, pin=True)
            return
        for result in read_batches(reader, order, self.workers, self.device.type == "cuda"):
            yield send(delivered(result, self.source), self.device, pin=False)

    def fingerprint(self) -> str:
        """Hash of data and cutting: equal as long as an id stands for the same piece."""
        text = f"{self.source.fingerprint()} {self.sample_rate} {self.most} {self.least} {self.shortest}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _predicted_bytes(source: AudioSource, sample_rate: int, workers: int) -> int:
    source.headers(workers)
    return int(source.seconds.sum() * sample_rate) * 2


def _check_settings(
    sample_rate: int, min_seconds: float, max_seconds: float, batch_seconds: float, cache: str, workers: int
) -> None:
    if cache not in ("auto", "memory", "none"):
        raise UserError(f"cache '{cache}' is unknown: choose auto, memory or none")
    if workers < 0:
        raise UserError(f"workers {workers} is impossible: give 0 or more processes")
    if not 1000 <= sample_rate <= 10_000_000:
        raise UserError(f"sample rate {sample_rate} is impossible: give it in Hz, such as 16000")
    if not 0 <= min_seconds <= max_seconds or max_seconds * sample_rate < 1:
        raise UserError(f"max seconds {max_seconds:g} must be more than 0 and at least the min seconds {min_seconds:g}")
    if batch_seconds < max_seconds:
        raise UserError(
            f"batch seconds {batch_seconds:g} are fewer than the max seconds {max_seconds:g}, so that a batch could be "
            f"empty: choose {max_seconds:g} or more"
        )

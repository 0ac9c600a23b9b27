"""Batches of windows of clips on the training device, in an order that is arithmetic.

    source = open_clips("videos", split="train", settings=ClipSettings(size=(64, 64), crop="mouth"))
    loader = ClipLoader(source, frames=25, batch_size=32, seed=0, device="cuda")
    for batch in loader.batches(start_step): ...      # without end

A batch is a dict: ``id``, ``epoch``, ``clip`` (windows of one file have one number) and ``first`` (frame of the clip
where the window begins) int64 [batch]; ``video`` uint8 [batch, frames, channel, height, width]; ``audio`` int16
[batch, frames x samples a frame]. Nothing is padded. Where windows lie is said in :mod:`mmssl.data.video.windows`.

Windows are copied from memory-mapped files: that takes microseconds, so there are no worker processes to wait for.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int64

from mmssl.data.audio.segments import ID_STEP
from mmssl.data.delivery import Batch, send
from mmssl.data.limits import MediaError
from mmssl.data.order import EVERYTHING, Order
from mmssl.data.skipped import MAX_SKIPPED_SHARE
from mmssl.data.video.source import HARMLESS, ClipSource
from mmssl.data.video.windows import cut
from mmssl.errors import UserError


class ClipLoader:
    """Windows for training, and fixed ones for validation.

    Args:
        source: what to load.
        frames: of a window. Clips with fewer are skipped.
        batch_size: windows a step on each rank.
        seed: of order and windows.
        device: where batches are wanted.
        max_skipped: the share of broken videos past which a UserError is raised; those without sound, without a face
            or too short do not count.
        rank, world_size: see :class:`~mmssl.data.order.Order`.

    Raises:
        UserError: for impossible settings, too many unusable videos, or none left.
    """

    def __init__(
        self,
        source: ClipSource,
        *,
        frames: int,
        batch_size: int,
        seed: int,
        device: str | torch.device = "cpu",
        max_skipped: float = MAX_SKIPPED_SHARE,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if frames < 1:
            raise UserError(f"windows of {frames} frames are impossible: choose 1 or more")
        self.source, self.frames, self.seed, self.device = source, frames, seed, torch.device(device)
        self.settings = source.settings
        lengths, failures = source.frames, source.failures
        for index in np.flatnonzero((lengths > 0) & (lengths < frames)).tolist():
            failures[index] = MediaError(
                "short", f"{lengths[index]} frames with sound are fewer than the {frames} wanted"
            )
        source.note_skipped(failures, max_skipped, HARMLESS)
        self.usable = np.array([index for index in range(len(source)) if index not in failures], np.int64)
        """Clips that windows are from."""
        self.windows = cut(lengths, self.usable, frames)
        self.seconds = float(lengths[self.usable].sum()) / self.settings.fps
        """Of all usable clips."""
        self.order = Order(len(self.windows), batch_size, seed, rank, world_size)

    def __len__(self) -> int:
        """Windows of an epoch."""
        return len(self.windows)

    def ids(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Ids of the windows of a step."""
        return self.windows.id[self.order.batch(step)[0]]

    def names(self, step: int) -> list[str]:
        """Files of the windows of a step, for error messages."""
        return [self.source.files[int(id) % ID_STEP] for id in self.ids(step).tolist()]

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Training batches from a step on, without end."""
        step = start_step
        while True:
            chosen, epochs = self.order.batch(step)
            yield self._batch(chosen, epochs, self.windows.starts(chosen, epochs, self.seed))
            step += 1

    def frozen(
        self, batch_size: int | None = None, most: int | None = None, share: tuple[int, int] = EVERYTHING
    ) -> Iterator[Batch]:
        """Every window once, epoch 0, at its fixed place, in the order of clips; the last batch may be smaller.

        Where there are more than ``most``, as many, spread evenly. ``share``: (rank, ranks), of which all batches are
        read once between them.
        """
        size = batch_size or self.order.batch_size
        count = min(len(self), most or len(self))
        chosen = np.arange(count) * len(self) // count
        for group in np.split(chosen, range(size, count, size))[share[0] :: share[1]]:
            yield self._batch(group, np.zeros(len(group), np.int64), self.windows.fixed(group))

    def _batch(
        self, chosen: Int64[np.ndarray, " batch"], epochs: Int64[np.ndarray, " batch"],
        first: Int64[np.ndarray, " batch"],
    ) -> Batch:  # fmt: skip
        settings, count = self.settings, len(chosen)
        video = torch.empty(count, self.frames, settings.channels, *settings.size, dtype=torch.uint8)
        audio = torch.empty(count, self.frames * settings.samples_per_frame, dtype=torch.int16)
        pixels, samples = video.numpy(), audio.numpy()
        clips = self.windows.clip[chosen]
        for row, (clip, start) in enumerate(zip(clips.tolist(), first.tolist(), strict=True)):
            pixels[row], samples[row] = self.source.window(clip, start, self.frames)
        batch = {
            "id": torch.from_numpy(self.windows.id[chosen]), "epoch": torch.from_numpy(epochs),
            "clip": torch.from_numpy(clips), "first": torch.from_numpy(first), "video": video, "audio": audio,
        }  # fmt: skip
        return send(batch, self.device, pin=True)

    def fingerprint(self) -> str:
        """Hash of data and cutting: equal as long as an id stands for a window of the same clip."""
        text = f"{self.source.fingerprint()} {self.frames}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

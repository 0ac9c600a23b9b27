"""Which sound belongs to this video, among N? And which video to this sound?

Ties are counted fairly: where the right one shares its score with others, each order of them is as likely as any other,
so an embedding that is the same for all gets chance, not 100 %.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evaluation.offset.embedding import clip_batch
from mmssl.evaluation.offset.injected import ClipLike
from mmssl.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console

RANKS = (1, 5, 10)
MOST_FRAMES = 250
"""Clips are compared by as many frames as the shortest has, at most so many."""
FEWEST_FRAMES = 25
"""Shorter clips are left out: all would have to be cut to their length."""


@dataclass(frozen=True)
class Recall:
    """One direction. Shares from 0 to 1 by rank."""

    recall: dict[int, float]
    chance: dict[int, float]
    median_rank: float
    """Expected rank of the right one, 1 = first."""


@dataclass(frozen=True)
class Retrieval:
    """Both directions, and what was compared."""

    data: str
    clips: int
    frames: int
    left_out: int
    """Clips shorter than a second."""
    to_sound: Recall
    """From a video to its sound."""
    to_video: Recall
    command: str | None = None
    """What measures it again; None where it was not a run folder that was asked."""


def recall_of(similarity: Float[Tensor, "asked found"]) -> Recall:
    """How often the right one, number i for row i, is among the first, by ranks that are fair to ties."""
    right = similarity.diagonal()[:, None]
    higher = (similarity > right).sum(1)
    equal = (similarity == right).sum(1)  # itself included
    count = len(similarity)
    recall = {rank: float(((rank - higher) / equal).clamp(0, 1).mean()) for rank in RANKS}
    return Recall(recall, {rank: min(rank / count, 1.0) for rank in RANKS}, float((higher + (equal + 1) / 2).median()))


@torch.inference_mode()
def retrieve(predictor: Any, clips: Sequence[ClipLike], data: str) -> Retrieval:
    """Compare every video with every sound, both cut to the same length and from their beginnings.

    Raises UserError where there are fewer than two clips of a second.
    """
    lengths = [len(clips[number].video) for number in range(len(clips))]
    usable = [number for number, length in enumerate(lengths) if length >= FEWEST_FRAMES]
    if len(usable) < 2:
        raise UserError(f"{data} has {len(usable)} clips of at least a second: retrieval needs two or more")
    frames = min(MOST_FRAMES, *(lengths[number] for number in usable))
    visual, audio = [], []
    for number in usable:
        clip = clips[number]
        samples = len(clip.audio) // len(clip.video) * frames
        found = predictor.clip_embedding(clip_batch(predictor, clip.video[:frames], clip.audio[:samples]))
        visual.append(found[0][0].float().cpu())
        audio.append(found[1][0].float().cpu())
    similarity = torch.stack(visual) @ torch.stack(audio).T
    return Retrieval(
        data, len(usable), frames, len(clips) - len(usable), recall_of(similarity), recall_of(similarity.T)
    )  # fmt: skip


def print_retrieval(found: Retrieval, console: "Console | None" = None) -> None:
    """A row a direction."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"The right one among {found.clips} clips of {found.frames} frames of {plain(found.data)}, in %"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.add_column("")
    for name in (*(f"R@{rank}" for rank in RANKS), "median rank"):
        table.add_column(name, justify="right")
    for name, recall in (("video to sound", found.to_sound), ("sound to video", found.to_video)):
        table.add_row(name, *(f"{100 * recall.recall[rank]:.1f}" for rank in RANKS), f"{recall.median_rank:.1f}")
    chance = found.to_sound.chance
    table.add_row(
        "chance", *(f"{100 * chance[rank]:.1f}" for rank in RANKS), f"{(found.clips + 1) / 2:.1f}", style="dim"
    )
    console = console or Console()
    console.print(table)
    if found.left_out:
        console.print(f"{found.left_out} clips are shorter than a second and were left out", style="dim")


def save_retrieval(found: Retrieval, file: Path) -> Path:
    """As JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8", errors="backslashreplace")
    return file

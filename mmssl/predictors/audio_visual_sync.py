"""Audio-visual synchrony: hide which sound belongs to which moment of the picture, and predict it back.

Short windows of the picture and of the sound are embedded once, each from its own frames alone, and one matrix product
says how well every moment of the one agrees with every moment of the other. The right answer is the same moment; wrong
ones are other moments of the same clip (the N-way task of Chung, Chung & Kang 2019, "Perfect match: improved
cross-modal embeddings for audio-visual synchronisation"), the same moment of other clips (InfoNCE, van den Oord et al.
2018), or both. ``correspondence`` is the classic comparison: do the two belong together, yes or no (Arandjelovic &
Zisserman 2017, "Look, listen and learn").
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.masking import NoiseKey
from mmssl.nn.clip_clock import ClipConfig
from mmssl.nn.clip_windows import AudioWindows, VisualWindows, WindowsConfig
from mmssl.nn.mel import MelFrontEnd
from mmssl.nn.over_ranks import gather_over_ranks
from mmssl.perturbations.clips import centre, vary_bins, vary_pictures
from mmssl.predictors.audio_visual import AudioVisualPredictor, loudness, moving, sounding, standardise
from mmssl.predictors.base import Batch, View
from mmssl.predictors.candidates import (
    clip_candidates,
    curriculum,
    draw_one,
    lags,
    shift_candidates,
    shift_curve,
    shift_hits,
)

SHIFT_REACH = 15
"""Frames to each side among which the offset is looked for in ``shift_top1`` (SyncNet: 15, 0.6 s)."""

FIRST_SCALE, LARGEST_SCALE = 10.0, 100.0
"""Of cosines. The first is our choice and stays near it; the bound is CLIP's (Radford et al. 2021, section 2.5)."""

STREAM_PAIRS, STREAM_OFF_GRID = 0x73796E6300, 0x73796E6301


@dataclass(frozen=True)
class AudioVisualSyncConfig:
    """A predictor of the pairing of picture and sound, most important settings first."""

    clip: ClipConfig
    """What clips look like."""
    window: int = 5
    """Video frames of a window (SyncNet: 5, 0.2 s)."""
    encoder: WindowsConfig = field(default_factory=WindowsConfig)
    """The two encoders."""
    objective: Literal["contrastive", "correspondence"] = "contrastive"
    """Which of many is the right one, or whether one is right."""
    negatives: Literal["shifts", "clips", "both"] = "shifts"
    """Wrong answers: other moments of the clip, the same moment of other clips in the batch (in training the
    micro-batch of all ranks), or both."""
    curriculum_steps: int = 0
    """Training batches over which negatives become harder: other clips (where there are any), far, near shifts."""
    margin: int = 4
    """Pixels at each edge of the frames that the network does not see, and by which pictures move in training."""
    zoom: float = 0.1
    """Training pictures are stretched by up to this share, in height and in width."""
    gamma: float = 0.3
    """They are brightened or darkened by an exponent of up to e to this."""
    warp: float = 0.1
    """Training spectrograms are stretched in frequency by up to this share."""
    silence: float = 40.0
    """Decibels below the loudest window of its clip at which sound says nothing. On GRID, whose rooms are 22 dB below
    the voice, 20 cost two points from a second of speech: a shut mouth goes with a pause."""
    stillness: float = 0.5
    """Grey levels of 255 from frame to frame, in the busiest part of the picture, below which it says nothing."""
    off_grid_negatives: bool = False
    """For teaching: cut the sound of wrong answers between frames and that of right ones at frames, as in the first
    version of AVE-Net. A network can then tell them by traces of the coding, and looks good for the wrong reason
    (Arandjelovic & Zisserman 2018, "Objects that sound", section 3.1). Only with ``correspondence``."""

    def __post_init__(self) -> None:
        if self.window < 2:
            raise UserError(f"window must be at least 2 frames, got {self.window}")
        if self.margin < 0 or min(self.clip.picture_size) - 2 * self.margin < 8:
            raise UserError(f"margin {self.margin} leaves less than 8 pixels of frames of {self.clip.picture_size}")
        for name in ("zoom", "warp"):
            if not 0 <= getattr(self, name) < 0.5:
                raise UserError(f"{name} must be at least 0 and below 0.5, got {getattr(self, name)}")
        if min(self.gamma, self.silence, self.stillness, self.curriculum_steps) < 0:
            raise UserError("gamma, silence, stillness and curriculum_steps cannot be negative")
        if self.off_grid_negatives and self.objective != "correspondence":
            raise UserError(
                "off_grid_negatives shows a weakness of correspondence: choose that objective, or leave it out"
            )


class WindowEmbeddings(NamedTuple):
    """Moments of a clip as vectors of length 1. Window t covers frames t ... t + window - 1."""

    visual: Float[Tensor, "batch window dim"]
    audio: Float[Tensor, "batch window dim"]
    visual_weight: Float[Tensor, "batch window"]
    """0 where the picture is still."""
    audio_weight: Float[Tensor, "batch window"]
    """0 where there is silence."""


class ClipEmbeddings(NamedTuple):
    """Whole clips as vectors of length 1, whose product is the mean agreement of their moments."""

    visual: Float[Tensor, "batch feature"]
    audio: Float[Tensor, "batch feature"]


class AudioVisualSync(AudioVisualPredictor):
    """The predictor of the pairing.

    Each window of one sense asks for its partner in the other, both ways. Windows in which nothing moves or nothing is
    heard do not ask. In evaluation wrong answers are as in training, without curriculum and without variations;
    ``shift_top1`` is the same task in all runs.
    """

    name = "audio_visual_sync"
    config: AudioVisualSyncConfig
    updates: Tensor

    def __init__(self, config: AudioVisualSyncConfig) -> None:
        super().__init__()
        self.config = config
        clip = config.clip
        self.lead, _ = clip.mel_in(config.window)
        self.front_end = MelFrontEnd(clip.mel, clip.sample_rate)
        height, width = (side - 2 * config.margin for side in clip.picture_size)
        self.visual = VisualWindows(config.encoder, config.window, (height, width), clip.channels)
        self.audio = AudioWindows(config.encoder, config.window, clip)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        if config.objective == "correspondence":
            self.bias = nn.Parameter(torch.zeros(()))
        # training batches seen: a tensor, so that nothing waits for a GPU, and saved, so that a resumed run goes on
        self.register_buffer("updates", torch.zeros((), dtype=torch.float64))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied by."""
        return self.log_scale.float().clamp_max(math.log(LARGEST_SCALE)).exp()

    def similarity(
        self, visual: Float[Tensor, "*batch window dim"], audio: Float[Tensor, "*batch other dim"]
    ) -> Float[Tensor, "*batch window other"]:
        """Scaled cosine of every visual with every audio window, in single precision."""
        with torch.autocast(visual.device.type, enabled=False):
            return self.scale * (visual.float() @ audio.float().transpose(-1, -2))

    def weights(self, batch: Batch) -> tuple[Float[Tensor, "batch window"], Float[Tensor, "batch window"]]:
        """``(visual, audio)``: 0 for windows in which the picture is still, and for silent ones."""
        window, clip = self.config.window, self.clip
        loud = loudness(batch["audio"], clip.samples_per_frame)
        return moving(batch["video"], window, self.config.stillness), sounding(loud, window, self.config.silence)

    def perturb(self, batch: Batch) -> View:
        """Part pictures from sound. In training both are varied, in ways that change no moment."""
        config = self.config
        self.check(batch)
        if batch["video"].shape[1] < config.window + 2 + config.off_grid_negatives:
            raise UserError(
                f"clips of {batch['video'].shape[1]} frames have no wrong moment for windows of {config.window}: give "
                "longer ones"
            )
        key = NoiseKey.of(batch, self.mask_seed)
        view = {"key": key, "clip": batch["clip"], "updates": self.updates.clone()}
        if config.off_grid_negatives:
            view["off_grid"] = self._sounds(self._between_frames(batch["audio"], key), key)
            batch = dict(batch) | {  # as long as what is left between frames
                "video": batch["video"][:, :-1], "audio": batch["audio"][:, : -self.clip.samples_per_frame]
            }  # fmt: skip
        seen, heard = self.weights(batch)
        view |= {"weight": seen * heard, "video": self._pictures(batch, key)}
        view["mel"] = self._sounds(batch["audio"], key)
        if self.training:
            self.updates += 1
        return view

    def _pictures(self, batch: Batch, key: NoiseKey) -> Float[Tensor, "batch frame channel h w"]:
        config = self.config
        if self.training:
            pictures = vary_pictures(key, batch["video"], config.margin, config.zoom, config.gamma)
        else:
            pictures = centre(batch["video"], config.margin)
        return standardise(pictures, (1, 2, 3, 4))

    def _sounds(self, audio: Tensor, key: NoiseKey) -> Float[Tensor, "batch frame mel"]:
        mel = self.log_mel(audio, self.lead)
        return vary_bins(key, mel, self.config.warp) if self.training and self.config.warp else mel

    def _between_frames(self, audio: Tensor, key: NoiseKey) -> Tensor:
        """Each clip from somewhere within its first frame on, one frame shorter."""
        samples = self.clip.samples_per_frame
        late = 1 + (key.uniform(1, STREAM_OFF_GRID) * (samples - 1)).long()
        return audio.gather(1, late + torch.arange(audio.shape[1] - samples, device=audio.device))

    def encode(self, view: View) -> Float[Tensor, "sense batch window dim"]:
        """Windows of the picture and of the sound, and of the sound cut between frames where that was asked for."""
        sounds = [view["mel"], view["off_grid"]] if "off_grid" in view else [view["mel"]]
        heard = self.audio(torch.cat(sounds)).chunk(len(sounds))
        return F.normalize(torch.stack([self.visual(view["video"]), *heard]).float(), dim=-1)

    def predict(self, latent: Tensor, view: View) -> Float[Tensor, "2 batch window candidate"]:  # noqa: ARG002
        """Scaled cosines of each window with its candidates, asked by pictures and asked by sounds.

        Candidates are all windows of the clip and, where other clips are wanted, the windows of the same moment of all
        clips of the batch, in training of all ranks, behind them.
        """
        visual, audio, *off_grid = latent
        asked = self._candidates(visual, audio)
        if off_grid:
            own = torch.eye(visual.shape[1], asked.shape[-1], dtype=torch.bool, device=asked.device)
            asked = torch.where(own, asked, self._candidates(visual, off_grid[0]))
        return torch.stack([asked, self._candidates(audio, visual)])

    def _candidates(self, asking: Tensor, asked: Tensor) -> Float[Tensor, "batch window candidate"]:
        shifts = self.similarity(asking, asked)
        if self.config.negatives == "shifts":
            return shifts
        asked = gather_over_ranks(asked) if self.training else asked
        across = self.similarity(asking.transpose(0, 1), asked.transpose(0, 1)).transpose(0, 1)
        return torch.cat([shifts, across], -1)

    def target(self, batch: Batch, view: View) -> Bool[Tensor, "batch window candidate"]:  # noqa: ARG002
        """Which candidates count: True for the right one, number t for window t, and for the wrong ones."""
        config, windows = self.config, view["weight"].shape[1]
        lag = lags(windows, self.device)
        nearest, shifts = curriculum(view["updates"], config.curriculum_steps if self.training else 0, windows)
        allowed = shift_candidates(lag, nearest).expand(len(view["clip"]), -1, -1)
        if config.negatives == "clips":
            allowed = allowed & (lag == 0)
        if config.negatives == "shifts":
            return allowed | (lag == 0)
        others = clip_candidates(view["clip"], gather_over_ranks(view["clip"]) if self.training else view["clip"])
        # a batch of one file has no other clips to begin with
        allowed = allowed & (shifts | ~others.any(1)[:, None, None]) | (lag == 0)
        return torch.cat([allowed, others[:, None].expand(-1, windows, -1)], -1)

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy in nats, means of both ways of asking. ``reference``: chance among the candidates.

        ``shift_top1``: how often the best of the shifts of the clip by up to 15 frames is right to within one, and
        ``shift_chance``, how often guessing would be.
        """
        weight, windows = view["weight"], view["weight"].shape[1]
        judge = self._judge_pairs if self.config.objective == "correspondence" else self._judge_choice
        loss, reference, right = judge(prediction, target, view)
        on_grid = prediction[1, :, :, :windows].detach().transpose(1, 2)
        hit, chance = shift_hits(on_grid, lags(windows, weight.device), SHIFT_REACH)
        count = weight.sum()
        return {
            "loss": (loss * weight).sum(),
            "reference": (reference * weight).sum(),
            "accuracy": (right * weight).sum(),
            "shift_top1": (hit * weight).sum(),
            "shift_chance": (chance * weight).sum(),
            "scale": self.scale.detach() * count,
            "prediction_std": on_grid.std((1, 2)).mean() * count,
            "weighed": count * count / weight.numel(),
            # a batch in which nothing moves or sounds has a loss of 0, not one that is not a number
            "count": count.clamp_min(1),
        }

    def _judge_choice(self, prediction: Tensor, target: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        logits = prediction.masked_fill(~target, -torch.inf)
        own = torch.arange(target.shape[1], device=target.device)
        loss = F.cross_entropy(logits.flatten(0, 2), own.repeat(2 * len(target)), reduction="none")
        right = (logits.detach().argmax(-1) == own).float()
        chance = target.sum(-1).float().log()
        return loss.view(2, *target.shape[:2]).mean(0), chance, right.mean(0)

    def _judge_pairs(self, prediction: Tensor, target: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """Each window with its own sound, and with one of the wrong ones; half of the pairs are right."""
        windows, candidates = target.shape[1:]
        own = torch.eye(windows, candidates, dtype=torch.bool, device=target.device)
        noise = view["key"].uniform(windows * candidates, STREAM_PAIRS).unflatten(1, (windows, candidates))
        wrong = draw_one(target & ~own, noise)
        asked = prediction[0] + self.bias.float()
        pair = torch.stack([asked[:, :, :windows].diagonal(dim1=1, dim2=2), asked.gather(2, wrong[..., None])[..., 0]])
        together = torch.zeros_like(pair)
        together[0] = 1
        loss = F.binary_cross_entropy_with_logits(pair, together, reduction="none").mean(0)
        right = ((pair.detach() > 0) == (together > 0)).float().mean(0)
        return loss, torch.full_like(loss, math.log(2)), right

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def embed(self, batch: Batch) -> WindowEmbeddings:
        """Every window of every clip, as evaluation sees it."""
        with self._evaluating():
            self.check(batch)
            key = NoiseKey.of(batch, self.mask_seed)
            seen, heard = self.weights(batch)
            visual = self.visual(self._pictures(batch, key)).float()
            audio = self.audio(self._sounds(batch["audio"], key)).float()
        return WindowEmbeddings(F.normalize(visual, dim=-1), F.normalize(audio, dim=-1), seen, heard)

    def clip_embedding(self, batch: Batch) -> ClipEmbeddings:
        """For retrieval among clips of equal length: their moments side by side, those that say nothing left out."""
        found = self.embed(batch)
        seen, heard = found.visual_weight.sqrt()[..., None], found.audio_weight.sqrt()[..., None]
        return ClipEmbeddings(
            F.normalize((found.visual * seen).flatten(1), dim=-1), F.normalize((found.audio * heard).flatten(1), dim=-1)
        )

    def encode_clean(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Features of whole clips: ``mean`` over the windows of both senses side by side, and each by itself."""
        found = self.embed(batch)
        visual, audio = found.visual.mean(1), found.audio.mean(1)
        return {"mean": torch.cat([visual, audio], 1), "visual": visual, "audio": audio}

    def locate(self, batch: Batch) -> Float[Tensor, "batch window h w"]:
        """Where in the picture the sound comes from: how much each place of the last layer adds to the scaled cosine of
        a window with its own sound.

        Value times gradient, summed over channels: exact for what is linear in the places, to first order else
        (Shrikumar et al. 2016, "Not just a black box"; with channels summed as in Selvaraju et al. 2017, "Grad-CAM").
        """
        with self._evaluating(), torch.inference_mode(False), torch.enable_grad():
            self.check(batch)
            key = NoiseKey.of(batch, self.mask_seed)
            with torch.no_grad():
                audio = F.normalize(self.audio(self._sounds(batch["audio"], key)).float(), dim=-1).flatten(0, 1)
                places = self.visual.places(self.visual.windows(self._pictures(batch, key)))
            places = places.detach().requires_grad_()
            visual = F.normalize(self.visual.head(places.flatten(1)).float(), dim=-1)
            (gradient,) = torch.autograd.grad((self.scale.detach() * visual * audio).sum(), places)
        added = (places * gradient).sum(1).detach().float()
        return added.unflatten(0, (len(batch["video"]), -1))

    @torch.no_grad()
    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        """For the eye: ``similarity`` of every moment of the picture (rows) with every moment of the sound, the mean
        over shifts ``curve`` with the ``pairs`` behind it, from -15 to 15 frames, and the weights of the moments."""
        found = self.embed(batch)
        similarity = self.similarity(found.visual, found.audio)
        pair = found.visual_weight[:, :, None] * found.audio_weight[:, None]
        curve, pairs = shift_curve(similarity, pair, SHIFT_REACH)
        return {
            "original": batch["video"], "similarity": similarity, "curve": curve, "pairs": pairs,
            "visual_weight": found.visual_weight, "audio_weight": found.audio_weight,
        }  # fmt: skip

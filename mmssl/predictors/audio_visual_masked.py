"""Masked audio-visual prediction: hide parts of pictures and of sound, predict each from what is left of both.

Cubes of pictures are hidden as tubes (Tong et al. 2022, "VideoMAE"), spans of log-mel frames as in speech; one trunk
sees both senses with mask vectors in place of what is hidden. Some clips lose a sense as a whole (modality dropout, Shi
et al. 2022, "AV-HuBERT"), so that predicting one sense from the other alone is learned too, and validation can say how
much one sense tells about the other.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.masking import NoiseKey, hidden_count, random_mask, span_mask, tube_mask
from mmssl.nn.clip_clock import ClipConfig
from mmssl.nn.clip_tokens import ClipTokens
from mmssl.nn.mel import MelFrontEnd
from mmssl.nn.transformer import Transformer, TransformerConfig, nano, pico, small
from mmssl.predictors.audio_visual import AudioVisualPredictor, standardise
from mmssl.predictors.base import Batch, Outcome, View, outcome_of

STREAM_SENSES = 0x6D61736B40

PRESETS = {"pico": pico, "nano": nano, "small": small}
"""Trunks by name. Not published models."""

VALIDATION_VISUAL, VALIDATION_AUDIO, VALIDATION_SPAN = 0.75, 0.5, 5
"""Evaluation hides these shares whatever a run does in training: losses compare."""

REGIMES = {
    "sound_from_sight": ("all", "none"),
    "sound_from_sound": ("part", "all"),
    "sound_from_both": ("part", "none"),
    "sight_from_sound": ("none", "all"),
    "sight_from_sight": ("all", "part"),
    "sight_from_both": ("none", "part"),
}
"""What is hidden of (sound, sight) when evaluation asks for one sense. Always judged on the same hidden places."""


@dataclass(frozen=True)
class AudioVisualMaskedConfig:
    """A masked predictor of clips, most important settings first."""

    clip: ClipConfig
    """What clips look like."""
    trunk: TransformerConfig
    """Sees the tokens of both senses."""
    frames: int = 24
    """Video frames of a clip."""
    cube: tuple[int, int, int] = (2, 16, 16)
    """Frames, height and width of a visual token (VideoMAE: 2 x 16 x 16)."""
    visual_fraction: float = 0.75
    """Share of visual tokens hidden in training. VideoMAE hides 90 % of clips that are longer and larger."""
    audio_fraction: float = 0.5
    """Share of audio tokens hidden in training."""
    sampler: Literal["tube", "random"] = "tube"
    """Visual tokens hidden at the same places in all frames, or anywhere."""
    span: int = 5
    """Audio tokens, a video frame each, that are hidden together."""
    whole: float = 0.5
    """Share of the clips of which each sense, by its own die, is hidden as a whole or not at all, half of them each."""
    target: Literal["motion", "pixels"] = "motion"
    """Predict by how much pixels differ from the mean picture of their clip, which sound can know something about, or
    the pixels, of which most say what never moves."""

    def __post_init__(self) -> None:
        for name in ("visual_fraction", "audio_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.whole <= 1:
            raise UserError(f"whole must be a share from 0 to 1, got {self.whole}")
        tokens = ClipTokens(self.clip, self.frames, self.cube)
        if not 1 <= self.span < tokens.audio:
            raise UserError(f"span must be from 1 to {tokens.audio - 1} frames, got {self.span}")
        tokens.positions(self.trunk.dim)
        for share in (self.visual_fraction, VALIDATION_VISUAL):  # raises where none would be left, or none hidden
            hidden_count(tokens.grid[1] * tokens.grid[2], share)


class AudioVisualMasked(AudioVisualPredictor):
    """The masked predictor. Both senses weigh the same in the loss, however many tokens they have."""

    name = "audio_visual_masked"
    config: AudioVisualMaskedConfig
    position: Tensor

    def __init__(self, config: AudioVisualMaskedConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = ClipTokens(config.clip, config.frames, config.cube)
        self.front_end = MelFrontEnd(config.clip.mel, config.clip.sample_rate)
        dim, tokens = config.trunk.dim, self.tokens
        self.visual_embedding = nn.Linear(tokens.pixels, dim)
        self.audio_embedding = nn.Linear(tokens.mels, dim)
        self.sense_token = nn.Parameter(torch.empty(2, dim))
        self.mask_token = nn.Parameter(torch.empty(2, dim))
        self.trunk = Transformer(config.trunk)
        self.visual_head = nn.Linear(dim, tokens.pixels)
        self.audio_head = nn.Linear(dim, tokens.mels)
        self.register_buffer("position", tokens.positions(dim), persistent=False)
        self.apply(_initialise)
        for token in (self.sense_token, self.mask_token):
            nn.init.normal_(token, std=0.02)
        for head in (self.visual_head, self.audio_head):  # to begin with the trivial guess
            nn.init.normal_(head.weight, std=0.02 * dim**-0.5)

    def masks(self, batch: Batch) -> tuple[Bool[Tensor, "batch audio"], Bool[Tensor, "batch visual"]]:
        """Hidden tokens of sound and of sight at the shares of training, or at those of evaluation."""
        config, tokens = self.config, self.tokens
        shares = VALIDATION_AUDIO, VALIDATION_VISUAL, min(VALIDATION_SPAN, tokens.audio - 1)
        if self.training:
            shares = config.audio_fraction, config.visual_fraction, config.span
        key = NoiseKey.of(batch, self.mask_seed)
        sampler = tube_mask if config.sampler == "tube" or not self.training else random_mask
        return span_mask(key, tokens.audio, shares[0], span=shares[2]), sampler(key, tokens.grid, shares[1])

    def perturb(self, batch: Batch) -> View:
        """Hide parts of both senses; in training also the whole of one, or nothing of it."""
        self.check(batch)
        if batch["video"].shape[1] != self.config.frames:
            raise UserError(f"this model takes clips of {self.config.frames} frames, got {batch['video'].shape[1]}")
        sound, sight = self.masks(batch)
        if self.training:
            sound, sight = self._lose_senses(NoiseKey.of(batch, self.mask_seed), sound, sight)
        video = standardise(batch["video"].float(), (1, 2, 3, 4))
        mel = standardise(self.log_mel(batch["audio"], self.tokens.lead), (1,))
        return {
            "pictures": self.tokens.cut_pictures(video), "sounds": self.tokens.cut_sounds(mel),
            "sound": sound, "sight": sight, "judged": torch.cat([sight, sound], 1),
        }  # fmt: skip

    def _lose_senses(self, key: NoiseKey, sound: Tensor, sight: Tensor) -> tuple[Tensor, Tensor]:
        """Each sense wholly hidden, wholly visible, or neither; where both are the same, neither."""
        die, share = key.uniform(2, STREAM_SENSES), self.config.whole
        hidden, visible = die < share / 2, (die >= share / 2) & (die < share)
        same = (hidden.all(1) | visible.all(1))[:, None]
        hidden, visible = hidden & ~same, visible & ~same
        return (sound & ~visible[:, :1]) | hidden[:, :1], (sight & ~visible[:, 1:]) | hidden[:, 1:]

    def encode(self, view: View) -> Float[Tensor, "batch token dim"]:
        """All tokens, those that are hidden as mask vectors. What is hidden has no other way in."""
        pictures = self.visual_embedding(view["pictures"])
        sounds = self.audio_embedding(view["sounds"])
        pictures = torch.where(view["sight"][..., None], self.mask_token[0].to(pictures.dtype), pictures)
        sounds = torch.where(view["sound"][..., None], self.mask_token[1].to(sounds.dtype), sounds)
        return self.trunk(self._placed(pictures, sounds))

    def _placed(self, pictures: Tensor, sounds: Tensor) -> Float[Tensor, "batch token dim"]:
        return torch.cat([pictures + self.sense_token[0], sounds + self.sense_token[1]], 1) + self.position

    def predict(self, latent: Float[Tensor, "batch token dim"], view: View) -> Float[Tensor, "batch token value"]:  # noqa: ARG002
        """Pixels of visual tokens, mel energies of audio tokens; the narrower of the two filled up with zeros."""
        seen, heard = latent.split([self.tokens.visual, self.tokens.audio], 1)
        return self._side_by_side(self.visual_head(seen).float(), self.audio_head(heard).float())

    def target(self, batch: Batch, view: View) -> Float[Tensor, "batch token value"]:  # noqa: ARG002
        """The same of what is there, with variance 1 over the clip; filled up likewise."""
        pictures = view["pictures"]
        if self.config.target == "motion":
            cubes = pictures.unflatten(1, (self.tokens.grid[0], -1)).unflatten(3, (self.tokens.cube[0], -1))
            moved = cubes - cubes.mean((1, 3), keepdim=True)
            pictures = standardise(moved, (1, 2, 3, 4)).flatten(3).flatten(1, 2)
        return self._side_by_side(pictures, view["sounds"])

    def _side_by_side(self, pictures: Tensor, sounds: Tensor) -> Float[Tensor, "batch token value"]:
        width = max(self.tokens.pixels, self.tokens.mels)
        return torch.cat([F.pad(x, (0, width - x.shape[2])) for x in (pictures, sounds)], 1)

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Float[Tensor, ""]]:
        """Mean squared error over the hidden tokens of both senses. ``reference``: the clip's mean picture (of pixels,
        its mean brightness) and its mean spectrum, which are 0."""
        tokens = self.tokens
        size = torch.tensor([tokens.pixels, tokens.mels], device=target.device)
        sense = torch.arange(tokens.total, device=target.device) // tokens.visual
        sense = sense.clamp_max(1)
        # a sense with fewer tokens weighs as much as the other
        weight = view["judged"] * torch.where(sense == 1, tokens.visual / tokens.audio, 1.0)
        error = (prediction - target).square().sum(2) / size[sense]
        trivial = target.square().sum(2) / size[sense]
        count = weight.sum()
        return {
            "loss": (error * weight).sum(),
            "reference": (trivial * weight).sum(),
            "mask_coverage": view["judged"].float().mean() * count,
            "count": count.clamp_min(1),
        }

    def forward(self, batch: Batch) -> Outcome:
        """In evaluation also ``skill_sound_from_sight`` and so on: one sense predicted from the other alone, from its
        own context alone, and from both, always at the same hidden places."""
        if self.training:
            return super().forward(batch)
        view = dict(self.perturb(batch))
        target = self.target(batch, view)
        sums = self.score(self.predict(self.encode(view), view), target, view)
        for name, (sound, sight) in REGIMES.items():
            asked = self.asking(view, name, sound, sight)
            found = self.score(self.predict(self.encode(asked), asked), target, asked)
            share = sums["count"] / found["count"]  # means over the tokens judged, not over all
            sums |= {f"loss_{name}": share * found["loss"], f"reference_{name}": share * found["reference"]}
        return outcome_of(sums)

    def asking(self, view: View, name: str, sound: str, sight: str) -> View:
        """The same clips with other parts hidden, judged on the hidden places of the sense that ``name`` begins with.

        ``sound`` and ``sight``: hide "all", "none" or the "part" that the masks of the view hide.
        """

        def hidden(mask: Tensor, how: str) -> Tensor:
            return {"all": torch.ones_like(mask), "none": torch.zeros_like(mask), "part": mask}[how]

        judged = view["sight"], view["sound"]
        nothing = torch.zeros_like(judged[name.startswith("sight")])
        judged = torch.cat([nothing, judged[1]] if name.startswith("sound") else [judged[0], nothing], 1)
        return dict(view) | {
            "sound": hidden(view["sound"], sound), "sight": hidden(view["sight"], sight), "judged": judged,
        }  # fmt: skip

    def _clean(self, batch: Batch) -> Float[Tensor, "batch token dim"]:
        view = self.perturb(batch)
        return self._placed(self.visual_embedding(view["pictures"]), self.audio_embedding(view["sounds"]))

    def _means(self, tokens: Float[Tensor, "batch token dim"]) -> tuple[Tensor, Tensor, Tensor]:
        seen, heard = tokens.float().split([self.tokens.visual, self.tokens.audio], 1)
        return torch.cat([seen.mean(1), heard.mean(1)], 1), seen.mean(1), heard.mean(1)

    def encode_clean(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Features of whole clips with nothing hidden: ``mean`` over the tokens of each sense side by side, and each by
        itself."""
        return dict(zip(("mean", "visual", "audio"), self._means(self.trunk(self._clean(batch))), strict=True))

    def encode_layers(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """:meth:`encode_clean`, and ``layer 1``, ``layer 2`` ...: its ``mean`` after each block but the last."""
        *states, last = (self._means(state) for state in self.trunk.layers(self._clean(batch)))
        features = dict(zip(("mean", "visual", "audio"), last, strict=True))
        return features | {f"layer {number}": state[0] for number, state in enumerate(states, 1)}

    @property
    def reveal_note(self) -> str:
        """What the pictures were given."""
        if self.config.target == "motion":
            return "Predicted is how pixels differ from the mean picture of the clip; that picture is borrowed."
        return "Mean brightness and contrast of the clip are borrowed."

    @torch.no_grad()
    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        """For the eye: pictures on the scale 0..1, ``original``, ``perturbed`` (grey where hidden), ``predicted`` from
        what is left of both senses, ``predicted_from_sound`` alone; and the like for sounds, standardised log-mel
        ``[batch, frame, mel]``: ``sound_original``, ``sound_perturbed``, ``sound_predicted``,
        ``sound_predicted_from_sight``. ``hidden`` and ``sound_hidden`` are boolean by frame and place."""
        training = self.training
        self.eval()
        try:
            view = self.perturb(batch)
            both = self._shown(batch, view)
            sight = self._shown(batch, self.asking(view, "sight_from_sound", *REGIMES["sight_from_sound"]))
            sound = self._shown(batch, self.asking(view, "sound_from_sight", *REGIMES["sound_from_sight"]))
        finally:
            self.train(training)
        tokens = self.tokens
        hidden = tokens.join_pictures(view["sight"][..., None].expand(-1, -1, tokens.pixels))
        silent = tokens.join_sounds(view["sound"][..., None].expand(-1, -1, tokens.mels))
        original, mel = batch["video"].float() / 255, tokens.join_sounds(view["sounds"])
        return {
            "original": original, "perturbed": torch.where(hidden, 0.5, original),
            "predicted": torch.where(hidden, both[0], original), "predicted_from_sound": sight[0], "hidden": hidden,
            "sound_original": mel, "sound_perturbed": torch.where(silent, 0, mel),
            "sound_predicted": torch.where(silent, both[1], mel), "sound_predicted_from_sight": sound[1],
            "sound_hidden": silent,
        }  # fmt: skip

    def _shown(self, batch: Batch, view: View) -> tuple[Tensor, Tensor]:
        """Predicted pictures on the scale 0..1, and predicted log-mel frames, of all tokens."""
        tokens = self.tokens
        seen, heard = self.predict(self.encode(view), view).split([tokens.visual, tokens.audio], 1)
        pictures = tokens.join_pictures(seen[..., : tokens.pixels])
        original = batch["video"].float() / 255
        if self.config.target == "motion":
            mean = original.mean(1, keepdim=True)
            pictures = mean + pictures * (original - mean).square().mean((1, 2, 3, 4), keepdim=True).sqrt()
        else:
            pictures = standardise_back(pictures, original)
        return pictures.clamp(0, 1), tokens.join_sounds(heard[..., : tokens.mels])


def standardise_back(
    x: Float[Tensor, "batch *rest"], like: Float[Tensor, "batch *rest"]
) -> Float[Tensor, "batch *rest"]:
    """Standardised pictures on the scale of ``like``, clip by clip."""
    dims = tuple(range(1, like.ndim))
    return x * like.std(dims, keepdim=True) + like.mean(dims, keepdim=True)


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform for every linear layer, as in MAE (He et al. 2022, appendix A.1)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)

"""Masked autoencoder: hide most patches of a picture, encode the rest, predict the pixels back.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners"; with two relatives as a choice of ``architecture``:
CrossMAE (Fu et al. 2024, "Rethinking Patch Dependence for Masked Autoencoders") and SimMIM (Xie et al. 2022).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.masking import SAMPLERS, MaskPlan, NoiseKey
from mmssl.masking.theory import hidden_count
from mmssl.nn import CrossBlock, Transformer, TransformerConfig, transformer
from mmssl.nn.patches import patch_grid, patchify, sincos_positions, unpatchify
from mmssl.nn.transformer import Shared
from mmssl.perturbations.fill import interpolate_hidden, push_pull
from mmssl.predictors.base import Batch, Predictor, View

DECODED_STREAM = 1
"""Noise stream that picks the hidden patches to decode; those of the samplers begin elsewhere."""


PRESETS: dict[str, tuple[TransformerConfig, TransformerConfig]] = {
    "pico": (transformer.pico(), TransformerConfig(dim=64, depth=1, heads=2, mlp_dim=256)),
    "nano": (transformer.nano(), TransformerConfig(dim=128, depth=2, heads=4, mlp_dim=512)),
    "tiny": (transformer.tiny(), TransformerConfig(dim=192, depth=2, heads=3, mlp_dim=768)),
    "small": (transformer.small(), TransformerConfig(dim=256, depth=4, heads=8, mlp_dim=1024)),
    "base": (transformer.base(), TransformerConfig(dim=512, depth=8, heads=16, mlp_dim=2048)),
    "large": (transformer.large(), TransformerConfig(dim=512, depth=8, heads=16, mlp_dim=2048)),
}
"""Encoder and decoder by name. Base and large are MAE's (He et al. 2022, §4.1); the paper has no smaller ones, so the
lighter decoders of the others are our choice."""


@dataclass(frozen=True)
class MaskedAutoencoderConfig:
    """A masked autoencoder, most important settings first."""

    image_size: tuple[int, int]
    """Height and width of the pictures in pixels."""
    patch_size: tuple[int, int]
    """Height and width of a patch; must divide the image."""
    encoder: TransformerConfig
    """The trunk that is kept."""
    decoder: TransformerConfig
    """The part that predicts pixels and is thrown away; not used by ``simmim``."""
    architecture: Literal["mae", "cross_mae", "simmim"] = "mae"
    """``mae``: the decoder sees all tokens. ``cross_mae``: hidden patches look at the encoded visible ones, not at each
    other, and only a share is decoded: faster, another objective. ``simmim``: mask vectors inside the encoder."""
    mask_fraction: float = 0.75
    """Share of patches that is hidden (He et al. 2022, §4.1: 75 % is best for probing)."""
    sampler: Literal["random", "block", "inverse_block"] = "random"
    """Which patches are hidden together."""
    target: Literal["normalized_pixels", "pixels"] = "normalized_pixels"
    """Normalised within each patch (better features, He et al. 2022, table 1d), or plain (better pictures)."""
    decoded_fraction: float = 0.25
    """Share of the hidden patches that ``cross_mae`` decodes in a training step; evaluation decodes all."""
    channels: int = 3
    """Colour channels of the pictures."""
    mean: tuple[float, ...] = (0.5,)
    """Mean of the data by channel on the scale 0..1; one number serves all channels."""
    std: tuple[float, ...] = (0.25,)
    """Standard deviation of the data by channel, likewise."""
    positions: Literal["sincos", "learned"] = "sincos"
    """Fixed sine-cosine positions in the encoder (MAE), or a learned table (weights that came from ViT)."""

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise UserError(f"channels must be at least 1, got {self.channels}")
        rows, columns = patch_grid(self.image_size, self.patch_size)
        hidden = hidden_count(rows * columns, self.mask_fraction)
        if not 0 < self.decoded_fraction <= 1:
            raise UserError(f"decoded_fraction must be above 0 and at most 1, got {self.decoded_fraction}")
        if self.architecture == "cross_mae" and round(hidden * self.decoded_fraction) < 1:
            raise UserError(f"decoded_fraction {self.decoded_fraction} of {hidden} hidden patches is none: raise it")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise UserError(f"{name} needs 1 or {self.channels} numbers, got {len(getattr(self, name))}")
        if self.target == "normalized_pixels" and self.channels * self.patch_size[0] * self.patch_size[1] < 2:
            raise UserError("a patch of one value cannot be normalised within itself: choose target pixels")
        if min(self.std) <= 0:
            raise UserError(
                f"std must be positive, got {self.std}: a channel that is the same in all pictures, such as the "
                "transparency of opaque ones, has nothing to predict, so choose fewer channels"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.image_size, self.patch_size)


class MaskedAutoencoder(Predictor):
    """MAE, CrossMAE or SimMIM on pictures of any size, shape and number of channels."""

    name = "masked_autoencoder"
    config: MaskedAutoencoderConfig
    position: Tensor
    decoder_position: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: MaskedAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        width, narrow = config.encoder.dim, config.decoder.dim
        self.positions_count = config.grid[0] * config.grid[1]
        self.hidden_count = hidden_count(self.positions_count, config.mask_fraction)
        pixels = config.patch_size[0] * config.patch_size[1] * config.channels

        self.patch_embedding = nn.Linear(pixels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = Transformer(config.encoder)
        if config.positions == "sincos":
            self.register_buffer("position", sincos_positions(config.grid, width), persistent=False)
        else:
            self.position = nn.Parameter(torch.zeros(self.positions_count, width))
        if config.architecture == "simmim":
            self.mask_token = nn.Parameter(torch.zeros(1, width))
            self.head = nn.Linear(width, pixels)
        else:
            self.mask_token = nn.Parameter(torch.zeros(1, narrow))
            self.decoder_embedding = nn.Linear(width, narrow)
            self.register_buffer("decoder_position", _with_cls(sincos_positions(config.grid, narrow)), persistent=False)
            self.head = nn.Linear(narrow, pixels)
        if config.architecture == "mae":
            self.decoder = Transformer(config.decoder)
        elif config.architecture == "cross_mae":
            self.memory_norm = nn.LayerNorm(narrow, config.decoder.norm_epsilon)
            self.decoder = nn.ModuleList(CrossBlock(config.decoder) for _ in range(config.decoder.depth))
            self.decoder_norm = nn.LayerNorm(narrow, config.decoder.norm_epsilon)

        repeat = pixels // config.channels
        mean = torch.tensor(config.mean).expand(config.channels).repeat(repeat)
        std = torch.tensor(config.std).expand(config.channels).repeat(repeat)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.apply(_initialise)
        for token in (self.cls_token, self.mask_token):
            nn.init.normal_(token, std=0.02)  # MAE reference; the paper does not say
        if config.positions == "learned":
            nn.init.trunc_normal_(self.position, std=0.02)

    def patches(self, batch: Batch) -> UInt8[Tensor, "batch patch pixel"]:
        """Pictures cut into patches, still uint8: only the part that is used becomes float."""
        image = batch["image"]
        expected = (self.config.channels, *self.config.image_size)
        if tuple(image.shape[1:]) != expected:
            raise UserError(
                f"pictures of {tuple(image.shape[1:])} given, this model takes {expected}: set its image size"
            )
        return patchify(image, self.config.patch_size)

    def normalise(self, patches: UInt8[Tensor, "batch patch pixel"]) -> Float[Tensor, "batch patch pixel"]:
        """To zero mean and unit variance over the data."""
        return patches.float().mul_(1 / (255 * self.pixel_std)).sub_(self.pixel_mean / self.pixel_std)

    def perturb(self, batch: Batch) -> View:
        """Hide patches; those that stay visible are cut out, so that nothing else is computed on."""
        key = NoiseKey.of(batch, self.mask_seed)
        hidden = SAMPLERS[self.config.sampler](key, self.config.grid, self.config.mask_fraction)
        plan = MaskPlan.from_hidden(
            hidden, hidden_count=self.hidden_count, visible_count=self.positions_count - self.hidden_count
        )
        patches = self.patches(batch)
        decoded = self._choose_decoded(key, plan)
        return {"plan": plan, "patches": patches, "visible": plan.take_visible(patches), "decoded_ids": decoded}

    def _choose_decoded(self, key: NoiseKey, plan: MaskPlan) -> Tensor:
        share = self.config.decoded_fraction
        if self.config.architecture != "cross_mae" or not self.training or share == 1:
            return plan.hidden_ids
        count = round(plan.hidden_ids.shape[1] * share)
        chosen = key.uniform(plan.hidden_ids.shape[1], DECODED_STREAM).argsort(stable=True, dim=1)[:, :count]
        return plan.hidden_ids.gather(1, chosen)

    def encode(self, view: View) -> Float[Tensor, "batch token dim"]:
        """MAE: cls and the visible patches. SimMIM: cls and the hidden patches, encoded among all."""
        plan: MaskPlan = view["plan"]
        tokens = self.patch_embedding(self.normalise(view["visible"]))
        if self.config.architecture != "simmim":
            return self.encoder(self._with_cls_token(tokens + _rows(self.position, plan.visible_ids)))
        masked = self.mask_token.to(tokens.dtype).expand(*plan.hidden_ids.shape, -1)
        tokens = self._with_cls_token(plan.put_back(tokens, masked) + self.position)
        return self.encoder(tokens, output=plan.hidden_ids + 1)

    def _with_cls_token(self, tokens: Float[Tensor, "batch patch dim"]) -> Float[Tensor, "batch patch+1 dim"]:
        cls = self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls, tokens], 1)

    def predict(self, latent: Float[Tensor, "batch token dim"], view: View) -> Float[Tensor, "batch hidden pixel"]:
        """Pixels of the hidden patches, in the order of ``decoded_ids``."""
        if self.config.architecture == "simmim":
            return self.head(latent)
        plan: MaskPlan = view["plan"]
        ids = torch.nn.functional.pad(plan.visible_ids + 1, (1, 0))  # cls stands at row 0 of the position table
        seen = self.decoder_embedding(latent) + _rows(self.decoder_position, ids)
        table = self.mask_token + self.decoder_position[1:]
        shared = Shared(table, view["decoded_ids"])
        if isinstance(self.decoder, Transformer):
            hidden = self.decoder(seen, output=slice(-shared.ids.shape[1], None), shared=shared)
        else:
            memory, hidden = self.memory_norm(seen), shared.rows(table)
            for block in self.decoder:
                hidden = block(hidden, memory)
            hidden = self.decoder_norm(hidden)
        return self.head(hidden)

    def target(self, batch: Batch, view: View) -> Float[Tensor, "batch hidden pixel"]:  # noqa: ARG002
        """The hidden patches themselves."""
        ids = view["decoded_ids"]
        patches = view["patches"]
        # rows of all pictures laid end to end: on CPU several times faster than a gather along each picture
        first = torch.arange(ids.shape[0], device=ids.device)[:, None] * patches.shape[1]
        pixels = patches.flatten(0, 1).index_select(0, (ids + first).flatten()).view(*ids.shape, -1)
        pixels = self.normalise(pixels)
        return _normalise_patch(pixels) if self.config.target == "normalized_pixels" else pixels

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Tensor]:
        """Mean squared error. ``reference``: the mean colour (of the data, or of each patch where targets are
        normalised by patch), which is 0 in either space. In evaluation also ``reference_interpolation``."""
        sums = {
            "loss": _squared_error(prediction, target),
            "reference": _squared_error(torch.zeros_like(target), target),
            "count": target.new_full((), target.shape[0] * target.shape[1]),
        }
        if not self.training:
            sums["reference_interpolation"] = _squared_error(self._interpolate(view), target)
        return sums

    def _interpolate(self, view: View) -> Float[Tensor, "batch hidden pixel"]:
        """What smooth interpolation of visible pixels would predict; it uses nothing of the hidden patches."""
        plan: MaskPlan = view["plan"]
        image = self._image(self.normalise(view["patches"]))
        filled = interpolate_hidden(image, self._pixel_mask(plan))
        pixels = plan.take_hidden(patchify(filled, self.config.patch_size))
        return _normalise_patch(pixels) if self.config.target == "normalized_pixels" else pixels

    def _image(self, patches: Float[Tensor, "batch patch pixel"]) -> Float[Tensor, "batch channel height width"]:
        return unpatchify(patches, self.config.image_size, self.config.patch_size)

    def _pixel_mask(self, plan: MaskPlan) -> Tensor:
        grid = plan.hidden.view(-1, 1, *self.config.grid)
        ph, pw = self.config.patch_size
        return grid.repeat_interleave(ph, 2).repeat_interleave(pw, 3)

    def encode_clean(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Features of whole pictures: ``mean`` over the patch tokens, and the ``cls`` token, after the final norm."""
        tokens = self.encoder(self.embed_clean(batch)).float()
        return {"mean": tokens[:, 1:].mean(1), "cls": tokens[:, 0]}

    def encode_layers(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Means over the patch tokens after each block, before the final norm; ``mean`` and ``cls`` after it."""
        *states, last = (state.float() for state in self.encoder.layers(self.embed_clean(batch)))
        features = {"mean": last[:, 1:].mean(1), "cls": last[:, 0]}
        return features | {f"layer {number}": state[:, 1:].mean(1) for number, state in enumerate(states, 1)}

    def embed_clean(self, batch: Batch) -> Float[Tensor, "batch token dim"]:
        """cls and all patches with their positions: the encoder's input with nothing hidden."""
        return self._with_cls_token(self.patch_embedding(self.normalise(self.patches(batch))) + self.position)

    def parameter_depths(self) -> dict[str, int]:
        """Depth of each encoder parameter, 0 at the input, for learning rates that decay with depth."""
        depth = {}
        for name, _ in self.named_parameters():
            if name.startswith(("patch_embedding", "cls_token", "position")):
                depth[name] = 0
            elif name.startswith("encoder.blocks."):
                depth[name] = 1 + int(name.split(".")[2])
            elif name.startswith("encoder."):
                depth[name] = 1 + self.config.encoder.depth
        return depth

    @property
    def reveal_note(self) -> str:
        """Honest about statistics: nothing in the pictures comes from hidden patches."""
        if self.config.target == "pixels":
            return "Predicted from visible patches alone."
        return "Brightness and contrast of hidden patches: interpolated from visible ones, nothing borrowed."

    @torch.no_grad()
    def reveal(self, batch: Batch) -> dict[str, Float[Tensor, "batch channel height width"]]:
        """Pictures on the scale 0..1: ``original``, ``perturbed``, ``predicted``, ``composite``; the ``hidden`` mask.

        Nothing of the hidden patches enters ``predicted``: where targets are normalised by patch, brightness and
        contrast of a hidden patch are interpolated from the visible patches around it. Visible patches of
        ``predicted`` are grey, because the objective says nothing about them; ``composite`` shows them as they are.
        """
        training = self.training
        self.eval()
        try:
            view = self.perturb(batch)
            prediction = self.predict(self.encode(view), view).float()
        finally:
            self.train(training)
        plan = view["plan"]
        if self.config.target == "normalized_pixels":
            mean, std = self._statistics_of_neighbours(plan, self.normalise(view["visible"]))
            prediction = prediction * std + mean
        pixels = view["patches"].float() / 255
        predicted = (prediction * self.pixel_std + self.pixel_mean).clamp(0, 1)
        visible, grey = plan.take_visible(pixels), self.pixel_mean.expand_as(pixels)
        return {
            "original": self._image(pixels),
            "perturbed": self._image(plan.put_back(visible, plan.take_hidden(grey))),
            "predicted": self._image(plan.put_back(plan.take_visible(grey), predicted)),
            "composite": self._image(plan.put_back(visible, predicted)),
            "hidden": self._pixel_mask(plan).float(),
        }

    def _statistics_of_neighbours(self, plan: MaskPlan, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of hidden patches, guessed from visible ones alone, ``[batch, hidden, 1]``."""
        statistics = torch.stack([visible.mean(-1), visible.std(-1)], -1)
        blank = statistics.new_zeros(*plan.hidden_ids.shape, 2)
        grid = plan.put_back(statistics, blank).transpose(1, 2).unflatten(2, self.config.grid)
        known = ~plan.hidden.view(-1, 1, *self.config.grid)
        filled = plan.take_hidden(push_pull(grid, known).flatten(2).transpose(1, 2))
        return filled[..., :1], filled[..., 1:]


def _with_cls(positions: Float[Tensor, "position dim"]) -> Float[Tensor, "position+1 dim"]:
    """The cls token's position is a row of zeros (MAE reference)."""
    return torch.cat([positions.new_zeros(1, positions.shape[1]), positions])


def _rows(table: Float[Tensor, "position dim"], ids: Tensor) -> Float[Tensor, "batch token dim"]:
    return Shared(table, ids).rows(table)


def _normalise_patch(pixels: Float[Tensor, "batch patch pixel"]) -> Float[Tensor, "batch patch pixel"]:
    """Zero mean, unit (unbiased) variance within each patch, + 1e-6 as in the MAE reference, in fp32."""
    count = pixels.shape[-1]
    # a layer norm but for its biased variance, and many times faster on CPU than var_mean
    unbiased = (count - 1) / count
    return torch.nn.functional.layer_norm(pixels, (count,), eps=1e-6 * unbiased).mul_(unbiased**0.5)


def _squared_error(prediction: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """Sum over patches of the mean over their pixels, in fp32."""
    return torch.nn.functional.mse_loss(prediction.float(), target, reduction="sum") / target.shape[-1]


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform for every linear layer, the patch embedding among them (He et al. 2022, appendix A.1)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

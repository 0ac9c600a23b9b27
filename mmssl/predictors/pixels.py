"""What the tasks that predict pictures share: colorization, inpainting, super-resolution, restoration.

Each hides something of a picture and predicts **the difference to a trivial guess** that needs no learning: no colour,
a smooth filling, bicubic enlargement. The last layer begins at zero, so that training begins at that guess, with
skill 0, and what is learned is what the guess does not know.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from mmssl.errors import UserError
from mmssl.nn.patches import patch_grid
from mmssl.nn.pixel_network import PixelNetwork, PixelNetworkConfig
from mmssl.predictors.base import Batch, Predictor, View
from mmssl.predictors.fidelity import psnr, ssim


@dataclass(frozen=True, kw_only=True)
class PixelConfig(PixelNetworkConfig):
    """What a task that predicts pictures needs to know of them, and the network it trains."""

    image_size: tuple[int, int]
    """Height and width of the pictures in pixels."""
    channels: int = 3
    """1 (grey) or 3 (RGB); other numbers where the task can do with them."""
    mean: tuple[float, ...] = (0.5,)
    """Mean of the data by channel on the scale 0..1; one number stands for all channels."""
    std: tuple[float, ...] = (0.25,)
    """Standard deviation of the data by channel, likewise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or {len(self.mean), len(self.std)} - {1, self.channels}:
            raise UserError(f"mean and std must have one number or {self.channels}, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise UserError(f"std must be positive, got {self.std}: pictures that are all the same have nothing to say")

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of what the network is given in training."""
        return self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of that."""
        return patch_grid(self.input_size, self.patch_size)


Config = TypeVar("Config", bound=PixelConfig)


class PixelPredictor(Predictor, Generic[Config]):
    """A task on pictures: a network predicts the difference between a trivial guess and the picture.

    A subclass says what is hidden (:meth:`perturb`) and what the network is given of a picture that is perturbed
    already, a user's photo for example (:meth:`view_of`). Its views hold ``input``, ``trivial``, ``where``, and in
    training ``image``.
    """

    config: Config
    pixel_mean: Tensor
    pixel_std: Tensor
    scale: int = 1
    """How many times larger the result is than what is given."""
    accepted: tuple[int, ...] | None = None
    """Numbers of channels that :meth:`restore` takes; None: those of the config."""

    def __init__(self, config: Config, network: PixelNetwork) -> None:
        super().__init__()
        self.config = config
        self.network = network
        for name, numbers in (("pixel_mean", config.mean), ("pixel_std", config.std)):
            values = torch.tensor(numbers).expand(config.channels).reshape(-1, 1, 1)
            self.register_buffer(name, values.clone(), persistent=False)

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width, in pixels of what is given, that the network was trained on."""
        return self.network.size

    @property
    def multiple(self) -> tuple[int, int]:
        """What height and width of what is given must be multiples of; :meth:`restore` sees to it."""
        return self.network.multiple

    @abstractmethod
    def view_of(
        self, image: Float[Tensor, "batch channel height width"], hidden: Bool[Tensor, "batch 1 height width"]
    ) -> dict[str, Any]:
        """View of pictures that are perturbed already; ``hidden``: pixels of them that carry no information."""

    def pictures(self, batch: Batch) -> Float[Tensor, "batch channel height width"]:
        """The pictures of a batch on the scale 0..1. Raises UserError where the model is for others."""
        image = batch["image"]
        expected = (self.config.channels, *self.config.image_size)
        if tuple(image.shape[1:]) != expected:
            raise UserError(
                f"pictures of {tuple(image.shape[1:])} given, this model takes {expected}: set its image size"
            )
        return image.float() / 255

    def normalise(self, image: Float[Tensor, "batch channel height width"]) -> Tensor:
        """To zero mean and unit variance over the data."""
        return (image - self.pixel_mean) / self.pixel_std

    def with_hole(
        self, image: Float[Tensor, "batch channel height width"], hidden: Bool[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch channel+1 height width"]:
        """Normalised pictures with the mean colour where they are hidden, and that as a channel of its own."""
        return torch.cat([self.normalise(image).masked_fill(hidden, 0), hidden.to(image.dtype)], 1)

    def encode(self, view: View) -> Any:
        """Feature maps of what is left, finest first."""
        return self.network.encode(view["input"])

    def predict(self, latent: Any, view: View) -> Float[Tensor, "batch channel height width"]:
        """The trivial guess, corrected by what the network knows better."""
        return view["trivial"] + self.network.decode(latent, view["input"]).float()

    def target(self, batch: Batch, view: View) -> Float[Tensor, "batch channel height width"]:  # noqa: ARG002
        """The picture as it was."""
        return view["image"]

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Tensor]:
        """Mean absolute error over the predicted pixels; ``reference``: that of the trivial guess.

        Absolute rather than squared, as is usual for pictures (Lim et al. 2017, §4.2: higher PSNR even so). In
        evaluation also ``psnr`` (dB) and ``ssim`` of both, see :meth:`quality`; means over pictures, weighted by how
        much of each was predicted.
        """
        where, trivial = view["where"], view["trivial"]
        weight = where.expand_as(target)
        sums = {
            "loss": ((prediction - target).abs() * weight).sum(),
            "reference": ((trivial - target).abs() * weight).sum(),
            "count": weight.sum().float(),
        }
        if not self.training:
            share = weight.sum((1, 2, 3)).float()
            shown = torch.where(where, prediction.detach(), trivial)  # what is visible stays as it was given
            for name, guess in (("", shown), ("_trivial", trivial)):
                for measure, values in self.quality(guess.clamp(0, 1), target, where).items():
                    sums[measure + name] = (values * share).sum()
        return sums

    def quality(
        self, prediction: Tensor, target: Tensor, where: Bool[Tensor, "batch 1 height width"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        """``psnr`` and ``ssim`` of each picture, over the predicted pixels."""
        return {"psnr": psnr(prediction, target, where), "ssim": ssim(prediction, target, where)}

    def clean_input(self, batch: Batch) -> Float[Tensor, "batch channel height width"]:
        """What the network is given of whole, unperturbed pictures: by default themselves, and that nothing is hidden.

        Without a trivial guess, which nobody reads here and which takes time.
        """
        image = self.pictures(batch)
        return self.with_hole(image, torch.zeros_like(image[:, :1], dtype=torch.bool))

    def encode_clean(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Features of whole pictures: ``mean`` over the last feature map; ``cls`` where the backbone has one."""
        features = self.encode_layers(batch)
        return {name: features[name] for name in ("mean", "cls") if name in features}

    def encode_layers(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Means over the maps of all layers, and what :meth:`encode_clean` gives."""
        return self.network.backbone.pooled(self.clean_input(batch))

    def parameter_depths(self) -> dict[str, int]:
        """Depth of each parameter of the backbone, 0 at the input."""
        return {f"network.backbone.{name}": depth for name, depth in self.network.backbone.depths().items()}

    @torch.no_grad()
    def restore(
        self,
        image: Float[Tensor, "batch channel height width"],
        hidden: Bool[Tensor, "batch 1 height width"] | None = None,
    ) -> Float[Tensor, "batch restored taller wider"]:
        """What the network makes of pictures of any size, on the scale 0..1, that are perturbed already.

        ``hidden``: pixels that carry no information. Sides are filled up by repeating the edge and cut off again.
        Give tiles of about :attr:`tile` for what the network is best at. Raises UserError for a number of channels that
        it does not take.
        """
        accepted = self.accepted or (self.config.channels,)
        if image.shape[1] not in accepted:
            known = " or ".join(map(str, accepted))
            raise UserError(f"a picture of {image.shape[1]} channels given, this model takes {known}: convert it first")
        if hidden is None:
            hidden = torch.zeros_like(image[:, :1], dtype=torch.bool)
        height, width = image.shape[2:]
        more = [-side % multiple for side, multiple in zip((width, height), self.multiple[::-1], strict=True)]
        margin = (0, more[0], 0, more[1])
        image = F.pad(image, margin, mode="replicate")
        hidden = F.pad(hidden.float(), margin, mode="replicate").bool()
        training = self.training
        self.eval()
        try:
            restored = self.picture_of(self.view_of(image, hidden))
        finally:
            self.train(training)
        return restored[..., : height * self.scale, : width * self.scale]

    def picture_of(self, view: View) -> Float[Tensor, "batch channel height width"]:
        """The predicted picture, on the scale 0..1; what was visible stays as it was given."""
        predicted = self.predict(self.encode(view), view).clamp(0, 1)
        return torch.where(view["where"], predicted, view["trivial"])

    def shown(self, view: View) -> Float[Tensor, "batch channel height width"]:
        """What is left of the pictures, for the eye, at the size of the result."""
        return view["trivial"]

    @torch.no_grad()
    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures on the scale 0..1: ``original``, ``perturbed``, ``trivial``, ``predicted`` (equal to ``composite``),
        the ``hidden`` mask; and for each picture the measures of :meth:`quality`, ``NAME`` and ``NAME_trivial``."""
        training = self.training
        self.eval()
        try:
            view = self.perturb(batch)
            predicted = self.picture_of(view)
        finally:
            self.train(training)
        original, trivial, where = view["image"], self.trivial_picture(view), view["where"]
        panels = {
            "original": original,
            "perturbed": self.shown(view),
            "trivial": trivial,
            "predicted": predicted,
            "composite": predicted,
            "hidden": where.float(),
        }
        for name, guess in (("", predicted), ("_trivial", trivial)):
            panels |= {measure + name: value for measure, value in self.quality(guess, original, where).items()}
        return panels

    def trivial_picture(self, view: View) -> Float[Tensor, "batch channel height width"]:
        """The trivial guess as a picture."""
        return view["trivial"]

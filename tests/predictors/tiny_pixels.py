"""Tasks that predict pictures, and pictures, of a size at which everything takes milliseconds."""

from typing import Any

import torch
from torch import Tensor, nn

from mmssl.nn import TransformerConfig
from mmssl.predictors.base import Predictor
from mmssl.predictors.colorization import Colorization, ColorizationConfig
from mmssl.predictors.inpainting import Inpainting, InpaintingConfig
from mmssl.predictors.pixels import PixelPredictor
from mmssl.predictors.restoration import Restoration, RestorationConfig
from mmssl.predictors.super_resolution import SuperResolution, SuperResolutionConfig

Task = tuple[type[PixelPredictor], type, dict[str, Any]]

TASKS: dict[str, Task] = {
    "colour classes": (Colorization, ColorizationConfig, {"reduce": 2}),
    "colour regression": (Colorization, ColorizationConfig, {"objective": "regression"}),
    "inpainting": (Inpainting, InpaintingConfig, {"overlap": 2}),
    "super-resolution": (SuperResolution, SuperResolutionConfig, {"scale": 2, "image_size": (16, 32)}),
    "super-resolution enlarged": (SuperResolution, SuperResolutionConfig, {"scale": 4, "given": "enlarged"}),
    "restoration of blur": (Restoration, RestorationConfig, {"perturbations": ("blur=1", "noise=0.05")}),
    "restoration of a mask": (Restoration, RestorationConfig, {"perturbations": ("mask=0.5",)}),
}
"""Each way in which a task can be set, by name."""

TIMM_SIZES = {"super-resolution": (64, 128)}


def tiny(task: str, *, timm_model: str = "", **changes: Any) -> PixelPredictor:
    """A fresh predictor: pictures of 16 x 24 pixels in patches of 4 x 8, nothing square; for timm of 32 x 64."""
    kind, config, settings = TASKS[task]
    torch.manual_seed(0)
    basis: dict[str, Any] = {
        "encoder": TransformerConfig(dim=16, depth=2, heads=2, mlp_dim=24),
        "image_size": (16, 24),
        "patch_size": (4, 8),
        "decoder_dim": 8,
        "detail": 1,
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        **settings,
    }
    if timm_model:
        basis |= {"encoder": None, "timm_model": timm_model, "image_size": TIMM_SIZES.get(task, (32, 64))}
    return kind(config(**(basis | changes)))


def stirred(model: PixelPredictor) -> PixelPredictor:
    """With a head and biases that are not zero, as after training."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or ".head." in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def pictures(model: Predictor, count: int = 4, seed: int = 0, epoch: int = 0) -> dict[str, Tensor]:
    """Smooth colours with a little noise, and ids that say nothing about their place in the batch."""
    generator = torch.Generator().manual_seed(seed)
    size = model.config.image_size
    colours = torch.rand(count, model.config.channels, 4, 6, generator=generator)
    image = nn.functional.interpolate(colours, size, mode="bilinear") * 230
    image = image + 25 * torch.rand(image.shape, generator=generator)
    return batch_of(image / 255, epoch)


def batch_of(image: Tensor, epoch: int = 0) -> dict[str, Tensor]:
    """Pictures on the scale 0..1 as a batch."""
    count = len(image)
    image = (image * 255).round().clamp(0, 255).byte()
    return {"image": image, "id": 100 + 7 * torch.arange(count), "epoch": torch.full((count,), epoch)}


def bars(count: int, side: int, seed: int) -> dict[str, Tensor]:
    """Bars with sharp edges in any direction, 3 to 6 pixels wide, of two grey levels."""
    generator = torch.Generator().manual_seed(seed)
    angle, width, shift, low, high = torch.rand(5, count, 1, 1, generator=generator)
    axis = torch.arange(side)
    along = axis[:, None] * (2 * torch.pi * angle).sin() + axis * (2 * torch.pi * angle).cos()
    width = 3 + 3 * width
    distance = ((along / width + 2 * shift) % 2 - 1).abs() - 0.5
    cover = (distance * width + 0.5).clamp(0, 1)
    return batch_of((0.4 * low + (0.6 + 0.4 * high - 0.4 * low) * cover)[:, None].expand(-1, 3, -1, -1))


def select(batch: dict[str, Tensor], rows: slice | list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def predict(model: PixelPredictor, batch: dict[str, Tensor]) -> Tensor:
    view = model.perturb(batch)
    return model.predict(model.encode(view), view)


def train(model: PixelPredictor, batches: list[dict[str, Tensor]], steps: int, rate: float = 3e-3) -> PixelPredictor:
    """A plain loop; in eval mode afterwards."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        model(batches[step % len(batches)] | {"epoch": torch.full((len(batches[0]["id"]),), step)})["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()

"""From feature maps back to pixels: one light decoder for all tasks that predict pictures."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.backbones import Stride


class PixelDecoder(nn.Module):
    """Feature maps of any strides to one picture, joined from coarse to fine, with a path for fine detail beside.

    Maps are enlarged by sub-pixel convolution (Shi et al. 2016) and added to the next finer one, as in a feature
    pyramid (Lin et al. 2017). ``detail`` residual blocks (without normalisation: Lim et al. 2017, EDSR, §3.1) then see
    the input at the resolution of the output as well: what is there already need not pass through the backbone.
    With ``detail`` 0 there is no such path, and the backbone must know everything: for comparing representations. On a
    single map that is SimMIM's linear head (Xie et al. 2022), through ``dim`` channels.

    The last layer begins at zero, so a prediction that is a difference to a trivial guess begins as that guess.

    Args:
        levels: channels and stride of each map, finest first.
        channels: of the input.
        outputs: channels of the result.
        dim: channels inside.
        detail: residual blocks at the resolution of the result, before it is enlarged.
        reduce: the result is so many times smaller than the input; a power of 2 for most strides.
        enlarge: the result is so many times larger: 1, 2, 4 or 8. Not both.
    """

    def __init__(
        self,
        levels: Sequence[tuple[int, Stride]],
        channels: int,
        outputs: int,
        dim: int,
        detail: int,
        reduce: int = 1,
        enlarge: int = 1,
    ) -> None:
        super().__init__()
        self.reduce, self.used = reduce, [n for n, (_, stride) in enumerate(levels) if min(stride) >= reduce]
        if not self.used:
            raise UserError(f"a result {reduce} times smaller than the input needs features as coarse: take fewer")
        chosen = [levels[number] for number in self.used]
        self.lateral = nn.ModuleList(nn.Conv2d(width, dim, 1) for width, _ in chosen)
        finer = [(reduce, reduce), *(stride for _, stride in chosen[:-1])]
        self.enlarged = nn.ModuleList(
            SubPixel(dim, _ratio(stride, below)) for (_, stride), below in zip(chosen, finer, strict=True)
        )
        self.merged = nn.ModuleList(ResidualBlock(dim) for _ in chosen[:-1])
        self.detail = nn.Sequential(*(ResidualBlock(dim) for _ in range(detail)))
        if detail:
            self.stem = nn.Conv2d(channels * reduce**2, dim, 3, padding=1)
        self.larger = nn.Sequential(*(SubPixel(dim, (2, 2), 3) for _ in range(enlarge.bit_length() - 1)))
        self.head = nn.Conv2d(dim, outputs, 3 if detail else 1, padding=1 if detail else 0)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, maps: Sequence[Tensor], pixels: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch output out_height out_width"]:
        """``maps`` of the backbone, and the ``pixels`` it was given."""
        joined = None
        for level in reversed(range(len(self.used))):
            here = self.lateral[level](maps[self.used[level]])
            joined = here if joined is None else self.merged[level](here + joined)
            joined = self.enlarged[level](joined)
        assert joined is not None
        if len(self.detail):
            stem = self.stem(nn.functional.pixel_unshuffle(pixels, self.reduce))
            joined = stem + self.detail(stem + joined)
        return self.head(self.larger(joined))


class SubPixel(nn.Module):
    """A convolution whose channels become pixels: (down, across) times as many (Shi et al. 2016, §3.2)."""

    def __init__(self, dim: int, ratio: Stride, kernel: int = 1) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv = nn.Conv2d(dim, dim * ratio[0] * ratio[1], kernel, padding=kernel // 2) if ratio != (1, 1) else None

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim taller wider"]:
        """Nothing is done where the ratio is 1."""
        if self.conv is None:
            return x
        down, across = self.ratio
        x = self.conv(x)
        if down == across:
            return nn.functional.pixel_shuffle(x, down)
        batch, _, height, width = x.shape
        x = x.view(batch, -1, down, across, height, width).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, -1, height * down, width * across)


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input: EDSR's block (Lim et al. 2017, figure 2c)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        """Same shape."""
        return x + self.conv2(torch.relu(self.conv1(x)))


def _ratio(stride: Stride, finer: Stride) -> Stride:
    if stride[0] % finer[0] or stride[1] % finer[1]:
        raise UserError(f"a map of stride {stride} does not divide into one of {finer}: choose another size of patches")
    return stride[0] // finer[0], stride[1] // finer[1]

"""Relative positions from a convolution over neighbouring frames (Baevski et al. 2020, section 2 and appendix A)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.nn.frames import Frames


class ConvolutionalPositions(nn.Module):
    """Grouped convolution and GELU; its weights are a direction and, for each place in the kernel, a length.

    Every recording is a row of its own, zero behind its end: nothing leaks from one to the next, and padding adds
    nothing, as in transformers.
    """

    def __init__(self, dim: int, kernel: int = 128, groups: int = 16) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.direction = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        self.length = nn.Parameter(torch.empty(kernel))
        self.bias = nn.Parameter(torch.zeros(dim))
        # fairseq's TransformerEncoder: deviation sqrt(4 / (kernel * dim))
        nn.init.normal_(self.direction, std=(4 / (kernel * dim)) ** 0.5)
        with torch.no_grad():
            self.length.copy_(self.direction.norm(dim=(0, 1)))

    def weight(self) -> Float[Tensor, "dim part kernel"]:
        """Weight normalisation (Salimans & Kingma 2016) over all but the kernel's axis."""
        return self.direction * (self.length / self.direction.norm(dim=(0, 1)))

    def forward(self, x: Float[Tensor, "total dim"], frames: Frames) -> Float[Tensor, "total dim"]:
        """What is added to the frames."""
        rows = frames.put_back(x).transpose(1, 2)
        positions = F.conv1d(rows, self.weight(), self.bias, padding=self.kernel // 2, groups=self.groups)
        # an even kernel has one place too many at the end
        return F.gelu(frames.take(positions[:, :, : frames.width].transpose(1, 2)))

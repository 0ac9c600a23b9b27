"""One Transformer trunk for all modalities (Vaswani et al. 2017).

Published encoders are settings of it, so their weights fit without loss:

    ViT, MAE               norm="pre", final norm                (Dosovitskiy et al. 2021)
    BERT                   norm="post", no final norm            (Devlin et al. 2019)
    wav2vec 2.0 base       norm="post", no final norm            (Baevski et al. 2020)
    wav2vec 2.0 large      norm="pre", final norm

Four kinds of input, all ``[batch, token, dim]``:

    visible only   every token is real: pass nothing else, which is the fastest path
    padded         ``attention_mask=padding_mask(valid)``
    rows           several documents in a row: ``attention_mask=document_mask(document)``; no attention across
    packed         all sequences end to end in ``[1, total, dim]``: ``attention_mask=Packing(...)``; nothing is padded

And two ways to leave out work whose result nobody reads (both exact, see :meth:`Transformer.forward`): ``output``
limits the last block to the tokens that are used afterwards, ``shared`` projects tokens that are equal in every
sample (mask token + position) once instead of once a sample.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from mmssl.errors import UserError
from mmssl.nn.packing import Packing, packed_attention


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and layout of a trunk."""

    dim: int
    """Width of a token."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads; must divide ``dim``."""
    mlp_dim: int
    """Width of the hidden layer of the feed-forward part."""
    norm: Literal["pre", "post"] = "pre"
    """Where layer norm stands: before each part (ViT), or after each residual sum (BERT)."""
    norm_epsilon: float = 1e-6
    """Layer norm's epsilon: 1e-6 in MAE and timm, 1e-12 in BERT and transformers' ViTMAE, 1e-5 in wav2vec 2.0."""
    dropout: float = 0.0
    """Dropout on the output of attention and feed-forward part."""
    activation_dropout: float = 0.0
    """Dropout on the hidden layer of the feed-forward part, which ViT has and BERT has not."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    drop_path: float = 0.0
    """Stochastic depth (Huang et al. 2016): rate at the last block, rising linearly from 0 at the first."""

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads, self.mlp_dim) < 1:
            raise UserError(f"dim, depth, heads and mlp_dim must be at least 1, got {self}")
        if self.dim % self.heads:
            raise UserError(f"dim {self.dim} is not divisible by heads {self.heads}: choose another number of heads")
        for name in ("dropout", "activation_dropout", "attention_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if not self.norm_epsilon >= 0:
            raise UserError(f"norm_epsilon cannot be negative, got {self.norm_epsilon}")


def pico() -> TransformerConfig:
    """Four layers of 96: for tasks on pixels on two CPU cores, where many steps matter more. Not a published model."""
    return TransformerConfig(dim=96, depth=4, heads=3, mlp_dim=384)


def nano() -> TransformerConfig:
    """Six layers of 192: for two CPU cores and small pictures. Not a published model."""
    return TransformerConfig(dim=192, depth=6, heads=3, mlp_dim=768)


def tiny() -> TransformerConfig:
    """ViT-Ti (Touvron et al. 2021, DeiT, table 1)."""
    return TransformerConfig(dim=192, depth=12, heads=3, mlp_dim=768)


def small() -> TransformerConfig:
    """ViT-S (Touvron et al. 2021, DeiT, table 1)."""
    return TransformerConfig(dim=384, depth=12, heads=6, mlp_dim=1536)


def base() -> TransformerConfig:
    """ViT-B, BERT-base and wav2vec 2.0 base share this shape (Dosovitskiy et al. 2021, table 1)."""
    return TransformerConfig(dim=768, depth=12, heads=12, mlp_dim=3072)


def large() -> TransformerConfig:
    """ViT-L, BERT-large and wav2vec 2.0 large share this shape (Dosovitskiy et al. 2021, table 1)."""
    return TransformerConfig(dim=1024, depth=24, heads=16, mlp_dim=4096)


PRESETS = {"pico": pico, "nano": nano, "tiny": tiny, "small": small, "base": base, "large": large}


def padding_mask(valid: Bool[Tensor, "batch token"]) -> Bool[Tensor, "batch 1 1 token"]:
    """Attention mask of a padded batch: every token may look at the real ones (True = may look)."""
    return valid[:, None, None, :]


def document_mask(document: Int[Tensor, "batch token"]) -> Bool[Tensor, "batch 1 token token"]:
    """Attention mask of a packed batch: a token may look at tokens of its own document (True = may look).

    ``document`` numbers the documents of a row; padding has a number of its own, for example -1.
    """
    return (document[:, :, None] == document[:, None, :])[:, None]


Mask = Bool[Tensor, "batch 1 #query key"] | Packing | None
"""Who may look at whom: True = may look. None = everybody at everybody in a sample."""

Output = slice | Int[Tensor, "batch query"] | None


class Shared(NamedTuple):
    """Tokens behind the others that every sample draws from one table, such as mask token + position."""

    table: Float[Tensor, "position dim"]
    ids: Int[Tensor, "batch token"]

    def rows(self, values: Float[Tensor, "position width"]) -> Float[Tensor, "batch token width"]:
        """``values[ids]``, through index_select, whose backward is several times faster on CPU than indexing's."""
        return values.index_select(0, self.ids.flatten()).view(*self.ids.shape, values.shape[-1])


def _pick(x: Float[Tensor, "batch token dim"], output: Output) -> Float[Tensor, "batch query dim"]:
    if output is None:
        return x
    if isinstance(output, slice):
        return x[:, output]
    first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (output + first).flatten()).view(*output.shape, x.shape[-1])


class Attention(nn.Module):
    """Multi-head attention with one fused projection for query, key and value."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def project(
        self, x: Float[Tensor, "batch query dim"], memory: Float[Tensor, "batch token dim"]
    ) -> tuple[Float[Tensor, "batch query dim"], Float[Tensor, "batch token dim"], Float[Tensor, "batch token dim"]]:
        """Queries from ``x``, keys and values from ``memory``."""
        dim = x.shape[-1]
        # one split has a cheaper backward than two slices, which fill a gradient of the whole weight each
        weight_q, weight_kv = self.qkv.weight.split([dim, 2 * dim])
        bias_q, bias_kv = self.qkv.bias.split([dim, 2 * dim])
        keys, values = F.linear(memory, weight_kv, bias_kv).split(dim, -1)
        return F.linear(x, weight_q, bias_q), keys, values

    def attend(
        self,
        q: Float[Tensor, "batch query dim"],
        k: Float[Tensor, "batch token dim"],
        v: Float[Tensor, "batch token dim"],
        mask: Mask = None,
        output: Output = None,
    ) -> Float[Tensor, "batch query dim"]:
        """Scaled dot-product attention, projected. With a packing, ``output`` says which tokens ask."""
        dropout = self.dropout if self.training else 0.0
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            # in bf16 torch's CPU attention has a backward ten times slower than in fp32, half of a whole step
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast("cpu", enabled=False):
            if isinstance(mask, Packing):
                asking = mask.pick(output) if isinstance(output, Tensor) else mask
                mixed = packed_attention(q, k, v, self.heads, mask, asking, dropout)
            else:
                q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
                mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
                mixed = mixed.transpose(1, 2).flatten(2)
        return self.proj(mixed)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        mask: Mask = None,
        output: Output = None,
        shared: Float[Tensor, "batch more 3*dim"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """Attend among ``x`` and, behind it, tokens whose projections are ``shared``; queries for ``output`` only."""
        if output is None or shared is not None:
            qkv = self.qkv(x) if shared is None else torch.cat([self.qkv(x), shared], 1)
            q, k, v = qkv.split(x.shape[-1], -1)
            q = _pick(q, output)
        else:
            q, k, v = self.project(_pick(x, output), x)
        return self.attend(q, k, v, mask, output)


class FeedForward(nn.Module):
    """Linear, GELU (exact, as in ViT, BERT and wav2vec 2.0), linear."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)
        self.dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Apply to each token alone."""
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))


class DropPath(nn.Module):
    """Drops a residual branch for whole samples, and scales the others so that the mean stays."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Identity when evaluating or at rate 0."""
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.empty(x.shape[0], 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Block(nn.Module):
    """Attention and feed-forward part, each with a residual connection."""

    def __init__(self, config: TransformerConfig, drop_path: float) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.norm1 = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def branch(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """What is done to a branch before it joins the residual stream."""
        return self.drop_path(self.dropout(x))

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        mask: Mask = None,
        output: Output = None,
        shared: Shared | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """One block; see :meth:`Transformer.forward` for the arguments."""
        projections = None
        normed = self.norm1(x) if self.pre_norm else x
        if shared is not None:
            table = self.norm1(shared.table) if self.pre_norm else shared.table
            projections = shared.rows(self.attention.qkv(table))
            x = torch.cat([x, shared.rows(shared.table)], 1)
        x = _pick(x, output) + self.branch(self.attention(normed, mask, output, projections))
        if self.pre_norm:
            return x + self.branch(self.mlp(self.norm2(x)))
        x = self.norm1(x)
        return self.norm2(x + self.branch(self.mlp(x)))


class CrossBlock(nn.Module):
    """Queries look at a memory, not at each other; then a feed-forward part. Pre-norm (Fu et al. 2024, §3)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.mlp = FeedForward(config)

    def forward(
        self, x: Float[Tensor, "batch query dim"], memory: Float[Tensor, "batch token dim"]
    ) -> Float[Tensor, "batch query dim"]:
        """``memory`` comes normalised: it is the same for every block."""
        x = x + self.attention.attend(*self.attention.project(self.norm1(x), memory))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A stack of blocks; with pre-norm, a layer norm at the end."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        step = config.drop_path / max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(Block(config, step * index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, config.norm_epsilon) if config.norm == "pre" else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        attention_mask: Mask = None,
        *,
        output: Output = None,
        shared: Shared | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """Encode tokens.

        ``attention_mask``: from :func:`padding_mask` or :func:`document_mask`, or a ``Packing``; None = all real.
        Its query dimension must be 1 (padding) when ``output`` is given: the last block has fewer queries.
        ``output``: a slice, or ids, of the tokens to return; with a packing, ids in ascending order. The last block
        then computes queries and feed-forward part for these alone; the result equals computing all and picking.
        ``shared``: tokens behind ``x`` that all samples draw from one table. The first block then
        projects the table once; the result equals appending the rows to ``x``.
        """
        if isinstance(attention_mask, Packing) and isinstance(output, slice):
            raise UserError("output= of a packed batch must be ids, in ascending order: a slice is not one a sequence")
        if output is not None and isinstance(attention_mask, Tensor) and attention_mask.shape[2] != 1:
            raise UserError("output= needs an attention mask that is the same for all queries, such as padding_mask's")
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x = block(x, attention_mask, output if index == last else None, shared if index == 0 else None)
        return self.norm(x)

    def layers(
        self, x: Float[Tensor, "batch token dim"], attention_mask: Mask = None
    ) -> list[Float[Tensor, "batch token dim"]]:
        """The residual stream after each block, the last one through the final norm (for per-layer probes)."""
        states = []
        for block in self.blocks:
            x = block(x, attention_mask)
            states.append(x)
        return [*states[:-1], self.norm(x)]

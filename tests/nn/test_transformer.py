"""The trunk against plain definitions: padding, packing, shortcuts, regularisation, sizes."""

import pytest
import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn import CrossBlock, Transformer, TransformerConfig, document_mask, padding_mask
from mmssl.nn.transformer import PRESETS, Attention, DropPath, Shared

NORMS = pytest.mark.parametrize("norm", ["pre", "post"])
DEPTHS = pytest.mark.parametrize("depth", [1, 3])
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def make(norm: str = "pre", depth: int = 2, **settings) -> Transformer:
    """A small trunk in float64, biases and norms away from their initial zeros and ones."""
    torch.manual_seed(0)
    config = TransformerConfig(dim=16, depth=depth, heads=4, mlp_dim=40, norm=norm, **settings)
    trunk = Transformer(config).double()
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, mean=0.0, std=0.3)
    return trunk


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@NORMS
def test_a_block_is_what_torch_calls_an_encoder_layer(norm):
    trunk = make(norm, depth=1, norm_epsilon=1e-3)
    block = trunk.blocks[0]
    reference = nn.TransformerEncoderLayer(
        16, 4, 40, dropout=0.0, activation="gelu", layer_norm_eps=1e-3, batch_first=True, norm_first=norm == "pre"
    ).double()
    reference.load_state_dict(
        {
            "self_attn.in_proj_weight": block.attention.qkv.weight,
            "self_attn.in_proj_bias": block.attention.qkv.bias,
            "self_attn.out_proj.weight": block.attention.proj.weight,
            "self_attn.out_proj.bias": block.attention.proj.bias,
            "linear1.weight": block.mlp.fc1.weight,
            "linear1.bias": block.mlp.fc1.bias,
            "linear2.weight": block.mlp.fc2.weight,
            "linear2.bias": block.mlp.fc2.bias,
            "norm1.weight": block.norm1.weight,
            "norm1.bias": block.norm1.bias,
            "norm2.weight": block.norm2.weight,
            "norm2.bias": block.norm2.bias,
        }
    )
    x = tokens(3, 7, 16) * 0.05
    torch.testing.assert_close(block(x), reference(x), **EXACT)
    valid = torch.ones(3, 7, dtype=torch.bool)
    valid[1, 4:] = False
    expected = reference(x, src_key_padding_mask=~valid)
    torch.testing.assert_close(block(x, padding_mask(valid))[valid], expected[valid], **EXACT)


def test_a_cross_block_is_attention_to_the_memory_alone():
    torch.manual_seed(0)
    config = TransformerConfig(dim=16, depth=1, heads=4, mlp_dim=40)
    block = CrossBlock(config).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    reference = nn.MultiheadAttention(16, 4, batch_first=True).double()
    reference.load_state_dict(
        {
            "in_proj_weight": block.attention.qkv.weight,
            "in_proj_bias": block.attention.qkv.bias,
            "out_proj.weight": block.attention.proj.weight,
            "out_proj.bias": block.attention.proj.bias,
        }
    )
    x, memory = tokens(2, 5, 16), tokens(2, 9, 16, seed=2)
    y = x + reference(block.norm1(x), memory, memory)[0]
    expected = y + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x, memory), expected, **EXACT)
    # queries do not look at each other: each alone gives the same
    alone = torch.cat([block(x[:, i : i + 1], memory) for i in range(5)], 1)
    torch.testing.assert_close(alone, expected, **EXACT)


@NORMS
def test_a_padded_batch_gives_each_sample_what_it_gets_alone(norm):
    trunk = make(norm)
    lengths = [7, 3, 1, 5]
    x = tokens(4, 7, 16)
    valid = torch.arange(7) < torch.tensor(lengths)[:, None]
    x[~valid] = 1e3  # what padding holds must not matter
    padded = trunk(x, padding_mask(valid))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(padded[row, :length], trunk(x[row : row + 1, :length])[0], **EXACT)


@NORMS
def test_a_packed_row_gives_each_document_what_it_gets_alone(norm):
    trunk = make(norm)
    x = tokens(2, 9, 16)
    document = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [4, 7, 4, 7, 7, 4, -1, -1, -1]])
    packed = trunk(x, document_mask(document))
    for row in range(2):
        for number in document[row].unique():
            mine = document[row] == number
            torch.testing.assert_close(packed[row, mine], trunk(x[row : row + 1, mine])[0], **EXACT)


def test_a_sample_that_is_all_padding_stays_finite():
    valid = torch.tensor([[False] * 5, [True] * 5])
    x = tokens(2, 5, 16).requires_grad_()
    result = make()(x, padding_mask(valid))
    result[1].sum().backward()
    assert result.isfinite().all()
    assert x.grad.isfinite().all()


def gradients(trunk: Transformer, x: Tensor, result: Tensor) -> list[Tensor]:
    """Gradients of a number that depends on every entry of ``result``, for the input and all parameters."""
    weights = tokens(*result.shape, seed=5)
    return list(torch.autograd.grad((result * weights).sum(), [x, *trunk.parameters()]))


@NORMS
@DEPTHS
@pytest.mark.parametrize("which", ["slice", "ids"])
@pytest.mark.parametrize("padded", [False, True])
def test_output_equals_computing_all_and_picking(norm, depth, which, padded):
    trunk = make(norm, depth)
    x = tokens(3, 8, 16).requires_grad_()
    valid = torch.ones(3, 8, dtype=torch.bool)
    valid[2, 5:] = False
    mask = padding_mask(valid) if padded else None
    ids = torch.tensor([[0, 3, 2], [7, 7, 1], [4, 0, 1]])
    output = slice(2, 5) if which == "slice" else ids
    full = trunk(x, mask)
    expected = full[:, 2:5] if which == "slice" else torch.stack([full[row, ids[row]] for row in range(3)])
    result = trunk(x, mask, output=output)
    torch.testing.assert_close(result, expected, **EXACT)
    for ours, theirs in zip(gradients(trunk, x, result), gradients(trunk, x, expected), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@NORMS
@DEPTHS
@pytest.mark.parametrize("output", [None, slice(-4, None), slice(1, 7)])
def test_shared_equals_appending_its_rows(norm, depth, output):
    trunk = make(norm, depth)
    x = tokens(3, 5, 16).requires_grad_()
    table = tokens(6, 16, seed=2).requires_grad_()
    ids = torch.tensor([[0, 3, 2, 5], [5, 5, 1, 0], [4, 0, 1, 2]])
    expected = trunk(torch.cat([x, table[ids]], 1))
    expected = expected if output is None else expected[:, output]
    result = trunk(x, output=output, shared=Shared(table, ids))
    torch.testing.assert_close(result, expected, **EXACT)
    weights = tokens(*result.shape, seed=5)
    sources = [x, table, *trunk.parameters()]
    ours = torch.autograd.grad((result * weights).sum(), sources)
    theirs = torch.autograd.grad((expected * weights).sum(), sources)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, **EXACT)


@NORMS
def test_shared_in_a_padded_batch(norm):
    trunk = make(norm, 3)
    x, table, ids = tokens(2, 5, 16), tokens(6, 16, seed=2), torch.tensor([[0, 3], [5, 1]])
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[0, 2:4] = False
    mask = padding_mask(valid)
    expected = trunk(torch.cat([x, table[ids]], 1), mask)
    torch.testing.assert_close(trunk(x, mask, shared=Shared(table, ids)), expected, **EXACT)
    last = trunk(x, mask, shared=Shared(table, ids), output=slice(-2, None))
    torch.testing.assert_close(last, expected[:, -2:], **EXACT)


def test_output_refuses_a_mask_that_differs_by_query():
    mask = document_mask(torch.tensor([[0, 0, 1]]))
    with pytest.raises(UserError, match="the same for all queries"):
        make()(tokens(1, 3, 16), mask, output=slice(1, 2))


@NORMS
def test_layers_end_in_the_forward_result_and_begin_with_the_first_block(norm):
    trunk = make(norm, 3)
    x = tokens(2, 5, 16)
    states = trunk.layers(x)
    assert len(states) == 3
    torch.testing.assert_close(states[-1], trunk(x), **EXACT)
    torch.testing.assert_close(states[0], trunk.blocks[0](x), **EXACT)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    rate, count = 0.3, 20_000
    layer = DropPath(rate)
    result = layer(torch.ones(count, 2, 3))
    assert ((result == 0) | (result == 1 / (1 - rate))).all()
    assert (result == result[:, :1, :1]).all()
    dropped = (result[:, 0, 0] == 0).double().mean().item()
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / count) ** 0.5
    assert (layer.eval()(torch.ones(9, 2, 3)) == 1).all()


def test_drop_path_rises_linearly_to_the_last_block():
    rates = [block.drop_path.rate for block in make(depth=5, drop_path=0.2).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_a_dropped_branch_leaves_the_sample_as_it_was():
    trunk = make(depth=2, drop_path=0.9)
    x = tokens(400, 3, 16)
    torch.manual_seed(0)
    block = trunk.blocks[1]
    untouched = (block(x) == x).all(-1).all(-1)
    assert abs(untouched.double().mean().item() - 0.81) < 4 * (0.81 * 0.19 / 400) ** 0.5  # both branches dropped


def test_dropout_acts_in_training_only_and_at_its_rate():
    trunk = make(dropout=0.25)
    x = tokens(2, 5, 16)
    assert not torch.equal(trunk(x), trunk(x))
    branch = trunk.blocks[0].branch(torch.ones(1000, 4, 16, dtype=torch.float64))
    assert abs((branch == 0).double().mean().item() - 0.25) < 4 * (0.25 * 0.75 / branch.numel()) ** 0.5
    trunk.eval()
    torch.testing.assert_close(trunk(x), make()(x), **EXACT)


def test_attention_dropout_keeps_the_mean():
    torch.manual_seed(0)
    attention = Attention(TransformerConfig(dim=8, depth=1, heads=2, mlp_dim=8, attention_dropout=0.3)).double()
    x = tokens(1, 4, 8).expand(20_000, -1, -1)
    with torch.no_grad():
        noisy, clean = attention(x), attention.eval()(x[:1])[0]
    assert noisy.std(0).max() > 0.01
    error = (noisy.mean(0) - clean).abs() / (noisy.std(0) / len(noisy) ** 0.5)
    assert error.max() < 5


@pytest.mark.parametrize(
    ("preset", "published"),
    # ViT with patch 16, 224 px, 1000 classes: ViT-Ti and ViT-S of DeiT, ViT-B and ViT-L of Dosovitskiy et al. 2021
    [("tiny", 5_717_416), ("small", 22_050_664), ("base", 86_567_656), ("large", 304_326_632)],
)
def test_presets_have_the_published_number_of_parameters(preset, published):
    config = PRESETS[preset]()
    with torch.device("meta"):
        trunk = sum(parameter.numel() for parameter in Transformer(config).parameters())
    patch, cls, positions, head = config.dim * (768 + 1), config.dim, 197 * config.dim, 1000 * (config.dim + 1)
    assert trunk + patch + cls + positions + head == published


def test_bert_base_has_the_published_number_of_parameters():
    with torch.device("meta"):
        trunk = Transformer(TransformerConfig(dim=768, depth=12, heads=12, mlp_dim=3072, norm="post"))
    embeddings = (30_522 + 512 + 2) * 768 + 2 * 768
    pooler = 768 * 769
    assert sum(parameter.numel() for parameter in trunk.parameters()) + embeddings + pooler == 109_482_240


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"heads": 5}, "not divisible by heads 5"),
        ({"heads": 0}, "at least 1"),
        ({"dim": 0}, "at least 1"),
        ({"depth": 0}, "at least 1"),
        ({"mlp_dim": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"attention_dropout": -0.1}, "attention_dropout"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"norm_epsilon": -1e-6}, "norm_epsilon"),
    ],
)
def test_impossible_shapes_are_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        TransformerConfig(**{"dim": 16, "depth": 2, "heads": 4, "mlp_dim": 40, **change})


@pytest.mark.gpu
@NORMS
def test_the_gpu_gives_what_the_cpu_gives(norm):
    trunk = make(norm).float()
    x = tokens(3, 8, 16).float()
    valid = torch.ones(3, 8, dtype=torch.bool)
    valid[1, 5:] = False
    expected, padded = trunk(x), trunk(x, padding_mask(valid))
    trunk.cuda()
    torch.testing.assert_close(trunk(x.cuda()).cpu(), expected, rtol=1e-4, atol=1e-4)
    on_gpu = trunk(x.cuda(), padding_mask(valid.cuda())).cpu()
    torch.testing.assert_close(on_gpu[valid], padded[valid], rtol=1e-4, atol=1e-4)

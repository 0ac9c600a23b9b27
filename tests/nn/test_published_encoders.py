"""Weights of ViT, BERT and wav2vec 2.0 fit the trunk exactly: random ones of the public implementations give the same.

Compared in float64, so that nothing but rounding of float64 is forgiven. Inputs are small, where an epsilon of the
wrong size would show.
"""

import pytest
import torch
from torch import Tensor, nn

from mmssl.nn import Transformer, TransformerConfig, padding_mask
from mmssl.nn.patches import resize_positions, sincos_positions

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def randomise(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.double().eval()


def fused(parts: list[nn.Linear]) -> dict[str, Tensor]:
    """Query, key and value projections as one."""
    return {
        "attention.qkv.weight": torch.cat([part.weight for part in parts]),
        "attention.qkv.bias": torch.cat([part.bias for part in parts]),
    }


def layer(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def of_bert(block: nn.Module) -> dict[str, Tensor]:
    attention = block.attention.self
    return {
        **fused([attention.query, attention.key, attention.value]),
        **layer("attention.proj", block.attention.output.dense),
        **layer("norm1", block.attention.output.LayerNorm),
        **layer("mlp.fc1", block.intermediate.dense),
        **layer("mlp.fc2", block.output.dense),
        **layer("norm2", block.output.LayerNorm),
    }


def of_wav2vec2(block: nn.Module) -> dict[str, Tensor]:
    attention = block.attention
    return {
        **fused([attention.q_proj, attention.k_proj, attention.v_proj]),
        **layer("attention.proj", attention.out_proj),
        **layer("norm1", block.layer_norm),
        **layer("mlp.fc1", block.feed_forward.intermediate_dense),
        **layer("mlp.fc2", block.feed_forward.output_dense),
        **layer("norm2", block.final_layer_norm),
    }


def of_timm(block: nn.Module) -> dict[str, Tensor]:
    return {
        **layer("attention.qkv", block.attn.qkv),
        **layer("attention.proj", block.attn.proj),
        **layer("norm1", block.norm1),
        **layer("mlp.fc1", block.mlp.fc1),
        **layer("mlp.fc2", block.mlp.fc2),
        **layer("norm2", block.norm2),
    }


def load(config: TransformerConfig, blocks: list[dict[str, Tensor]], norm: nn.Module | None = None) -> Transformer:
    weights = {f"blocks.{index}.{key}": value for index, block in enumerate(blocks) for key, value in block.items()}
    trunk = Transformer(config).double().eval()
    trunk.load_state_dict(weights | (layer("norm", norm) if norm is not None else {}), strict=True)
    return trunk


@pytest.fixture(scope="module")
def lengths() -> Tensor:
    return torch.tensor([11, 4, 1])


def test_bert(lengths):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56,
        max_position_embeddings=16, layer_norm_eps=1e-12,
    )  # fmt: skip
    bert = randomise(transformers.BertModel(config, add_pooling_layer=False))
    trunk = load(
        TransformerConfig(dim=24, depth=3, heads=4, mlp_dim=56, norm="post", norm_epsilon=1e-12),
        [of_bert(block) for block in bert.encoder.layer],
    )
    ids = torch.randint(50, (3, 11), generator=torch.Generator().manual_seed(1))
    valid = torch.arange(11) < lengths[:, None]
    expected = bert(input_ids=ids, attention_mask=valid.long(), output_hidden_states=True)
    result = trunk(bert.embeddings(input_ids=ids), padding_mask(valid))
    torch.testing.assert_close(result[valid], expected.last_hidden_state[valid], **EXACT)
    states = trunk.layers(bert.embeddings(input_ids=ids))
    for ours, theirs in zip(states, bert(input_ids=ids, output_hidden_states=True).hidden_states[1:], strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("stable", [False, True], ids=["base", "large"])
def test_wav2vec2(stable, lengths):
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56, layer_norm_eps=1e-5,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, do_stable_layer_norm=stable,
    )  # fmt: skip
    from transformers.models.wav2vec2 import modeling_wav2vec2 as modeling

    encoder = modeling.Wav2Vec2EncoderStableLayerNorm if stable else modeling.Wav2Vec2Encoder
    config._attn_implementation = "eager"
    encoder = randomise(encoder(config))
    trunk = load(
        TransformerConfig(dim=24, depth=3, heads=4, mlp_dim=56, norm="pre" if stable else "post", norm_epsilon=1e-5),
        [of_wav2vec2(block) for block in encoder.layers],
        encoder.layer_norm if stable else None,
    )
    x = torch.randn(3, 11, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.01
    valid = torch.arange(11) < lengths[:, None]
    x[~valid] = 0  # the encoder does so itself
    expected = encoder(x.clone(), attention_mask=valid).last_hidden_state
    # the convolutional positions are a front end's; base normalises behind them, before the first block
    positioned = x + encoder.pos_conv_embed(x)
    positioned = positioned if stable else encoder.layer_norm(positioned)
    torch.testing.assert_close(trunk(positioned, padding_mask(valid))[valid], expected[valid], **EXACT)


def test_vit_of_timm():
    timm = pytest.importorskip("timm")
    vit = timm.models.VisionTransformer(
        img_size=(16, 24), patch_size=8, embed_dim=24, depth=3, num_heads=4, mlp_ratio=2, num_classes=0
    )
    randomise(vit)
    trunk = load(
        TransformerConfig(dim=24, depth=3, heads=4, mlp_dim=48, norm="pre", norm_epsilon=1e-6),
        [of_timm(block) for block in vit.blocks],
        vit.norm,
    )
    image = torch.randn(2, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.01
    tokens = vit._pos_embed(vit.patch_embed(image))
    torch.testing.assert_close(trunk(tokens), vit.forward_features(image), **EXACT)


@pytest.mark.parametrize(("grid", "dim"), [(3, 16), (14, 768), (7, 64)])
def test_sincos_positions_are_those_of_vit_mae(grid, dim):
    pytest.importorskip("transformers")
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAEConfig, ViTMAEEmbeddings

    embeddings = ViTMAEEmbeddings(ViTMAEConfig(hidden_size=dim, image_size=grid * 4, patch_size=4))
    embeddings.initialize_weights()  # a whole ViTMAEModel of transformers 5.23 leaves its table at zero
    theirs = embeddings.position_embeddings[0, 1:]
    torch.testing.assert_close(sincos_positions((grid, grid), dim), theirs.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [((4, 6), (8, 3)), ((14, 14), (7, 7)), ((3, 3), (10, 2))])
def test_resized_positions_are_those_of_timm(old, new):
    pytest.importorskip("timm")
    from timm.layers import resample_abs_pos_embed

    table = torch.randn(old[0] * old[1], 12, generator=torch.Generator().manual_seed(1))
    theirs = resample_abs_pos_embed(table[None], new_size=list(new), old_size=list(old), num_prefix_tokens=0)[0]
    torch.testing.assert_close(resize_positions(table, old, new), theirs, rtol=1e-5, atol=1e-5)

"""Training step of the masked autoencoder against transformers' ViTMAE and lightly's MAE blocks.

    python tests/benchmarks/mae_step.py --config small
    python tests/benchmarks/mae_step.py --config vit_s --rounds 5
    python tests/benchmarks/mae_step.py --config vit_b --batch-size 256 --precision bf16 [--compile]    # on a GPU

A step draws masks, runs forward and backward and takes an AdamW step (fused, for everybody). Weights are copied from
ours into the peers; before anything is timed, all compute the loss of one batch with the same mask, and the script
stops where it differs by more than 1e-5 or a gradient by more than 1e-4 of its norm. Peers are left out when they are
not installed: ``pip install transformers timm`` and ``pip install --no-deps lightly==1.6.0``.

We are given uint8 pictures, as in training, and normalise them inside the step; the peers are given normalised floats,
so that this work is free for them. ``cross_mae`` is another objective: no attention among hidden patches, and a quarter
of them decoded; its ratio says what that choice buys, not how well the same thing is done.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from harness import Step, prepare
from steps import add_step_arguments, print_table, trainable
from torch import Tensor, nn

from mmssl.masking import MaskPlan
from mmssl.nn import TransformerConfig, transformer
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig


@dataclass(frozen=True)
class Setting:
    """A model and a batch size."""

    model: MaskedAutoencoderConfig
    batch: int


SETTINGS = {
    # 64 px in 64 patches
    "small": Setting(
        MaskedAutoencoderConfig((64, 64), (8, 8), transformer.nano(), TransformerConfig(128, 2, 4, 512)), 64
    ),
    "small_deep": Setting(
        MaskedAutoencoderConfig((64, 64), (8, 8), transformer.tiny(), TransformerConfig(128, 2, 4, 512)), 64
    ),
    # ViT-S/16 with the decoder of the paper
    "vit_s": Setting(
        MaskedAutoencoderConfig((224, 224), (16, 16), transformer.small(), TransformerConfig(512, 8, 16, 2048)), 4
    ),
    "vit_b": Setting(
        MaskedAutoencoderConfig((224, 224), (16, 16), transformer.base(), TransformerConfig(512, 8, 16, 2048)), 64
    ),
}

ADAMW = {"learning_rate": 1.5e-4, "weight_decay": 0.05}

Loss = Callable[[Tensor], Tensor]
"""Loss of a peer from the plan of visible and hidden patches; None in its place: draw a mask of its own."""


def useful_flops(config: MaskedAutoencoderConfig) -> float:
    """FLOPs an image of forward and backward: matrix products whose result the loss depends on, nothing else.

    Last decoder block: queries and feed-forward for the decoded tokens alone. Backward costs twice the forward, but for
    the patch embedding, whose input needs no gradient.
    """
    rows, columns = config.grid
    patches = rows * columns
    visible = patches - int(patches - patches * (1 - config.mask_fraction))
    hidden = patches - visible
    encoder, decoder = config.encoder, config.decoder
    pixels = config.patch_size[0] * config.patch_size[1] * config.channels

    def block(trunk: TransformerConfig, queries: int, keys: int) -> float:
        per_query = 2 * trunk.dim * trunk.dim + 2 * trunk.dim * trunk.mlp_dim
        return 2 * (queries * per_query + keys * 2 * trunk.dim * trunk.dim + 2 * queries * keys * trunk.dim)

    seen = visible + 1
    total = encoder.depth * block(encoder, seen, seen) + 2 * seen * encoder.dim * decoder.dim
    if config.architecture == "cross_mae":
        hidden = round(hidden * config.decoded_fraction)
        total += decoder.depth * block(decoder, hidden, seen)
    else:
        total += (decoder.depth - 1) * block(decoder, patches + 1, patches + 1) + block(decoder, hidden, patches + 1)
    total += 2 * hidden * decoder.dim * pixels
    return 3 * total + 2 * 2 * visible * pixels * encoder.dim


def transformers_loss(ours: MaskedAutoencoder, images: Tensor) -> tuple[nn.Module, Callable[[MaskPlan | None], Tensor]]:
    """ViTMAEForPreTraining with our weights."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ours.config
    encoder, decoder = config.encoder, config.decoder
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=encoder.dim,
            num_hidden_layers=encoder.depth,
            num_attention_heads=encoder.heads,
            intermediate_size=encoder.mlp_dim,
            decoder_hidden_size=decoder.dim,
            decoder_num_hidden_layers=decoder.depth,
            decoder_num_attention_heads=decoder.heads,
            decoder_intermediate_size=decoder.mlp_dim,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=encoder.norm_epsilon,
            image_size=config.image_size[0],
            patch_size=config.patch_size[0],
            mask_ratio=config.mask_fraction,
            norm_pix_loss=True,
            attn_implementation="sdpa",
        )
    ).to(images.device)
    assert model.config._attn_implementation == "sdpa"
    # transformers 5.23 leaves the positions of a model that is built from a config at zero
    with torch.no_grad():
        model.vit.embeddings.position_embeddings[0, 1:] = ours.position
        model.decoder.decoder_pos_embed[0] = ours.decoder_position
    copy_blocks(ours.encoder.blocks, model.vit.layers, TRANSFORMERS_NAMES)
    copy_blocks(ours.decoder.blocks, model.decoder.decoder_layers, TRANSFORMERS_NAMES)
    copy_rest(
        ours,
        model.vit.embeddings.patch_embeddings.projection,
        model.vit.embeddings.cls_token,
        model.vit.layernorm,
        model.decoder.decoder_embed,
        model.decoder.mask_token,
        model.decoder.decoder_norm,
        model.decoder.decoder_pred,
    )

    def loss(plan: MaskPlan | None) -> Tensor:
        return model(images, noise=None if plan is None else plan.hidden.float()).loss

    return model, loss


def lightly_loss(ours: MaskedAutoencoder, images: Tensor) -> tuple[nn.Module, Callable[[MaskPlan | None], Tensor]]:
    """The blocks of lightly put together as in its MAE example, with targets normalised by patch."""
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    config = ours.config
    encoder, decoder = config.encoder, config.decoder
    size = config.patch_size[0]
    vit = VisionTransformer(
        img_size=config.image_size,
        patch_size=size,
        embed_dim=encoder.dim,
        depth=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=encoder.mlp_dim / encoder.dim,
        num_classes=0,
        global_pool="token",
        norm_layer=partial(nn.LayerNorm, eps=encoder.norm_epsilon),
    )
    backbone = MaskedVisionTransformerTIMM(vit)
    head = MAEDecoderTIMM(
        num_patches=ours.positions_count,
        patch_size=size,
        embed_dim=encoder.dim,
        decoder_embed_dim=decoder.dim,
        decoder_depth=decoder.depth,
        decoder_num_heads=decoder.heads,
        mlp_ratio=decoder.mlp_dim / decoder.dim,
    )
    backbone.mask_token = head.mask_token  # one of the two would never be used
    model = nn.ModuleDict({"backbone": backbone, "decoder": head}).to(images.device)
    copy_blocks(ours.encoder.blocks, vit.blocks, TIMM_NAMES)
    copy_blocks(ours.decoder.blocks, head.decoder_blocks, TIMM_NAMES)
    copy_rest(
        ours,
        vit.patch_embed.proj,
        vit.cls_token,
        vit.norm,
        head.decoder_embed,
        head.mask_token,
        head.decoder_norm,
        head.decoder_pred,
    )
    shape = (images.shape[0], backbone.sequence_length)
    criterion = nn.MSELoss()

    def loss(plan: MaskPlan | None) -> Tensor:
        if plan is None:
            keep, hidden = utils.random_token_mask(shape, config.mask_fraction, device=images.device)
        else:
            keep, hidden = nn.functional.pad(plan.visible_ids + 1, (1, 0)), plan.hidden_ids + 1
        encoded = head.embed(backbone.encode(images, idx_keep=keep))
        tokens = utils.set_at_index(utils.repeat_token(head.mask_token, shape), keep, encoded)
        predicted = head.predict(utils.get_at_index(head.decode(tokens), hidden))
        target = utils.get_at_index(utils.patchify(images, size), hidden - 1)
        return criterion(predicted, utils.normalize_mean_var(target))

    return model, loss


PEERS = {"transformers": transformers_loss, "lightly": lightly_loss}

TIMM_NAMES = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
TRANSFORMERS_NAMES = {
    "norm1": "layernorm_before",
    "attention.qkv": "attention.{}_proj",
    "attention.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


@torch.no_grad()
def copy_blocks(ours: nn.ModuleList, theirs: nn.Module, names: dict[str, str]) -> None:
    """Weights of our blocks into theirs; ``{}`` in a name: three layers for query, key and value."""
    for source, target in zip(ours, theirs.children(), strict=True):
        for own, other in names.items():
            layer = source.get_submodule(own)
            pieces = [target.get_submodule(other.format(part)) for part in ("q", "k", "v")[: 3 if "{}" in other else 1]]
            for kind in ("weight", "bias"):
                for piece, values in zip(pieces, getattr(layer, kind).chunk(len(pieces)), strict=True):
                    getattr(piece, kind).copy_(values)


@torch.no_grad()
def copy_rest(
    ours: MaskedAutoencoder,
    patch_embedding: nn.Module,
    cls_token: Tensor,
    norm: nn.Module,
    decoder_embedding: nn.Module,
    mask_token: Tensor,
    decoder_norm: nn.Module,
    head: nn.Module,
) -> None:
    """Everything outside blocks. Our patches are (row, column, channel), a convolution's are (channel, row, column)."""
    ph, pw = ours.config.patch_size
    weight = ours.patch_embedding.weight.unflatten(1, (ph, pw, -1)).permute(0, 3, 1, 2)
    patch_embedding.weight.copy_(weight)
    patch_embedding.bias.copy_(ours.patch_embedding.bias)
    cls_token.copy_(ours.cls_token)
    mask_token.copy_(ours.mask_token)
    pairs = (
        (ours.encoder.norm, norm),
        (ours.decoder_embedding, decoder_embedding),
        (ours.decoder.norm, decoder_norm),
        (ours.head, head),
    )
    for source, target in pairs:
        target.load_state_dict(source.state_dict())


def check(name: str, ours: MaskedAutoencoder, batch: dict[str, Tensor], model: nn.Module, loss: Callable) -> None:
    """Stop unless a peer computes our loss and our gradient (of the pixel head and the cls token, first and last)."""
    plan = ours.perturb(batch)["plan"]
    own, other = ours(batch)["loss"], loss(plan)
    own.backward()
    other.backward()
    theirs = {key.split(".")[-1]: value.grad for key, value in model.named_parameters() if "cls_token" in key}
    theirs["head"] = next(value.grad for key, value in model.named_parameters() if "pred.weight" in key)
    difference = abs(float(own.detach() - other.detach()))
    print(f"check      {name}: same weights, batch and mask: loss {float(other.detach()):.6f}, apart {difference:.1e}")
    if difference > 1e-5:
        raise SystemExit(f"{name} computes another loss than ours: this would not be a comparison")
    for mine, grad in ((ours.cls_token.grad, theirs["cls_token"]), (ours.head.weight.grad, theirs["head"])):
        assert mine is not None
        assert grad is not None
        difference = float((mine - grad).norm() / mine.norm())
        if difference > 1e-4:
            raise SystemExit(f"{name}: gradients differ by {difference:.1e}: this would not be a comparison")
    ours.zero_grad()
    model.zero_grad()


def our_step(model: MaskedAutoencoder, batch: dict[str, Tensor], arguments: argparse.Namespace) -> Step:
    """With a new epoch, so new masks, each time."""

    def loss() -> Tensor:
        batch["epoch"] = batch["epoch"] + 1
        return model(batch)["loss"]

    return trainable(model.train(), loss, arguments, **ADAMW)


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=list(SETTINGS), default="small")
    add_step_arguments(parser)
    arguments = parser.parse_args()
    device = prepare(arguments)
    setting = SETTINGS[arguments.config]
    size = arguments.batch_size or setting.batch
    torch.manual_seed(0)
    batch = {
        "image": torch.randint(0, 256, (size, 3, *setting.model.image_size), dtype=torch.uint8, device=device),
        "id": torch.arange(size, device=device),
        "epoch": torch.zeros(size, dtype=torch.int64, device=device),
    }
    exact = MaskedAutoencoder(setting.model).to(device)
    images = (batch["image"].float() / 255 - 0.5) / 0.25

    peers = {}
    for name, build in PEERS.items():
        try:
            model, loss = build(exact, images)
        except ImportError as error:
            print(f"left out   {name}: {error}")
            continue
        check(name, exact.train(), batch, model.train(), loss)
        if arguments.compile and isinstance(model, nn.ModuleDict):
            print(f"left out   {name}: parts that are not called as a whole, so not compiled either")
            continue
        peers[name] = trainable(model, partial(loss, None), arguments, **ADAMW)
    cross = MaskedAutoencoder(replace(setting.model, architecture="cross_mae")).to(device)
    cases = {
        "mmssl": our_step(exact, copy.copy(batch), arguments),
        "mmssl cross_mae (other loss)": our_step(cross, copy.copy(batch), arguments),
        **peers,
    }
    flops = dict.fromkeys(cases, useful_flops(exact.config))
    flops["mmssl cross_mae (other loss)"] = useful_flops(cross.config)
    print(f"config     {arguments.config}, batch {size}; {flops['mmssl'] / 1e9:.2f} useful GFLOP an image")
    print_table(cases, arguments, device, size, flops, tuple(peers))


if __name__ == "__main__":
    main()

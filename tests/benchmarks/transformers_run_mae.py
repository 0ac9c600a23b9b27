"""What a user of transformers runs to train a masked autoencoder: the peer of end_to_end.py.

The logic of transformers' public example ``examples/pytorch/image-pretraining/run_mae.py``, written anew: an image
folder opened by ``datasets``, ViTMAE from a config, random resized crops and flips by torchvision on Pillow images,
``Trainer`` with its defaults (no worker processes, AdamW with betas 0.9 and 0.999, gradients clipped at 1), the last
model saved, and an evaluation at the end.

Two things differ, both so that the same loss can be reached at all. Mean and standard deviation are given, not 0.5, so
that targets mean the same on both sides. And transformers 5.23 leaves the fixed positions of a ViTMAE built from a
config at zero (its example then trains a model that cannot tell places apart); they are filled in here unless
``--as-published`` is given.
"""

import argparse

import torch
from datasets import load_dataset
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor
from torchvision.transforms.functional import InterpolationMode
from transformers import Trainer, TrainingArguments, ViTImageProcessor, ViTMAEConfig, ViTMAEForPreTraining, set_seed


def parse() -> argparse.Namespace:
    """Flags; shapes of the model have no defaults, the caller gives those of ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--out"):
        parser.add_argument(name, required=True)
    for name in ("image-size", "patch-size", "steps", "warmup-steps", "batch-size", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for part in ("", "decoder-"):
        for name in ("dim", "depth", "heads", "mlp-dim"):
            parser.add_argument(f"--{part}{name}", type=int, required=True)
    for name in ("learning-rate", "weight-decay", "mask-fraction"):
        parser.add_argument(f"--{name}", type=float, required=True)
    for name in ("mean", "std"):
        parser.add_argument(f"--{name}", type=float, nargs=3, required=True)
    parser.add_argument("--workers", type=int, default=0, help="the Trainer's default is 0")
    parser.add_argument("--as-published", action="store_true", help="leave positions as transformers makes them")
    return parser.parse_args()


def build(flags: argparse.Namespace) -> ViTMAEForPreTraining:
    """A new model."""
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=flags.image_size,
            patch_size=flags.patch_size,
            hidden_size=flags.dim,
            num_hidden_layers=flags.depth,
            num_attention_heads=flags.heads,
            intermediate_size=flags.mlp_dim,
            decoder_hidden_size=flags.decoder_dim,
            decoder_num_hidden_layers=flags.decoder_depth,
            decoder_num_attention_heads=flags.decoder_heads,
            decoder_intermediate_size=flags.decoder_mlp_dim,
            mask_ratio=flags.mask_fraction,
            norm_pix_loss=True,
        )
    )
    if not flags.as_published:
        from mmssl.nn.patches import sincos_positions

        side = flags.image_size // flags.patch_size
        with torch.no_grad():
            for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
                table[0, 1:] = sincos_positions((side, side), table.shape[-1])
    return model


def main() -> None:
    """Train, save, evaluate."""
    flags = parse()
    set_seed(flags.seed)
    processor = ViTImageProcessor(
        size={"height": flags.image_size, "width": flags.image_size}, image_mean=flags.mean, image_std=flags.std
    )
    transform = Compose(
        [
            lambda image: image if image.mode == "RGB" else image.convert("RGB"),
            RandomResizedCrop(
                (processor.size["height"], processor.size["width"]),
                scale=(0.2, 1.0),
                interpolation=InterpolationMode.BICUBIC,
            ),
            RandomHorizontalFlip(),
            ToTensor(),
            Normalize(processor.image_mean, processor.image_std),
        ]
    )

    def on_access(examples: dict) -> dict:
        examples["pixel_values"] = [transform(image) for image in examples["image"]]
        return examples

    data = load_dataset(flags.data)
    for split in ("train", "validation"):
        data[split].set_transform(on_access)
    trainer = Trainer(
        model=build(flags),
        args=TrainingArguments(
            output_dir=flags.out,
            max_steps=flags.steps,
            per_device_train_batch_size=flags.batch_size,
            learning_rate=flags.learning_rate,
            weight_decay=flags.weight_decay,
            lr_scheduler_type="cosine",
            warmup_steps=flags.warmup_steps,
            logging_steps=50,
            seed=flags.seed,
            dataloader_num_workers=flags.workers,
            remove_unused_columns=False,
            label_names=["pixel_values"],
            report_to="none",
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=processor,
        data_collator=lambda examples: {"pixel_values": torch.stack([each["pixel_values"] for each in examples])},
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    print(trainer.evaluate())


if __name__ == "__main__":
    main()

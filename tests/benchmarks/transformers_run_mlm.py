"""What a user of transformers runs to train a BERT on texts: the peer of end_to_end_text.py.

The logic of transformers' public example ``examples/pytorch/language-modeling/run_mlm.py`` without ``--line_by_line``,
written anew: text files opened by ``datasets``, tokenised in batches, put end to end and cut into blocks (no padding,
and no border between documents), ``BertForMaskedLM`` from a config, the public collator (15 % hidden, 80/10/10), and
``Trainer`` with its defaults (no worker processes, AdamW with betas 0.9 and 0.999, linear decay, gradients clipped at
1); the model saved, and an evaluation at the end.
"""

import argparse
from itertools import chain

from datasets import load_dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)


def parse() -> argparse.Namespace:
    """Flags; shapes of the model have no defaults, the caller gives those of ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--train", "--validation", "--tokenizer", "--out"):
        parser.add_argument(name, required=True)
    for name in ("max-length", "steps", "warmup-steps", "batch-size", "seed", "dim", "depth", "heads", "mlp-dim"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("learning-rate", "weight-decay"):
        parser.add_argument(f"--{name}", type=float, required=True)
    return parser.parse_args()


def main() -> None:
    """Tokenise, train, save, evaluate."""
    flags = parse()
    set_seed(flags.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(flags.tokenizer)
    data = load_dataset("text", data_files={"train": flags.train, "validation": flags.validation})

    def tokenise(examples: dict) -> dict:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def blocks(examples: dict) -> dict:
        joined = {name: list(chain(*values)) for name, values in examples.items()}
        total = len(joined["input_ids"]) // flags.max_length * flags.max_length
        return {
            name: [values[start : start + flags.max_length] for start in range(0, total, flags.max_length)]
            for name, values in joined.items()
        }

    data = data.map(tokenise, batched=True, remove_columns=["text"]).map(blocks, batched=True)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=flags.dim,
            num_hidden_layers=flags.depth,
            num_attention_heads=flags.heads,
            intermediate_size=flags.mlp_dim,
            max_position_embeddings=flags.max_length,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=flags.out,
            max_steps=flags.steps,
            per_device_train_batch_size=flags.batch_size,
            learning_rate=flags.learning_rate,
            weight_decay=flags.weight_decay,
            warmup_steps=flags.warmup_steps,
            logging_steps=50,
            seed=flags.seed,
            report_to="none",
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.15),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    print(trainer.evaluate())


if __name__ == "__main__":
    main()

"""Training step of the masked language model against transformers' BERT and ModernBERT, in real tokens a second.

    python tests/benchmarks/bert_step.py --config small
    python tests/benchmarks/bert_step.py --config small --grouped
    python tests/benchmarks/bert_step.py --config base --rounds 5
    python tests/benchmarks/bert_step.py --config base --batch-size 256 --precision bf16 [--compile]    # on a GPU

A step draws masks, runs forward and backward and takes an AdamW step (fused, for everybody). Texts have lognormal
lengths between 10 and 128 tokens, median 40. ``bert`` is ``BertForMaskedLM`` with the public collator, which pads each
batch to its longest text and predicts all positions; ``modernbert`` is ``ModernBertForMaskedLM`` with
``sparse_prediction``, another architecture (rotary positions, gated feed-forward part, pre-norm) with the width of its
feed-forward part chosen for equal FLOPs; it is comparable in cost, not in loss. 15 % are hidden, for everybody.

Ours takes batches as its loader makes them, sorted by length. The peers' batches are drawn at random, or with
``--grouped`` of similar length (transformers' LengthGroupedSampler: shuffled megabatches, sorted), which spares them
most of the padding. All see the same texts in the same batches.

Before anything is timed, ours and BERT compute the loss of one batch with the same weights, masks and shown tokens, and
the script stops where it differs by more than 1e-5 or a gradient by more than 1e-4 of its norm.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Step, prepare
from steps import add_step_arguments, print_table, trainable
from torch import Tensor, nn

from mmssl.nn import TransformerConfig
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "predictors"))

from mmssl_bert import copy_to_bert

SHAPES = {"small": (256, 4, 4, 16), "base": (768, 12, 12, 16)}
"""Width, depth, heads, texts in a batch."""

VOCABULARY, LONGEST, FRACTION = 30_000, 128, 0.15
PAD, UNK, CLS, SEP, MASK = range(5)


def lengths(count: int) -> Tensor:
    """Lognormal between 10 and 128, special tokens included."""
    drawn = torch.empty(count).log_normal_(3.7, 0.7, generator=torch.Generator().manual_seed(0))
    return drawn.round().clamp(10, LONGEST).long()


def texts(count: int) -> list[Tensor]:
    """Random tokens between [CLS] and [SEP]."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for length in lengths(count).tolist():
        made.append(torch.randint(5, VOCABULARY, (length,), generator=generator))
        made[-1][0], made[-1][-1] = CLS, SEP
    return made


def batches(data: list[Tensor], size: int, grouped: bool) -> list[list[Tensor]]:
    """Random batches, or batches of similar length: megabatches of 50 batches, each sorted."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(2)).tolist()
    if grouped:
        mega = [order[start : start + 50 * size] for start in range(0, len(order), 50 * size)]
        order = [index for part in mega for index in sorted(part, key=lambda i: -len(data[i]))]
    chosen = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    shuffled = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(3)).tolist()
    return [[data[index] for index in chosen[number]] for number in shuffled]


def our_batch(rows: list[Tensor], number: int) -> dict[str, Tensor]:
    """As the loader makes it: longest first, padding in integers only."""
    rows = sorted(rows, key=lambda row: -len(row))
    token = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    length = torch.tensor([len(row) for row in rows])
    column = torch.arange(token.shape[1])
    inside = (column > 0) & (column < length[:, None] - 1)
    word = torch.where(inside, column - 1, -1)
    ids = torch.arange(len(rows)) + number * len(rows)
    return {"id": ids, "epoch": torch.zeros_like(ids), "token": token, "word": word, "length": length}


def our_step(
    model: MaskedLanguageModel, data: list[list[Tensor]], device: torch.device, arguments: argparse.Namespace
) -> Step:
    """Masks are drawn inside the model; batches are put together in the step, as the peers' are."""
    stream = itertools.cycle(enumerate(data))

    def loss() -> Tensor:
        number, rows = next(stream)
        return model({name: value.to(device) for name, value in our_batch(rows, number).items()})["loss"]

    return trainable(model, loss, arguments)


def peer_step(
    model: nn.Module, data: list[list[Tensor]], collate: Callable, device: torch.device, arguments: argparse.Namespace
) -> Step:
    """transformers' model behind transformers' collator."""
    stream = itertools.cycle(data)

    def loss() -> Tensor:
        batch = collate([{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in next(stream)])
        return model(**{name: value.to(device) for name, value in batch.items()}).loss

    return trainable(model, loss, arguments)


def collator() -> Callable:
    """The public collator with a tokenizer of numbers."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {name: index for index, name in enumerate([*special, *map(str, range(5, VOCABULARY))])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")),
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=FRACTION)


def modernbert(shape: TransformerConfig, device: torch.device) -> nn.Module:
    """Equal FLOPs: its gated feed-forward part has three matrices where BERT's has two, so 8/3 the width, not 4."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(
        vocab_size=VOCABULARY, hidden_size=shape.dim, num_hidden_layers=shape.depth, num_attention_heads=shape.heads,
        intermediate_size=round(8 / 3 * shape.dim), max_position_embeddings=LONGEST, sparse_prediction=True,
        pad_token_id=PAD, cls_token_id=CLS, sep_token_id=SEP, bos_token_id=CLS, eos_token_id=SEP,
        embedding_dropout=0.0, mlp_dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return ModernBertForMaskedLM(config).to(device).train()


def check(model: MaskedLanguageModel, bert: nn.Module, rows: list[Tensor]) -> None:
    """Same loss and gradients for the same masks, or stop."""
    batch = {name: value.to(model.device) for name, value in our_batch(rows, 0).items()}
    view = model.perturb(batch)
    labels = torch.where(view["hidden"], batch["token"], -100)
    theirs = bert(input_ids=view["shown"], attention_mask=model.valid(batch).long(), labels=labels).loss
    ours = model(batch)["loss"]
    ours.backward()
    theirs.backward()
    apart = abs(float(ours.detach()) - float(theirs.detach()))
    pairs = [(model.word_embedding.weight, bert.get_parameter("bert.embeddings.word_embeddings.weight")),
             (model.head_dense.weight, bert.get_parameter("cls.predictions.transform.dense.weight"))]  # fmt: skip
    worst = max(float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs)
    print(f"same masks: loss {float(ours.detach()):.6f}, apart by {apart:.1e}; gradients by {worst:.1e} of their norm")
    if apart > 1e-5 or worst > 1e-4:
        raise SystemExit("ours and BERT do not compute the same: there is nothing to compare")
    model.zero_grad(set_to_none=True)
    bert.zero_grad(set_to_none=True)


def whole_pass(step: Step, count: int) -> Step:
    """All batches once: what is timed must be the same texts for everybody."""

    def turn() -> None:
        for _ in range(count):
            step()

    return turn


def useful_flops(shape: TransformerConfig, mean_length: float) -> float:
    """FLOPs a real token of forward and backward: matrix products whose result the loss depends on, nothing else."""
    hidden = FRACTION
    per_token = 2 * shape.dim * (4 * shape.dim + 2 * shape.mlp_dim) + 4 * mean_length * shape.dim
    needed = (
        shape.depth
        - 1
        + (hidden * (2 * shape.dim + 2 * shape.mlp_dim) + 2 * shape.dim) / (4 * shape.dim + 2 * shape.mlp_dim)
    )
    return 3 * (needed * per_token + hidden * 2 * shape.dim * (VOCABULARY + shape.dim))


def main() -> None:
    """Command line."""
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=SHAPES, default="small")
    parser.add_argument("--grouped", action="store_true", help="batches of similar length")
    parser.add_argument("--batches", type=int, default=6, help="a turn goes through these once, whoever takes it")
    add_step_arguments(parser)
    arguments = parser.parse_args()
    device = prepare(arguments)

    dim, depth, heads, size = SHAPES[arguments.config]
    size = arguments.batch_size or size
    shape = TransformerConfig(dim, depth, heads, 4 * dim, norm="post", norm_epsilon=1e-12)
    torch.manual_seed(0)
    model = MaskedLanguageModel(
        MaskedLanguageModelConfig(VOCABULARY, shape, (PAD, UNK, CLS, SEP, MASK), MASK, PAD, LONGEST, FRACTION)
    ).to(device)
    bert = copy_to_bert(model, transformers).to(device).train()
    data = batches(texts(size * 64), size, arguments.grouped)[: arguments.batches]
    check(model, bert, data[0])

    tokens = sum(len(row) for rows in data for row in rows)
    padded = sum(len(rows) * max(map(len, rows)) for rows in data)
    print(
        f"{len(data)} batches of {size} texts, {tokens / len(data):.0f} real tokens each; padded {padded / tokens:.2f}x"
    )
    collate = collator()
    steps = {
        "bert": peer_step(bert, data, collate, device, arguments),
        "modernbert, sparse": peer_step(modernbert(shape, device), data, collate, device, arguments),
        "ours": our_step(model, data, device, arguments),
    }
    cases = {name: whole_pass(step, len(data)) for name, step in steps.items()}
    flops = useful_flops(shape, tokens / (len(data) * size))
    print_table(cases, arguments, device, tokens, dict.fromkeys(cases, flops), ("bert", "modernbert, sparse"))


if __name__ == "__main__":
    main()

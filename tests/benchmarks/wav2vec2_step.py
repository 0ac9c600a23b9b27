"""Training step of wav2vec 2.0 against transformers' Wav2Vec2ForPreTraining, in seconds of audio a second.

    python tests/benchmarks/wav2vec2_step.py --config small --threads 1 --clock cpu
    python tests/benchmarks/wav2vec2_step.py --config small512 --threads 1 --clock cpu
    python tests/benchmarks/wav2vec2_step.py --config base --threads 1 --clock cpu --rounds 5
    python tests/benchmarks/wav2vec2_step.py --config small --varied --threads 1 --clock cpu
    python tests/benchmarks/wav2vec2_step.py --config base --batch-size 32 --precision bf16 [--compile]    # on a GPU

A step draws masks and negatives, runs forward and backward and takes an AdamW step (fused, for everybody), without
dropout. The peer draws with its own samplers, ``_compute_mask_indices`` and ``_sample_negative_indices``: spans of 10
frames, 49 % of a recording hidden, 100 negatives. Recordings last 4 seconds, or with ``--varied`` 2 to 6, sorted; then
ours works on real samples alone, and the peer on padded rows with an attention mask. ``ours, mel`` hears a spectrogram
instead of the waveform and is another model, comparable in cost and use, not in loss.

Before anything is timed, ours and the peer compute the loss of one batch of equally long recordings with the same
weights, masks, negatives and codes, and the script stops where it differs by more than 1e-4 or a gradient by more than
1e-3 of its norm.
"""

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import torch
from harness import Step, prepare
from steps import add_step_arguments, print_table, trainable
from torch import Tensor, nn

from mmssl.interchange.wav2vec2.parity import negatives_of
from mmssl.masking.theory import start_probability
from mmssl.nn import AudioEncoderConfig, MelConfig, QuantizerConfig, TransformerConfig, WaveformConfig
from mmssl.predictors.wav2vec2 import Wav2Vec2, Wav2Vec2Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "predictors"))

from mmssl_wav2vec2 import copy_to_wav2vec2

SHAPES = {"small": (256, 4, 4, 128, 4), "small512": (256, 4, 4, 512, 2), "base": (768, 12, 12, 512, 1)}
"""Width, depth and heads of the trunk, channels of the convolutions, recordings in a batch."""

RATE, SECONDS, SHORTEST, LONGEST = 16_000, 4.0, 2.0, 6.0
FRACTION, SPAN, NEGATIVES = 0.49, 10, 100
BATCHES = 3


def recordings(size: int, varied: bool) -> list[dict[str, Tensor]]:
    """Batches of noise, as the loader makes them: longest first, zero behind the end."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(BATCHES):
        seconds = torch.full((size,), SECONDS)
        if varied:
            seconds = SHORTEST + (LONGEST - SHORTEST) * torch.rand(size, generator=generator)
        length = (seconds * RATE).long().sort(descending=True).values
        audio = 0.1 * torch.randn(size, int(length[0]), generator=generator)
        audio = torch.where(torch.arange(audio.shape[1]) < length[:, None], audio, 0)
        ids = torch.arange(size) + number * size
        made.append({"id": ids, "epoch": torch.zeros_like(ids), "audio": audio, "length": length})
    return made


def our_step(model: Wav2Vec2, batches: list[dict[str, Tensor]], arguments: argparse.Namespace) -> Step:
    """Everything is drawn inside the model; each batch gets a new epoch, so that no mask comes twice."""
    stream = zip(itertools.cycle(batches), itertools.count(), strict=False)

    def loss() -> Tensor:
        batch, number = next(stream)
        return model(batch | {"epoch": batch["epoch"] + number})["loss"]

    return trainable(model, loss, arguments)


def peer_step(model: nn.Module, batches: list[dict[str, Tensor]], arguments: argparse.Namespace) -> Step:
    """transformers' model behind transformers' samplers."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    stream = itertools.cycle(batches)

    def loss() -> Tensor:
        batch = next(stream)
        audio = batch["audio"]
        attention, inner = None, None
        shape = (len(audio), int(model._get_feat_extract_output_lengths(audio.shape[1])))
        if arguments.varied:
            attention = (torch.arange(audio.shape[1]) < batch["length"][:, None].to("cpu")).long().to(audio.device)
            inner = model._get_feature_vector_attention_mask(shape[1], attention)
        probability = start_probability(FRACTION, SPAN) * SPAN
        hidden = _compute_mask_indices(shape, probability, SPAN, attention_mask=inner, min_masks=2)
        negatives = _sample_negative_indices(shape, NEGATIVES, hidden)
        hidden, negatives = (torch.from_numpy(drawn).to(audio.device) for drawn in (hidden, negatives))
        output = model(
            audio, attention_mask=attention, mask_time_indices=hidden, sampled_negative_indices=negatives.long()
        )
        return output.loss / hidden.sum()

    return trainable(model, loss, arguments)


def check(model: Wav2Vec2, peer: nn.Module, batch: dict[str, Tensor]) -> None:
    """Same loss and gradients for the same masks, negatives and codes, or stop."""
    model.eval()
    peer.eval()  # no Gumbel noise on either side; gradients of everything but the quantizer's choice are left
    view = model.perturb(batch)
    ours = model.score(model.predict(model.encode(view), view), model.target(batch, view), view)["loss"]
    theirs = peer(batch["audio"], mask_time_indices=view["hidden"].mask, sampled_negative_indices=negatives_of(view))
    ours.backward()
    theirs.contrastive_loss.backward()
    apart = abs(float(ours.detach()) / float(theirs.contrastive_loss.detach()) - 1)
    pairs = [
        (model.project_hidden.weight, peer.get_parameter("project_hid.weight")),
        (model.encoder.projection.weight, peer.get_parameter("wav2vec2.feature_projection.projection.weight")),
    ]
    worst = max(float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs)
    print(f"same masks: loss apart by {apart:.1e} of itself; gradients by {worst:.1e} of their norm")
    if apart > 1e-4 or worst > 1e-3:
        raise SystemExit("ours and transformers' do not compute the same: there is nothing to compare")
    for one in (model, peer):
        one.zero_grad(set_to_none=True)
        one.train()


def whole_pass(step: Step) -> Step:
    """All batches once: what is timed must be the same recordings for everybody."""

    def turn() -> None:
        for _ in range(BATCHES):
            step()

    return turn


def useful_flops(config: Wav2Vec2Config) -> float:
    """FLOPs a second of audio of forward and backward: matrix products whose result the loss depends on, no more."""
    front_end, trunk = config.encoder.front_end, config.encoder.trunk
    convolutions, frames, channels = 0.0, float(RATE), 1
    if isinstance(front_end, WaveformConfig):
        for number, (kernel, stride) in enumerate(zip(front_end.kernels, front_end.strides, strict=True)):
            frames /= stride
            # the first layer has no gradient of its input
            passes = 2 if number == 0 else 3
            convolutions += passes * 2 * frames * kernel * channels * front_end.dim
            channels = front_end.dim
    else:
        frames, channels = 1 / (front_end.hop * front_end.stack), front_end.mels * front_end.stack
    block = 2 * trunk.dim * (4 * trunk.dim + 2 * trunk.mlp_dim) + 4 * SECONDS * frames * trunk.dim
    positions = 2 * trunk.dim * trunk.dim / config.encoder.position_groups * config.encoder.position_kernel
    last = FRACTION * block + (1 - FRACTION) * 4 * trunk.dim**2
    body = (trunk.depth - 1) * block + last + positions + 2 * channels * trunk.dim
    codes = config.quantizer.groups * config.quantizer.entries
    head = FRACTION * 2 * (channels * codes + codes * config.quantizer.dim / config.quantizer.groups)
    return convolutions + 3 * frames * (body + head)


def config_of(name: str) -> Wav2Vec2Config:
    """The model that both sides build."""
    dim, depth, heads, channels, _ = SHAPES[name]
    trunk = TransformerConfig(dim=dim, depth=depth, heads=heads, mlp_dim=4 * dim, norm="post", norm_epsilon=1e-5)
    encoder = AudioEncoderConfig(trunk, WaveformConfig(dim=channels, normalize=False))
    # the feature penalty is fairseq's, and the peer has none
    return Wav2Vec2Config(encoder, QuantizerConfig(), feature_penalty_weight=0.0, feature_gradient=1.0)


def main() -> None:
    """Command line."""
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=list(SHAPES), default="small")
    parser.add_argument("--varied", action="store_true", help="recordings of 2 to 6 seconds")
    add_step_arguments(parser)
    arguments = parser.parse_args()
    device = prepare(arguments)
    torch.manual_seed(0)
    config = config_of(arguments.config)
    model = Wav2Vec2(config).to(device).train()
    mel = replace(config, encoder=replace(config.encoder, front_end=MelConfig(stack=2)))
    peer = copy_to_wav2vec2(model, transformers).to(device).train()
    check(model, peer, {name: value.to(device) for name, value in recordings(2, False)[0].items()})
    made = recordings(arguments.batch_size or SHAPES[arguments.config][-1], arguments.varied)
    batches = [{name: value.to(device) for name, value in batch.items()} for batch in made]
    seconds = sum(float(batch["length"].sum()) for batch in batches) / RATE
    padded = sum(batch["audio"].numel() for batch in batches) / RATE
    print(
        f"{arguments.config}: {seconds / BATCHES:.1f} s of audio in a batch, padding makes it {padded / seconds:.2f}x"
    )
    other = Wav2Vec2(mel).to(device).train()
    steps = {
        "transformers": peer_step(peer, batches, arguments),
        "ours": our_step(model, batches, arguments),
        "ours, mel": our_step(other, batches, arguments),
    }
    flops = {"transformers": useful_flops(config), "ours": useful_flops(config), "ours, mel": useful_flops(mel)}
    cases = {name: whole_pass(step) for name, step in steps.items()}
    print_table(cases, arguments, device, round(seconds), flops, ("transformers",))


if __name__ == "__main__":
    main()

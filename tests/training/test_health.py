"""The doctor on runs that are really ill, and its silence on runs that learn."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import COUNT, DEFAULTS, Config, Pictures, make_trainer, train
from tiny_contrastive import ContrastiveConfig, Recordings, TinyContrastive
from tiny_language import Sentences, tiny_bert

from mmssl.errors import UserError
from mmssl.training.config import RunConfig
from mmssl.training.doctor import examine
from mmssl.training.finding import Finding
from mmssl.training.health import exploding_gradient
from mmssl.training.journal import read_journal
from mmssl.training.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
LONG = {"log_every": 20, "validate_every": 100, "checkpoint_every": 10_000, "dropout": 0.0}


def contrastive_trainer(out: Path, model: ContrastiveConfig, **changes) -> tuple[Trainer, Path | None]:
    settings = {"out": out, **DEFAULTS, **LONG, "batch_size": 16, "learning_rate": 3e-3, "steps": 300, **changes}
    torch.manual_seed(0)
    trainer, checkpoint = make_trainer(Config(**settings), TinyContrastive(model))  # type: ignore[arg-type]
    recordings = Recordings(16, 0)
    trainer.data, trainer.validation = recordings, recordings.frozen
    return trainer, checkpoint


def listen(out: Path, model: ContrastiveConfig, **changes) -> Path:
    """Train the tiny wav2vec 2.0."""
    contrastive_trainer(out, model, **changes)[0].fit()
    return out


def read_texts(out: Path, **changes) -> Path:
    """Train the tiny BERT."""
    sentences = Sentences(16, 0)
    settings = {"out": out, **DEFAULTS, **LONG, "batch_size": 16, "learning_rate": 3e-3, "steps": 300, **changes}
    trainer, _ = make_trainer(Config(**settings), tiny_bert(sentences))  # type: ignore[arg-type]
    trainer.data, trainer.validation = sentences, sentences.frozen
    trainer.fit()
    return out


def found(run: Path) -> dict[str, Finding]:
    """Findings by name, but for waiting: where tests share a core with others, whoever waits for it counts as data."""
    findings = {finding.name: finding for finding in examine(run).findings if finding.name != "waiting for data"}
    flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(RunConfig)}
    assert {finding.flag for finding in findings.values()} <= flags
    return findings


def told(run: Path) -> dict[str, int]:
    """What was said while training, and at which step."""
    entries = read_journal(run / "journal.jsonl")
    said = {
        name: entry["step"] for entry in entries for name in entry.get("findings", ()) if name != "waiting for data"
    }
    assert len(said) == sum(len(set(entry.get("findings", ())) - {"waiting for data"}) for entry in entries)
    return said


def test_healthy_pictures_are_silent(tmp_path, capsys):
    train(tmp_path / "run", **LONG | {"log_every": 10, "steps": 300, "learning_rate": 3e-3})
    assert read_journal(tmp_path / "run" / "journal.jsonl")[-1]["skill"] > 0.3
    assert found(tmp_path / "run") == told(tmp_path / "run") == {}
    assert not [line for line in capsys.readouterr().out.splitlines() if "warning" in line and "waiting" not in line]


def test_healthy_texts_are_silent(tmp_path):
    run = read_texts(tmp_path / "run")
    assert read_journal(run / "journal.jsonl")[-1]["skill"] > 0.15
    assert found(run) == told(run) == {}


def test_healthy_sounds_are_silent(tmp_path):
    run = listen(tmp_path / "run", ContrastiveConfig(), steps=400)
    last = read_journal(run / "journal.jsonl")[-1]
    assert last["skill"] > 0.15
    assert last["code_perplexity"] > 15
    assert found(run) == told(run) == {}


def test_the_first_steps_are_not_judged(tmp_path):
    """Before anything is learned skill is negative, and nobody can know what will come of it."""
    train(tmp_path / "run")
    assert read_journal(tmp_path / "run" / "journal.jsonl")[-1]["skill"] < 0
    assert found(tmp_path / "run") == told(tmp_path / "run") == {}


def test_collapse_a_every_frame_has_the_same_code(tmp_path):
    run = listen(tmp_path / "run", ContrastiveConfig(favoured=30.0, diversity=0.0), steps=100)
    last = read_journal(run / "journal.jsonl")[-1]
    assert last["contrastive_loss"] == last["gradient_norm"] == 0
    assert last["skill"] == last["accuracy"] == 1  # what makes it look like success
    (finding,) = found(run).values()
    assert "collapse A" in finding.name
    assert finding.since == 20
    assert "code perplexity 1, excluded negatives 1, gradient norm 0" in finding.saw
    assert told(run) == {finding.name: 60}


def test_collapse_b_no_gradient_at_chance(tmp_path):
    """A dead context, and codes that are noise: soft perplexity at its most, hard perplexity below it."""
    run = listen(tmp_path / "run", ContrastiveConfig(dead=True, contrast=1.0, noise=1.0), steps=500)
    last = read_journal(run / "journal.jsonl")[-1]
    assert last["code_perplexity_soft"] == pytest.approx(32, abs=0.1)
    assert last["code_perplexity"] < 30
    (finding,) = found(run).values()
    assert "collapse B" in finding.name
    assert list(told(run)) == [finding.name]
    assert "loss 2.4" in finding.saw
    assert "reference 2.485" in finding.saw


def test_collapse_c_accuracy_rises_while_codes_vanish(tmp_path):
    """Hidden frames that are not hidden, and nothing that keeps codes in use."""
    model = ContrastiveConfig(leak=True, diversity=0.0, contrast=1.0, noise=1.0)
    run = listen(tmp_path / "run", model, steps=400, learning_rate=6e-3)
    entries = read_journal(run / "journal.jsonl")
    assert entries[-1]["accuracy"] > 0.95
    assert entries[-1]["code_perplexity"] < entries[0]["code_perplexity"] / 4
    (finding,) = found(run).values()
    assert "collapse C" in finding.name
    assert list(told(run)) == [finding.name]
    assert "(was 29" in finding.saw


def test_codes_that_vanish_without_zero_loss(tmp_path):
    """Far too high a rate and nothing that keeps codes in use: there is skill, on fewer than three codes.

    At a third of this rate rounding decides how many are left.
    """
    run = listen(tmp_path / "run", ContrastiveConfig(diversity=0.0), learning_rate=0.1)
    assert read_journal(run / "journal.jsonl")[-1]["skill"] > 0.1
    (finding,) = found(run).values()
    assert finding.name == "nearly all frames have the same code"
    assert finding.flag == "--learning-rate"


@pytest.mark.parametrize("rate", [0.3, 3.0])
def test_a_learning_rate_far_too_high_for_pictures(tmp_path, rate):
    run = tmp_path / "run"
    train(run, **LONG | {"log_every": 10, "steps": 400, "learning_rate": rate, "dropout": 0.1})
    assert told(run)
    assert {finding.flag for finding in found(run).values()} <= {"--learning-rate"}


def test_texts_that_stay_at_token_frequencies(tmp_path):
    run = read_texts(tmp_path / "run", steps=400, learning_rate=0.3)
    (finding,) = found(run).values()
    assert finding.name == "stuck at the trivial guess"
    assert "knowing nothing gives 2.490" in finding.saw
    assert list(told(run)) == [finding.name]


def test_texts_that_diverge(tmp_path):
    run = read_texts(tmp_path / "run", steps=400, learning_rate=3.0)
    assert told(run)["diverged"] < 300


def test_a_part_multiplied_by_zero_has_no_gradient(tmp_path):
    """The head is frozen at zero, so that nothing flows back to anything."""
    trainer, _ = make_trainer(Config(**{"out": tmp_path / "run", **DEFAULTS, **LONG, "steps": 300}))
    for parameter in trainer.predictor.head.parameters():
        parameter.requires_grad_(False).zero_()
    trainer.fit()
    (finding,) = found(tmp_path / "run").values()
    assert finding.name == "dead gradient"
    assert "gradient norm 0, loss" in finding.saw


def test_weights_that_explode_in_the_middle(tmp_path):
    settings = {"out": tmp_path / "run", **DEFAULTS, **LONG, "steps": 300, "learning_rate": 3e-3, "clip": 0.0}
    trainer, _ = make_trainer(Config(**settings))
    original = trainer.data.batches

    def exploding(start):
        for step, batch in enumerate(original(start)):
            if step == 200:
                with torch.no_grad():
                    trainer.predictor.head.weight *= 1000
            yield batch

    trainer.data.batches = exploding
    trainer.fit()
    entries = read_journal(tmp_path / "run" / "journal.jsonl")
    assert exploding_gradient(entries).since == 220
    (finding,) = found(tmp_path / "run").values()
    assert (finding.name, finding.since) == ("diverged", 220)
    assert told(tmp_path / "run") == {"diverged": 260}


def test_pictures_learned_by_heart(tmp_path):
    """Four pictures of noise, forty times over; others for validation."""
    trainer, _ = make_trainer(
        Config(**{"out": tmp_path / "run", **DEFAULTS, **LONG, "steps": 300, "learning_rate": 0.01,
                  "validate_every": 60})
    )  # fmt: skip
    noise = torch.randint(0, 256, (2 * COUNT, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    trainer.data.images = noise[:4].byte().repeat(COUNT // 4, 1, 1, 1)
    others = Pictures(8, 0)
    others.images = noise[COUNT:].byte()
    trainer.validation = others.frozen
    trainer.fit()
    (finding,) = found(tmp_path / "run").values()
    assert (finding.name, finding.flag, finding.since) == ("overfitting", "--steps", 60)
    assert finding.change.startswith("60,")


def test_a_slow_loader(tmp_path, capsys):
    train(tmp_path / "run", steps=10, log_every=1, delay=0.2)
    (finding,) = examine(tmp_path / "run").findings
    assert (finding.name, finding.flag, finding.since) == ("waiting for data", "--workers", 2)
    assert not finding.hopeless
    assert capsys.readouterr().out.count("warning    waiting for data, since step 2: ") == 1


def test_a_run_that_ended_at_a_loss_that_is_no_number(tmp_path):
    trainer, _ = make_trainer(Config(**{"out": tmp_path / "run", **DEFAULTS}))
    original = trainer.data.batches

    def poisoned(start):
        for step, batch in enumerate(original(start)):
            if step == 6:
                with torch.no_grad():
                    trainer.predictor.head.bias[0] = torch.inf
            yield batch

    trainer.data.batches = poisoned
    with pytest.raises(UserError, match="step 7 is not finite"):
        trainer.fit()
    (finding,) = found(tmp_path / "run").values()
    assert (finding.name, finding.since) == ("loss or gradient not finite", 7)
    train(tmp_path / "run", resume=True)
    assert found(tmp_path / "run") == {}


def test_stopping_when_unhealthy_and_going_on_nevertheless(tmp_path):
    sick = ContrastiveConfig(favoured=30.0, diversity=0.0)
    trainer, _ = contrastive_trainer(tmp_path / "run", sick, steps=120, stop_when_unhealthy=True)
    with pytest.raises(UserError, match=r"stopped after step 60, as --stop-when-unhealthy asks\. codes collapsed"):
        trainer.fit()
    assert trainer.run.checkpoints.steps() == [60]
    trainer, checkpoint = contrastive_trainer(tmp_path / "run", sick, steps=120, stop_when_unhealthy=True, resume=True)
    assert trainer.fit(checkpoint)
    assert list(told(tmp_path / "run").values()) == [60]


def test_a_slow_loader_does_not_stop_a_run(tmp_path):
    trainer = train(tmp_path / "run", steps=10, log_every=1, delay=0.2, stop_when_unhealthy=True)
    assert trainer.step == 10
    assert trainer.hopeless is None

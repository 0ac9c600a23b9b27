"""The loop: exact resumption, accumulation, schedule, signals, and what happens when something goes wrong."""

import dataclasses
import json
import math
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from children import fork, wait
from tiny import COUNT, DEFAULTS, Config, Pictures, make_trainer, tiny_predictor, train

from mmssl.errors import UserError, one_sentence_errors
from mmssl.predictors import load_predictor
from mmssl.predictors.base import outcome_of
from mmssl.training.journal import Journal, read_journal
from mmssl.training.optimizer import learning_rate_at, make_optimizer, parameter_groups

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).with_name("tiny.py")
# a loader may be found slow in one run only
TIMING = {"samples_per_second", "data_wait", "seconds", "validation_seconds", "findings"}


def numbers(run: Path) -> list[dict]:
    """The journal without what a clock wrote."""
    return [{k: v for k, v in entry.items() if k not in TIMING} for entry in read_journal(run / "journal.jsonl")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_predictor(run).state_dict()


def assert_same_run(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_journal_has_the_promised_keys(tmp_path):
    train(tmp_path / "run")
    entries = read_journal(tmp_path / "run" / "journal.jsonl")
    assert [entry["step"] for entry in entries] == [2, 4, 6, 8, 10, 12]
    for entry in entries:
        assert {"step", "loss", "reference", "skill", "learning_rate", "samples_per_second"} <= entry.keys()
        assert entry["skill"] == pytest.approx(1 - entry["loss"] / entry["reference"], abs=1e-6)
        assert ("val_loss" in entry) == ("val_skill" in entry) == (entry["step"] in (6, 12))


def test_training_learns(tmp_path):
    train(tmp_path / "run", steps=150, dropout=0.0, learning_rate=3e-3, log_every=50, validate_every=150)
    first, *_, last = read_journal(tmp_path / "run" / "journal.jsonl")
    assert last["skill"] > first["skill"] + 0.1
    assert last["val_skill"] > 0.1


def test_interrupted_in_every_place_equals_uninterrupted(tmp_path):
    train(tmp_path / "whole")
    for stop in (1, 3, 5, 6, 11):
        out = tmp_path / f"stopped-{stop}"
        trainer, checkpoint = make_trainer(Config(out=out, **DEFAULTS))
        step = trainer._optimizer_step

        def step_then_interrupt(*arguments, trainer=trainer, step=step, stop=stop):
            step(*arguments)
            trainer.interrupted = trainer.step == stop

        trainer._optimizer_step = step_then_interrupt
        assert trainer.fit(checkpoint) is False
        torch.manual_seed(999)
        train(out, resume=True)
        assert_same_run(tmp_path / "whole", out)


def test_killed_process_resumes_bit_exactly(tmp_path):
    """SIGKILL, then a run to the end by another process: the last digit agrees with an undisturbed run.

    At many random moments, and at those that hurt, in tests/faults.
    """
    changes = {"steps": 60, "delay": 0.005, "checkpoint_every": 7}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, **changes)
    flags = [word for name, value in changes.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    first = subprocess.Popen([sys.executable, SCRIPT, "--out", killed, *flags], stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"started\n"
    time.sleep(random.Random(0).uniform(0.02, 0.25))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    train(killed, resume=True, **changes)
    assert_same_run(whole, killed)


def test_control_c_saves_and_ends_cleanly(tmp_path):
    out = tmp_path / "run"
    flags = ["--out", out, "--steps", "100000", "--checkpoint-every", "100000"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    while not (out / "journal.jsonl").exists() or not (out / "journal.jsonl").read_text():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    state = json.loads(
        (out / "checkpoints" / (out / "checkpoints" / "latest").read_text().strip() / "state.json").read_text()
    )
    assert state["step"] >= read_journal(out / "journal.jsonl")[-1]["step"] > 0


def first_gradients(out: Path, **changes) -> dict[str, torch.Tensor]:
    trainer, _ = make_trainer(Config(**{"out": out, **DEFAULTS, "dropout": 0.0, "steps": 1, **changes}))
    seen = {}
    trainer.optimizer.step = lambda: seen.update(
        {name: p.grad.clone() for name, p in trainer.predictor.named_parameters() if p.grad is not None}
    )
    trainer.fit()
    return seen


def test_accumulation_gives_the_step_of_one_large_batch(tmp_path):
    """Gradients, not weights: Adam turns the rounding noise of a zero gradient (a key's bias) into a full step."""
    one, four = first_gradients(tmp_path / "one"), first_gradients(tmp_path / "four", accumulation=4)
    assert one.keys() == four.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, four[name], rtol=1e-4, atol=1e-6, msg=name)
    for left, right in zip(numbers(tmp_path / "one"), numbers(tmp_path / "four"), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-6)
        assert left["gradient_norm"] == pytest.approx(right["gradient_norm"], rel=1e-5)


def test_accumulation_weighs_by_hidden_positions_not_by_micro_batch(tmp_path):
    """Micro-batches of unequal counts: a mean of means would weigh the small one too much."""
    trainer, _ = make_trainer(Config(out=tmp_path / "run", **DEFAULTS, accumulation=2))
    parameter = torch.nn.Parameter(torch.zeros(()))

    class Counted(torch.nn.Module):
        def forward(self, batch):
            return outcome_of(
                {"loss": parameter * batch["slope"], "reference": torch.ones(()), "count": batch["count"]}
            )

    trainer.model = trainer.predictor = Counted()
    trainer.predictor.weight = parameter
    trainer.config = dataclasses.replace(trainer.config, clip=0.0)
    trainer.optimizer = torch.optim.SGD([{"params": [parameter]}], lr=0.0)
    seen = []
    trainer.optimizer.step = lambda: seen.append(parameter.grad.item())
    from mmssl.training.loop import _Clock

    stream = iter(
        [
            {"slope": torch.tensor(6.0), "count": torch.tensor(1.0)},
            {"slope": torch.tensor(0.0), "count": torch.tensor(3.0)},
        ]
    )
    trainer._optimizer_step(stream, _Clock(0))
    assert seen == [6.0 / 4.0]


def test_clipping_bounds_the_gradient(tmp_path):
    trainer, _ = make_trainer(Config(out=tmp_path / "run", **DEFAULTS, clip=1e-3))
    seen = []
    original = trainer.optimizer.step

    def record_then_step():
        gradients = [p.grad for p in trainer.predictor.parameters() if p.grad is not None]
        seen.append(torch.nn.utils.get_total_norm(gradients))
        original()

    trainer.optimizer.step = record_then_step
    trainer.fit()
    assert all(norm.item() == pytest.approx(1e-3, rel=1e-2) for norm in seen)
    assert all(entry["gradient_norm"] > 1e-2 for entry in numbers(tmp_path / "run")), (
        "the journal holds the norm before"
    )


def test_no_decay_by_name():
    groups = parameter_groups(tiny_predictor(Config(out=Path("x"), **DEFAULTS)), 0.05)
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    free = {name for group in groups if not group["weight_decay"] for name in group["names"]}
    assert "cls_token" in free
    assert "mask_token" in free
    assert "encoder.blocks.0.norm1.weight" in free
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert all(not name.endswith("bias") for name in decayed)
    assert "encoder.blocks.0.attention.qkv.weight" in decayed


def test_learning_rate_schedule():
    rates = [learning_rate_at(step, 2.0, 10, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[109] == pytest.approx(1 + math.cos(math.pi * 99 / 100))
    assert max(rates) == 2.0


def test_a_changed_objective_is_refused_with_the_difference(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(UserError, match=r"predictor mask_fraction: was 0\.75, now 0\.5"):
        train(tmp_path / "run", resume=True, mask_fraction=0.5)
    with pytest.raises(UserError, match="config learning_rate"):
        train(tmp_path / "run", resume=True, learning_rate=5e-4)
    train(tmp_path / "run", resume=True, log_every=3)


def test_an_existing_run_is_not_overwritten(tmp_path):
    train(tmp_path / "run")
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run"):
        train(tmp_path / "run")
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="no run to resume"):
        train(tmp_path / "nothing", resume=True)


def test_a_place_where_no_folder_can_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file is a file: choose a folder"):
        train(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be made"):
        train(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


def test_not_a_number_names_step_samples_and_checkpoint(tmp_path):
    trainer, checkpoint = make_trainer(Config(out=tmp_path / "run", **DEFAULTS))
    original = trainer.data.batches
    expected = trainer.data.names(6)

    def poisoned(start):
        for index, batch in enumerate(original(start)):
            if index == 6:
                with torch.no_grad():
                    trainer.predictor.head.bias[0] = torch.inf
            yield batch

    trainer.data.batches = poisoned
    with pytest.raises(UserError) as caught:
        trainer.fit(checkpoint)
    message = str(caught.value)
    assert "step 7" in message
    assert all(name in message for name in expected)
    assert "step-00000004" in message
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


def test_without_its_newest_checkpoint_a_run_goes_on_from_the_one_before(tmp_path):
    run = tmp_path / "run"
    train(run)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    train(run, resume=True)
    train(tmp_path / "whole")
    assert_same_run(run, tmp_path / "whole")


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train(tmp_path / "run", steps=20, keep_checkpoints=3)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["latest", "step-00000012", "step-00000016", "step-00000020"]


def test_checkpoint_by_time(tmp_path):
    trainer = train(tmp_path / "run", steps=4, checkpoint_every=1000, checkpoint_minutes=1e-9, keep_checkpoints=9)
    assert trainer.run.checkpoints.steps() == [1, 2, 3, 4]


def test_full_disk_while_saving_loses_nothing(tmp_path):
    """A real write failure: the process may not write files larger than a limit that the next checkpoint exceeds."""
    run = tmp_path / "run"

    def fill() -> None:
        with one_sentence_errors():
            trainer, _ = make_trainer(Config(out=run, **DEFAULTS))
            save = trainer.save

            def limited() -> None:
                if trainer.step == 8:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
                save()

            trainer.save = limited
            trainer.fit()

    child = fork(fill, errors=tmp_path / "said")
    assert wait(child) == 2
    assert (tmp_path / "said").read_text().startswith("error: ")
    assert "Traceback" not in (tmp_path / "said").read_text()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["latest", "step-00000004"]
    train(run, resume=True)
    train(tmp_path / "whole")
    assert_same_run(run, tmp_path / "whole")


def test_torn_journal_line_is_dropped_and_damage_is_named(tmp_path):
    file = tmp_path / "journal.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_journal(file) == [{"step": 1}, {"step": 2}]
    journal = Journal(file, 1)
    journal.write({"step": 2, "loss": float("nan")})
    journal.close()
    assert read_journal(file) == [{"step": 1}, {"step": 2, "loss": None}]
    file.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        read_journal(file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "--steps must be at least 1"),
        ({"batch_size": 8, "accumulation": 3}, "cannot be split into 3"),
        ({"learning_rate": -1.0}, "--learning-rate must be positive"),
        ({"mask_fraction": 1.0}, "--mask-fraction must lie between 0 and 1"),
        ({"betas": (0.9, 1.0)}, "--betas must lie between 0 and 1"),
        ({"warmup_steps": -1}, "--warmup-steps cannot be negative"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        Config(**{"out": tmp_path, **DEFAULTS, **changes})


def test_saved_optimizer_state_is_restored_exactly(tmp_path):
    trainer = train(tmp_path / "run")
    fresh = make_optimizer(tiny_predictor(trainer.config), trainer.config.weight_decay, trainer.config.betas)
    model = tiny_predictor(trainer.config)
    fresh = make_optimizer(model, trainer.config.weight_decay, trainer.config.betas)
    trainer.run.checkpoints.restore(trainer.run.checkpoints.latest(), model, fresh)
    old = trainer.optimizer.state_dict()["state"]
    new = fresh.state_dict()["state"]
    assert old.keys() == new.keys()
    for index, entry in old.items():
        for key, value in entry.items():
            assert torch.equal(value, new[index][key])


def test_no_sample_is_repeated_or_lost_in_an_epoch():
    pictures = Pictures(batch_size=8, seed=3)
    stream = pictures.batches(0)
    ids = torch.cat([next(stream)["id"] for _ in range(2 * COUNT // 8)])
    assert sorted(ids[:COUNT].tolist()) == sorted(ids[COUNT:].tolist()) == list(range(COUNT))
    assert not torch.equal(ids[:COUNT], ids[COUNT:])


@pytest.mark.parametrize(
    ("found", "precision", "said"), [(True, "auto", True), (True, "fp32", False), (False, "auto", False)]
)
def test_a_user_is_told_of_a_faster_precision(found, precision, said, tmp_path, monkeypatch, capsys):
    from mmssl.training import run

    monkeypatch.setattr(run, "cpu_has_bf16", lambda: found)
    config = Config(**{"out": tmp_path / "run", **DEFAULTS, "precision": precision})
    run.say_start(config, tiny_predictor(config), {"train": COUNT, "val": COUNT}, torch.device("cpu"))
    assert ("--precision bf16" in capsys.readouterr().out) == said

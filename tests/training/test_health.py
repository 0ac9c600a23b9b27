"""The doctor: each illness by a run that has it, health by runs that learn, and what is printed."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch
from tiny import COUNT, DEFAULTS, Config, Pictures, make_trainer, train
from tiny_contrastive import ContrastiveConfig, Recordings, TinyContrastive
from tiny_language import Sentences, tiny_bert

from mmssl import cli
from mmssl.errors import UserError
from mmssl.training.collapse import collapse_b, collapse_c, few_codes, vanishing_variance
from mmssl.training.config import RunConfig
from mmssl.training.doctor import examine, print_examination
from mmssl.training.finding import Finding, after_warmup, gain, lasting
from mmssl.training.health import (
    BESIDE,
    STATES,
    Watch,
    diagnose,
    diverged,
    exploding_gradient,
    loss_spikes,
    overfitting,
    plateau,
    slow_loader,
)
from mmssl.training.journal import read_journal
from mmssl.training.loop import Trainer

LONG = {"log_every": 20, "validate_every": 100, "checkpoint_every": 10_000, "dropout": 0.0}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    """Too high a rate and nothing that keeps codes in use: skill looks well, on fewer than three codes."""
    run = listen(tmp_path / "run", ContrastiveConfig(diversity=0.0), learning_rate=0.03)
    assert read_journal(run / "journal.jsonl")[-1]["skill"] > 0.5
    (finding,) = found(run).values()
    assert finding.name == "nearly all frames have the same code"
    assert finding.flag == "--learning-rate"


@pytest.mark.parametrize("rate", [0.3, 3.0])
def test_a_learning_rate_far_too_high_for_pictures(tmp_path, rate):
    run = tmp_path / "run"
    train(run, **LONG | {"log_every": 10, "steps": 400, "learning_rate": rate})
    assert told(run)
    assert {finding.flag for finding in found(run).values()} == {"--learning-rate"}


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
    trainer, _ = make_trainer(Config(**{"out": tmp_path / "run", **DEFAULTS, **LONG, "steps": 300, "clip": 0.0}))
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
    train(tmp_path / "run", steps=10, log_every=1, delay=0.1)
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
    with pytest.raises(UserError, match="stopped after step 60, as --stop-when-unhealthy asks. codes collapsed"):
        trainer.fit()
    assert trainer.run.checkpoints.steps() == [60]
    trainer, checkpoint = contrastive_trainer(tmp_path / "run", sick, steps=120, stop_when_unhealthy=True, resume=True)
    assert trainer.fit(checkpoint)
    assert list(told(tmp_path / "run").values()) == [60]


def test_a_slow_loader_does_not_stop_a_run(tmp_path):
    trainer = train(tmp_path / "run", steps=10, log_every=1, delay=0.1, stop_when_unhealthy=True)
    assert trainer.step == 10
    assert trainer.hopeless is None


# Thresholds, on journals that are made up


def journal(count: int = 40, every: int = 50, **columns) -> list[dict]:
    """A run that learns, with a warm-up of two lines; ``columns`` replace numbers, given by line."""
    entries = []
    for line in range(count):
        rate = 1e-3 * ((line + 1) / 2 if line < 2 else 1 - line / count)
        skill = 0.5 * (1 - 0.8**line)
        entry = {"step": (line + 1) * every, "loss": 1 - skill, "reference": 1.0, "skill": skill, "gradient_norm": 0.5,
                 "learning_rate": rate, "data_wait": 0.02}  # fmt: skip
        entries.append(entry | {name: numbers(line) for name, numbers in columns.items()})
    return entries


def test_made_up_health_is_silent_at_every_line():
    entries = journal(accuracy=lambda line: 0.7 * line / 40, code_perplexity=lambda line: 200 - 180 * (2 < line < 9),
                      contrastive_loss=lambda line: 4.6 - line / 20, excluded_negatives=lambda _: 0.01)  # fmt: skip
    for end in range(len(entries) + 1):
        assert diagnose(entries[:end]) == []
    for check in (*STATES, *BESIDE):
        assert check([]) is check([{"step": 1}]) is check([{"step": 1, "skill": None, "gradient_norm": None}]) is None


def test_nothing_is_judged_in_warm_up():
    entries = [entry | {"learning_rate": entry["step"]} for entry in journal(skill=lambda _: -0.5)]
    assert after_warmup(entries) == []
    assert after_warmup([{"step": 1}]) == ()
    assert diagnose(entries) == []


@pytest.mark.parametrize(("skill", "ill"), [(0.0, True), (0.019, True), (0.03, False), (-0.05, True)])
def test_plateau(skill, ill):
    assert bool(plateau(journal(skill=lambda _: skill))) == ill


def test_a_plateau_needs_its_time_and_may_be_left():
    flat = journal(skill=lambda _: 0.001)
    first = next(end for end in range(len(flat)) if plateau(flat[:end]))
    assert flat[first - 1]["step"] - flat[2]["step"] == 1000
    assert plateau(journal(skill=lambda line: 0.0004 * line)) is None  # it begins to rise
    assert plateau(journal(skill=lambda line: 0.0 if line < 38 else 0.2)) is None


@pytest.mark.parametrize(("level", "ill"), [(0.2, True), (0.3, False)])
def test_lost_skill(level, ill):
    entries = journal(skill=lambda line: 0.5 if line < 30 else level)
    assert bool(diverged(entries)) == ill
    assert diverged(entries[:32]) is None  # two lines may be chance
    assert diverged([entry | {"target_std": 1.0} for entry in entries]) is None  # a teacher's targets move


def test_spikes_that_recover():
    def spiky(number):
        return journal(skill=lambda line: 0.1 if line in range(22, 22 + 5 * number, 5) else 0.5)

    assert loss_spikes(spiky(2)) is None
    finding = loss_spikes(spiky(3))
    assert finding.since == 23 * 50
    assert "3 spikes in 20 lines, the largest costing 0.40 of skill" in finding.saw
    noisy = torch.randn(40, generator=torch.Generator().manual_seed(0)).mul(0.1).tolist()
    assert loss_spikes(journal(skill=lambda line: 0.5 + noisy[line])) is None
    assert loss_spikes(journal(skill=lambda line: 0.5 if line < 30 else 0.3)) is None  # a step, not a spike


@pytest.mark.parametrize(("norm", "ill"), [(60.0, True), (40.0, False)])
def test_exploding_gradient(norm, ill):
    assert bool(exploding_gradient(journal(gradient_norm=lambda line: norm if line > 36 else 0.5))) == ill


@pytest.mark.parametrize(("share", "ill"), [(0.31, True), (0.29, False)])
def test_waiting(share, ill):
    assert bool(slow_loader(journal(data_wait=lambda _: share))) == ill
    assert slow_loader(journal(data_wait=lambda line: 0.9 * (line < 4))) is None


@pytest.mark.parametrize(("fall", "rise", "ill"), [(0.03, 0.03, True), (0.01, 0.03, False), (0.03, 0.0, False)])
def test_overfitting(fall, rise, ill):
    entries = journal(skill=lambda line: 0.3 + rise * (line > 20))
    for line in (9, 19, 29, 39):
        entries[line]["val_skill"] = 0.3 - fall * (line > 20)
    finding = overfitting(entries)
    assert bool(finding) == ill
    assert not ill or finding.since == 500


@pytest.mark.parametrize("name", ["target_std", "prediction_std", "latent_std"])
def test_variance_that_vanishes(name):
    least = 0.1 if name == "target_std" else 0.01
    assert vanishing_variance(journal(**{name: lambda _: 1.1 * least})) is None
    finding = vanishing_variance(journal(**{name: lambda line: 1.0 if line < 20 else 0.5 * least}))
    assert finding.since == 21 * 50
    assert finding.name == f"{name.removesuffix('_std')}s are all but constant"
    assert vanishing_variance(journal(**{name: lambda line: 0.02 * least * line})) is None  # it rises
    variance = {name.replace("std", "variance"): lambda _: (0.9 * least) ** 2}
    assert vanishing_variance(journal(**variance)).since == 150


def test_published_logs_of_collapses():
    """fairseq#3109 (B, in bits there), fairseq#3687 (C, its first two lines are not yet one) and a healthy fairseq#2981."""
    stuck = {"skill": 0.0, "contrastive_loss": 4.615, "reference": 4.615, "excluded_negatives": 0.0, "accuracy": 0.42,
             "gradient_norm": 0.0, "code_perplexity": 353.3, "code_perplexity_soft": 639.98}  # fmt: skip
    entries = journal(**{name: lambda _, number=number: number for name, number in stuck.items()})
    (finding,) = diagnose(entries)
    assert "collapse B" in finding.name
    assert "code perplexity soft 640, code perplexity 353.3" in finding.saw
    early = {"accuracy": (0.073, 0.228, 0.95), "code_perplexity": (105.2, 38.2, 20.0)}
    columns = {name: lambda line, of=numbers: of[min(line, 2)] for name, numbers in early.items()}
    entries = journal(every=200, contrastive_loss=lambda line: 4.4 / (line + 1), **columns)
    assert collapse_c(entries[:4]) is None
    assert collapse_c(entries[:5]).since == 600
    healthy = journal(accuracy=lambda _: 0.496, code_perplexity=lambda line: 17.8 if line else 300.0,
                      contrastive_loss=lambda _: 2.6)  # fmt: skip
    assert diagnose(healthy) == []


def test_excluded_negatives_make_chance_easier_not_the_run_better():
    """With 72 % of 11 negatives excluded chance is ln(1 + 0.28 * 11), a seeming skill of 0.43."""
    entries = journal(skill=lambda _: 0.43, contrastive_loss=lambda _: 1.406, reference=lambda _: 2.4849,
                      excluded_negatives=lambda _: 0.72, code_perplexity=lambda _: 9.0,
                      gradient_norm=lambda _: 1e-6)  # fmt: skip
    assert "collapse B" in collapse_b(entries).name
    assert collapse_b([entry | {"contrastive_loss": 1.3} for entry in entries]) is None


def test_given_codes_that_are_not_used():
    finding = few_codes(journal(code_perplexity=lambda _: 1.5))
    assert finding.flag == "--data"


def test_helpers():
    entries = [{"step": step, "x": x} for step, x in enumerate((1.0, 0.0, 0.0, 0.0))]
    assert [entry["step"] for entry in lasting(entries, lambda entry: entry["x"] == 0)] == [1, 2, 3]
    assert lasting(entries, lambda entry: entry["x"] == 0, steps=3) == ()
    assert lasting(entries, lambda entry: entry["x"] == 0, lines=4) == ()
    assert gain(entries, "x") == -1.0
    assert gain([{"x": -9.0}, {"x": -3.0}], "x", floor=-1.0) == 0.0


def test_watching_a_long_run_costs_little_and_forgets_no_validation():
    watch = Watch()
    entries = journal(4000)
    for entry in entries[9::10]:
        entry["val_skill"] = entry["skill"]
    for entry in entries[:-200]:
        assert watch.look(entry) == []
    start = time.process_time()
    for entry in entries[-200:]:
        watch.look(entry)
    assert (time.process_time() - start) / 200 < 0.05  # 2 ms on a quiet core
    assert len(watch.entries) < 900
    assert sum("val_skill" in entry for entry in watch.entries) == 400


# The command


def write_run(folder: Path, text: str, steps: int | None = 2000) -> Path:
    folder.mkdir()
    (folder / "journal.jsonl").write_text(text)
    if steps:
        settings = {"steps": steps, "log_every": 50, "learning_rate": 0.001}
        (folder / "config.json").write_text(json.dumps({"config": settings}))
    return folder


def lines(entries: list[dict]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_the_command_and_its_exit_code(tmp_path, capsys):
    well, sick = journal(), journal(skill=lambda _: 0.0)
    well[29]["val_skill"] = 0.48
    cli.main(["doctor", str(write_run(tmp_path / "well", lines(well)))])
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/well  step 2,000 of 2,000, finished",
        "loss 0.5001  skill 0.4999  waiting for data 2%  val_skill 0.48  gradient_norm 0.5",
        "nothing to worry about",
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", str(write_run(tmp_path / "sick", lines(sick)))])
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "\nstuck at the trivial guess, since step 150\n  saw     loss " in out
    assert "\n  change  --learning-rate (now 0.001): start again with a third of it" in out


def test_on_a_terminal(tmp_path):
    from io import StringIO

    from rich.console import Console

    run = write_run(tmp_path / "[run]", lines(journal(skill=lambda _: 0.0)))
    console = Console(file=StringIO(), force_terminal=True, width=60)
    print_examination(examine(run), console)
    assert "\x1b[1;31mstuck at the trivial guess" in console.file.getvalue()
    assert "[run]" in console.file.getvalue()


def test_unfinished_and_cut_journals(tmp_path, capsys):
    text = lines(journal(3))
    cli.main(["doctor", str(write_run(tmp_path / "cut", text + '{"step": 200, "lo'))])
    out = capsys.readouterr().out
    assert "step 150 of 2,000, not finished, last line cut" in out
    cli.main(["doctor", str(write_run(tmp_path / "bare", lines(journal(3, skill=lambda _: -0.5)), steps=None))])
    out = capsys.readouterr().out
    assert "bare  step 150\n" in out
    assert "nothing to worry about yet, but the run is too short to tell" in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"has no complete line: its first line comes after 50 steps \(--log-every\)"),
        ('{"step": 5', "has no complete line"),
        ("[]\n", "is not the journal of a run"),
        ('{"loss": 1}\n', "is not the journal of a run"),
        ('{"step": 5}\nrubbish\n{"step": 6}\n', "line 2 is damaged"),
    ],
)
def test_journals_that_say_nothing(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        examine(write_run(tmp_path / "run", text))


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"journal\.jsonl does not exist: give the folder of a run"):
        examine(tmp_path)

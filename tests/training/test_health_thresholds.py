"""The doctor's thresholds, on journals that are made up."""

import pytest
import torch
from journals import journal

from mmssl.training.collapse import collapse_b, collapse_c, few_codes, vanishing_variance
from mmssl.training.finding import after_warmup, gain, lasting
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


def test_more_codes_make_the_task_harder():
    skill = {"skill": lambda line: 0.5 if line < 30 else 0.2}
    assert diverged(journal(**skill, code_perplexity=lambda line: 20.0 if line < 30 else 100.0)) is None
    assert diverged(journal(**skill, code_perplexity=lambda _: 20.0))


def test_spikes_that_recover():
    def spiky(number):
        return journal(skill=lambda line: 0.1 if line in range(25, 25 + 5 * number, 5) else 0.5)

    assert loss_spikes(spiky(2)) is None
    finding = loss_spikes(spiky(3))
    assert finding.since == 26 * 50
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
    """fairseq#3109 (B, in bits there), fairseq#3687 (C, not yet in its first two lines), and fairseq#2981, healthy."""
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


def test_watching_a_long_run_keeps_few_lines_and_forgets_no_validation(monkeypatch):
    monkeypatch.setattr(Watch, "KEPT", 20)
    watch = Watch()
    entries = journal(150)
    for entry in entries[19::20]:
        entry["val_skill"] = entry["skill"]
    for entry in entries:
        assert watch.look(entry) == []
    assert len(watch.entries) <= 2 * 7 + 2 * Watch.KEPT < 150
    assert sum("val_skill" in entry for entry in watch.entries) == 7

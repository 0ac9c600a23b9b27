"""Several pretext tasks at equal budget under one probe: what is equal is equal, and nothing is done twice."""

import json
import statistics

import pytest
import torch
from scripts import ROOT, load_script, run

from mmssl.errors import INTERRUPTED
from mmssl.evaluation.classifiers import nearest_neighbours
from mmssl.evaluation.features import extract, frozen, raw_features
from mmssl.evaluation.image_runs import labelled_images
from mmssl.predictors import load_predictor

SHORT = ["--preset", "pico", "--steps", "2", "--batch-size", "8", "--labels", "12", "--finetune-steps", "1",
         "--label", "shape", "--device", "cpu", "--workers", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def script():
    return load_script(ROOT / "recipes" / "compare_perturbations.py")


@pytest.fixture(scope="module")
def compared(script, world, tmp_path_factory):
    """All runs with one seed, stopped once on the way; what was trained and probed each time."""
    from mmssl.training.loop import Trainer

    out = tmp_path_factory.mktemp("runs") / "compared"
    flags = ["--data", str(world), "--out", str(out), *SHORT, "--seeds", "0"]
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer._optimizer_step

        def interrupted(self, *arguments):
            step(self, *arguments)
            self.interrupted = self.predictor.name == "colorization"

        patch.setattr(Trainer, "_optimizer_step", interrupted)
        with pytest.raises(SystemExit) as stop:
            script.main([*flags, "--runs", "MAE", "colorization"])
        assert stop.value.code == INTERRUPTED
    before = (out / "MAE-seed-0" / "journal.jsonl").read_text()
    with counted(script) as done:
        script.main(flags)
    assert (out / "MAE-seed-0" / "journal.jsonl").read_text() == before
    return out, flags, done


class counted:  # noqa: N801 - used as a context
    """What is trained and probed inside."""

    def __init__(self, script):
        self.patch, self.script, self.trained, self.probed = pytest.MonkeyPatch(), script, [], []

    def __enter__(self):
        train, probe = self.script.train, self.script.probe
        self.patch.setattr(self.script, "train", lambda *a: (self.trained.append(a[1].name), train(*a))[1])
        self.patch.setattr(self.script, "probe", lambda *a, **k: (self.probed.append(k["seeds"]), probe(*a, **k))[1])
        return self

    def __exit__(self, *_):
        self.patch.undo()


def test_what_is_finished_is_not_done_again(compared):
    """MAE was finished, raw pixels and an untrained encoder probed, when colorization was stopped."""
    _, _, done = compared
    others = ("SimMIM", "colorization", "inpainting", "super-resolution", "blur", "mask-zoom")
    assert done.trained == [f"{name}-seed-0" for name in others]
    assert len(done.probed) == 6


def test_all_encoders_and_their_training_are_alike(compared, script):
    out, _, _ = compared
    configs = [json.loads((folder / "config.json").read_text()) for folder in out.glob("*-seed-0")]
    assert len(configs) == len(script.RUNS) == 7
    for part, names in {
        "config": (
            "steps",
            "batch_size",
            "learning_rate",
            "weight_decay",
            "betas",
            "seed",
            "crop_scale",
            "flip",
            "clip",
        ),
        "predictor": ("encoder", "patch_size", "image_size", "mean", "std"),
        "data": ("train", "fingerprint"),
    }.items():
        for name in names:
            assert all(config[part][name] == configs[0][part][name] for config in configs), name
    assert all(config["predictor"].get("detail", 0) == 0 for config in configs)
    shapes = []
    for folder in out.glob("*-seed-0"):
        predictor = load_predictor(folder)
        batch = {"image": torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "id": torch.zeros(1, dtype=torch.int64)}
        tokens: list[int] = []
        trunk = predictor.encoder if hasattr(predictor, "encoder") else predictor.network.backbone.encoder
        trunk.blocks[0].register_forward_pre_hook(lambda _m, inputs, seen=tokens: seen.append(inputs[0].shape[1]))
        features = predictor.encode_layers(batch)
        shapes.append((tokens, sorted(features), features["mean"].shape))
    assert all(shape == shapes[0] for shape in shapes)
    assert shapes[0][0] == [65]


def test_accuracies_are_those_of_the_encoders(compared, world):
    """Nearest neighbours of one run and of raw pixels, found again by hand."""
    out, _, _ = compared
    found = json.loads((out / "comparison.json").read_text())
    predictor = load_predictor(out / "blur-seed-0")
    train, test = labelled_images(predictor, str(world), "shape")
    for encode, feature, told in (
        (frozen(predictor), "mean", found["runs"]["blur"]["0"]["accuracies"]),
        (raw_features, "flat", found["raw input"]["accuracies"]),
    ):
        (known, labels), (unknown, truth) = extract(encode, train), extract(encode, test)
        nearest = nearest_neighbours(known[feature], labels, unknown[feature], len(train.names))
        assert told["20-NN, all"] == [pytest.approx(float((nearest == truth).float().mean()))]
    columns = ["20-NN, all", "linear, 12", "linear, all", "linear, best layer", "fine-tuned, 12"]
    assert list(found["runs"]["blur"]["0"]["accuracies"]) == list(found["random init"]["0"]["accuracies"]) == columns
    assert list(found["raw input"]["accuracies"]) == columns[:3]


def test_another_seed_trains_and_probes_only_that(compared, script, capsys):
    out, flags, _ = compared
    some = ["--runs", "super-resolution", "blur"]
    with counted(script) as done:
        code, said, err = run(script.main, [*flags[:-1], "0", "1", *some], capsys)
    assert code == 0, err
    assert done.trained == ["super-resolution-seed-1", "blur-seed-1"]
    # raw pixels of both seeds at once; untrained encoders are now of the first run's kind
    assert sorted(map(list, done.probed)) == [[0], [0, 1], [1], [1], [1]]
    found = json.loads((out / "comparison.json").read_text())
    values = [found["runs"]["blur"][seed]["accuracies"]["linear, 12"][0] for seed in "01"]
    mean, std = (found["summary"]["blur"]["linear, 12"][name] for name in ("mean", "std"))
    assert (mean, std) == (pytest.approx(statistics.fmean(values)), pytest.approx(statistics.stdev(values)))
    line = next(line for line in said.splitlines() if line.strip().startswith("blur "))
    assert f"{100 * mean:.1f} ± {100 * std:.1f}" in line
    assert (out / "comparison.png").stat().st_size > 10_000
    with counted(script) as done:
        code, again, _ = run(script.main, [*flags[:-1], "0", "1", *some], capsys)
    assert (done.trained, done.probed) == ([], [])
    assert again == said[said.index("\n", said.rindex("... ")) + 1 :]


def test_mistakes_are_one_sentence(compared, script, capsys):
    _, flags, _ = compared
    for more, words in (
        (["--steps", "3"], "was trained with other flags"),
        (["--runs", "MEA"], "did you mean 'MAE'?"),
        (["--preset", "gigantic"], "choose one of"),
        (["--runs", "MAE", "--seeds", "0", "0"], "each seed once"),
    ):
        code, _, err = run(script.main, [*flags, *more], capsys)
        assert code == 2
        assert words in " ".join(err.replace("│", " ").split())
        assert "Traceback" not in err

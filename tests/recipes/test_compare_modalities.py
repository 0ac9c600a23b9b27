"""All modalities at once: what is done is not done again, what fails costs only itself, and time is shared out."""

import json
import sys
from types import ModuleType

import pytest
import torch
from scripts import ROOT, load_script, run

from mmssl.errors import INTERRUPTED
from mmssl.evaluation.probe_results import PRETRAINED, RAW, UNTRAINED
from mmssl.training.journal import read_journal

TINY = {
    "images": "--architecture cross_mae --batch-size 8 --validation-images 8",
    "text": "--preset bert_tiny --batch-size 2 --validation-tokens 300",
    "speech": "--batch-size 8 --max-seconds 4 --validation-seconds 8",
    "wav2vec2": "--preset gigantic",
    "sync": "--batch-size 2 --frames 20 --validation-clips 4",
    "senses": "--batch-size 2 --validation-clips 4",
}
FLAGS = ["--minutes", "0.01", "--scenes", "40", "--face-scenes", "10", "--labels", "size", "colour", "--device", "cpu",
         "--workers", "0", "--precision", "fp32"]  # fmt: skip


@pytest.fixture(scope="module")
def script():
    return load_script(ROOT / "recipes" / "compare_modalities.py")


@pytest.fixture(scope="module")
def compared(script, tmp_path_factory):
    """Everything, stopped once in the second part; folder, runs trained after that, arguments of the page."""
    from mmssl.training.loop import Trainer

    out, trained, pages = tmp_path_factory.mktemp("compared") / "runs", [], []
    report = ModuleType("mmssl.report")
    report.write_report = lambda runs, page, **others: (pages.append((runs, others)), page)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mmssl.report", report)
        patch.setattr(script, "PARTS", {name: script.PARTS[name]._replace(flags=TINY[name], pico="") for name in TINY})
        patch.setattr(script, "STUDIES", {name: study._replace(flags=f"{study.flags} --batch-size 4")
                                          for name, study in script.STUDIES.items() if name == "text"})  # fmt: skip
        patch.setattr(script, "VALIDATIONS", 2)
        patch.setattr(script, "LEAST_STEPS", 4)
        patch.setattr(sys.modules["comparison_config"], "GRIDS", ((2, 2, 1),))
        with pytest.MonkeyPatch.context() as inner:
            step = Trainer._optimizer_step

            def interrupted(self, *arguments):
                step(self, *arguments)
                self.interrupted = self.run.path.name == "text" and self.run.path.parent.name == "runs"

            inner.setattr(Trainer, "_optimizer_step", interrupted)
            with pytest.raises(SystemExit) as stop:
                script.main(["--out", str(out), *FLAGS])
            assert stop.value.code == INTERRUPTED
        before = (out / "images" / "journal.jsonl").read_text()
        train = script.train
        patch.setattr(script, "train", lambda *a: (trained.append(a[1].name), train(*a))[1])
        script.main(["--out", str(out), *FLAGS])
        assert (out / "images" / "journal.jsonl").read_text() == before
        yield out, trained, pages


def test_what_is_finished_is_not_done_again(compared, script):
    out, trained, pages = compared
    assert trained == ["text", "speech", "sync", "senses"]
    state = json.loads((out / "compared.json").read_text())
    script.main(["--out", str(out), *FLAGS])
    again = json.loads((out / "compared.json").read_text())
    assert trained == ["text", "speech", "sync", "senses"]
    assert again["done"] == state["done"]
    assert again["seconds"] >= state["seconds"] > 5
    assert [str(path.name) for path in pages[0][0]] == list(TINY)
    assert [path.name for path in pages[0][1]["sweeps"]] == ["unit-token", "unit-span"]


def test_what_fails_is_said_and_costs_only_itself(compared):
    out, _, _ = compared
    failed = json.loads((out / "compared.json").read_text())["failed"]
    assert list(failed) == ["pace of wav2vec2"]
    assert "--preset gigantic is unknown" in failed["pace of wav2vec2"]
    for name in TINY:
        assert (out / name / "journal.jsonl").is_file() == (name != "wav2vec2")
        if name != "wav2vec2":
            journal = read_journal(out / name / "journal.jsonl")
            assert journal[-1]["step"] == 4
            assert sum("val_skill" in entry for entry in journal) == 2
            assert any((out / name / "reveal").glob("reveal.*"))
    assert not any((out / "timing").iterdir())


def test_all_are_asked_about_the_same_scenes(compared):
    out, _, _ = compared
    for name in ("images", "text", "speech"):
        for label, classes in (("size", 3), ("colour", 8)):
            report = json.loads((out / name / "probe" / f"probe-{label}.json").read_text())
            assert len(report["names"]) == classes
            assert report["train_samples"] + report["test_samples"] == 40
            assert {row["representation"] for row in report["results"]} == {PRETRAINED, UNTRAINED, RAW}
    assert json.loads((out / "sync" / "retrieval" / "retrieval.json").read_text())
    (video,) = (out / "sync" / "reveal").glob("*.mp4")
    assert video.read_bytes() == next((out / "faces" / "faces").rglob(video.name)).read_bytes()
    assert not (out / "sync" / "probe").exists()
    faces = [json.loads(line) for line in (out / "faces" / "faces" / "manifest.jsonl").read_text().splitlines()]
    spoken = [json.loads(line) for line in (out / "world" / "speech" / "manifest.jsonl").read_text().splitlines()]
    assert [row["text"] for row in faces] == [row["text"] for row in spoken[:10]]


def test_a_sweep_of_two_flags_has_a_folder_a_line(compared):
    out, _, _ = compared
    swept = json.loads((out / "sweeps" / "text" / "sweep.json").read_text())
    assert (swept["flag"], swept["by"], swept["label"]) == ("mask-fraction", "unit", "size")
    for unit in ("token", "span"):
        folder = out / "sweeps" / "text" / f"unit-{unit}"
        line = json.loads((folder / "sweep.json").read_text())
        assert line["results"] == swept["lines"][unit]
        assert list(line["results"]) == ["0.15", "0.85"]
        for fraction, entries in line["results"].items():
            for seed, entry in enumerate(entries):
                one = folder / f"mask-fraction-{fraction}-seed-{seed}"
                config = json.loads((one / "config.json").read_text())["config"]
                assert (config["unit"], config["mask_fraction"], config["seed"]) == (unit, float(fraction), seed)
                assert entry["val_skill"] == read_journal(one / "journal.jsonl")[-1]["val_skill"]
                rows = json.loads((one / "probe" / "probe-size.json").read_text())["results"]
                assert entry["probe"] == next(
                    row["mean"] for row in rows if (row["method"], row["feature"]) == ("linear", "mean")
                )


def test_mistakes_are_one_sentence(compared, script, capsys):
    out, _, _ = compared
    for more, words in (
        (["--minutes", "5"], "was begun with --minutes 0.01, now it is 5.0"),
        (["--parts", "imags"], "did you mean 'images'?"),
        (["--sweeps", "video"], "--sweeps: there is no 'video'"),
        (["--minutes", "0"], "--minutes above 0"),
    ):
        code, _, err = run(script.main, ["--out", out, *FLAGS, *more], capsys)
        assert code == 2
        assert words in " ".join(err.replace("│", " ").split())
        assert "Traceback" not in err


def test_own_data_takes_the_place_of_the_world(script, world, tmp_path, capsys, monkeypatch):
    """Pictures alone, without labels of these names: trained and shown, not probed, and the rest is left out."""
    report = ModuleType("mmssl.report")
    report.write_report = lambda _runs, page, **_: page
    monkeypatch.setitem(sys.modules, "mmssl.report", report)
    monkeypatch.setattr(script, "PARTS", {"images": script.PARTS["images"]._replace(flags=TINY["images"])} | {
        name: part for name, part in script.PARTS.items() if name != "images"})  # fmt: skip
    monkeypatch.setattr(script, "LEAST_STEPS", 2)
    flags = [*FLAGS, "--images", world, "--labels", "species", "--sweeps"]
    code, said, err = run(script.main, ["--out", tmp_path / "mine", *flags], capsys)
    assert code == 0
    assert "left out: speech, for which there is no --speech" in said
    assert not (tmp_path / "mine" / "world").exists()
    assert "no column 'species'" in err
    assert said.strip().splitlines()[-1] == str(tmp_path / "mine" / "report.html")


@pytest.mark.usefixtures("script")
def test_time_becomes_steps(monkeypatch):
    settings = sys.modules["comparison_config"]
    monkeypatch.setattr(settings, "GRIDS", ((4, 2, 3), (4, 1, 3), (3, 1, 1)))
    pace = sys.modules["budget"].Pace(0.5, 10.0, 0)
    assert [pace.steps(seconds) for seconds in (4, 10, 60.4)] == [-12, 0, 100]
    # 24 runs of 60.4 s have 100 steps each, which is enough
    assert settings.grid(pace, 24 * 60.4, 20) == (4, 2, 3, 100)
    assert settings.grid(pace, 12 * 60.4, 20) == (4, 1, 3, 100)
    assert settings.grid(pace, 3 * 60.4, 20) == (3, 1, 1, 100)
    assert settings.grid(pace, 1.0, 20) == (3, 1, 1, 20)
    assert settings.spread("abcd", 4) == tuple("abcd")
    assert settings.spread("abcde", 3) == tuple("ace")


@pytest.mark.usefixtures("script")
def test_a_pace_is_that_of_the_steps_without_the_first(world, tmp_path, monkeypatch):
    """A first step that takes long counts as something else; so do all validations to come, and what comes after."""
    from mmssl.training import loop
    from mmssl.training.loop import Trainer

    budget, step, now = sys.modules["budget"], Trainer._optimizer_step, [0.0]

    class Clock:
        perf_counter = monotonic = staticmethod(lambda: now[0])

    def slow(self, *arguments):
        now[0] += 5.0 if self.step == 0 else 0.25
        step(self, *arguments)

    def looking(*arguments):
        now[0] += 1.5
        return validate(*arguments)

    validate = loop.validate
    monkeypatch.setattr(loop, "validate", looking)
    monkeypatch.setattr(loop, "time", Clock)
    monkeypatch.setattr(budget, "time", Clock)
    monkeypatch.setattr(Trainer, "_optimizer_step", slow)
    flags = ["--data", str(world), "--preset", "pico", "--batch-size", "4", "--validation-images", "4",
             "--device", "cpu", "--workers", "0"]  # fmt: skip
    recipe = sys.modules["sweep"].load_recipe("image_mae")
    pace = budget.measure(
        recipe, tmp_path / "run", flags, validations=4, after=lambda _run: now.append(now.pop() + 3.0)
    )
    assert pace.step_seconds == pytest.approx(0.25, abs=1e-3)
    assert pace.other_seconds == pytest.approx(5.0 - 0.25 + 4 * 1.5 + 3.0, abs=1e-2)
    assert not (tmp_path / "run").exists()
    from mmssl.predictors.masked_autoencoder import PRESETS

    assert pace.parameters > sum(p.numel() for p in torch.nn.Linear(PRESETS["pico"][0].dim, 96).parameters())

"""What README shows works: every command is run, the example predictor is trained."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from scripts import ROOT, load_script
from spoken import write_spoken
from talking import write_talking

from mmssl import cli
from mmssl.evaluation.ctc import CtcConfig
from mmssl.training.journal import read_journal

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_TEXT = ["--preset", "bert_tiny", "--steps", "2", "--batch-size", "2", "--device", "cpu",
              "--validation-tokens", "300"]  # fmt: skip
QUICK_AUDIO = ["--steps", "2", "--batch-size", "16", "--max-seconds", "2", "--workers", "0", "--device", "cpu"]
QUICK_PROBE = ["--seeds", "1", "--finetune-labels"]
QUICK_CLIPS = ["--steps", "2", "--batch-size", "4", "--workers", "0", "--device", "cpu", "--size", "32", "32"]
QUICK_PIXELS = ["--preset", "pico", "--steps", "2", "--workers", "0", "--batch-size", "4", "--device", "cpu",
                "--image-size", "32", "--validation-images", "4"]  # fmt: skip
PIXEL_TASKS = ("colorization", "inpainting", "restoration", "super_resolution")
QUICK = {
    "recipes/image_mae.py": ["--preset", "pico", "--steps", "2", "--workers", "0", "--batch-size", "8",
                             "--device", "cpu", "--validation-images", "8"],
    **{f"recipes/image_{task}.py": QUICK_PIXELS for task in PIXEL_TASKS},
    "recipes/text_bert.py": QUICK_TEXT,
    "recipes/sweep.py": QUICK_TEXT,
    "recipes/audio_best_rq.py": QUICK_AUDIO,
    "recipes/audio_wav2vec2.py": QUICK_AUDIO,
    "recipes/av_sync.py": [*QUICK_CLIPS, "--frames", "20"],
    "recipes/av_masked.py": [*QUICK_CLIPS, "--frames", "12", "--cube", "2", "8", "8"],
    "data_prep/make_world.py": ["--count", "10", "--size", "32", "--workers", "1"],
    "data_prep/cache_clips.py": ["--workers", "0"],
    "data_prep/shard.py": ["--workers", "0"],
    "probe labelled": ["--label", "shape", "--seeds", "1", "--finetune-labels"],
    "probe labelled.tsv": QUICK_PROBE,
    "probe spoken": QUICK_PROBE,
    "probe words": QUICK_PROBE,
}  # fmt: skip
"""Flags that make a documented command short; given last, so they win."""


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_documented_command_runs(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world / "images", tmp_path / "photos")
    with Image.open(next((tmp_path / "photos").rglob("*.png"))) as photo:
        photo.convert("RGB").save(tmp_path / "photos" / "one.jpg")
        hole = Image.new("L", photo.size)
        hole.paste(255, (8, 8, 20, 24))
        hole.save(tmp_path / "hole.png")
    shutil.copytree(world, tmp_path / "labelled")
    write_texts(tmp_path)
    write_spoken(tmp_path / "recordings")
    write_spoken(tmp_path / "spoken", count=16, seed=1)
    write_talking(tmp_path / "videos", count=10)
    shutil.copy(next((tmp_path / "videos").rglob("*.mp4")), tmp_path / "videos" / "talk.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmssl.evaluation.audio_runs.TRANSCRIBING", CtcConfig(steps=2))
    monkeypatch.setenv("MMSSL_CACHE", str(tmp_path / "cache"))
    ran = []
    for words in commands():
        if words[0] == "mmssl":
            try:
                cli.main([*words[1:], *QUICK.get(f"{words[1]} {words[-1]}", [])])
            except SystemExit as stop:  # in sync, out of sync, undetermined: two steps have taught nothing
                if words[1] != "sync" or stop.code not in (0, 1, 3):
                    raise
            ran.append(words[1])
        elif words[0] == "python" and words[1] in QUICK:
            load_script(ROOT / words[1]).main([*words[2:], *QUICK[words[1]]])
            ran.append(words[1])
        else:
            assert words[0] in ("make", "pip") or words[1].startswith("tests/benchmarks/"), words
    assert {name for name in QUICK if name.startswith("recipes/")} <= set(ran)
    read = {"inspect", "doctor", "reveal", "restore", "compare", "fill", "probe", "export", "sync", "retrieve"}
    assert read | {"localize"} <= set(ran)
    capsys.readouterr()


def write_texts(folder: Path) -> None:
    """``texts`` and ``labelled.tsv``: sentences about one of two animals, and which."""
    (folder / "texts").mkdir()
    sentences = {animal: [f"the {animal} sat on the {place} for {count} days ." for place in ("mat", "wall", "old tree")
                          for count in range(10)] for animal in ("cat", "bird")}  # fmt: skip
    for animal, lines in sentences.items():
        for number in range(5):
            (folder / "texts" / f"{animal}-{number}.txt").write_text(" ".join(lines[6 * number : 6 * number + 6]))
    rows = [f"{'val' if number % 3 == 0 else 'train'}\t{animal}\t{line}"
            for animal, lines in sentences.items() for number, line in enumerate(lines)]  # fmt: skip
    (folder / "labelled.tsv").write_text("\n".join(["split\tlabel\ttext", *rows]) + "\n")


def test_every_flag_in_the_table_exists():
    tables = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `--")]
    flags = set(re.findall(r"`(--[a-z-]+)", " ".join(tables)))
    assert len(flags) > 15
    known = set(re.findall(r"--[a-z-]+", " ".join(f"--{name.replace('_', '-')}" for name in config_fields())))
    assert flags <= known


RECIPES = ("image_mae", "text_bert", "audio_best_rq", "audio_wav2vec2", "av_sync", "av_masked", "sweep")
RECIPES += tuple(f"image_{task}" for task in PIXEL_TASKS)


def config_fields() -> list[str]:
    recipes = [load_script(ROOT / "recipes" / f"{name}.py") for name in RECIPES]
    return [name for recipe in recipes for name in recipe.Config.__dataclass_fields__]


def test_the_file_tree_is_complete():
    tree = README.split("## How it is built")[1].split("## Add a predictor")[0]
    for folder in ("mmssl", "recipes", "data_prep"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.name != "__init__.py":
                assert re.search(rf"^ +{re.escape(file.name)} ", tree, re.MULTILINE), f"README names no {file}"


def test_the_example_predictor_learns(tmp_path, monkeypatch):
    import sys

    monkeypatch.syspath_prepend(str(ROOT / "tests" / "training"))
    from tiny import DEFAULTS, Config, make_trainer

    source = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    space: dict = {"__name__": "readme_example"}
    module = type(sys)("readme_example")
    monkeypatch.setitem(sys.modules, "readme_example", module)
    exec(compile(source, "README.md", "exec"), module.__dict__)
    space = module.__dict__
    torch.manual_seed(0)
    predictor = space["Brightness"](space["BrightnessConfig"](image_size=(16, 16)))
    config = Config(**{"out": tmp_path / "run", **DEFAULTS, "steps": 150, "learning_rate": 3e-3, "validate_every": 150})
    trainer, checkpoint = make_trainer(config, predictor)
    trainer.fit(checkpoint)
    last = read_journal(tmp_path / "run" / "journal.jsonl")[-1]
    assert last["val_skill"] > 0.2
    batch = next(trainer.data.frozen())
    assert predictor.encode_clean(batch)["mean"].shape == (40, 64)


@pytest.mark.parametrize("name", ["setup", "demo", "test", "lint"])
def test_the_makefile_has_what_is_promised(name):
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)

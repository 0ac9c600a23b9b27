"""What README shows works: every command is run, the example predictor is trained."""

import re
import shlex
import shutil

import pytest
import torch
from scripts import ROOT, load_script

from mmssl import cli
from mmssl.training.journal import read_journal

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = {
    "recipes/image_mae.py": ["--steps", "2", "--workers", "0", "--batch-size", "8", "--device", "cpu",
                             "--validation-images", "8"],
    "data_prep/make_world.py": ["--count", "20", "--size", "32", "--workers", "1"],
    "probe": ["--label", "shape", "--seeds", "1", "--finetune-labels"],
}  # fmt: skip
"""Flags that make a documented command short; given last, so they win."""


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_documented_command_runs(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world / "images", tmp_path / "photos")
    shutil.copytree(world, tmp_path / "labelled")
    monkeypatch.chdir(tmp_path)
    ran = []
    for words in commands():
        if words[0] == "mmssl":
            cli.main([*words[1:], *QUICK.get(words[1], [])])
            ran.append(words[1])
        elif words[0] == "python" and words[1] in QUICK:
            load_script(ROOT / words[1]).main([*words[2:], *QUICK[words[1]]])
            ran.append(words[1])
        else:
            assert words[0] in ("make", "pip") or words[1].startswith("tests/benchmarks/"), words
    assert {"inspect", "recipes/image_mae.py", "reveal", "probe", "export"} <= set(ran)
    capsys.readouterr()


def test_every_flag_in_the_table_exists():
    flags = set(re.findall(r"`(--[a-z-]+)", README))
    known = set(re.findall(r"--[a-z-]+", " ".join(f"--{name.replace('_', '-')}" for name in config_fields())))
    assert flags - {"--help", "--resume", "--to"} <= known


def config_fields() -> list[str]:
    return list(load_script(ROOT / "recipes" / "image_mae.py").Config.__dataclass_fields__)


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

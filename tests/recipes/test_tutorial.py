"""The tutorial runs cell by cell, and what its cells end with are things that a notebook displays."""

import ast
import re

from matplotlib.figure import Figure
from PIL import Image
from scripts import ROOT

SETTINGS = "DATA, STEPS, BATCH, LABEL ="


def test_all_cells_run_and_show_something(world, capsys):
    source = (ROOT / "recipes" / "tutorial.py").read_text(encoding="utf-8")
    cells = [cell for cell in re.split(r"^# %%", source, flags=re.MULTILINE) if not cell.startswith(" [markdown]")]
    space, shown, small = {"__name__": "tutorial"}, [], f'{SETTINGS} {str(world)!r}, 30, 16, "size"\nSIZE = (32, 32)\n'
    for cell in cells:
        if cell.strip().startswith(SETTINGS):
            cell += small
        tree = ast.parse(cell)
        last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "tutorial.py", "exec"), space)
        if last:
            shown.append(eval(compile(last, "tutorial.py", "eval"), space))
    assert [type(each) for each in shown if each is not None] == [Image.Image, Figure, Image.Image, Figure]
    said = capsys.readouterr().out
    assert "75% of 16 patches are hidden" in said
    skills = [float(skill) for skill in space["skills"]]
    assert len(skills) == 30
    assert sum(skills[-5:]) > sum(skills[:5])
    # before training a guess, after it more
    predictor, one_by_one = space["predictor"], space["first"]
    assert one_by_one["skill"].item() < 0.1
    assert predictor(space["held_out"])["skill"].item() > one_by_one["skill"].item()
    assert space["report"].label == "size"

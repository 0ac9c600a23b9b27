"""`mmssl doctor`: what it prints, its exit code, and journals that say nothing."""

import json
from io import StringIO
from pathlib import Path

import pytest
from journals import journal
from rich.console import Console

from mmssl import cli
from mmssl.errors import UserError
from mmssl.training.doctor import examine, print_examination


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
    run = write_run(tmp_path / "[run]", lines(journal(skill=lambda _: 0.0)))
    console = Console(file=StringIO(), force_terminal=True, width=60, highlight=False)
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

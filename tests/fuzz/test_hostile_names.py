"""Names that lead elsewhere, steer a terminal or pretend to be HTML, in tars, tables and folders: names stay names.

A list that a user wrote may name any file to *read*. What is promised is about writing: nothing is written outside of
what was asked for because of a name inside data, and members of a tar are never unpacked to disk.
"""

import io
import json
import os
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.data.images import ImageLoader, open_images
from mmssl.data.images.inspect import inspect_images, print_report
from mmssl.data.limits import MediaError
from mmssl.data.skipped import Skipped, print_skipped, write_skipped
from mmssl.data.text import open_texts
from mmssl.errors import UserError, one_sentence_errors
from mmssl.evaluation.offset.measure import Synchroniser
from mmssl.evaluation.offset.question import Question
from mmssl.evaluation.probe_report import print_report as print_probe
from mmssl.evaluation.probe_results import PRETRAINED, ProbeReport, ProbeResult
from mmssl.evaluation.restore import Restorer
from mmssl.evaluation.restore_files import Writing, restore_files
from mmssl.evaluation.sync_files import sync_files
from mmssl.terminal import printable, tell
from mmssl.training.doctor import examine, print_examination

NAMES = [
    "../../outside.png", "/tmp/mmssl-outside.png", "a/../../../b.png", "new\nline.png", "\x1b[2J\x1b]0;title\x07.png",
    "x" * 10_000 + ".png", "<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>.png', "\u202egnp.exe.png",
    "con\r.png", "..png", "half\udcff.png", "%s%n{0.__class__}.png", "[bold red]markup[/].png",
]  # fmt: skip


def png(number: int = 0) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def hostile_tar(path: Path, content: bytes, suffix: str = ".png") -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        for name in NAMES:
            info = tarfile.TarInfo(name.removesuffix(".png") + suffix)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for kind, name in ((tarfile.SYMTYPE, "link.png"), (tarfile.LNKTYPE, "hard.png"), (tarfile.FIFOTYPE, "pipe.png"),
                           (tarfile.CHRTYPE, "device.png"), (tarfile.DIRTYPE, "../dir.png")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return path


def everything_below(*folders: Path) -> set[str]:
    return {os.path.join(root, name) for folder in folders for root, _, names in os.walk(folder) for name in names}


def test_members_of_a_tar_stay_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    tar = hostile_tar(tmp_path / "in" / "some.tar", png())
    (tmp_path / "run").mkdir()
    before = everything_below(tmp_path)
    source = open_images(tar)
    # a name that begins with a dot is hidden: "..png", and the two that go up
    assert len(source) == len(NAMES) - 3
    loader = ImageLoader(source, size=(8, 8), batch_size=2, seed=0, cache="none")
    for batch in loader.frozen():
        assert batch["image"].shape[1:] == (3, 8, 8)
    write_skipped(tmp_path / "run", source)
    print_report(inspect_images(tar))
    written = everything_below(tmp_path) - before
    assert all(name.startswith((str(tmp_path / "cache"), str(tmp_path / "run"))) for name in written)
    assert not Path("/tmp/mmssl-outside.png").exists()
    assert "\x1b" not in capsys.readouterr().out


def test_members_that_are_texts_stay_in_it(tmp_path: Path) -> None:
    tar = hostile_tar(tmp_path / "some.tar", b"the cat sat on the mat", ".txt")
    before = everything_below(tmp_path)
    assert set(open_texts(tar)) == {"the cat sat on the mat"}
    assert everything_below(tmp_path) == before


def test_broken_members_are_named_without_steering_the_terminal(tmp_path: Path, capsys) -> None:
    tar = hostile_tar(tmp_path / "some.tar", b"no picture")
    print_report(inspect_images(tar))
    shown = capsys.readouterr().out
    with pytest.raises(SystemExit), one_sentence_errors():
        ImageLoader(open_images(tar), size=(8, 8), batch_size=2, seed=0)
    for text in (shown, capsys.readouterr().err):
        assert not any(letter in text for letter in "\x1b\x07\r\u202e\udcff")


def test_a_folder_of_such_names_can_be_shown(tmp_path: Path, capsys) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, name in enumerate(NAMES):
        name = name.replace("/", "_").lstrip(".")[:200].removesuffix(".png") + ".png"
        (data / name).write_bytes(png(number) if number % 2 else b"no picture")
    report = inspect_images(data)
    assert report["readable"] == len(NAMES) // 2
    print_report(report)
    assert "\x1b" not in capsys.readouterr().out
    source = open_images(data)
    source.note_skipped({}, 1.0)
    file = write_skipped(tmp_path, source)
    assert all(json.loads(line) for line in file.read_text().splitlines())


@pytest.mark.parametrize("form", ["labels.csv", "manifest.jsonl"])
def test_tables_name_files_to_read_and_nothing_else(form: str, tmp_path: Path) -> None:
    """Absolute paths and ``..`` in a list are the user's own to give; one that leads nowhere is an unreadable file."""
    (tmp_path / "data").mkdir()
    (tmp_path / "outside.png").write_bytes(png())
    rows = [{"file": name, "label": f"<b>{n}</b>"} for n, name in enumerate(["../outside.png", *NAMES])]
    if form == "labels.csv":
        import csv

        with (tmp_path / "data" / form).open("w", newline="", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, ["file", "label"])
            writer.writeheader()
            writer.writerows(row for row in rows if "\n" not in row["file"])
    else:
        (tmp_path / "data" / form).write_text("\n".join(map(json.dumps, rows)))
    before = everything_below(tmp_path)
    if form == "labels.csv":  # a name with half a character makes a CSV that is no UTF-8
        with pytest.raises(UserError, match="cannot be read as UTF-8"):
            open_images(tmp_path / "data" / form)
        raw = (tmp_path / "data" / form).read_bytes()
        (tmp_path / "data" / form).write_bytes(raw.replace(b"\xff", b""))
    source = open_images(tmp_path / "data" / form)
    assert source[source.files.index("../outside.png")]["image"].shape == (3, 12, 12)
    for index, name in enumerate(source.files):
        if name != "../outside.png":
            with pytest.raises(UserError, match=r"cannot be opened|not a regular file|cannot be read"):
                source[index]
    assert everything_below(tmp_path) == before


STEERING = [name for name in NAMES if any(letter in name for letter in "\x1b\x07\r\u202e\udcff")]


def assert_steers_nothing(capsys) -> str:
    """Returns what was printed to standard output and standard error."""
    said = capsys.readouterr()
    assert not any(letter in said.out + said.err for letter in "\x1b\x07\r\x9b\u202e\udcff")
    return said.out + said.err


def test_restored_photos_are_named_without_steering_the_terminal(tmp_path: Path, capsys) -> None:
    """Those that were restored, with where the result went, and those that were not."""
    photos = [tmp_path / ("whole" + name.replace("/", "_")) for name in STEERING]
    broken = [tmp_path / ("broken" + name.replace("/", "_")) for name in STEERING]
    for photo in photos:
        photo.write_bytes(png())
    for photo in broken:
        photo.write_bytes(b"no picture")
    same = SimpleNamespace(
        name="restoration", scale=1, tile=(12, 12), device=torch.device("cpu"),
        config=SimpleNamespace(channels=3, perturbations=()), restore=lambda image: image,
    )  # fmt: skip
    failures = restore_files(Restorer.of(same), [*photos, *broken], Writing(tmp_path / "out"))
    assert len(failures) == len(broken)
    said = assert_steers_nothing(capsys)
    assert said.count("12x12 pixels") == len(photos)
    assert said.count("broken") >= len(broken)


@pytest.mark.parametrize("as_json", [False, True])
def test_measured_videos_are_named_without_steering_the_terminal(as_json: bool, tmp_path: Path, capsys) -> None:
    """Read or not; JSON holds the names all the same."""

    def look(path: Path, start: float | None, seconds: float | None) -> None:  # noqa: ARG001
        raise MediaError(
            *(("no picture", f"no picture in {path.name}") if len(path.name) % 2 else ("broken", path.name))
        )

    paths = [tmp_path / (name.replace("/", "_") + ".mp4") for name in STEERING]
    synchroniser = Synchroniser(SimpleNamespace(), Question(), look)
    sync_files(synchroniser, paths, tmp_path / "out", json=as_json, fix=tmp_path / "fixed")
    said = assert_steers_nothing(capsys)
    assert "not repaired" in said
    files = json.loads((tmp_path / "out" / "sync.json").read_text())["files"]
    assert [os.path.basename(each["file"]) for each in files] == [path.name for path in paths]


@pytest.mark.parametrize("name", STEERING)
def test_the_doctor_names_a_run_without_steering_the_terminal(name: str, tmp_path: Path, capsys) -> None:
    """A folder of such a name, whose journal and flags hold such text."""
    run = tmp_path / name
    run.mkdir()
    entry = {"loss": 1.0, "skill": 0.0, "reference": 1.0, "learning_rate": 1e-3, "data_wait": 0.9, "note": name}
    lines = [{**entry, "step": step, "samples_per_second": name} for step in range(50, 2001, 50)]
    (run / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"steps": name, "learning_rate": name, "workers": f"[bold]{name}"}
    (run / "config.json").write_text(json.dumps({"config": settings}))
    examination = examine(run)
    assert examination.findings
    print_examination(examination)
    assert "(now " in assert_steers_nothing(capsys)


@pytest.mark.parametrize("name", STEERING)
def test_files_left_out_are_listed_without_steering_the_terminal(name: str, capsys) -> None:
    print_skipped([Skipped(name, f"its tag {name} is broken", "broken")], "skipped.jsonl")
    assert "left out: 1 broken" in assert_steers_nothing(capsys)


@pytest.mark.parametrize("name", STEERING)
def test_tables_of_probes_name_labels_without_steering_the_terminal(name: str, capsys) -> None:
    result = ProbeResult(PRETRAINED, "mean", "linear", 8, (0.5,))
    print_probe(ProbeReport(name, ("a", "b"), 8, 4, 0.5, 1, {}, [result], notes=(f"note of {name}",)))
    assert "note of" in assert_steers_nothing(capsys)


@pytest.mark.parametrize("name", STEERING)
def test_a_path_is_told_without_steering_the_terminal(name: str, capsys) -> None:
    tell(Path("run") / name)
    tell("both streams", file=sys.stderr)
    assert assert_steers_nothing(capsys).startswith("run/")


def test_what_is_printed_cannot_steer() -> None:
    assert printable("a\x1b[31mb\x07\r\u202e\udcff") == "a\\x1b[31mb\\x07\\r\\u202e\\udcff"
    assert printable("Straße 日本\n\tok") == "Straße 日本\n\tok"

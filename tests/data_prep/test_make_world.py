"""The generated world: labels tell the truth, and the same settings give the same bytes."""

import csv
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmssl.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "data_prep"))

from make_world import CHUNK, WorldConfig, make_world  # noqa: E402
from paint import SHAPE_DISTANCES, paint  # noqa: E402
from scenes import (  # noqa: E402
    BACKGROUNDS,
    COLOURS,
    MINIMAL_CONTRAST,
    PLACES,
    SHAPES,
    SIZES,
    Background,
    Scene,
    draw_scene,
    draw_scenes,
)

BLACK = Background("plain", ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), (1.0, 0.0), 2.0, (0.0, 0.0), 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little more than two chunks of scenes, from one process."""
    folder = tmp_path_factory.mktemp("made") / "world"
    assert make_world(WorldConfig(folder, count=2 * CHUNK + 7, size=32, seed=3, workers=1))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> Iterator[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def test_bytes_do_not_depend_on_workers(world: Path, tmp_path: Path) -> None:
    make_world(WorldConfig(tmp_path / "twin", count=2 * CHUNK + 7, size=32, seed=3, workers=2))
    assert contents(tmp_path / "twin") == contents(world)


def test_scene_depends_on_seed_and_index_only() -> None:
    assert draw_scenes(30, seed=5)[17] == draw_scene(17, seed=5) == draw_scenes(18, seed=5)[17]
    assert draw_scene(17, seed=5) != draw_scene(17, seed=6)
    assert draw_scene(17, seed=5) != draw_scene(18, seed=5)


def test_picture_does_not_depend_on_its_batch() -> None:
    scenes = draw_scenes(70, seed=1)
    together = paint(scenes, 48)
    assert together.dtype == np.uint8
    assert together.shape == (70, 48, 48, 3)
    for scene, picture in zip(scenes, together, strict=True):
        np.testing.assert_array_equal(paint([scene], 48)[0], picture)


def test_labels_describe_the_files(world: Path) -> None:
    table = list(rows(world))
    assert list(table[0]) == ["file", "shape", "colour", "size", "place", "split"]
    assert {row["file"] for row in table} == {str(path.relative_to(world)) for path in world.rglob("*.png")}
    scenes = draw_scenes(len(table), seed=3)
    pictures = paint(scenes, 32)
    for row, scene, picture in zip(table, scenes, pictures, strict=True):
        assert all(row[name] == getattr(scene, name) for name in ("shape", "colour", "size", "place", "split"))
        assert row["file"] == f"images/{scene.split}/{scene.id:05d}.png"
        with Image.open(world / row["file"]) as image:
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), picture)
    assert sum(row["split"] == "val" for row in table) == len(table) // 5


def test_every_label_occurs_about_equally_often() -> None:
    scenes = draw_scenes(4000, seed=0)
    places = [place for row in PLACES for place in row]
    for name, values in {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "place": places}.items():
        counts = [sum(getattr(scene, name) == value for scene in scenes) for value in values]
        expected = 4000 / len(values)
        chi_square = sum((count - expected) ** 2 / expected for count in counts)
        assert chi_square < 26.1, (name, counts)  # 99.9 % quantile at 8 degrees of freedom
    assert {scene.background.kind for scene in scenes} == set(BACKGROUNDS)
    pairs = {(scene.shape, scene.colour) for scene in scenes}
    assert len(pairs) == len(SHAPES) * len(COLOURS)


def test_picture_shows_what_the_labels_say() -> None:
    scenes = [replace(scene, background=BLACK, light=(0.0, 0.0)) for scene in draw_scenes(400, seed=2)]
    pictures = paint(scenes, 64).astype(float)
    row, column = np.mgrid[:64, :64] + 0.5
    centres = np.array([0.28, 0.5, 0.72]) * 64
    extent: dict[str, list[float]] = {size: [] for size in SIZES}
    for scene, picture in zip(scenes, pictures, strict=True):
        covered = picture.max(-1) / picture.max()
        inside = np.argwhere(covered > 0.5)
        hue = colour_of(np.median(picture[covered > 0.95], axis=0))
        nearest = min(COLOURS, key=lambda name, hue=hue: abs((hue - COLOURS[name] + 180) % 360 - 180))
        assert nearest == scene.colour
        middle = (inside.min(0) + inside.max(0) + 1) / 2
        if scene.shape not in ("moon", "heart"):  # their middle is not that of their circle
            r, c = (int(np.abs(centres - value).argmin()) for value in middle)
            assert PLACES[r][c] == scene.place
        from_centre = np.hypot(row - scene.centre[1] * 64, column - scene.centre[0] * 64)
        extent[scene.size].append(float(from_centre[covered > 0.5].max()))
    assert max(extent["small"]) < min(extent["large"])
    assert np.mean(extent["small"]) < np.mean(extent["medium"]) < np.mean(extent["large"])


def colour_of(rgb: np.ndarray) -> float:
    """Hue in degrees (the usual hexagon formula)."""
    red, green, blue = rgb
    top, spread = rgb.max(), np.ptp(rgb)
    sector = {0: (green - blue) / spread % 6, 1: (blue - red) / spread + 2, 2: (red - green) / spread + 4}
    return 60 * sector[int(np.flatnonzero(rgb == top)[0])]


AREAS = {
    "circle": math.pi * 0.92**2,
    "ring": math.pi * (0.98**2 - 0.5**2),
    "square": (2 * 0.78) ** 2,
    "triangle": 3 * math.sqrt(3) * 0.52**2,
    # ten triangles between the centre, a tip and a notch; tip and notch radius follow from the lines' distance
    "star": 5 * (0.35 / math.cos(math.radians(72))) * (0.35 / math.cos(math.radians(36))) * math.sin(math.radians(36)),
    "cross": 2 * (2 * 0.94) * (2 * 0.27) - (2 * 0.27) ** 2,
    "heart": 1 + math.pi / 4,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_is_inside_its_circle_and_has_the_area_of_geometry(shape: str) -> None:
    axis = ((np.arange(1200) + 0.5) / 500 - 1.2).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    inside = SHAPE_DISTANCES[shape](x, y) < 0
    assert not inside[np.hypot(x, y) > 1.15].any()
    if shape in AREAS:
        assert inside.mean() * 2.4**2 == pytest.approx(AREAS[shape], rel=2e-3)
    else:  # a moon: the disc less the lens it shares with the bite (circle-circle intersection)
        r, s, d = 0.98, 0.8, 0.5
        first = r * r * math.acos((d * d + r * r - s * s) / (2 * d * r))
        second = s * s * math.acos((d * d + s * s - r * r) / (2 * d * s))
        kite = math.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s)) / 2
        assert inside.mean() * 2.4**2 == pytest.approx(math.pi * r * r - (first + second - kite), rel=2e-3)


def test_antialiasing_agrees_with_supersampling() -> None:
    scenes = [replace(scene, background=BLACK) for scene in draw_scenes(24, seed=4)]
    fine = paint(scenes, 256).reshape(24, 64, 4, 64, 4, 3).mean((2, 4))
    error = np.abs(paint(scenes, 64) - fine).max(-1)
    assert error.mean() < 0.5  # of 255: only edge pixels differ at all
    assert np.sqrt(np.mean(error**2)) < 4


def test_shapes_stand_out_from_what_is_behind_them() -> None:
    distances = [
        math.dist(scene.fill, colour) for scene in draw_scenes(2000, seed=7) for colour in scene.background.colours
    ]
    assert np.mean(np.array(distances) >= MINIMAL_CONTRAST) > 0.995
    assert min(distances) > 0.2


def test_a_linear_map_of_pixels_does_not_find_the_shape() -> None:
    """Ridge regression onto the classes, the best of several strengths on the test part itself."""
    scenes = draw_scenes(3000, seed=0)
    pixels = paint(scenes, 32).reshape(3000, 16, 2, 16, 2, 3).mean((2, 4)).reshape(3000, -1) / 255
    pixels -= pixels.mean(0)
    label = np.array([SHAPES.index(scene.shape) for scene in scenes])
    gram, product = pixels[:2400].T @ pixels[:2400], pixels[:2400].T @ np.eye(8)[label[:2400]]
    accuracy = [
        np.mean((pixels[2400:] @ np.linalg.solve(gram + strength * np.eye(768), product)).argmax(1) == label[2400:])
        for strength in (3.0, 30.0, 300.0)
    ]
    assert max(accuracy) < 0.3  # 0.125 is chance


def test_same_settings_again_touch_nothing(world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert not make_world(WorldConfig(world, count=2 * CHUNK + 7, size=32, seed=3, workers=2, overwrite=True))
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    config = WorldConfig(tmp_path / "world", count=10, size=16, workers=1)
    make_world(config)
    before = contents(config.out)
    with pytest.raises(UserError, match=r"world holds another world \(size 16 -> 24\).*--overwrite"):
        make_world(replace(config, size=24))
    assert contents(config.out) == before
    assert make_world(replace(config, size=24, overwrite=True))
    with Image.open(config.out / "images/val/00004.png") as image:
        assert image.size == (24, 24)
    (config.out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        make_world(replace(config, overwrite=True))
    assert (config.out / "thesis.txt").exists()


def test_a_folder_of_someone_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="no generated world"):
        make_world(WorldConfig(tmp_path, count=10, size=16, workers=1, overwrite=True))
    with pytest.raises(UserError, match="is a file"):
        make_world(WorldConfig(tmp_path / "photo.jpg", count=10, size=16, workers=1))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_rest_of_an_interrupted_run_is_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / "world.partial/images/train/99999.png"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"cut")
    (tmp_path / "world").mkdir()
    make_world(WorldConfig(tmp_path / "world", count=10, size=16, workers=1))
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    assert len(list((tmp_path / "world").rglob("*.png"))) == 10


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"count": 3}, "--count"), ({"size": 4}, "--size"), ({"workers": 0}, "--workers"), ({"seed": -1}, "--seed")],
)
def test_impossible_settings_are_refused(bad: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WorldConfig(Path("nowhere"), **bad)  # type: ignore[arg-type]


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "data_prep/make_world.py"), "--out", str(tmp_path / "w"), "--size", "16"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *extra], capture_output=True, text=True, env=environment, check=False)

    made = run("--count", "70", "--workers", "2")
    assert made.returncode == 0, made.stderr
    assert "70 scenes in" in made.stdout
    assert "already there" in run("--count", "70").stdout
    refused = run("--count", "80")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "count 70 -> 80" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_scene_can_be_described_by_its_fields() -> None:
    """What later modalities rely on: plain values, comparable, and nothing about pixels."""
    scene = draw_scene(0, seed=0)
    assert isinstance(scene, Scene)
    assert scene.place in [place for row in PLACES for place in row]
    assert all(0 <= value <= 1 for value in (*scene.centre, scene.radius, *scene.fill))

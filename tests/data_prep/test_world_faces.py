"""Talking faces: the mouth follows the phones, everything else does not, and files start picture and sound together."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmssl.data.audio import open_audio, open_labelled_audio
from mmssl.data.text.documents import open_texts
from mmssl.data.text.labelled import open_labelled_texts
from mmssl.errors import UserError

av = pytest.importorskip("av")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "data_prep"))

from captions import caption, spoken  # noqa: E402
from faces import FPS, move  # noqa: E402
from make_world import WorldConfig, make_world, write_chunk  # noqa: E402
from paint_face import boxes, draw_surroundings, paint_face  # noqa: E402
from phones import PHONES  # noqa: E402
from scenes import draw_scene  # noqa: E402
from utterance import TICKS_PER_FRAME, plan_utterance  # noqa: E402
from voices import VOICES  # noqa: E402

EVERYTHING = ("images", "captions", "speech", "faces")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> WorldConfig:
    """Ten scenes in every modality."""
    folder = tmp_path_factory.mktemp("made") / "world"
    made = WorldConfig(folder, count=10, size=16, modalities=EVERYTHING, workers=1)
    assert make_world(made)
    return made


def rows_of(config: WorldConfig, modality: str) -> list[dict]:
    return [json.loads(line) for line in (config.out / modality / "manifest.jsonl").read_text().splitlines()]


def planned(number: int):
    voice = VOICES[number % len(VOICES)]
    return voice, plan_utterance(spoken(caption(draw_scene(number, 0), 0)), voice, np.random.default_rng(number))


def decode(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Luma, times of frames, samples, time of the first sample: as the container says."""
    with av.open(str(file)) as container:
        frames = list(container.decode(video=0))
        pictures = np.stack([frame.to_ndarray()[: frame.height] for frame in frames])
        times = np.array([float(frame.pts * frame.time_base) for frame in frames])
    with av.open(str(file)) as container:
        heard = list(container.decode(audio=0))
        samples = np.concatenate([frame.to_ndarray()[0] for frame in heard])
        return pictures, times, samples, float(heard[0].pts * heard[0].time_base)


def test_picture_and_sound_begin_together(config: WorldConfig) -> None:
    for row in rows_of(config, "faces")[:3]:
        _, times, samples, first = decode(config.out / "faces" / row["file"])
        np.testing.assert_allclose(times, np.arange(row["frames"]) / FPS, atol=1e-9)
        assert first == 0
        said = open_audio(config.out / "speech")
        wanted = said.read(said.files.index(row["file"].replace(".mp4", ".wav"))).numpy()
        assert len(wanted) == row["frames"] * 640
        size = 2 ** (2 * len(wanted) - 1).bit_length()
        spectra = [np.fft.rfft(sound[: len(wanted)], size) for sound in (samples, wanted)]
        lag = int(np.argmax(np.fft.irfft(spectra[0] * np.conj(spectra[1]))))
        assert lag == 0  # AAC's 1024 samples of its own are gone
        assert np.corrcoef(samples[: len(wanted)], wanted)[0, 1] > 0.99


def test_the_mouth_in_the_picture_is_that_of_the_manifest(config: WorldConfig) -> None:
    for row in rows_of(config, "faces")[:3]:
        pictures, *_ = decode(config.out / "faces" / row["file"])
        top, left, height, width = row["mouth"]
        mouth = pictures[:, top : top + height, left : left + width].reshape(len(pictures), -1).astype(float)
        dark = np.clip(70 - mouth, 0, None).sum(1)  # the open mouth is the darkest thing there
        opening = np.array(row["mouth_opening"])
        scores = [np.corrcoef(opening[5:-5], np.roll(dark, -lag)[5:-5])[0, 1] for lag in range(-4, 5)]
        assert int(np.argmax(scores)) - 4 == 0
        assert max(scores) > 0.8


def test_the_mouth_follows_the_phones_without_delay() -> None:
    targets, openings = [], []
    for number in range(12):
        _, utterance = planned(number)
        motion = move(utterance, np.random.default_rng(number))
        wanted = np.concatenate([np.full(s.ticks, PHONES[s.phone].mouth.opening) for s in utterance.segments])
        targets.append(wanted[::TICKS_PER_FRAME])
        openings.append(motion.opening)
        for segment in utterance.segments:
            if PHONES[segment.phone].mouth.shut:
                inside = [frame for frame in range(utterance.frames)
                          if segment.start + 2 <= frame * TICKS_PER_FRAME <= segment.stop - 2]  # fmt: skip
                assert all(motion.opening[inside] < 0.12)
        assert motion.opening.min() >= 0
        assert motion.opening.max() <= 1
    target, opening = np.concatenate(targets), np.concatenate(openings)
    scores = [np.corrcoef(target[5:-5], np.roll(opening, -lag)[5:-5])[0, 1] for lag in range(-4, 5)]
    assert int(np.argmax(scores)) - 4 == 0
    assert max(scores) > 0.85
    assert abs(scores[3] - scores[5]) < 0.08  # as much before as after


def test_head_and_eyes_do_not_know_what_is_said() -> None:
    opening, others = [], []
    for number in range(100):
        _, utterance = planned(number)
        motion = move(utterance, np.random.default_rng((number, 4)))
        opening.append(motion.opening - motion.opening.mean())
        others.append(np.concatenate([motion.sway, motion.lids[:, None]], 1))
    opened, other = np.concatenate(opening), np.concatenate(others)
    assert np.abs([np.corrcoef(opened, column)[0, 1] for column in other.T]).max() < 0.08
    shut = other[:, -1] > 0.5
    assert 0.01 < shut.mean() < 0.1
    # the same motion whatever is said
    (_, first), (_, second) = planned(1), planned(2)
    frames = min(first.frames, second.frames)
    one, two = (move(said, np.random.default_rng(0)).sway[:frames] for said in (first, second))
    np.testing.assert_array_equal(one, two)


def test_boxes_hold_what_they_are_named_for() -> None:
    """Whatever changes when lips or eyes change their colour lies inside; the box is not much larger either."""
    for number in (0, 3, 5):
        voice, utterance = planned(number)
        random = np.random.default_rng(number)
        motion, around = move(utterance, random), draw_surroundings(random)
        found = boxes(motion, voice.look, around, 96)
        plain = luma_of(motion, voice.look, around)
        for part, box in (("lips", found["mouth"]), ("eyes", found["face"])):
            changed = luma_of(motion, replace(voice.look, **{part: (0.0, 1.0, 0.0)}), around) != plain
            where = np.argwhere(changed.any(0))
            top, left, height, width = box
            assert (where.min(0) >= (top, left)).all()
            assert (where.max(0) < (top + height, left + width)).all()
            if part == "lips":
                assert np.ptp(where, axis=0).min() > 0.35 * max(height, width)


def luma_of(motion, look, around) -> np.ndarray:
    return np.concatenate([luma for luma, _ in paint_face(motion, look, around, 96)])


def test_a_scene_is_the_same_in_any_chunk(config: WorldConfig, tmp_path: Path) -> None:
    for modality in ("images", "speech", "faces"):
        for split in ("train", "val"):
            (tmp_path / modality / split).mkdir(parents=True)
    rows = write_chunk((tmp_path, 3, 5, config))
    for modality in ("speech", "faces"):
        assert json.loads(json.dumps(rows[modality])) == rows_of(config, modality)[3:5]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 6
    for file in files:
        assert file.read_bytes() == (config.out / file.relative_to(tmp_path)).read_bytes()


def test_modalities_share_labels_and_pictures_stay_the_same(config: WorldConfig, tmp_path: Path) -> None:
    make_world(WorldConfig(tmp_path / "pictures", count=10, size=16, workers=1))
    for file in (tmp_path / "pictures").rglob("*"):
        if file.is_file() and file.name != "world.json":
            assert file.read_bytes() == (config.out / file.relative_to(tmp_path / "pictures")).read_bytes()
    assert "modalities" not in json.loads((tmp_path / "pictures" / "world.json").read_text())
    captions = {}
    for split in ("train", "val"):
        for line in (config.out / "captions" / f"{split}.jsonl").read_text().splitlines():
            captions[json.loads(line)["id"]] = json.loads(line)
    for heard, seen in zip(rows_of(config, "speech"), rows_of(config, "faces"), strict=True):
        scene = draw_scene(heard["id"], 0)
        for row in (heard, seen, captions[heard["id"]]):
            assert all(row[name] == getattr(scene, name) for name in ("shape", "colour", "size", "place", "split"))
        assert all(heard[name] == seen[name] for name in ("words", "phones", "speaker", "text", "seconds"))
        assert heard["text"].split() == [w for s in spoken(captions[heard["id"]]["text"]) for p in s for w in p]
        assert len(seen["mouth_opening"]) == len(seen["eyes_shut"]) == seen["frames"] == round(seen["seconds"] * FPS)


def test_readers_take_the_folders_as_they_are(config: WorldConfig) -> None:
    speech, faces = open_audio(config.out / "speech", split="train"), open_audio(config.out / "faces", split="val")
    assert (len(speech), len(faces)) == (8, 2)
    assert not speech.skipped
    row = rows_of(config, "speech")[0]
    assert speech.seconds[0] == pytest.approx(row["seconds"])
    for label, names in (("words", {word for r in rows_of(config, "speech") for word, _, _ in r["words"]}),
                         ("phones", {name for r in rows_of(config, "speech") for name, _, _ in r["phones"]}),
                         ("shape", {r["shape"] for r in rows_of(config, "speech")})):  # fmt: skip
        found = open_labelled_audio(config.out / "speech", label=label)
        assert set(found.names) == names
        assert len(found.train) > 0 < len(found.test)
    texts = open_texts(config.out / "captions", split="val")
    assert list(texts) == [caption(draw_scene(number, 0), 0) for number in (4, 9)]
    labelled = open_labelled_texts(config.out / "captions", label="place")
    assert [labelled.names[target] for target in labelled.test.targets] == [draw_scene(n, 0).place for n in (4, 9)]


def test_settings_are_checked_and_named(config: WorldConfig) -> None:
    assert not make_world(config)
    with pytest.raises(UserError, match=r"modalities images captions speech faces -> images, face_size 96 -> None"):
        make_world(replace(config, modalities=("images",)))
    with pytest.raises(UserError, match="even number"):
        WorldConfig(face_size=97)
    with pytest.raises(UserError, match="--modalities is empty"):
        WorldConfig(modalities=())

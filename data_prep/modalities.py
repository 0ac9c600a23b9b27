"""One scene in each modality: files written, and rows of labels returned."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from captions import caption, spoken
from faces import FACE_STREAM, FPS, Motion, move
from paint import paint
from paint_face import boxes, draw_surroundings, paint_face
from scenes import Scene
from speech_synthesis import RATE, synthesize
from utterance import Utterance, plan_utterance
from voices import VOICES, Voice
from write_media import write_mp4, write_wav

Modality = Literal["images", "captions", "speech", "faces"]
Synthesizer = Literal["formants", "espeak-ng"]
Row = dict[str, Any]

SPEECH_STREAM = 3
"""Stream of random numbers that decides who speaks and how; see ``scenes.LOOK_STREAM``."""
FOLDER_OF_FILES: dict[str, str] = {"images": ".png", "speech": ".wav", "faces": ".mp4"}
"""Extensions of the modalities that have a file a scene."""


@dataclass(frozen=True)
class Spoken:
    """A caption as it is heard."""

    voice: Voice
    samples: np.ndarray
    """int16 ``[sample]``."""
    words: list[tuple[str, float, float]]
    """(word, start, end) in seconds."""
    utterance: Utterance | None
    """What the formant synthesizer knows beside."""


def file_of(scene: Scene, modality: str) -> str:
    """Where a scene's file is, from the modality's folder."""
    return f"{scene.split}/{scene.id:05d}{FOLDER_OF_FILES[modality]}"


def labels_of(scene: Scene) -> Row:
    """What all modalities share."""
    return {name: getattr(scene, name) for name in ("shape", "colour", "size", "place")}


def write_images(folder: Path, scenes: Sequence[Scene], size: int) -> None:
    """Pictures of scenes."""
    from PIL import Image

    for scene, pixels in zip(scenes, paint(scenes, size), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        (folder / file_of(scene, "images")).write_bytes(buffer.getbuffer())


def caption_row(scene: Scene, seed: int) -> Row:
    """A caption and its labels."""
    return {"id": scene.id, "text": caption(scene, seed), **labels_of(scene), "split": scene.split}


def say(scene: Scene, seed: int, synthesizer: Synthesizer) -> Spoken:
    """The caption of a scene, spoken by somebody."""
    random = np.random.default_rng((seed, scene.id, SPEECH_STREAM))
    voice = VOICES[int(random.integers(len(VOICES)))]
    sentences = spoken(caption(scene, seed))
    if synthesizer == "espeak-ng":
        from espeak import speak

        return Spoken(voice, *speak(sentences, voice), utterance=None)
    utterance = plan_utterance(sentences, voice, random)
    return Spoken(voice, synthesize(utterance, voice, random), utterance.word_times(), utterance)


def write_speech(folder: Path, scene: Scene, said: Spoken) -> Row:
    """The recording of a scene."""
    write_wav(folder / file_of(scene, "speech"), said.samples, RATE)
    return _heard(scene, said, "speech")


def write_face(folder: Path, scene: Scene, said: Spoken, seed: int, size: int) -> Row:
    """The talking face of a scene; only where the times of phones are known."""
    assert said.utterance is not None
    random = np.random.default_rng((seed, scene.id, FACE_STREAM))
    motion, around = move(said.utterance, random), draw_surroundings(random)
    pictures = paint_face(motion, said.voice.look, around, size)
    write_mp4(folder / file_of(scene, "faces"), pictures, said.samples, fps=FPS, rate=RATE)
    seen = {"fps": FPS, "frames": said.utterance.frames, **boxes(motion, said.voice.look, around, size)}
    return _heard(scene, said, "faces") | seen | _truth(motion)


def _heard(scene: Scene, said: Spoken, modality: str) -> Row:
    row = {"file": file_of(scene, modality), "id": scene.id, **labels_of(scene), "speaker": said.voice.name}
    row["text"] = " ".join(word for word, _, _ in said.words)
    row["words"] = said.words
    if said.utterance is not None:
        row["phones"] = said.utterance.phone_times()
    return row | {"seconds": round(len(said.samples) / RATE, 4), "split": scene.split}


def _truth(motion: Motion) -> Row:
    """The motion by frame, as far as it is of use."""
    return {
        "mouth_opening": [round(float(value), 3) for value in motion.opening],
        "eyes_shut": [round(float(value), 2) for value in motion.lids],
    }

"""Scenes in words: two or three sentences of varied grammar that name everything the labels say, and more.

Sizes and places have several names, the background is told now and then, and a distractor may name a shape, colour,
size or place that is *not* in the picture. So single words betray a label less often than sentences do.
"""

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from scenes import COLOURS, PLACES, SHAPES, SIZES, Scene

T = TypeVar("T")

CAPTION_STREAM = 2
"""Stream of random numbers that decides the words; see ``scenes.LOOK_STREAM``."""

SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "middle sized"),
    "large": ("large", "big", "huge"),
}
PLACE_WORDS = {
    "top left": ("at the top left", "in the top left corner", "up on the left"),
    "top": ("at the top", "near the top"),
    "top right": ("at the top right", "in the top right corner", "up on the right"),
    "left": ("on the left", "on the left side"),
    "centre": ("in the centre", "in the middle"),
    "right": ("on the right", "on the right side"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "down on the left"),
    "bottom": ("at the bottom", "near the bottom"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "down on the right"),
}
BACKGROUND_WORDS = {"plain": "one plain colour", "gradient": "a fading colour", "grain": "fine grain"}
"""The other backgrounds are called by their names."""

SCENE_SENTENCES = (
    "there is a {size} {colour} {shape} {place}.",
    "{place} there is a {size} {colour} {shape}.",
    "{place} you see a {colour} {shape}, and it is {size}.",
    "a {size} {shape} sits {place}, and it is {colour}.",
    "look {place} for a {size} {colour} {shape}.",
    "the {shape} {place} is {size} and {colour}.",
    "i can see a {colour} {shape} {place}. it is {size}.",
    "somebody painted a {size} {shape} {place}. its colour is {colour}.",
)
BACKGROUND_SENTENCES = (
    "behind it we see {background}.",
    "the ground shows {background}.",
    "all around we find {background}.",
)
DISTRACTORS = (
    "there is no {colour} {shape}.",
    "it is not {colour}.",
    "do not look for a {shape}.",
    "yesterday a {size} {shape} was here.",
    "my {shape} at home is {colour}.",
    "nothing else is {place}.",
    "please remember it.",
    "that is all.",
)
BACKGROUND_SHARE, DISTRACTOR_SHARE, DISTRACTOR_FIRST = 0.4, 0.6, 0.25
"""How often there is a sentence on the background, a distractor, and one of these at the beginning."""


def caption(scene: Scene, seed: int) -> str:
    """The caption of a scene of the world ``seed``: sentences with capitals and full stops."""
    random = np.random.default_rng((seed, scene.id, CAPTION_STREAM))
    truth = {name: getattr(scene, name) for name in ("shape", "colour", "size", "place")}
    sentences = [_fill(_pick(random, SCENE_SENTENCES), truth, random)]
    if random.random() < BACKGROUND_SHARE:
        kind = scene.background.kind
        template = _pick(random, BACKGROUND_SENTENCES)
        sentences.append(template.format(background=BACKGROUND_WORDS.get(kind, kind)))
    if random.random() < DISTRACTOR_SHARE:
        where = 0 if random.random() < DISTRACTOR_FIRST else len(sentences)
        sentences.insert(where, _fill(_pick(random, DISTRACTORS), _something_else(truth, random), random))
    text = re.sub(r"\ba (?=[aeiou])", "an ", " ".join(sentences))
    return re.sub(r"(?:^|(?<=\. ))[a-z]|\bi\b", lambda found: found.group().upper(), text)


def spoken(text: str) -> list[list[list[str]]]:
    """Sentences of phrases of words, lower case: a phrase ends at a comma, a sentence at a full stop."""
    sentences = [sentence for sentence in text.lower().split(".") if sentence.strip()]
    return [[phrase.split() for phrase in sentence.split(",") if phrase.strip()] for sentence in sentences]


def vocabulary() -> set[str]:
    """Every word that a caption may have."""
    names = [*SHAPES, *COLOURS, *BACKGROUND_WORDS.values(), "an stripes checks dots ripples clouds"]
    synonyms = [word for words in (*SIZE_WORDS.values(), *PLACE_WORDS.values()) for word in words]
    templates = [re.sub(r"{\w+}|[.,]", "", line) for line in (*SCENE_SENTENCES, *BACKGROUND_SENTENCES, *DISTRACTORS)]
    return {word for line in (*names, *synonyms, *templates) for word in line.split()}


def _fill(template: str, values: dict[str, str], random: np.random.Generator) -> str:
    words = values | {
        "size": _pick(random, SIZE_WORDS[values["size"]]),
        "place": _pick(random, PLACE_WORDS[values["place"]]),
    }
    return template.format(**words)


def _something_else(truth: dict[str, str], random: np.random.Generator) -> dict[str, str]:
    """Labels that are all wrong."""
    choices = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "place": sum(PLACES, ())}
    return {
        name: _pick(random, [value for value in values if value != truth[name]]) for name, values in choices.items()
    }


def _pick(random: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(random.random() * len(choices))]

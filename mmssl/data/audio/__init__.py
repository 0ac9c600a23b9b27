"""Recordings: open them wherever they are, look at them, load segments of them in batches of similar length."""

from mmssl.data.audio.labelled import AudioPart, LabelledAudio, open_labelled_audio
from mmssl.data.audio.loader import AudioLoader
from mmssl.data.audio.source import AudioSource, open_audio

__all__ = ["AudioLoader", "AudioPart", "AudioSource", "LabelledAudio", "open_audio", "open_labelled_audio"]

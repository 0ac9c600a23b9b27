"""Recordings: open them wherever they are, look at them, load segments of them in batches of similar length."""

from typing import TYPE_CHECKING

from mmssl.lazy import offer

if TYPE_CHECKING:
    from mmssl.data.audio.labelled import AudioPart, LabelledAudio, open_labelled_audio
    from mmssl.data.audio.loader import AudioLoader
    from mmssl.data.audio.source import AudioSource, open_audio

__all__ = ["AudioLoader", "AudioPart", "AudioSource", "LabelledAudio", "open_audio", "open_labelled_audio"]

# processes that only decode, also videos, begin without torch: in a tenth of the time
__getattr__ = offer(
    __name__,
    {
        "AudioLoader": "loader", "AudioPart": "labelled", "AudioSource": "source", "LabelledAudio": "labelled",
        "open_audio": "source", "open_labelled_audio": "labelled",
    },
)  # fmt: skip

"""Videos: pictures and sound on one clock, cached as small clips, windows of them in batches."""

from mmssl.data.video.clip import Clip, ClipSettings, Streams
from mmssl.data.video.decode import read_clip

__all__ = ["Clip", "ClipSettings", "Streams", "read_clip"]

"""Videos: pictures and sound on one clock, cached as small clips, windows of them in batches."""

from mmssl.data.video.clip import Clip, ClipSettings, Streams

__all__ = ["Clip", "ClipSettings", "Streams"]

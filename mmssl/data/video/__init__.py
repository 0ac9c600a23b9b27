"""Videos: pictures and sound on one clock, cached as small clips, windows of them in batches."""

from mmssl.data.video.clip import Clip, ClipSettings, Streams
from mmssl.data.video.decode import read_clip
from mmssl.data.video.loader import ClipLoader
from mmssl.data.video.source import ClipSource, VideoSource, open_clips, open_videos

__all__ = [
    "Clip", "ClipLoader", "ClipSettings", "ClipSource", "Streams", "VideoSource", "open_clips", "open_videos",
    "read_clip",
]  # fmt: skip

"""Videos: pictures and sound on one clock, cached as small clips, windows of them in batches."""

from typing import TYPE_CHECKING

from mmssl.lazy import offer

if TYPE_CHECKING:
    from mmssl.data.video.clip import Clip, ClipSettings, Streams
    from mmssl.data.video.decode import read_clip
    from mmssl.data.video.loader import ClipLoader
    from mmssl.data.video.source import ClipSource, VideoSource, open_clips, open_videos

__all__ = [
    "Clip", "ClipLoader", "ClipSettings", "ClipSource", "Streams", "VideoSource", "open_clips", "open_videos",
    "read_clip",
]  # fmt: skip

# processes that only decode begin without torch: in a tenth of the time
__getattr__ = offer(
    __name__,
    {
        "Clip": "clip", "ClipLoader": "loader", "ClipSettings": "clip", "ClipSource": "source", "Streams": "clip",
        "VideoSource": "source", "open_clips": "source", "open_videos": "source", "read_clip": "decode",
    },
)  # fmt: skip

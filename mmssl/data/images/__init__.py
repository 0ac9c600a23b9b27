"""Images: open them wherever they are, look at them, load crops of them."""

from mmssl.data.images.loader import ImageLoader
from mmssl.data.images.looking import centre_crops, suggest_size
from mmssl.data.images.open import open_images
from mmssl.data.images.source import ImageSource
from mmssl.data.skipped import write_skipped

__all__ = ["ImageLoader", "ImageSource", "centre_crops", "open_images", "suggest_size", "write_skipped"]

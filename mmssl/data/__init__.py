"""Media in, tensors out. Knows nothing of predictors or training: they meet in the recipe."""

from mmssl.data.images import ImageSource, open_images, write_skipped
from mmssl.data.loader import ImageLoader
from mmssl.data.looking import centre_crops, suggest_size

__all__ = ["ImageLoader", "ImageSource", "centre_crops", "open_images", "suggest_size", "write_skipped"]

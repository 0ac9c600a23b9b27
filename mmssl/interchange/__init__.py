"""In from and out to timm and transformers, each way with a check that both compute the same.

export("runs/photos", "timm", Path("photos-timm"))          # writes, reloads with timm, compares

config = adapt_config(config, "photos-timm")                 # sizes, patch, positions of what is there
predictor = MaskedAutoencoder(config)
print(load_initial_weights(predictor, "photos-timm"))
"""

from mmssl.interchange.start import adapt_config, load_initial_weights
from mmssl.interchange.write import export

__all__ = ["adapt_config", "export", "load_initial_weights"]
